#include "routing/course.h"

#include <algorithm>
#include <map>

namespace marchproxy::routing {

namespace {

uint8_t closed_of(const Course::Candidate& candidate) {
    return candidate.state->closed.load(std::memory_order_relaxed);
}

TrafficCounts counts_of(const EndpointState& state) {
    return {.attempts = state.attempts.load(std::memory_order_relaxed),
            .failures = state.failures.load(std::memory_order_relaxed),
            .segments = state.segments.load(std::memory_order_relaxed),
            .retransmissions = state.retransmissions.load(std::memory_order_relaxed)};
}

}  // namespace

Course::Course(const SteeringSettings& settings, Share max_ejected, std::vector<Candidate> candidates)
    : settings_(settings),
      policy_(settings.policy),
      max_ejected_(max_ejected),
      candidates_(std::move(candidates)),
      steering_(candidates_.size()),
      outliers_(candidates_.size()),
      known_down_(candidates_.size(), false) {}

std::vector<std::optional<size_t>> Course::carry_over(const Course& before) {
    std::vector<std::optional<size_t>> were(candidates_.size());
    std::map<const EndpointState*, size_t> places;
    for (size_t i = 0; i < before.candidates_.size(); ++i)
        places.emplace(before.candidates_[i].state.get(), i);
    for (size_t i = 0; i < candidates_.size(); ++i) {
        const auto found = places.find(candidates_[i].state.get());
        if (found == places.end()) continue;
        were[i] = found->second;
        steering_.carry_over(i, before.steering_, found->second);
        outliers_.carry_over(i, before.outliers_, found->second);
        known_down_[i] = before.known_down_[found->second];
    }
    return were;
}

bool Course::turn(TimePoint now, const Look& look, const std::function<void(size_t, bool)>& ejected) {
    eject(now, ejected);
    return steer(now, look);
}

bool Course::steer(TimePoint now, const Look& look) {
    seen_.clear();
    for (size_t i = 0; i < candidates_.size(); ++i)
        seen_.push_back(see(i, now, look(i)));
    return steering_.update(settings_, seen_, now);
}

// By what connections have shown.
void Course::eject(TimePoint now, const std::function<void(size_t, bool)>& ejected) {
    std::vector<TrafficCounts> counts;
    std::vector<bool> takes;
    for (const Candidate& candidate : candidates_) {
        counts.push_back(counts_of(*candidate.state));
        takes.push_back(candidate.weight > 0 && !candidate.state->draining());
    }
    outliers_.update(counts, takes, max_ejected_, now);
    for (size_t i = 0; i < candidates_.size(); ++i) {
        const bool is = outliers_.ejected(i);
        if (is == static_cast<bool>(closed_of(candidates_[i]) & closed_outlier)) continue;
        candidates_[i].state->set(closed_outlier, is);
        ejected(i, is);
    }
}

Seen Course::see(size_t index, TimePoint now, const Measured& measured) const {
    const Candidate& candidate = candidates_[index];
    Seen seen{.weight = candidate.weight,
              .draining = candidate.state->draining(),
              .spent = static_cast<bool>(closed_of(candidate) & closed_by_budget),
              .facts = candidate.facts};
    // Connects that failed keep it out until the next trial is due: only who has turns is tried.
    seen.up = !(closed_of(candidate) & ~closed_for_all) && candidate.state->health.usable(now);
    if (!seen.up) seen.why_down = why_down(index, measured);
    if (const uint32_t of_traffic = candidate.state->round_trip_us.load(std::memory_order_relaxed))
        seen.facts.round_trip = seen.traffic_round_trip = std::chrono::microseconds(of_traffic);
    if (measured.reading) {
        seen.facts.round_trip = measured.reading->typical;
        seen.facts.loss_ratio = measured.reading->loss_ratio;
    }
    seen.facts.loss_ratio = std::max(seen.facts.loss_ratio, outliers_.loss_ratio(index));
    seen.facts.load = measured.load;
    return seen;
}

std::string Course::why_down(size_t index, const Measured& measured) const {
    const uint8_t closed = closed_of(candidates_[index]);
    if (closed & closed_by_probe)
        return "its probes fail: " +
               (measured.problem.empty() ? "it has to answer more of them first" : measured.problem);
    return closed & closed_outlier ? outliers_.why(index) : "connects to it failed";
}

std::vector<size_t> Course::take_fallen() {
    std::vector<size_t> fallen;
    for (size_t i = 0; i < candidates_.size(); ++i) {
        const bool down = closed_of(candidates_[i]) & closed_by_probe;
        if (down && !known_down_[i]) fallen.push_back(i);
        known_down_[i] = down;
    }
    return fallen;
}

}  // namespace marchproxy::routing
