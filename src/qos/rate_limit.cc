#include "qos/rate_limit.h"

#include <algorithm>
#include <cmath>

namespace marchproxy::qos {
namespace {

// A sixteenth of the clock's half circle: capacity and waiting time stay far from where differences change their sign.
constexpr double longest = static_cast<double>(uint64_t{1} << 59);

}  // namespace

// Rounded up, so that the rate is never exceeded.
void RateLimit::configure(double per_second, double burst) {
    if (!(per_second > 0)) {
        capacity_.store(0, std::memory_order_relaxed);
        interval_.store(1, std::memory_order_relaxed);
        return;
    }
    const double interval = std::clamp(std::ceil(1e9 * fractions / per_second), 1.0, longest);
    const double capacity = std::clamp(interval * std::max(burst, 1.0), interval, std::max(interval, longest));
    capacity_.store(static_cast<uint64_t>(capacity), std::memory_order_relaxed);
    interval_.store(static_cast<uint64_t>(interval), std::memory_order_relaxed);
}

void RateLimit::configure(const std::optional<Frequency>& limit) {
    if (!limit) {
        interval_.store(0, std::memory_order_relaxed);
        return;
    }
    configure(limit->per_second, limit->per_second / 10);
}

// `backlog` is how far the theoretical arrival time lies ahead: what was admitted and is not yet earned back.
bool RateLimit::admit(TimePoint now) {
    const uint64_t interval = interval_.load(std::memory_order_relaxed);
    if (interval == 0) return true;
    const uint64_t capacity = capacity_.load(std::memory_order_relaxed);
    constexpr uint64_t plausible_lag = 1'000'000'000 * fractions;
    const uint64_t time = static_cast<uint64_t>(Duration(now.time_since_epoch()).count()) * fractions;

    uint64_t arrival = arrival_.load(std::memory_order_relaxed);
    for (;;) {
        const auto ahead = static_cast<int64_t>(arrival - time);
        const uint64_t backlog = static_cast<uint64_t>(std::max<int64_t>(ahead, 0));
        uint64_t next = time + backlog + interval;
        const bool admitted = backlog + interval <= capacity;
        if (!admitted) {
            if (backlog <= capacity + plausible_lag) return false;
            next = time + capacity;  // the clock was set back, or the limit reconfigured: nothing so large was admitted
        }
        if (arrival_.compare_exchange_weak(arrival, next, std::memory_order_relaxed)) return admitted;
    }
}

}  // namespace marchproxy::qos
