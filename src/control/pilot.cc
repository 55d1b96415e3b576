#include "control/pilot.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "routing/selector.h"

namespace marchproxy::control {

namespace {

constexpr Duration measure_interval = std::chrono::seconds(1);
constexpr double newest = 0.3;  // of a load: what the last interval counts

std::optional<double> distance_of(const MulticloudSettings& settings, const Path* path) {
    if (!path || !path->location || !settings.locality) return std::nullopt;
    return routing::great_circle(*settings.locality, *path->location);
}

// A port of UDP tells nobody who asks by TCP whether it is open, but its host answers.
probe::Target target_of(const ProbeSettings& settings, const Service& service, const ResolvedEndpoint& endpoint,
                        const Path* path) {
    probe::Target target{.address = endpoint.address,
                         .settings = settings,
                         .source = {},
                         .host = to_string(endpoint.endpoint->address),
                         .path = endpoint.path};
    if (path && path->source && path->source->is_v4() == endpoint.address.ip.is_v4()) target.source = path->source;
    if (settings.kind == ProbeKind::icmp) target.address.port = 0;
    if (settings.port) target.address.port = *settings.port;
    target.refusal_answers = service.protocol == Protocol::udp && settings.kind == ProbeKind::tcp && !settings.port;
    return target;
}

// Targets that are asked the same way are one, whoever wants to know.
using TargetKey = std::tuple<SocketAddress, std::string, std::string, bool>;
TargetKey key_of(const probe::Target& target) {
    return {target.address, target.host, target.path, target.refusal_answers};
}

routing::TrafficCounts counts_of(const routing::EndpointState& state) {
    return {.attempts = state.attempts.load(std::memory_order_relaxed),
            .failures = state.failures.load(std::memory_order_relaxed),
            .segments = state.segments.load(std::memory_order_relaxed),
            .retransmissions = state.retransmissions.load(std::memory_order_relaxed)};
}

}  // namespace

Pilot::Pilot(stream::Plane& stream, packet::Plane& packet, routing::EndpointStates& states, telemetry::Log& log,
             std::function<void()> news)
    : stream_(stream), packet_(packet), states_(states), log_(log), wake_(std::move(news)) {}

Pilot::~Pilot() = default;

// --- another snapshot ----------------------------------------------------------------------------------------------

const routing::SharesByService& Pilot::prepare(const SnapshotPointer& snapshot, const Resolution& resolution) {
    std::lock_guard lock(mutex_);
    next_ = {.snapshot = snapshot, .resolution = resolution, .courses = {}, .shares = {}};
    const TimePoint now = Clock::now();
    for (const Service& service : snapshot->services) {
        Course course = course_of(next_, service);
        if (next_.steers()) {
            see(course, now);
            course.steering.update(course.settings, course.seen, now);
            next_.shares[service.name] = course.steering.shares();
        }
        next_.courses.emplace(service.name, std::move(course));
    }
    close_drained(next_);
    return next_.shares;
}

Pilot::Course Pilot::course_of(const Chart& chart, const Service& service) const {
    const MulticloudSettings& multicloud = chart.snapshot->settings.multicloud;
    Course course{.service = &service,
                  .candidates = {},
                  .settings = {.policy = service.routing.policy,
                               .weights = service.routing.weights,
                               .hysteresis = multicloud.hysteresis,
                               .slow_start = multicloud.slow_start,
                               .panic = multicloud.panic}};
    for (const ResolvedEndpoint& endpoint : resolved_endpoints(service, chart.resolution, chart.snapshot->path_table))
        course.candidates.push_back(candidate_of(chart, service, endpoint));
    course.steering = routing::Steering(course.candidates.size());
    course.outliers = routing::Outliers(course.candidates.size());
    if (const auto before = now_.courses.find(service.name); before != now_.courses.end())
        carry_over(course, before->second);
    return course;
}

Pilot::Candidate Pilot::candidate_of(const Chart& chart, const Service& service,
                                     const ResolvedEndpoint& endpoint) const {
    const Path* path = endpoint.path.empty() ? nullptr : chart.snapshot->find_path(endpoint.path);
    const MulticloudSettings& multicloud = chart.snapshot->settings.multicloud;
    Candidate candidate{.endpoint = to_string(endpoint.endpoint->address),
                        .address = endpoint.address,
                        .path = endpoint.path,
                        .weight = endpoint.endpoint->weight,
                        .state = states_.of(service.name, endpoint.address, endpoint.path),
                        .target = target_of(multicloud.probe, service, endpoint, path),
                        .gauge = {},
                        .facts = {}};
    candidate.facts.cost_per_gb = path ? path->cost_per_gb : std::nullopt;
    candidate.facts.bandwidth = path ? path->bandwidth : std::nullopt;
    candidate.facts.distance = distance_of(multicloud, path);
    return candidate;
}

// What was known of a candidate stays known: its gauge where it is asked the same way.
void Pilot::carry_over(Course& course, const Course& before) const {
    std::map<const routing::EndpointState*, size_t> places;
    for (size_t i = 0; i < before.candidates.size(); ++i)
        places.emplace(before.candidates[i].state.get(), i);
    for (size_t i = 0; i < course.candidates.size(); ++i) {
        const auto found = places.find(course.candidates[i].state.get());
        if (found == places.end()) continue;
        course.steering.carry_over(i, before.steering, found->second);
        course.outliers.carry_over(i, before.outliers, found->second);
        const Candidate& candidate_before = before.candidates[found->second];
        if (candidate_before.target == course.candidates[i].target) course.candidates[i].gauge = candidate_before.gauge;
        course.candidates[i].known_down = candidate_before.known_down;
    }
}

void Pilot::take_over() {
    std::lock_guard lock(mutex_);
    now_ = std::move(next_);
    next_ = {};
    follow_probes();
    turned_ = {};
}

void Pilot::follow_probes() {
    if (!now_.steers()) {
        for (const auto& [name, course] : now_.courses)
            for (const Candidate& candidate : course.candidates)
                candidate.state->open(routing::closed_outlier);
        if (prober_) prober_->follow({});
        prober_.reset();
        late_before_ = late_ = 0;
        return;
    }
    if (!prober_)
        prober_ = std::make_unique<probe::Prober>(log_, [this] {
            news_ = true;
            wake_();
        });
    std::vector<probe::Wanted> wanted;
    std::map<TargetKey, size_t> places;
    std::vector<std::pair<Candidate*, size_t>> asking;
    for (auto& [name, course] : now_.courses)
        for (Candidate& candidate : course.candidates) {
            const auto [place, fresh] = places.emplace(key_of(candidate.target), wanted.size());
            if (fresh) wanted.push_back({candidate.target, {}});
            wanted[place->second].endpoints.push_back(candidate.state);
            asking.emplace_back(&candidate, place->second);
        }
    const auto gauges = prober_->follow(wanted);
    for (const auto& [candidate, place] : asking)
        candidate->gauge = gauges[place];
}

// --- turns ---------------------------------------------------------------------------------------------------------

TimePoint Pilot::due() const {
    std::lock_guard lock(mutex_);
    return now_.steers() ? turned_ + routing::Steering::interval : TimePoint::max();
}

void Pilot::turn(TimePoint now) {
    routing::SharesByService changed;
    std::vector<Fallen> fallen;
    {
        std::lock_guard lock(mutex_);
        const bool news = news_.exchange(false);
        if (!now_.steers() || (!news && now < turned_ + routing::Steering::interval)) return;
        turned_ = now;
        measure(now);
        for (auto& [name, course] : now_.courses) {
            eject(course, now);
            see(course, now);
            if (course.steering.update(course.settings, course.seen, now))
                changed[name] = now_.shares[name] = course.steering.shares();
            find_fallen(course, fallen);
        }
    }
    if (!changed.empty()) {
        stream_.steer(changed);
        packet_.steer(changed);
    }
    for (const auto& [service, address, path] : fallen)
        stream_.endpoint_down(service, address, path);
}

void Pilot::find_fallen(Course& course, std::vector<Fallen>& fallen) const {
    for (Candidate& candidate : course.candidates) {
        const bool down = candidate.state->closed.load(std::memory_order_relaxed) & routing::closed_by_probe;
        if (down && !candidate.known_down) fallen.push_back({course.service->name, candidate.address, candidate.path});
        candidate.known_down = down;
    }
}

// What paths carry, both planes together.
void Pilot::measure(TimePoint now) {
    if (now - measured_ < measure_interval) return;
    const double seconds = std::chrono::duration<double>(now - measured_).count();
    const bool first = measured_ == TimePoint{};
    measured_ = now;
    const uint64_t late = prober_->status().late;
    late_ = late - std::exchange(late_before_, late);
    std::map<std::string, std::pair<uint64_t, uint64_t>> sums;
    for (const auto& traffic : {stream_.traffic(), packet_.traffic()})
        for (const telemetry::PathTraffic& one : traffic) {
            sums[one.path].first += one.received_bytes;
            sums[one.path].second += one.sent_bytes;
        }
    for (const auto& [path, bytes] : sums) {
        Load& load = loads_[path];
        const auto follow = [&](double& rate, uint64_t& before, uint64_t after) {
            if (!first) rate += newest * (8 * static_cast<double>(after - before) / seconds - rate);
            before = after;
        };
        follow(load.up, load.received, bytes.first);
        follow(load.down, load.sent, bytes.second);
    }
}

// By what connections have shown.
void Pilot::eject(Course& course, TimePoint now) const {
    std::vector<routing::TrafficCounts> counts;
    std::vector<bool> takes;
    for (const Candidate& candidate : course.candidates) {
        counts.push_back(counts_of(*candidate.state));
        takes.push_back(candidate.weight > 0 && !candidate.state->draining());
    }
    course.outliers.update(counts, takes, now_.snapshot->settings.multicloud.max_ejected, now);
    for (size_t i = 0; i < course.candidates.size(); ++i) {
        const Candidate& candidate = course.candidates[i];
        const bool was = candidate.state->closed.load(std::memory_order_relaxed) & routing::closed_outlier;
        const bool is = course.outliers.ejected(i);
        if (was == is) continue;
        candidate.state->set(routing::closed_outlier, is);
        log_.write(is ? LogLevel::warn : LogLevel::info,
                   is ? "endpoint is left alone for a while" : "endpoint is tried again",
                   {{"service", course.service->name},
                    {"endpoint", candidate.endpoint},
                    {"path", candidate.path},
                    {"why", course.outliers.why(i)}});
    }
}

void Pilot::see(Course& course, TimePoint now) const {
    course.seen.clear();
    for (size_t i = 0; i < course.candidates.size(); ++i)
        course.seen.push_back(seen(course, i, now));
}

routing::Seen Pilot::seen(const Course& course, size_t index, TimePoint now) const {
    const Candidate& candidate = course.candidates[index];
    const routing::EndpointState& state = *candidate.state;
    routing::Seen seen{.weight = candidate.weight, .draining = state.draining(), .facts = candidate.facts};
    // Connects that failed keep it out until the next trial is due: only who has turns is tried.
    seen.up = !(state.closed.load(std::memory_order_relaxed) & ~routing::closed_for_all) && state.health.usable(now);
    if (!seen.up) seen.why_down = why_down(course, index, now);
    if (candidate.gauge) {
        const routing::Reading reading = candidate.gauge->reading();
        seen.facts.round_trip = reading.typical;
        seen.facts.loss_ratio = reading.loss_ratio;
    }
    seen.facts.loss_ratio = std::max(seen.facts.loss_ratio, course.outliers.loss_ratio(index));
    if (const auto load = loads_.find(candidate.path); load != loads_.end())
        seen.facts.load = std::max(load->second.up, load->second.down);
    return seen;
}

std::string Pilot::why_down(const Course& course, size_t index, TimePoint now) const {
    const Candidate& candidate = course.candidates[index];
    const uint8_t closed = candidate.state->closed.load(std::memory_order_relaxed);
    if (closed & routing::closed_by_probe && candidate.gauge)
        return "its probes fail: " + (candidate.gauge->problem().empty() ? "it has to answer more of them first"
                                                                         : candidate.gauge->problem());
    if (closed & routing::closed_outlier) return course.outliers.why(index);
    return candidate.state->health.usable(now) ? std::string() : "connects to it failed";
}

// --- draining ------------------------------------------------------------------------------------------------------

bool Pilot::drains(const Chart& chart, const Candidate& candidate) const {
    if (candidate.path.empty()) return false;
    const Path* path = chart.snapshot->find_path(candidate.path);
    return drained_.contains({admin::Drainable::path, candidate.path}) ||
           (path && (drained_.contains({admin::Drainable::provider, path->provider}) ||
                     drained_.contains({admin::Drainable::region, path->region})));
}

// Also of endpoints that a reload has brought.
void Pilot::close_drained(const Chart& chart) const {
    for (const auto& [name, course] : chart.courses)
        for (const Candidate& candidate : course.candidates)
            candidate.state->set(routing::closed_path, drains(chart, candidate));
}

bool Pilot::drain(admin::Drainable what, const std::string& name, bool draining) {
    bool found = false;
    {
        std::lock_guard lock(mutex_);
        if (!now_.snapshot) return false;
        if (what == admin::Drainable::endpoint) {
            for (const auto& [service, course] : now_.courses)
                for (const Candidate& candidate : course.candidates)
                    if (candidate.endpoint == name || to_string(candidate.address) == name) {
                        candidate.state->set(routing::closed_by_hand, draining);
                        found = true;
                    }
        } else {
            for (const Path& path : now_.snapshot->paths)
                found |= name == (what == admin::Drainable::path       ? path.name
                                  : what == admin::Drainable::provider ? path.provider
                                                                       : path.region);
            if (found && draining) drained_.emplace(what, name);
            if (!draining) drained_.erase({what, name});
            close_drained(now_);
        }
        news_ = true;
    }
    if (!found) return false;
    // The stream plane looks at the states with each choice.
    packet_.steer({});
    wake_();
    return true;
}

// --- what it tells -------------------------------------------------------------------------------------------------

admin::PathReading Pilot::reading_of(const Path& path) const {
    admin::PathReading reading{.path = path.name};
    double loss = 0;
    size_t probed = 0;
    std::optional<TimePoint> changed;
    for (const auto& [name, course] : now_.courses) {
        const auto standings = course.steering.standings(course.settings, course.seen);
        for (size_t i = 0; i < course.candidates.size(); ++i) {
            const Candidate& candidate = course.candidates[i];
            if (candidate.path != path.name) continue;
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
    reading.draining = drained_.contains({admin::Drainable::path, path.name}) ||
                       drained_.contains({admin::Drainable::provider, path.provider}) ||
                       drained_.contains({admin::Drainable::region, path.region});
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
    for (const Path& path : now_.snapshot->paths)
        readings.push_back(reading_of(path));
    return readings;
}

// The choice is made by the production code, on copies, so that asking changes nothing.
Result<admin::Explanation> Pilot::explain(const std::string& service, const IpAddress& client) const {
    std::lock_guard lock(mutex_);
    const auto found = now_.courses.find(service);
    if (found == now_.courses.end()) return Error{fmt::format("there is no service {}", service)};
    Course course = found->second;
    const TimePoint now = Clock::now();
    see(course, now);
    course.steering.update(course.settings, course.seen, now);
    const auto standings = course.steering.standings(course.settings, course.seen);

    std::vector<routing::EndpointState> states(course.candidates.size());
    std::vector<routing::Candidate> candidates;
    for (size_t i = 0; i < course.candidates.size(); ++i) {
        const Candidate& candidate = course.candidates[i];
        states[i].closed = candidate.state->closed.load();
        states[i].active = candidate.state->active.load();
        if (!course.seen[i].up) states[i].close(routing::closed_by_probe);
        candidates.push_back({to_string(candidate.address), candidate.weight, &states[i]});
    }
    const routing::Shares& shares = course.steering.shares();
    uint64_t turn = 0;
    const routing::Selector selector(course.settings.policy, course.service->routing.seed, candidates, &shares);
    const auto chosen = selector.choose({.client = client, .random = 0, .cursor = turn, .now = now, .tried = {}});

    admin::Explanation explanation{.service = service, .policy = course.settings.policy};
    explanation.steered = now_.steers();
    if (chosen) explanation.chosen = *chosen;
    uint64_t sum = 0;
    for (const uint32_t share : shares.of)
        sum += share;
    for (size_t i = 0; i < course.candidates.size(); ++i) {
        const Candidate& candidate = course.candidates[i];
        admin::CandidateReading reading{.path = candidate.path,
                                        .endpoint = candidate.endpoint,
                                        .address = to_string(candidate.address),
                                        .up = course.seen[i].up,
                                        .round_trip = course.seen[i].facts.round_trip,
                                        .loss_ratio = course.seen[i].facts.loss_ratio,
                                        .cost_per_gb = course.seen[i].facts.cost_per_gb,
                                        .distance = course.seen[i].facts.distance,
                                        .score = standings[i].score,
                                        .preferred = standings[i].preferred,
                                        .reason = standings[i].reason};
        if (sum > 0) reading.share = static_cast<double>(shares.of[i]) / static_cast<double>(sum);
        explanation.candidates.push_back(std::move(reading));
    }
    return explanation;
}

std::vector<std::string> Pilot::notes() const {
    std::lock_guard lock(mutex_);
    if (!prober_) return {};
    std::vector<std::string> notes = prober_->status().notes;
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
