// One service under way: its candidates, what is seen of them, who is left alone and how new connections are shared
// out. Puts Outliers and Steering to work on the endpoints' states; the pilot of a running proxy and the simulator both
// do it with this.
//
// One thread; time and readings are passed in.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "routing/endpoint_state.h"
#include "routing/outliers.h"
#include "routing/quality.h"
#include "routing/steering.h"

namespace marchproxy::routing {

class Course {
  public:
    struct Candidate {
        uint32_t weight = 0;
        std::shared_ptr<EndpointState> state;
        Facts facts;  // what the configuration says; the rest is seen anew each time
    };
    // What is measured of a candidate.
    struct Measured {
        std::optional<Reading> reading;  // none: it is not probed
        std::string problem;             // of its last probe
        double load = 0;                 // of its path, bits a second
    };
    using Look = std::function<Measured(size_t candidate)>;

    Course(const SteeringSettings& settings, Share max_ejected, std::vector<Candidate> candidates);

    // What was known of a candidate in an earlier snapshot; they share the state. Returns where each was there; none:
    // it is new.
    std::vector<std::optional<size_t>> carry_over(const Course& before);

    // True: shares() are others than before. `ejected`: told of each candidate that is left alone from now on, or not
    // any more.
    bool turn(TimePoint now, const Look& look, const std::function<void(size_t candidate, bool is)>& ejected);
    // The same without looking at what connections have shown since: nothing is ejected.
    bool steer(TimePoint now, const Look& look);

    // A price that changed without a new snapshot.
    void set_cost(size_t candidate, std::optional<double> dollars) {
        candidates_[candidate].facts.cost_per_gb = dollars;
    }
    // Whether cost decides for the time being, and not the service's own policy.
    void prefer_cheaper(bool is) { settings_.policy = is ? Policy::cost : policy_; }
    bool prefers_cheaper() const { return settings_.policy != policy_; }

    const SteeringSettings& settings() const { return settings_; }
    const std::vector<Candidate>& candidates() const { return candidates_; }
    const Shares& shares() const { return steering_.shares(); }
    const std::vector<Seen>& seen() const { return seen_; }  // at the last turn
    std::vector<Standing> standings() const {                // none before the first turn
        return seen_.empty() ? std::vector<Standing>{} : steering_.standings(settings_, seen_);
    }
    std::string why_ejected(size_t candidate) const { return outliers_.why(candidate); }

    // Endpoints of which it is new, since the last call, that probes do not get through to them.
    std::vector<size_t> take_fallen();

  private:
    void eject(TimePoint now, const std::function<void(size_t, bool)>& ejected);
    Seen see(size_t candidate, TimePoint now, const Measured& measured) const;
    std::string why_down(size_t candidate, const Measured& measured) const;

    SteeringSettings settings_;
    Policy policy_;  // the service's own
    Share max_ejected_;
    std::vector<Candidate> candidates_;
    Steering steering_;
    Outliers outliers_;
    std::vector<Seen> seen_;
    std::vector<bool> known_down_;
};

}  // namespace marchproxy::routing
