#include "routing/steering.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace marchproxy::routing {

namespace {

// Round trips that differ by less than half a millisecond are the same to whoever is served.
constexpr double same_latency = 0.0005;

double weight_of(const SteeringSettings& settings, const Seen& seen) {
    return settings.policy == Policy::round_robin ? 1 : seen.weight;
}

bool may_take(const Seen& seen) {
    return seen.weight > 0 && !seen.draining;
}

// Above the best by so much, a candidate is no longer as good.
double slack(Policy policy, double best, double share) {
    return std::max(best * share, policy == Policy::latency ? same_latency * (1 + share) : 1e-9);
}

// In tenths, so that shares move ten times and not with each update.
double ramp_of(Duration since, Duration slow_start) {
    if (since >= slow_start) return 1;
    const double done = std::chrono::duration<double>(since) / slow_start;
    return std::max(0.1, std::floor(10 * done) / 10);
}

bool worse(const Score& a, const Score& b) {
    if (!a || !b) return !a && b;
    return *a > *b;
}

}  // namespace

bool Steering::update(const SteeringSettings& settings, std::span<const Seen> seen, TimePoint now) {
    follow_health(settings, seen, now);
    std::vector<bool> eligible;
    std::vector<Facts> facts;
    size_t places = 0, up = 0;
    for (const Seen& one : seen) {
        eligible.push_back(may_take(one) && one.up);
        facts.push_back(one.facts);
        places += may_take(one) ? 1 : 0;
        up += eligible.back() ? 1 : 0;
    }
    panic_ = static_cast<double>(up) < settings.panic.fraction * static_cast<double>(places);
    if (panic_ || up == 0)
        for (size_t i = 0; i < seen.size(); ++i)
            eligible[i] = may_take(seen[i]);

    const std::vector<Score> scores = scores_of(settings.policy, settings.weights, facts, eligible);
    for (size_t i = 0; i < scores.size(); ++i)
        candidates_[i].score = scores[i];
    prefer(settings, eligible);
    Shares next = share_out(settings, seen, eligible);
    const bool same = next.of == shares_.of && next.trust_health == shares_.trust_health;
    // While shares stay, an order that has just been told stays too: scores of what is not preferred move all the time.
    if (same && now - ordered_ < order_interval) return false;
    next.order = order_of(seen);
    ordered_ = now;
    if (next == shares_) return false;
    shares_ = std::move(next);
    return true;
}

void Steering::follow_health(const SteeringSettings& settings, std::span<const Seen> seen, TimePoint now) {
    for (size_t i = 0; i < seen.size(); ++i) {
        Candidate& candidate = candidates_[i];
        if (candidate.seen && seen[i].up && !candidate.up && settings.slow_start > Duration(0))
            candidate.rising_since = now;
        if (!seen[i].up) candidate.rising_since.reset();
        candidate.seen = true;
        candidate.up = seen[i].up;
        candidate.ramp = candidate.rising_since ? ramp_of(now - *candidate.rising_since, settings.slow_start) : 1;
        if (candidate.ramp >= 1) candidate.rising_since.reset();
    }
}

// Who of them is the best, or as good; who was preferred before has the whole of the hysteresis.
std::vector<bool> Steering::best_of(const SteeringSettings& settings, const std::vector<bool>& eligible) const {
    if (!is_measured(settings.policy)) return eligible;
    Score best;
    for (size_t i = 0; i < candidates_.size(); ++i)
        if (eligible[i] && candidates_[i].score && (!best || *candidates_[i].score < *best))
            best = candidates_[i].score;
    if (!best) return eligible;  // nothing is known of anybody
    std::vector<bool> good(candidates_.size());
    for (size_t i = 0; i < candidates_.size(); ++i) {
        const double share = settings.hysteresis.fraction * (candidates_[i].preferred ? 1 : 0.5);
        good[i] = eligible[i] && candidates_[i].score &&
                  *candidates_[i].score <= *best + slack(settings.policy, *best, share);
    }
    return good;
}

void Steering::prefer(const SteeringSettings& settings, const std::vector<bool>& eligible) {
    const std::vector<bool> good = best_of(settings, eligible);
    for (size_t i = 0; i < candidates_.size(); ++i)
        candidates_[i].preferred = good[i];
}

