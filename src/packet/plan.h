// What the packet plane's maps are to hold, from the services that it carries. Pure: values in, values out.
//
// An endpoint that is down, drains or has no weight is in no ring, and its flows go on. One that was removed from every
// service of the packet plane ends its flows; while another service still has it, they go on, as services share
// endpoints. A service that is gone keeps its record, without a ring and out of the directory, until no flow carries
// its index; so does an endpoint. One of our own addresses that is gone begins no flows and goes on with those it has.
#pragma once

#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "abi/packet.h"
#include "model/snapshot.h"
#include "packet/access_tree.h"
#include "packet/flow_limits.h"
#include "packet/indexes.h"
#include "packet/programs.h"
#include "packet/targets.h"

namespace marchproxy::packet {

struct Plan {
    std::map<uint32_t, abi::packet_service> services;    // by index; an index that is not there has no record
    std::map<uint32_t, abi::packet_limits> limits;       // by index of the service; none empty
    std::map<uint32_t, abi::packet_qos> qos;             // the same
    std::map<uint32_t, abi::packet_endpoint> endpoints;  // by index
    std::map<uint32_t, abi::address> sources;            // by index
    std::map<uint32_t, std::vector<uint32_t>> rings;     // by first slot
    AccessTrees access;                                  // of services that have lists
    std::vector<abi::directory_entry> directory;         // sorted; what is found by address, port and protocol
};
bool operator==(const Plan& a, const Plan& b);

// By the bytes that the kernel would compare.
template <class T>
bool same_bytes(const T& a, const T& b) {
    return std::memcmp(&a, &b, sizeof a) == 0;
}

struct PlannedService {
    const Service* service;                    // one that assign() gave to the packet plane
    std::vector<Target> targets;               // of targets_of(), with what is known of their health
    std::shared_ptr<const AccessTree> access;  // null: no lists
};

struct PlanInput {
    std::vector<PlannedService> services;
    StreamSettings stream;  // its idle timeouts are the packet plane's too
    QosSettings qos;
    SourceAddresses sources;
    std::set<IpAddress> own;  // the machine's addresses: what is asked of them it answers itself
    Capacity capacity;
    unsigned cpus = 1;  // that packets may come in on
};

struct Planned {
    Plan plan;
    Indexes indexes;
    std::vector<std::string> notes;  // what is not as asked for, for `status`
};

abi::packet_forwarding forwarding_of(const Service& service);

// `held` is what the maps hold: a ring that changed goes where nothing lies, so that it can be written before anything
// points to it. Fails with what is used up; book and maps are then left as they are.
Result<Planned> make_plan(const PlanInput& input, Indexes indexes, const Plan& held);

// In the order in which a plan has them.
void sort(std::vector<abi::directory_entry>& directory);

// The same entries under the same address, port and protocol once, `first` winning; both sorted.
std::vector<abi::directory_entry> joined(const std::vector<abi::directory_entry>& first,
                                         const std::vector<abi::directory_entry>& second);

}  // namespace marchproxy::packet
