// Passive health of an endpoint: what the proxy's own connections to it have shown.
//
// After `failures_to_fall` connects in a row have failed it is down, and left alone for a backoff of 1 s that doubles
// to 30 s with each failed trial. When the backoff is over, one connection at a time goes through as the trial; the
// first success brings the endpoint up at once.
//
// Threads: any thread may call anything at any time; the state is one word, changed by compare-and-exchange.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>

#include "model/units.h"

namespace marchproxy::routing {

class Health {
  public:
    static constexpr uint64_t failures_to_fall = 3;
    static constexpr Duration first_backoff = std::chrono::seconds(1);
    static constexpr Duration longest_backoff = std::chrono::seconds(30);

    bool up() const { return !unpack(word_.load(std::memory_order_relaxed)).down; }

    // Whether take() could succeed.
    bool usable(TimePoint now) const {
        const uint64_t word = word_.load(std::memory_order_relaxed);
        return word == 0 || open(unpack(word), now);
    }

    // Leave to connect. True for everybody while up; while down for one caller each backoff, who thereby makes the
    // trial. A trial whose outcome is never told is over after one more backoff.
    bool take(TimePoint now) {
        uint64_t word = word_.load(std::memory_order_relaxed);
        for (;;) {
            State state = unpack(word);
            if (!state.down) return true;
            if (!open(state, now)) return false;
            state.trial = true;
            state.closed_until = now + backoff(state.count);
            if (word_.compare_exchange_weak(word, pack(state), std::memory_order_relaxed)) return true;
        }
    }

    // A connect succeeded. Returns whether this brought the endpoint up.
    bool succeeded() {
        if (word_.load(std::memory_order_relaxed) == 0) return false;  // leaves the cache line shared
        return unpack(word_.exchange(0, std::memory_order_relaxed)).down;
    }

    // A connect failed. Returns whether this brought the endpoint down. While it is down only the trial's failure
    // lengthens the backoff: the many connects that were under way when it fell are one event, not many.
    bool failed(TimePoint now) {
        uint64_t word = word_.load(std::memory_order_relaxed);
        for (;;) {
            State state = unpack(word);
            if (state.down && !state.trial) return false;
            const bool was_down = state.down;
            ++state.count;
            if (was_down || state.count == failures_to_fall) {
                state.count = was_down ? std::min(state.count, most_doublings) : 0;
                state.down = true;
                state.trial = false;
                state.closed_until = now + backoff(state.count);
            }
            if (word_.compare_exchange_weak(word, pack(state), std::memory_order_relaxed))
                return state.down && !was_down;
        }
    }

  private:
    static constexpr uint64_t most_doublings = 5;  // 1 s << 5 is beyond the longest backoff

    struct State {
        bool down, trial;
        uint64_t count;          // up: failures in a row; down: how often the backoff has doubled
        TimePoint closed_until;  // down: to the microsecond
    };

    static bool open(const State& state, TimePoint now) { return !state.down || now >= state.closed_until; }

    static Duration backoff(uint64_t doublings) { return std::min(first_backoff * (1 << doublings), longest_backoff); }

    // down: 1 bit, trial: 1, count: 6, microseconds: 56
    static State unpack(uint64_t word) {
        return {(word & 1) != 0, (word & 2) != 0, (word >> 2) & 63,
                TimePoint(std::chrono::microseconds(static_cast<int64_t>(word) >> 8))};
    }
    static uint64_t pack(const State& state) {
        const auto time = std::chrono::duration_cast<std::chrono::microseconds>(state.closed_until.time_since_epoch());
        return static_cast<uint64_t>(time.count()) << 8 | state.count << 2 | (state.trial ? 2U : 0U) |
               (state.down ? 1U : 0U);
    }

    std::atomic<uint64_t> word_{0};  // 0: up, and nothing failed
};

}  // namespace marchproxy::routing
