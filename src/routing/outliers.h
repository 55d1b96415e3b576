// Which endpoints of a service do so much worse than the others, by what connections through them have shown, that they
// are better left alone for a while, whatever probes say.
//
// Looked at is the last `window`. An endpoint is ejected when at least `failures` connects failed, or were reset before
// the first byte of an answer, and that is half of them at least and twice the others' share; or when of at least
// `segments` sent 2 % had to be sent again, above three times the others' share. At most `most` of the endpoints are
// ejected at one time, rounded down. The time is 10 s, twice as long with each time that follows within five times as
// long, 5 minutes at most.
//
// One thread; time is passed in.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/units.h"

namespace marchproxy::routing {

// Since the start of the process.
struct TrafficCounts {
    uint64_t attempts = 0, failures = 0;         // connects; and those that came to nothing
    uint64_t segments = 0, retransmissions = 0;  // TCP's, towards the endpoint
};

class Outliers {
  public:
    static constexpr Duration window = std::chrono::seconds(10);
    static constexpr size_t steps = 10;  // that the window moves in
    static constexpr uint64_t failures = 5, segments = 500;
    static constexpr Duration first_time = std::chrono::seconds(10), longest_time = std::chrono::minutes(5);

    explicit Outliers(size_t endpoints) : endpoints_(endpoints) {}

    // What was known of an endpoint before, from the outliers of an earlier snapshot.
    void carry_over(size_t endpoint, const Outliers& before, size_t endpoint_before) {
        endpoints_[endpoint] = before.endpoints_[endpoint_before];
        step_began_ = before.step_began_;
        step_ = before.step_;
    }

    // To be called about ten times a second or less often; `takes`: who is to take connections at all.
    void update(std::span<const TrafficCounts> counts, const std::vector<bool>& takes, Share most, TimePoint now);

    bool ejected(size_t endpoint) const { return endpoints_[endpoint].until.has_value(); }
    // Why, in words; empty: it is not.
    std::string why(size_t endpoint) const { return ejected(endpoint) ? endpoints_[endpoint].why : std::string(); }
    // Of the last window; 0 where next to nothing was sent.
    double loss_ratio(size_t endpoint) const;

  private:
    struct Endpoint {
        std::array<TrafficCounts, steps> slots{};  // what each step of the window added
        TrafficCounts before{};                    // at the last update
        bool known = false;
        std::optional<TimePoint> until, ended;
        uint32_t times = 0;  // one soon after the other
        std::string why;
        TrafficCounts sum() const;
    };
    void move_window(TimePoint now);
    void take(std::span<const TrafficCounts> counts);
    void end_times(TimePoint now);
    std::string judge(size_t endpoint, const TrafficCounts& all) const;
    void eject(Endpoint& endpoint, std::string why, TimePoint now);

    std::vector<Endpoint> endpoints_;
    std::optional<TimePoint> step_began_;
    size_t step_ = 0;
};

}  // namespace marchproxy::routing
