// What the pilot tells of paths and decisions.
#include <fmt/format.h>

#include <numeric>

#include "control/pilot.h"
#include "routing/selector.h"

namespace marchproxy::control {

admin::PathReading Pilot::reading_of(const Path& path, costs::PathBill bill) const {
    admin::PathReading reading{.path = path.name, .bill = std::move(bill)};
    double loss = 0;
    size_t probed = 0;
    std::optional<TimePoint> changed;
    for (const auto& [name, steered] : now_.services) {
        const auto standings = steered.course.standings();
        for (size_t i = 0; i < steered.candidates.size(); ++i) {
            const Candidate& candidate = steered.candidates[i];
            if (*candidate.path != path.name || standings.empty()) continue;
            const auto& of_traffic = steered.course.seen()[i].traffic_round_trip;
            if (of_traffic && (!reading.traffic_round_trip || *of_traffic < *reading.traffic_round_trip))
                reading.traffic_round_trip = of_traffic;
            if (!candidate.gauge) continue;
            const routing::Reading of = candidate.gauge->reading();
            ++probed;
            loss += of.loss_ratio;
            // Of several endpoints the nearest stands for the path.
            if (of.round_trip && (!reading.round_trip || *of.round_trip < *reading.round_trip)) {
                reading.round_trip = of.round_trip;
                reading.jitter = of.jitter;
                reading.least = of.least;
            }
            if (of.changed && (!changed || *of.changed > *changed)) changed = of.changed;
            const routing::Score& score = standings[i].score;
            if (score && (!reading.score || *score < *reading.score)) reading.score = score;
        }
    }
    if (changed)
        reading.changed = std::chrono::system_clock::now() -
                          std::chrono::duration_cast<std::chrono::system_clock::duration>(Clock::now() - *changed);
    if (probed > 0) reading.loss_ratio = loss / static_cast<double>(probed);
    reading.draining = drains_.cover(path);
    if (const auto load = loads_.find(path.name); load != loads_.end()) {
        reading.received_rate = load->second.up;
        reading.sent_rate = load->second.down;
    }
    return reading;
}

std::vector<admin::PathReading> Pilot::paths() const {
    std::lock_guard lock(mutex_);
    std::vector<admin::PathReading> readings;
    if (!now_.snapshot) return readings;
    std::map<std::string, costs::PathBill> bills;
    for (costs::PathBill& bill : book_.bills())
        bills[bill.path] = std::move(bill);
    for (const Path& path : now_.snapshot->paths)
        readings.push_back(reading_of(path, std::move(bills[path.name])));
    return readings;
}

// Who would take a connection from there: the choice is made by what makes it for connections, on copies, so that
// asking changes nothing.
std::optional<size_t> Pilot::choice_of(const Steered& steered, const routing::Course& course, const IpAddress& client) {
    std::vector<routing::EndpointState> states(steered.candidates.size());
    std::vector<routing::Candidate> candidates;
    for (size_t i = 0; i < states.size(); ++i) {
        const routing::EndpointState& state = *course.candidates()[i].state;
        states[i].closed = state.closed.load();
        states[i].active = state.active.load();
        if (!course.seen()[i].up) states[i].close(routing::closed_by_probe);
        candidates.push_back({to_string(steered.candidates[i].address), course.candidates()[i].weight, &states[i]});
    }
    uint64_t turn = 0;
    const Routing& routing = steered.service->routing;
    const routing::Selector selector(routing.policy, routing.seed, candidates, &course.shares());
    const auto chosen =
        selector.choose({.client = client, .random = 0, .cursor = turn, .now = Clock::now(), .tried = {}});
    return chosen ? std::optional<size_t>(*chosen) : std::nullopt;
}

Result<admin::Explanation> Pilot::explain(const std::string& service, const IpAddress& client) const {
    std::lock_guard lock(mutex_);
    const auto found = now_.services.find(service);
    if (found == now_.services.end()) return Error{fmt::format("there is no service {}", service)};
    const Steered& steered = found->second;
    routing::Course course = steered.course;
    course.steer(Clock::now(), look_of(steered));
    const auto standings = course.standings();
    const std::vector<uint32_t>& shares = course.shares().of;
    const auto sum = static_cast<double>(std::accumulate(shares.begin(), shares.end(), uint64_t{0}));

    admin::Explanation explanation{.service = service,
                                   .policy = steered.service->routing.policy,
                                   .steered = now_.steers(),
                                   .chosen = choice_of(steered, course, client)};
    for (size_t i = 0; i < steered.candidates.size(); ++i) {
        const Candidate& candidate = steered.candidates[i];
        const routing::Seen& seen = course.seen()[i];
        explanation.candidates.push_back({.path = *candidate.path,
                                          .endpoint = *candidate.endpoint,
                                          .address = to_string(candidate.address),
                                          .up = seen.up,
                                          .round_trip = seen.facts.round_trip,
                                          .traffic_round_trip = seen.traffic_round_trip,
                                          .loss_ratio = seen.facts.loss_ratio,
                                          .cost_per_gb = seen.facts.cost_per_gb,
                                          .distance = seen.facts.distance,
                                          .score = standings[i].score,
                                          .share = sum > 0 ? shares[i] / sum : 0,
                                          .preferred = standings[i].preferred,
                                          .reason = standings[i].reason});
    }
    if (course.prefers_cheaper())
        explanation.notes.emplace_back("cost decides: a budget is spent, and its at_limit is prefer_cheaper");
    return explanation;
}

std::vector<std::string> Pilot::notes() const {
    std::lock_guard lock(mutex_);
    std::vector<std::string> notes = book_.notes();
    if (now_.snapshot && !now_.steers()) {
        MulticloudSettings resting = now_.snapshot->settings.multicloud;
        resting.cost_book = MulticloudSettings{}.cost_book;
        if (resting != MulticloudSettings{})
            notes.emplace_back(
                "multicloud: off, so its keys rest; set multicloud.enabled: true, or --enable-multicloud");
    }
    if (!prober_) return notes;
    for (const std::string& note : prober_->status().notes)
        notes.push_back(note);
    if (late_ > 0)
        notes.push_back(
            fmt::format("probes: {} of {} targets could not be asked in time in the last second; raise "
                        "multicloud.probe.interval, or set multicloud.probe.kind: icmp, which costs the least",
                        late_, prober_->status().targets));
    return notes;
}

std::optional<probe::Status> Pilot::probes() const {
    std::lock_guard lock(mutex_);
    return prober_ ? std::optional(prober_->status()) : std::nullopt;
}

}  // namespace marchproxy::control
