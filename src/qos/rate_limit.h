// How many events a second, over all threads: the generic cell rate algorithm in its virtual scheduling form
// (ITU-T I.371, Annex A), which is a token bucket (RFC 2697 without colours) whose whole state is one number, the
// theoretical arrival time, and therefore needs no lock.
//
// Threads: any thread may call anything at any time.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "model/units.h"

namespace marchproxy::qos {

class alignas(64) RateLimit {
  public:
    // Never more than burst + per_second * t events in any interval of t seconds. `burst` is at least 1. A rate of 0
    // admits nothing. What was admitted before still counts; a backlog of more than the new burst lasts a second at
    // most.
    void configure(double per_second, double burst);

    // limits.new_connections: a burst of 100 ms worth, at least 1. Absent: everything is admitted, as it is at first.
    void configure(const std::optional<Frequency>& limit);

    // Counts one event, or refuses it and counts nothing. `now` may be a little behind other threads' (a worker reads
    // its clock once a turn). After a step backwards of more than a second the burst fills again from empty.
    bool admit(TimePoint now);

  private:
    // Times are in 1/1024 ns, so that an interval's rounding is no error a user could count, and wrap after half a
    // year: only differences are looked at.
    static constexpr uint64_t fractions = 1024;

    std::atomic<uint64_t> interval_{0};  // between events at the rate; 0: no limit
    std::atomic<uint64_t> capacity_{0};  // burst * interval; 0: nothing is admitted
    std::atomic<uint64_t> arrival_{0};   // when the bucket is full again
};

}  // namespace marchproxy::qos
