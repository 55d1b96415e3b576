// What outlives a snapshot: counters, limits and endpoint health of a service, shared by all workers and kept by name
// over reloads. Written by workers (each its own slot, or an atomic), read by the control and admin threads.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "abi/verdicts.h"
#include "flow/record.h"
#include "model/snapshot.h"
#include "qos/rate_limit.h"
#include "qos/shaper.h"
#include "routing/endpoint_state.h"
#include "stream/source_rates.h"
#include "stream/source_table.h"
#include "telemetry/histogram.h"
#include "telemetry/meter.h"

namespace marchproxy::stream {

using telemetry::Counter;
using telemetry::Histogram;

// One worker's counters of one service and path. A cache line of its own, so that workers do not share one.
struct alignas(64) PathSlot {
    Counter decisions, received_bytes, sent_bytes;
    std::array<Counter, verdict_count> ended;
    Histogram connect_latency;
};

// One worker's counters of one service.
struct alignas(64) ServiceSlot {
    std::array<Counter, verdict_count> dropped;
    Counter failovers;
    Counter received_datagrams, sent_datagrams;
    std::array<Counter, qos::priorities> received_by_priority, sent_by_priority;  // bytes
    Histogram duration;
};

struct PathState {
    PathState(std::string path_name, unsigned workers) : name(std::move(path_name)), slots(workers) {}
    const std::string name;
    std::vector<PathSlot> slots;  // by worker
};

// An endpoint of one service at one resolved address, by one path. Shared by the snapshots that name it and by the
// connections that use it; its health and its count of connections survive reloads as long as one of those lives.
struct EndpointRuntime {
    std::shared_ptr<const flow::Origin> origin;
    SocketAddress address;
    Egress egress;
    std::shared_ptr<PathState> path;
    std::shared_ptr<routing::EndpointState> state;  // never null
    std::atomic<int> last_error{0};                 // errno of the latest failed connect; 0 after a success
};

struct ServiceState {
    ServiceState(std::string service_name, unsigned workers) : name(std::move(service_name)), slots(workers) {}

    const std::string name;
    std::atomic<uint64_t> active{0};  // connections or sessions, over all workers
    // Round robin's place. Shared, so that the order users see does not depend on which worker accepted.
    std::atomic<uint64_t> rotation{0};
    qos::RateLimit new_connections;
    SourceTable sources;
    SourceRates source_rates;
    std::vector<ServiceSlot> slots;  // by worker

    // Where its bytes take turns, since they first did. What connections of an older view ask for goes on being there.
    std::unique_ptr<qos::ShapedService> shaped_up, shaped_down;

    // Control thread and admin threads only.
    mutable std::mutex mutex;
    std::map<std::string, std::shared_ptr<PathState>> paths;
    std::array<telemetry::Meter, qos::priorities> meters_up, meters_down;
};

}  // namespace marchproxy::stream
