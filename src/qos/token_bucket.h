// A token bucket (RFC 2697, without colours) that is exact over any interval: its level is held in billionths of a bit,
// so that a rate in bits a second times a time in nanoseconds is a whole number, and nothing is ever rounded.
//
// The bucket is ready while anything is in it, and what is taken may be more: the debt is earned back before it is
// ready again. So in any interval of t seconds no more than burst + rate * t + one item passes, whatever the burst and
// the items are, and no item is too large ever to pass.
//
// Times are those of a clock that does not go back (qos/monotonic.h). One thread.
#pragma once

#include <algorithm>
#include <cstdint>

#include "model/units.h"

namespace marchproxy::qos {

class TokenBucket {
  public:
    // What `burst` may be at most, so that levels fit their type; more is taken for this.
    static constexpr Bytes largest_burst{1'000'000'000};

    // Never ready, until configured.
    TokenBucket() = default;

    // Fills the bucket. What the earlier configuration held or owed is forgotten.
    TokenBucket(Rate rate, Bytes burst, Duration now) : refilled_(now) {
        configure(rate, burst, now);
        level_ = capacity_;
    }

    // Keeps what is in it, as far as the new burst goes, and what is owed, as far as a second of the new rate pays.
    void configure(Rate rate, Bytes burst, Duration now) {
        refill(now);
        rate_ = rate.bits_per_second;
        capacity_ = in_nanobits(burst.count);
        const auto second = static_cast<int64_t>(std::min<uint64_t>(rate_, largest_burst.count * 8)) * nanobits;
        level_ = std::clamp(level_, -second, capacity_);
    }

    // Earns what time has brought. To be called before ready() and take().
    void refill(Duration now) {
        const Duration elapsed = now - refilled_;
        if (elapsed.count() <= 0) return;
        refilled_ = now;
        const Product earned = static_cast<Product>(rate_) * static_cast<uint64_t>(elapsed.count());
        const auto room = static_cast<uint64_t>(capacity_ - level_);
        level_ = earned >= room ? capacity_ : level_ + static_cast<int64_t>(earned);
    }

    bool ready() const { return level_ > 0; }

    void take(uint32_t bytes) { level_ = std::max(level_ - in_nanobits(bytes), lowest); }

    // Takes too, but leaves no debt of more than so many bursts.
    void take_within(uint32_t bytes, int64_t bursts) {
        const int64_t most = capacity_ > -lowest / bursts ? lowest : -capacity_ * bursts;
        level_ = std::max(level_ - in_nanobits(bytes), std::min(level_, most));
    }

    // What was taken and not used.
    void give_back(uint32_t bytes) { level_ = std::min(level_ + in_nanobits(bytes), capacity_); }

    // When it will hold what `ahead` of time earns (at most its burst), if nothing is taken before: at least a
    // nanosecond after the last refill.
    Duration ready_at(Duration ahead) const {
        if (rate_ == 0) return Duration::max();
        const auto most = static_cast<Product>(std::max<int64_t>(capacity_, 1));
        const Product earned = static_cast<Product>(rate_) * static_cast<uint64_t>(ahead.count());
        const Product wanted = std::clamp<Product>(earned, 1, most);
        const int64_t missing = std::max<int64_t>(static_cast<int64_t>(wanted) - level_, 1);
        const uint64_t wait = (static_cast<uint64_t>(missing) - 1) / rate_ + 1;
        return refilled_ + Duration(static_cast<int64_t>(std::min<uint64_t>(wait, longest_wait)));
    }

  private:
    __extension__ using Product = unsigned __int128;
    static constexpr int64_t nanobits = 1'000'000'000;
    static constexpr int64_t lowest = -(int64_t{1} << 60);
    static constexpr uint64_t longest_wait = uint64_t{1} << 60;  // 36 years

    static constexpr int64_t in_nanobits(uint64_t bytes) {
        return static_cast<int64_t>(std::min(bytes, largest_burst.count) * 8) * nanobits;
    }

    int64_t level_ = 0;
    int64_t capacity_ = 0;
    uint64_t rate_ = 0;  // bits a second
    Duration refilled_{0};
};

}  // namespace marchproxy::qos
