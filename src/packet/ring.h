// A service's Maglev table as packets look it up: which endpoint a client's place leads to, and where in the one array
// of all services it lies. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "model/names.h"
#include "packet/targets.h"

namespace marchproxy::packet {

// For `maglev` the stream plane's size, so that both planes choose alike; else 100 slots an endpoint at least, which
// makes shares differ by a percent, in as little space as does. A function of the number alone, as nodes must agree.
uint32_t ring_size(Policy policy, size_t targets);

// For each slot the index of its target, or nothing where none can take flows. As in the stream plane: whoever is not
// to be had gives up its slots to the next ones' owners and nobody else's move; and where none is up, those that are
// down are tried.
std::vector<uint32_t> ring_of(Policy policy, uint64_t seed, std::span<const Target> targets);

// Regions by first slot. A region of `slots` beside all those taken, as low as it can lie below `limit`.
std::optional<uint32_t> find_region(const std::map<uint32_t, uint32_t>& taken, uint32_t slots, uint32_t limit);

}  // namespace marchproxy::packet
