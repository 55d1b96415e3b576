// What a service's limits are to the programs. Pure.
#pragma once

#include <cstdint>
#include <optional>

#include "abi/packet.h"
#include "model/snapshot.h"

namespace marchproxy::packet {

// TCP connections half open beyond which clients prove their address, where the configuration does not say: some 5 MB
// of the flow table.
inline constexpr uint32_t default_backlog = 65536;

// limits.new_connections, by GCRA: a step apart, and as many at once as fit into the tolerance. In whole microseconds,
// a step rounded up so that the limit is never exceeded: above some 100,000/s the limit is met only roughly.
struct NewFlowLimit {
    uint32_t step = 0, tolerance = 0;
};
NewFlowLimit new_flow_limit(const std::optional<Frequency>& limit);

// The others. All zero: there are none.
abi::packet_limits packet_limits_of(const Service& service);
// The flags by which the programs ask for them.
uint32_t flags_of(const abi::packet_limits& limits);

}  // namespace marchproxy::packet
