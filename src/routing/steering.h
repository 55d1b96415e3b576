// Whom the new connections of one service are to go to, as it looks at the moment: what probes, connections and
// configuration say becomes shares for the Selector. The production code of the simulator too.
//
// A policy that looks at paths gives each candidate a score (score.h). Preferred are the best and those nearly as good:
// within half the hysteresis of the best one joins, beyond the whole of it one leaves, so that equal paths do not take
// turns at being the best. A policy that does not look at paths prefers all. Preferred candidates share by weight.
//
// What has recovered begins with a tenth of its share and has all of it after `slow_start`; where only such ones are
// preferred, the rest goes to whom would be preferred without them. Where fewer than `panic` of the candidates are up,
// health is not looked at: those that are left are not to be drowned.
//
// One thread; time is passed in.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/snapshot.h"
#include "routing/score.h"

namespace marchproxy::routing {

struct SteeringSettings {
    Policy policy = Policy::weighted_round_robin;
    RoutingWeights weights;
    Share hysteresis{0.10};
    Duration slow_start = std::chrono::seconds(10);  // 0: none
    Share panic{0.10};
    bool operator==(const SteeringSettings&) const = default;
};

// A candidate as it is now.
struct Seen {
    uint32_t weight = 1;    // 0 takes nothing
    bool draining = false;  // neither
    bool spent = false;     // nor what has no budget left; it drains too
    bool up = true;
    std::string why_down;                          // in words
    std::optional<Duration> traffic_round_trip{};  // of connections, as the kernel has it
    Facts facts;
};

// A share is the candidate's weight in these, so that tenths of it are whole numbers.
inline constexpr uint32_t share_unit = 1000;

// What the Selector is made from.
struct Shares {
    std::vector<uint32_t> of;     // by candidate; 0: has no turn while others are there
    std::vector<uint32_t> order;  // all candidates, the best first: who comes when those with turns cannot be had
    bool trust_health = true;     // false: panic
    bool operator==(const Shares&) const = default;
};

using SharesByService = std::map<std::string, Shares>;

// How it stands with a candidate, for people.
struct Standing {
    Score score;
    bool preferred = false;
    std::string reason;
};

class Steering {
  public:
    // How often update() is to be called at least, for slow starts to go on; and how long an order of those that have
    // no turn may be old.
    static constexpr Duration interval = std::chrono::milliseconds(100);
    static constexpr Duration order_interval = std::chrono::seconds(1);

    explicit Steering(size_t candidates) : candidates_(candidates) {}

    // What was known of a candidate before, from the steering of an earlier snapshot.
    void carry_over(size_t candidate, const Steering& before, size_t candidate_before) {
        candidates_[candidate] = before.candidates_[candidate_before];
    }

    // True: the shares are others than before.
    bool update(const SteeringSettings& settings, std::span<const Seen> seen, TimePoint now);

    const Shares& shares() const { return shares_; }
    // As of the last update, with what was seen then.
    std::vector<Standing> standings(const SteeringSettings& settings, std::span<const Seen> seen) const;

  private:
    struct Candidate {
        bool seen = false, up = false;
        bool preferred = false;
        std::optional<TimePoint> rising_since;  // while it starts slowly
        double ramp = 1;                        // of its share
        Score score;
    };
    void follow_health(const SteeringSettings& settings, std::span<const Seen> seen, TimePoint now);
    void prefer(const SteeringSettings& settings, const std::vector<bool>& eligible);
    std::vector<bool> best_of(const SteeringSettings& settings, const std::vector<bool>& eligible) const;
    Shares share_out(const SteeringSettings& settings, std::span<const Seen> seen,
                     const std::vector<bool>& eligible) const;
    std::vector<uint32_t> order_of(std::span<const Seen> seen) const;

    std::vector<Candidate> candidates_;
    Shares shares_;
    bool panic_ = false;
    TimePoint ordered_{};
};

}  // namespace marchproxy::routing
