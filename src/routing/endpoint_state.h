// What the choose step looks at of an endpoint while the proxy runs. Outlives snapshots; changing it rebuilds nothing.
//
// Threads: any thread may read and write any of it at any time.
#pragma once

#include <atomic>
#include <cstdint>

#include "routing/health.h"

namespace marchproxy::routing {

// Why an endpoint is to take no new connections, besides what connections themselves have shown (Health): bits.
enum Closed : uint8_t {
    closed_by_hand = 1,     // drained
    closed_path = 2,        // its path is
    closed_by_probe = 4,    // probes do not get through
    closed_outlier = 8,     // ejected: it does much worse than the others
    closed_by_budget = 16,  // what may be spent on it is spent
};
// Never taken; of the others one is, where nobody is better.
inline constexpr uint8_t closed_for_all = closed_by_hand | closed_path | closed_by_budget;

struct EndpointState {
    // Connections or sessions, over all workers; and what they have shown since the endpoint is known (see Outliers).
    // These change with each of them, and so have a cache line of their own.
    alignas(64) std::atomic<uint64_t> active{0};
    std::atomic<uint64_t> attempts{0}, failures{0}, segments{0}, retransmissions{0};
    std::atomic<uint32_t> round_trip_us{0};  // of connections, smoothed; 0: not known
    alignas(64) std::atomic<uint8_t> closed{0};
    Health health;

    void close(Closed why) { closed.fetch_or(why, std::memory_order_relaxed); }
    void open(Closed why) { closed.fetch_and(static_cast<uint8_t>(~why), std::memory_order_relaxed); }
    void set(Closed why, bool is) { is ? close(why) : open(why); }
    // The kernel's own round trip of a connection. Of two threads at one moment one may be lost.
    void answered_within(uint32_t microseconds) {
        const uint32_t before = round_trip_us.load(std::memory_order_relaxed);
        const int64_t step = (int64_t{microseconds} - before) / 8;
        round_trip_us.store(before == 0 ? microseconds : static_cast<uint32_t>(before + step),
                            std::memory_order_relaxed);
    }
    bool draining() const { return closed.load(std::memory_order_relaxed) & closed_for_all; }
    // Takes new connections as far as anybody knows, if it may.
    bool up() const { return !(closed.load(std::memory_order_relaxed) & ~closed_for_all) && health.up(); }
};

}  // namespace marchproxy::routing
