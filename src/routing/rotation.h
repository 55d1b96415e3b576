// The order in which a weighted rotation visits its members.
//
// Pure. The schedule is Tijdeman's ("The chairman assignment problem", Discrete Mathematics 32, 1980): in every prefix
// of it, each member's turns differ by less than one from its exact share, so that no member gets its turns in a bunch.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace marchproxy::routing {

// One period of the rotation, as indices into `weights`; a weight of 0 has no turn. The period is as long as the
// weights' sum, reduced by their common divisor. Where that is more than 4096 and more than 64 turns a member, weights
// are rounded to that period, each keeping a turn.
std::vector<uint32_t> weighted_rotation(std::span<const uint32_t> weights);

}  // namespace marchproxy::routing
