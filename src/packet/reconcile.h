// From what the maps hold to what they are to hold, in steps after each of which every packet is treated as one of the
// two configurations has it. Pure, but for apply(), which writes through an interface.
//
// The order, and why it is right:
//
//   1 source addresses   nobody names the new ones yet
//   2 endpoints          new ones, and what old ones gain; what they lose, and other source addresses, wait for 8
//   3 rings              into slots to which no service points
//   4 directory          the present one, and the new endpoints and source addresses: the first answer of a new
//   endpoint
//                        may come as soon as 6 lets a flow begin there
//   5 access lists       of all services at once; those of services that go stay
//   6 limits, qos, services  those that packets are to find. A ring is one word of the record and changes at once
//   7 directory          as it is to be. When the call returns, no packet is under way that saw anything from before:
//                        replacing a map in a map waits for that (kernel, maybe_wait_bpf_programs)
//   8 what nobody finds any more: services out of the directory, their access lists, what endpoints lose, what was
//     released. The slots of rings that were left may be written again by the next plan
//
// In 5 a service that had no lists is not asked for them until 6 says so; one that has none any more lets everybody in.
//
// An endpoint whose packets come back under another service than before (dnat) changes with 2: the flows that it had
// with the service before end in the new configuration.
#pragma once

#include <span>
#include <variant>
#include <vector>

#include "packet/plan.h"

namespace marchproxy::packet {

struct WriteSource {
    uint32_t index;
    abi::address address;
};
struct WriteEndpoint {
    uint32_t index;
    abi::packet_endpoint endpoint;
};
struct WriteRing {
    uint32_t first;
    std::vector<uint32_t> slots;
};
struct ReplaceAccess {
    AccessTrees trees;
};
struct WriteService {
    uint32_t index;
    abi::packet_service service;
};
struct WriteLimits {
    uint32_t service;
    abi::packet_limits limits;
};
struct WriteQos {
    uint32_t service;
    abi::packet_qos qos;
};
struct ReplaceDirectory {
    std::vector<abi::directory_entry> entries;
};
struct ClearService {
    uint32_t index;
};
struct ClearLimits {
    uint32_t service;
};
struct ClearQos {
    uint32_t service;
};
struct ClearEndpoint {
    uint32_t index;
};
struct ClearSource {
    uint32_t index;
};
struct LeaveRing {  // writes nothing: its slots are free
    uint32_t first;
};

using MapChange =
    std::variant<WriteSource, WriteEndpoint, WriteRing, ReplaceAccess, WriteLimits, WriteQos, WriteService,
                 ReplaceDirectory, ClearService, ClearLimits, ClearQos, ClearEndpoint, ClearSource, LeaveRing>;

// `wanted` was made by make_plan over `held`.
std::vector<MapChange> reconcile(const Plan& held, const Plan& wanted);

// The maps. A record of zeros is none.
class MapTarget {
  public:
    virtual ~MapTarget() = default;
    virtual Result<void> set_source(uint32_t index, const abi::address& address) = 0;
    virtual Result<void> set_endpoint(uint32_t index, const abi::packet_endpoint& endpoint) = 0;
    virtual Result<void> set_ring(uint32_t first, std::span<const uint32_t> endpoints) = 0;
    virtual Result<void> set_access(const AccessTrees& trees) = 0;
    virtual Result<void> set_limits(uint32_t service, const abi::packet_limits& limits) = 0;
    virtual Result<void> set_qos(uint32_t service, const abi::packet_qos& qos) = 0;
    virtual Result<void> set_service(uint32_t index, const abi::packet_service& service) = 0;
    // Returns when no packet is under way that saw the one before.
    virtual Result<void> set_directory(std::span<const abi::directory_entry> entries) = 0;
};

// Stops at the first change that fails. `held` says afterwards what the maps hold, either way: a plan made over it goes
// on from there.
Result<void> apply(std::span<const MapChange> changes, MapTarget& target, Plan& held);

}  // namespace marchproxy::packet
