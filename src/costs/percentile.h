// Bandwidth as carriers bill it: of a month's five-minute samples the highest twentieth is forgiven, and the highest of
// the rest is what counts ("burstable billing", 95th percentile). Pure.
#pragma once

#include <cstdint>
#include <vector>

namespace marchproxy::costs {

// Bits a second. `samples`: bytes of each five minutes in which there were any; `slots`: how many there have been,
// those without traffic counting as 0.
double billed_rate(std::vector<uint64_t> samples, uint64_t slots);

}  // namespace marchproxy::costs