Shares Steering::share_out(const SteeringSettings& settings, std::span<const Seen> seen,
                           const std::vector<bool>& eligible) const {
    std::vector<double> shares(candidates_.size());
    double held_back = 0;
    bool all_rise = true;
    for (size_t i = 0; i < candidates_.size(); ++i) {
        if (!candidates_[i].preferred) continue;
        const double weight = weight_of(settings, seen[i]);
        shares[i] = weight * candidates_[i].ramp;
        held_back += weight * (1 - candidates_[i].ramp);
        all_rise &= candidates_[i].ramp < 1;
    }
    if (held_back > 0 && all_rise) {
        std::vector<bool> settled = eligible;
        for (size_t i = 0; i < candidates_.size(); ++i)
            settled[i] = settled[i] && candidates_[i].ramp >= 1;
        const std::vector<bool> others = best_of(settings, settled);
        double weights = 0;
        for (size_t i = 0; i < candidates_.size(); ++i)
            weights += others[i] ? weight_of(settings, seen[i]) : 0;
        for (size_t i = 0; i < candidates_.size() && weights > 0; ++i)
            if (others[i]) shares[i] += held_back * weight_of(settings, seen[i]) / weights;
    }
    Shares result{.of = {}, .order = {}, .trust_health = !panic_};
    for (const double share : shares)
        result.of.push_back(share > 0 ? static_cast<uint32_t>(std::max(1.0, std::round(share * share_unit))) : 0);
    return result;
}

std::vector<uint32_t> Steering::order_of(std::span<const Seen> seen) const {
    std::vector<uint32_t> order(candidates_.size());
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
        if (seen[a].up != seen[b].up) return seen[a].up;
        const bool preferred = candidates_[a].preferred;
        if (preferred != candidates_[b].preferred) return preferred;
        if (preferred) return false;
        return worse(candidates_[b].score, candidates_[a].score);
    });
    return order;
}

// --- for people ----------------------------------------------------------------------------------------------------

namespace {

std::string percent_above(double score, double best) {
    if (best <= 0) return "is not the best";
    return fmt::format("is {:.0f}% above the best", 100 * (score / best - 1));
}

}  // namespace

std::vector<Standing> Steering::standings(const SteeringSettings& settings, std::span<const Seen> seen) const {
    Score best;
    for (const Candidate& candidate : candidates_)
        if (candidate.preferred && candidate.score && (!best || *candidate.score < *best)) best = candidate.score;
    std::vector<Standing> standings;
    for (size_t i = 0; i < candidates_.size(); ++i) {
        const Candidate& candidate = candidates_[i];
        Standing standing{.score = candidate.score, .preferred = candidate.preferred, .reason = {}};
        if (seen[i].weight == 0) {
            standing.reason = "has no weight";
        } else if (seen[i].draining) {
            standing.reason = seen[i].spent ? "takes nothing new: a budget is spent" : "drains";
        } else if (!seen[i].up && !candidate.preferred) {
            standing.reason = seen[i].why_down.empty() ? "is down" : "is down: " + seen[i].why_down;
        } else if (!seen[i].up) {
            standing.reason = "is down, and tried all the same: nobody better is left";
        } else if (!candidate.preferred) {
            standing.reason = candidate.score ? percent_above(*candidate.score, best.value_or(0))
                                              : fmt::format("its {} is not known", name_of(settings.policy));
        } else if (candidate.ramp < 1) {
            standing.reason = fmt::format("has recovered, and has {:.0f}% of its share so far", 100 * candidate.ramp);
        } else if (!is_measured(settings.policy)) {
            standing.reason = fmt::format("is up; {} does not look at paths", name_of(settings.policy));
        } else if (!candidate.score) {
            standing.reason = fmt::format("nobody's {} is known yet", name_of(settings.policy));
        } else {
            standing.reason = *candidate.score <= *best ? "is the best"
                                                        : fmt::format("is as good as the best, within {:.0f}%",
                                                                      100 * settings.hysteresis.fraction);
        }
        standings.push_back(std::move(standing));
    }
    return standings;
}

}  // namespace marchproxy::routing
