#include "costs/percentile.h"

#include <algorithm>
#include <functional>

#include "costs/calendar.h"

namespace marchproxy::costs {

double billed_rate(std::vector<uint64_t> samples, uint64_t slots) {
    const size_t forgiven = slots / 20;
    if (forgiven >= samples.size()) return 0;
    const auto at = samples.begin() + static_cast<ptrdiff_t>(forgiven);
    std::nth_element(samples.begin(), at, samples.end(), std::greater<>());
    return 8 * static_cast<double>(*at) / std::chrono::duration<double>(slot_length).count();
}

}  // namespace marchproxy::costs
