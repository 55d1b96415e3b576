#include "routing/outliers.h"

#include <fmt/format.h>

#include <algorithm>

namespace marchproxy::routing {

namespace {

void add(TrafficCounts& sum, const TrafficCounts& more) {
    sum.attempts += more.attempts;
    sum.failures += more.failures;
    sum.segments += more.segments;
    sum.retransmissions += more.retransmissions;
}

double ratio(uint64_t part, uint64_t whole) {
    return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

TrafficCounts Outliers::Endpoint::sum() const {
    TrafficCounts sum;
    for (const TrafficCounts& slot : slots)
        add(sum, slot);
    return sum;
}

double Outliers::loss_ratio(size_t endpoint) const {
    const TrafficCounts sum = endpoints_[endpoint].sum();
    return sum.segments < segments / 5 ? 0 : ratio(sum.retransmissions, sum.segments);
}

void Outliers::move_window(TimePoint now) {
    if (!step_began_) step_began_ = now;
    for (size_t moved = 0; now - *step_began_ >= window / steps; ++moved) {
        if (moved == steps) {
            step_began_ = now;
            return;
        }
        *step_began_ += window / steps;
        step_ = (step_ + 1) % steps;
        for (Endpoint& endpoint : endpoints_)
            endpoint.slots[step_] = {};
    }
}

void Outliers::take(std::span<const TrafficCounts> counts) {
    for (size_t i = 0; i < endpoints_.size(); ++i) {
        Endpoint& endpoint = endpoints_[i];
        const TrafficCounts& before = endpoint.before;
        if (endpoint.known)
            add(endpoint.slots[step_], {.attempts = counts[i].attempts - before.attempts,
                                        .failures = counts[i].failures - before.failures,
                                        .segments = counts[i].segments - before.segments,
                                        .retransmissions = counts[i].retransmissions - before.retransmissions});
        endpoint.before = counts[i];
        endpoint.known = true;
    }
}

void Outliers::end_times(TimePoint now) {
    for (Endpoint& endpoint : endpoints_) {
        if (!endpoint.until || now < *endpoint.until) continue;
        endpoint.until.reset();
        endpoint.ended = now;
        endpoint.slots = {};  // what it did before is judged already
    }
}

// Empty: it is no outlier.
std::string Outliers::judge(size_t index, const TrafficCounts& all) const {
    const TrafficCounts sum = endpoints_[index].sum();
    const double failed = ratio(sum.failures, sum.attempts);
    const double others_failed = ratio(all.failures - sum.failures, all.attempts - sum.attempts);
    if (sum.failures >= failures && failed >= 0.5 && failed >= 2 * others_failed)
        return fmt::format("{} of {} connections failed in {} s", sum.failures, sum.attempts,
                           std::chrono::duration_cast<std::chrono::seconds>(window).count());
    const double lost = ratio(sum.retransmissions, sum.segments);
    const double others_lost = ratio(all.retransmissions - sum.retransmissions, all.segments - sum.segments);
    if (sum.segments >= segments && lost >= 0.02 + 3 * others_lost)
        return fmt::format("{:.1f}% of {} segments had to be sent again, of the others' {:.1f}%", 100 * lost,
                           sum.segments, 100 * others_lost);
    return {};
}

void Outliers::eject(Endpoint& endpoint, std::string why, TimePoint now) {
    const Duration last = std::min<Duration>(first_time * (1 << endpoint.times), longest_time);
    const bool again = endpoint.ended && now - *endpoint.ended < 5 * last;
    endpoint.times = again ? std::min(endpoint.times + 1, 5U) : 0;
    endpoint.until = now + std::min<Duration>(first_time * (1 << endpoint.times), longest_time);
    endpoint.why = std::move(why);
}

void Outliers::update(std::span<const TrafficCounts> counts, const std::vector<bool>& takes, Share most,
                      TimePoint now) {
    move_window(now);
    take(counts);
    end_times(now);
    TrafficCounts all;
    size_t places = 0, taken = 0;
    for (size_t i = 0; i < endpoints_.size(); ++i) {
        add(all, endpoints_[i].sum());
        places += takes[i] ? 1 : 0;
        taken += takes[i] && ejected(i) ? 1 : 0;
    }
    const auto allowed = static_cast<size_t>(static_cast<double>(places) * most.fraction + 1e-9);
    for (size_t i = 0; i < endpoints_.size() && taken < allowed; ++i) {
        if (!takes[i] || ejected(i)) continue;
        std::string why = judge(i, all);
        if (why.empty()) continue;
        eject(endpoints_[i], std::move(why), now);
        ++taken;
    }
}

}  // namespace marchproxy::routing
