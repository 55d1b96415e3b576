// What a plane tells about its services: plain values, taken at one moment, for the admin API and the metrics.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "abi/verdicts.h"
#include "model/snapshot.h"
#include "telemetry/histogram.h"

namespace marchproxy::telemetry {

struct EndpointStatus {
    std::string address;   // as configured
    std::string resolved;  // "10.0.0.1:80"; empty: the name has not resolved
    std::string path;
    uint32_t weight = 0;
    bool up = true;  // false: recent connects failed, it is tried last
    bool draining = false;
    uint64_t active_connections = 0;
    std::string last_error;  // why it is not up
};

// Counters of one service and one of its paths ("" is a path too). They live as long as the process: a reload that
// removes and brings back a service goes on counting.
struct PathCounters {
    std::string path;
    uint64_t decisions = 0;  // times the routing policy chose the path, retries included
    uint64_t received_bytes = 0, sent_bytes = 0;
    std::array<uint64_t, verdict_count> ended{};  // connections and sessions by how they ended
    HistogramValues connect_latency;
};

// What of that is needed each second.
struct PathTraffic {
    std::string service, path;
    uint64_t received_bytes = 0, sent_bytes = 0;
};

// A service's traffic of one direction and priority, as qos has it.
struct QosStatus {
    bool up = true;  // client to endpoint
    Priority priority = Priority::p3;
    std::optional<Rate> rate, guarantee;  // of the service, all its priorities together
    double offered = 0, delivered = 0;    // bits a second, over the last second
    uint64_t processed_bytes = 0;         // delivered, since the process began
    uint64_t queued_bytes = 0;            // wait for their turn
    uint64_t dropped_full = 0, dropped_late = 0, dropped_over = 0, marked = 0;  // packets
    Duration delay{0};                                                          // what waiting for a turn took lately
};

struct ServiceStatus {
    std::string name;
    Protocol protocol = Protocol::tcp;
    SocketAddress listen;
    Priority priority = Priority::p3;
    std::string_view plane = "stream";  // "stream" or "packet"
    std::string plane_reason;
    bool listening = false;  // false: removed by a reload, or draining; it may still have connections
    std::string problem;     // why a service that is configured does not listen
    uint64_t active_connections = 0;
    uint64_t failovers = 0;                           // connections that another endpoint took after one had not
    uint64_t received_packets = 0, sent_packets = 0;  // the stream plane sees those of UDP alone
    std::array<uint64_t, verdict_count> dropped{};    // refused at admission, or datagrams not carried on
    uint64_t cookies_sent = 0, cookies_proven = 0;    // SYNs under pressure, packet plane
    uint64_t uncounted_sources = 0;  // connections begun without being among their client address's, packet plane
    HistogramValues duration;
    std::vector<PathCounters> paths;
    std::vector<EndpointStatus> endpoints;
    std::vector<QosStatus> qos;  // empty where qos is off
};

// Which of a service's classes have rows: those with traffic, and that of its own priority, with what is configured.
std::vector<QosStatus> shown(const std::vector<QosStatus>& classes, const ServiceQos& wanted, Priority own);

// That the qos keys of so many services rest, as qos is off.
std::string resting_qos_note(size_t services);

// Adds what the other plane has counted of the same service: one that changes its plane goes on counting, and is shown
// once.
void absorb(ServiceStatus& status, const ServiceStatus& other);

// The services of both planes, each once: as the plane tells of it in which it listens, with what the other has
// counted.
std::vector<ServiceStatus> joined(std::vector<ServiceStatus> packet, std::vector<ServiceStatus> stream);

}  // namespace marchproxy::telemetry
