// A service as one snapshot has it, made ready for the data path: what classify, admit and choose look at. Immutable,
// built by the control thread, shared by all workers; a reload swaps it for every connection of the service at once.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/prefix_set.h"
#include "model/snapshot.h"
#include "routing/selector.h"
#include "stream/state.h"

namespace marchproxy::stream {

struct ServiceView {
    SnapshotPointer snapshot;  // keeps `service` alive
    const Service* service;
    const Settings* settings;
    std::shared_ptr<ServiceState> state;
    AccessList access;
    std::vector<std::shared_ptr<EndpointRuntime>> endpoints;  // as the selector counts them
    std::vector<const Endpoint*> configured;                  // beside each: where it comes from
    std::vector<routing::Candidate> candidates;               // and what the selector is made from
    std::shared_ptr<const routing::Selector> selector;        // the first; see WorkerService
    std::shared_ptr<PathState> no_path;                       // counts what found no endpoint
    std::shared_ptr<const flow::Origin> no_origin;            // and names it in flow records
    Duration idle_timeout;
    Treatments treatments{};  // of packets and connections, by the mark they came with
    bool marks = false;       // what is sent is marked by these; else all their marks are 0
    bool heeds = false;       // it matters what they came with
    bool measures = false;    // what connections lose on the way to their endpoints is counted
    // Where its bytes take turns; null: they do not.
    qos::ShapedService* shaped_up = nullptr;
    qos::ShapedService* shaped_down = nullptr;

    Treatment treatment(uint8_t arrived) const { return treatments[arrived]; }
    Treatment own() const { return treatments[unknown_mark]; }

    // Of a datagram that came with this traffic class, the one that it is sent with: ECN's two bits stay what they are.
    uint8_t traffic_class_of(uint8_t arrived) const {
        return static_cast<uint8_t>(treatments[arrived >> 2].dscp << 2 | (arrived & 3));
    }
    Priority priority_of(uint8_t arrived) const { return treatments[arrived >> 2].priority; }

    bool listening = true;  // false: the service is gone from the snapshot, only its connections are left
};

using ServiceViewPointer = std::shared_ptr<const ServiceView>;

}  // namespace marchproxy::stream
