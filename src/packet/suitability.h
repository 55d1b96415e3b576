// Whether the packet plane can carry a service, and if not why, in words for its user. Pure.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "model/resolution.h"
#include "model/snapshot.h"
#include "packet/targets.h"

namespace marchproxy::packet {

// What the answer depends on beside the service.
struct Surroundings {
    const Settings* settings;
    Resolution resolution;
    SourceAddresses sources;
    std::set<IpAddress> own{};           // the machine's addresses
    const Snapshot* snapshot = nullptr;  // whose paths count; null: there are none
    std::string unavailable;             // why this machine has no packet plane; empty: it has
    std::string no_queues{};             // why packets cannot wait for their turn in it; empty: they can, or may
    std::string unattached{};            // why none of its interfaces has the programs now; empty: one has, or may have
};

// What keeps the service from it, looked at alone. A name that has not resolved yet is no reason: it is an endpoint
// once it does.
std::optional<std::string> reason_against(const Service& service, const Surroundings& surroundings);

// Which plane carries a service, and why it is that one; goes to `plane_reason`.
struct Assignment {
    bool packet = false;
    std::string reason;
};

struct Assignments {
    std::vector<Assignment> services;  // as the snapshot counts them
    std::vector<std::string> errors;   // services that ask for the packet plane, or for what only it has, and cannot
};

// All services, with what they are to each other: of two that cannot both be there the one that asks for the packet
// plane has it, or else the first. While no interface has the programs, those that ask for it, or for what only it has,
// wait in it, and the others are the stream plane's.
Assignments assign(const Snapshot& snapshot, const Surroundings& surroundings);

}  // namespace marchproxy::packet
