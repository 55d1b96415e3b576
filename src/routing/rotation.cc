#include "routing/rotation.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <queue>
#include <utility>

namespace marchproxy::routing {
namespace {

std::vector<uint64_t> turns_of(std::span<const uint32_t> weights) {
    uint64_t divisor = 0, sum = 0;
    for (const uint32_t weight : weights) {
        divisor = std::gcd(divisor, uint64_t{weight});
        sum += weight;
    }
    std::vector<uint64_t> turns(weights.begin(), weights.end());
    if (divisor == 0) return turns;
    const uint64_t longest = std::max<uint64_t>(4096, 64 * weights.size());
    for (uint64_t& turn : turns) {
        if (sum / divisor <= longest) {
            turn /= divisor;
        } else if (turn > 0) {
            const double share = static_cast<double>(turn) / static_cast<double>(sum);
            turn = std::max<uint64_t>(1, static_cast<uint64_t>(std::llround(share * static_cast<double>(longest))));
        }
    }
    return turns;
}

}  // namespace

// A member with w of n turns takes its k-th one between floor(k n / w) and ceil((k + 1) n / w). Serving the earliest
// deadline among those whose time has come meets all of them, since together they are exactly n.
std::vector<uint32_t> weighted_rotation(std::span<const uint32_t> weights) {
    using Due = std::pair<uint64_t, uint32_t>;  // a slot, and a member
    using Queue = std::priority_queue<Due, std::vector<Due>, std::greater<>>;
    const std::vector<uint64_t> turns = turns_of(weights);
    const uint64_t period = std::accumulate(turns.begin(), turns.end(), uint64_t{0});
    std::vector<uint64_t> taken(turns.size(), 0);

    Queue waiting, ready;  // by release, by deadline
    for (uint32_t i = 0; i < turns.size(); ++i)
        if (turns[i] > 0) waiting.push({0, i});
    std::vector<uint32_t> order;
    order.reserve(period);
    while (order.size() < period) {
        while (!waiting.empty() && waiting.top().first <= order.size()) {
            const uint32_t i = waiting.top().second;
            waiting.pop();
            ready.push({((taken[i] + 1) * period + turns[i] - 1) / turns[i], i});
        }
        const uint32_t i = ready.top().second;
        ready.pop();
        order.push_back(i);
        if (++taken[i] < turns[i]) waiting.push({taken[i] * period / turns[i], i});
    }
    return order;
}

}  // namespace marchproxy::routing
