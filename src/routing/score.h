// How good a candidate is under a policy. Lower is better. Pure.
//
//   latency    seconds that a short exchange takes: the round trip, and for each of the `exchange` segments what its
//   loss
//              would cost, a retransmission timeout (RFC 6298: 200 ms at least, as Linux has it, above the round trip)
//   cost       dollars a gigabyte
//   bandwidth  1 / what is left of the path's bandwidth, in Gbit/s; a hundredth of it at least
//   geo        kilometres along the great circle
//   weighted   the weighted mean of latency, cost and bandwidth, each as x / (x + m) where m is the candidates' median:
//              a half is the middle, and one bad candidate does not make the others look alike
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "model/snapshot.h"

namespace marchproxy::routing {

// What is known of a candidate; what is not is worse than anything known.
struct Facts {
    std::optional<Duration> round_trip;
    double loss_ratio = 0;
    std::optional<double> cost_per_gb;
    std::optional<double> distance;  // km
    std::optional<Rate> bandwidth;
    double load = 0;  // bits a second, in the busier direction
};

using Score = std::optional<double>;  // none: not known

inline constexpr double exchange = 10;  // segments

// Candidates that are not `eligible` have a score too, but the others are not measured by them.
std::vector<Score> scores_of(Policy policy, const RoutingWeights& weights, std::span<const Facts> candidates,
                             const std::vector<bool>& eligible);

double great_circle(const Location& a, const Location& b);  // km

}  // namespace marchproxy::routing
