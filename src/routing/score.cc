#include "routing/score.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace marchproxy::routing {

namespace {

double seconds(Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

Score latency_of(const Facts& facts) {
    if (!facts.round_trip) return std::nullopt;
    const double round_trip = seconds(*facts.round_trip);
    return round_trip + exchange * facts.loss_ratio * (round_trip + 0.2);
}

Score bandwidth_of(const Facts& facts) {
    if (!facts.bandwidth) return std::nullopt;
    const auto whole = static_cast<double>(facts.bandwidth->bits_per_second);
    return 1e9 / std::max(whole - facts.load, whole / 100);
}

Score score_of(Policy policy, const Facts& facts) {
    switch (policy) {
        case Policy::latency:
            return latency_of(facts);
        case Policy::cost:
            return facts.cost_per_gb;
        case Policy::bandwidth:
            return bandwidth_of(facts);
        case Policy::geo:
            return facts.distance;
        default:
            return std::nullopt;
    }
}

std::vector<Score> each(Policy policy, std::span<const Facts> candidates) {
    std::vector<Score> scores;
    for (const Facts& facts : candidates)
        scores.push_back(score_of(policy, facts));
    return scores;
}

// Of those eligible whose score is known; the lower of two. None: nobody's is.
Score median_of(const std::vector<Score>& scores, const std::vector<bool>& eligible) {
    std::vector<double> known;
    for (size_t i = 0; i < scores.size(); ++i)
        if (eligible[i] && scores[i]) known.push_back(*scores[i]);
    if (known.empty()) return std::nullopt;
    const auto middle = known.begin() + static_cast<ptrdiff_t>((known.size() - 1) / 2);
    std::nth_element(known.begin(), middle, known.end());
    return *middle;
}

double normalised(const Score& score, double median) {
    if (!score) return 1;
    if (*score <= 0) return 0;
    return *score / (*score + median);
}

}  // namespace

std::vector<Score> scores_of(Policy policy, const RoutingWeights& weights, std::span<const Facts> candidates,
                             const std::vector<bool>& eligible) {
    if (policy != Policy::weighted) return each(policy, candidates);
    const std::array parts{std::pair(Policy::latency, weights.latency), std::pair(Policy::cost, weights.cost),
                           std::pair(Policy::bandwidth, weights.bandwidth)};
    const double total = weights.latency + weights.cost + weights.bandwidth;
    std::vector<Score> sums(candidates.size());
    for (const auto& [part, weight] : parts) {
        if (weight <= 0) continue;
        const std::vector<Score> scores = each(part, candidates);
        const Score median = median_of(scores, eligible);
        if (!median) continue;  // not known of anybody: it is no reason
        for (size_t i = 0; i < scores.size(); ++i)
            sums[i] = sums[i].value_or(0) + weight / total * normalised(scores[i], *median);
    }
    return sums;
}

// The haversine formula; numerically sound for points close together and far apart alike.
double great_circle(const Location& a, const Location& b) {
    constexpr double radius = 6371.0088;  // km, the mean of the Earth's (IUGG)
    constexpr double degree = std::numbers::pi / 180;
    const double latitude = std::sin((b.latitude - a.latitude) * degree / 2);
    const double longitude = std::sin((b.longitude - a.longitude) * degree / 2);
    const double square =
        latitude * latitude + std::cos(a.latitude * degree) * std::cos(b.latitude * degree) * longitude * longitude;
    return 2 * radius * std::asin(std::min(1.0, std::sqrt(square)));
}

}  // namespace marchproxy::routing
