// From what the maps hold to what they are to hold, in steps after each of which every packet is treated as one of the
// two configurations has it. Pure, but for apply(), which writes through an interface.
//
// The order, and why it is right:
//
//   1 source addresses   nobody names the new ones yet
//   2 endpoints          new ones, and what old ones gain; what they lose, and other source addresses, wait for 9
//   3 rings              into slots to which no service points
//   4 directory          the present one, and the new endpoints and source addresses: the first answer of a new
//   endpoint
//                        may come as soon as 6 lets a flow begin there
//   5 access added       longest prefix first
//   6 limits, services   those that packets are to find. A ring is one word of the record and changes at once
//   7 access removed     shortest prefix first
//   8 directory          as it is to be. When the call returns, no packet is under way that saw anything from before:
//                        replacing a map in a map waits for that (kernel, maybe_wait_bpf_programs)
//   9 what nobody finds any more: services out of the directory, their access entries, what endpoints lose, what was
//     released. The slots of rings that were left may be written again by the next plan
//
// Access lists change entry by entry, and yet each address has its old or its new verdict throughout. In 5 the longest
// match of an address is either among the entries added, and then the longest of all new ones, since those longer were
// added before: the new verdict; or an old one, which is then the longest of the old ones. In 7 all new entries are
// there and of the old ones the longest are the last to go, by the same argument. Whoever no entry of either covers has
// the service's own verdict, which changes between the two, in 6.
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
struct WriteAccess {
    uint32_t service;
    Prefix prefix;
    bool allowed;
};
struct RemoveAccess {
    uint32_t service;
    Prefix prefix;
};
struct WriteService {
    uint32_t index;
    abi::packet_service service;
};
struct WriteLimits {
    uint32_t service;
    abi::packet_limits limits;
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
    std::variant<WriteSource, WriteEndpoint, WriteRing, WriteAccess, RemoveAccess, WriteLimits, WriteService,
                 ReplaceDirectory, ClearService, ClearLimits, ClearEndpoint, ClearSource, LeaveRing>;

// `wanted` was made by make_plan over `held`.
std::vector<MapChange> reconcile(const Plan& held, const Plan& wanted);

// The maps. A record of zeros is none.
class MapTarget {
  public:
    virtual ~MapTarget() = default;
    virtual Result<void> set_source(uint32_t index, const abi::address& address) = 0;
    virtual Result<void> set_endpoint(uint32_t index, const abi::packet_endpoint& endpoint) = 0;
    virtual Result<void> set_ring(uint32_t first, std::span<const uint32_t> endpoints) = 0;
    virtual Result<void> set_access(uint32_t service, const Prefix& prefix, bool allowed) = 0;
    virtual Result<void> remove_access(uint32_t service, const Prefix& prefix) = 0;
    virtual Result<void> set_limits(uint32_t service, const abi::packet_limits& limits) = 0;
    virtual Result<void> set_service(uint32_t index, const abi::packet_service& service) = 0;
    // Returns when no packet is under way that saw the one before.
    virtual Result<void> set_directory(std::span<const abi::directory_entry> entries) = 0;
};

// Stops at the first change that fails. `held` says afterwards what the maps hold, either way: a plan made over it goes
// on from there.
Result<void> apply(std::span<const MapChange> changes, MapTarget& target, Plan& held);

}  // namespace marchproxy::packet
