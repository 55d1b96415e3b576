#include "control/pilot.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <tuple>

namespace marchproxy::control {

namespace {

constexpr Duration measure_interval = std::chrono::seconds(1);
constexpr double newest = 0.3;  // of a load: what the last interval counts
constexpr Duration busy_decision_interval = std::chrono::seconds(1), idle_decision_interval = std::chrono::seconds(10);
constexpr size_t most_decisions_renewed = 64;

// Most reasons are those that were told before, of somebody.
Decision::Text text_of_reason(const Decision* before, const std::string& reason) {
    if (before)
        for (const Decision::Candidate& candidate : before->candidates)
            if (*candidate.reason == reason) return candidate.reason;
    return std::make_shared<const std::string>(reason);
}

std::optional<double> distance_of(const MulticloudSettings& settings, const Path* path) {
    if (!path || !path->location || !settings.locality) return std::nullopt;
    return routing::great_circle(*settings.locality, *path->location);
}

// A port of UDP tells nobody who asks by TCP whether it is open, but its host answers.
probe::Target target_of(const Snapshot& snapshot, const Service& service, const ResolvedEndpoint& endpoint) {
    const ProbeSettings& settings = snapshot.settings.multicloud.probe;
    probe::Target target{.address = endpoint.address,
                         .settings = settings,
                         .egress = snapshot.egress(endpoint.path, endpoint.address.ip),
                         .host = to_string(endpoint.endpoint->address),
                         .path = endpoint.path};
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

}  // namespace

Pilot::Pilot(stream::Plane& stream, packet::Plane& packet, routing::EndpointStates& states, telemetry::Log& log,
             std::function<void()> news)
    : stream_(stream), packet_(packet), states_(states), log_(log), wake_(std::move(news)), book_(log) {}

Pilot::~Pilot() {
    book_.add(std::chrono::system_clock::now(), passed());
}

// --- another snapshot ----------------------------------------------------------------------------------------------

const routing::SharesByService& Pilot::prepare(const SnapshotPointer& snapshot, const Resolution& resolution) {
    std::lock_guard lock(mutex_);
    next_ = {.snapshot = snapshot, .resolution = resolution, .services = {}, .shares = {}};
    for (const Service& service : snapshot->services) {
        Steered next = steered(next_, service);
        if (next_.steers()) {
            next.course.steer(Clock::now(), look_of(next));
            next_.shares[service.name] = next.course.shares();
        }
        next_.services.emplace(service.name, std::move(next));
    }
    close_drained(next_);
    for (auto& [name, steered] : next_.services)
        follow_closed(steered);
    return next_.shares;
}

Pilot::Steered Pilot::steered(const Chart& chart, const Service& service) const {
    const MulticloudSettings& multicloud = chart.snapshot->settings.multicloud;
    std::vector<Candidate> candidates;
    std::vector<routing::Course::Candidate> of_course;
    for (const ResolvedEndpoint& endpoint : resolved_endpoints(service, chart.resolution, chart.snapshot->path_table)) {
        candidates.push_back(candidate_of(chart, service, endpoint));
        of_course.push_back(course_candidate(chart, service, endpoint));
    }
    Steered next{.service = &service,
                 .candidates = std::move(candidates),
                 .course = routing::Course({.policy = service.routing.policy,
                                            .weights = service.routing.weights,
                                            .hysteresis = multicloud.hysteresis,
                                            .slow_start = multicloud.slow_start,
                                            .panic = multicloud.panic},
                                           multicloud.max_ejected, std::move(of_course))};
    if (const auto before = now_.services.find(service.name); before != now_.services.end())
        carry_over(next, before->second);
    return next;
}

Pilot::Candidate Pilot::candidate_of(const Chart& chart, const Service& service,
                                     const ResolvedEndpoint& endpoint) const {
    return {.endpoint = std::make_shared<const std::string>(to_string(endpoint.endpoint->address)),
            .address = endpoint.address,
            .path = std::make_shared<const std::string>(endpoint.path),
            .target = target_of(*chart.snapshot, service, endpoint)};
}

routing::Course::Candidate Pilot::course_candidate(const Chart& chart, const Service& service,
                                                   const ResolvedEndpoint& endpoint) const {
    const Path* path = endpoint.path.empty() ? nullptr : chart.snapshot->find_path(endpoint.path);
    routing::Course::Candidate candidate{.weight = endpoint.endpoint->weight,
                                         .state = states_.of(service.name, endpoint.address, endpoint.path),
                                         .facts = {}};
    candidate.facts.cost_per_gb = path ? book_.price(*path) : std::nullopt;
    candidate.facts.bandwidth = path ? path->bandwidth : std::nullopt;
    candidate.facts.distance = distance_of(chart.snapshot->settings.multicloud, path);
    return candidate;
}

// What was known stays known: a gauge where its target is asked the same way.
void Pilot::carry_over(Steered& next, const Steered& before) {
    const auto were = next.course.carry_over(before.course);
    for (size_t i = 0; i < were.size(); ++i)
        if (were[i] && before.candidates[*were[i]].target == next.candidates[i].target)
            next.candidates[i].gauge = before.candidates[*were[i]].gauge;
}

// True: somebody is closed, or open again. The packet plane does not look at states by itself.
bool Pilot::follow_closed(Steered& steered) {
    std::vector<uint8_t> closed;
    for (const routing::Course::Candidate& candidate : steered.course.candidates())
        closed.push_back(candidate.state->closed.load(std::memory_order_relaxed));
    return std::exchange(steered.closed, closed) != closed;
}

void Pilot::take_over() {
    std::lock_guard lock(mutex_);
    const WallTime wall = std::chrono::system_clock::now();
    book_.add(wall, passed());  // by the prices that held so far
    now_ = std::move(next_);
    next_ = {};
    book_.follow(now_.snapshot->paths, now_.snapshot->settings.multicloud, wall);
    follow_costs();
    follow_probes();
    turned_ = {};
}

void Pilot::follow_probes() {
    if (!now_.steers()) {
        for (const auto& [name, steered] : now_.services)
            for (const auto& candidate : steered.course.candidates())
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
    for (auto& [name, steered] : now_.services)
        for (size_t i = 0; i < steered.candidates.size(); ++i) {
            Candidate& candidate = steered.candidates[i];
            const auto [place, fresh] = places.emplace(key_of(candidate.target), wanted.size());
            if (fresh) wanted.push_back({candidate.target, {}});
            wanted[place->second].endpoints.push_back(steered.course.candidates()[i].state);
            asking.emplace_back(&candidate, place->second);
        }
    const auto gauges = prober_->follow(wanted);
    for (const auto& [candidate, place] : asking)
        candidate->gauge = gauges[place];
}

// --- turns ---------------------------------------------------------------------------------------------------------

TimePoint Pilot::due() const {
    std::lock_guard lock(mutex_);
    if (now_.steers()) return turned_ + routing::Steering::interval;
    return now_.has_paths() ? measured_ + measure_interval : TimePoint::max();
}

routing::Course::Look Pilot::look_of(const Steered& steered) const {
    return [this, &steered](size_t index) {
        const Candidate& candidate = steered.candidates[index];
        routing::Course::Measured measured;
        if (candidate.gauge) {
            measured.reading = candidate.gauge->reading();
            measured.problem = candidate.gauge->problem();
        }
        if (const auto load = loads_.find(*candidate.path); load != loads_.end())
            measured.load = std::max(load->second.up, load->second.down);
        return measured;
    };
}

void Pilot::turn(TimePoint now) {
    struct Fallen {
        std::string service;
        SocketAddress address;
        std::string path;
    };
    routing::SharesByService changed;
    std::vector<Fallen> fallen;
    DecisionsByService decisions;
    bool closed = false;
    {
        std::lock_guard lock(mutex_);
        const bool news = news_.exchange(false);
        if (now_.has_paths() || now_.steers()) measure(now);
        if (!now_.steers() || (!news && now < turned_ + routing::Steering::interval)) return;
        turned_ = now;
        for (auto& [name, steered] : now_.services) {
            const auto ejected = [&, &of = steered](size_t candidate, bool is) { log_ejected(of, candidate, is); };
            if (steered.course.turn(now, look_of(steered), ejected))
                changed[name] = now_.shares[name] = steered.course.shares();
            for (const size_t index : steered.course.take_fallen())
                fallen.push_back({name, steered.candidates[index].address, *steered.candidates[index].path});
            closed |= follow_closed(steered);
        }
        decisions = renewed_decisions(now, changed);
    }
    if (!changed.empty() || !decisions.empty()) stream_.steer(changed, decisions);
    if (!changed.empty() || closed) packet_.steer(changed);
    if (!decisions.empty()) packet_.explain(decisions);
    for (const auto& [service, address, path] : fallen)
        stream_.endpoint_down(service, address, path);
}

// Of services whose shares have changed; of others what is measured moves on: each second while connections come, else
// now and then, and in turn where that would be too many at one time.
DecisionsByService Pilot::renewed_decisions(TimePoint now, const routing::SharesByService& changed) {
    DecisionsByService decisions;
    const auto renew = [&](const std::string& name, Steered& steered) {
        steered.decision = decision_of(steered);
        steered.decided = now;
        steered.attempts = attempts_of(steered);
        decisions[name] = steered.decision;
    };
    for (const auto& [name, shares] : changed)
        renew(name, now_.services.at(name));
    auto at = now_.services.upper_bound(renewed_last_);
    for (size_t i = 0; i < now_.services.size() && decisions.size() < most_decisions_renewed; ++i, ++at) {
        if (at == now_.services.end()) at = now_.services.begin();
        auto& [name, steered] = *at;
        const bool busy = attempts_of(steered) != steered.attempts;
        if (now - steered.decided < (busy ? busy_decision_interval : idle_decision_interval)) continue;
        renew(name, steered);
        renewed_last_ = name;
    }
    return decisions;
}

uint64_t Pilot::attempts_of(const Steered& steered) {
    uint64_t attempts = 0;
    for (const routing::Course::Candidate& candidate : steered.course.candidates())
        attempts += candidate.state->attempts.load(std::memory_order_relaxed);
    return attempts;
}

DecisionPointer Pilot::decision_of(const Steered& steered) {
    const std::vector<routing::Standing> standings = steered.course.standings();
    const routing::Shares& shares = steered.course.shares();
    const auto sum = static_cast<float>(std::accumulate(shares.of.begin(), shares.of.end(), uint64_t{0}));
    auto decision = std::make_shared<Decision>();
    const auto known = [](const std::optional<double>& value) {
        return value ? static_cast<float>(*value) : Decision::unknown;
    };
    for (const uint32_t i : shares.order) {
        if (decision->candidates.size() == Decision::most_candidates) break;
        const routing::Seen& seen = steered.course.seen()[i];
        const auto& round_trip = seen.facts.round_trip;
        Decision::Candidate candidate{.path = steered.candidates[i].path,
                                      .endpoint = steered.candidates[i].endpoint,
                                      .reason = {},
                                      .cost_per_gb = known(seen.facts.cost_per_gb),
                                      .score = known(standings[i].score),
                                      .share = sum > 0 ? static_cast<float>(shares.of[i]) / sum : 0,
                                      .up = seen.up};
        if (round_trip) candidate.round_trip = std::chrono::duration<float>(*round_trip).count();
        candidate.reason = text_of_reason(steered.decision.get(), standings[i].reason);
        decision->candidates.push_back(std::move(candidate));
    }
    decision->others = static_cast<uint32_t>(steered.candidates.size() - decision->candidates.size());
    return decision;
}

void Pilot::log_ejected(const Steered& steered, size_t index, bool is) const {
    const Candidate& candidate = steered.candidates[index];
    log_.write(is ? LogLevel::warn : LogLevel::info,
               is ? "endpoint is left alone for a while" : "endpoint is tried again",
               {{"service", steered.service->name},
                {"endpoint", *candidate.endpoint},
                {"path", *candidate.path},
                {"why", steered.course.why_ejected(index)}});
}

void Pilot::measure(TimePoint now) {
    if (now - measured_ < measure_interval) return;
    const bool first = measured_ == TimePoint{};
    const double seconds = std::chrono::duration<double>(now - measured_).count();
    measured_ = now;
    if (prober_) {
        const uint64_t late = prober_->status().late;
        late_ = late - std::exchange(late_before_, late);
    }
    const std::vector<costs::Passed> passed = this->passed();
    if (!first) follow_loads(passed, seconds);
    book_.add(std::chrono::system_clock::now(), passed);
    follow_costs();
}

// What both planes have carried since the last look. Where a counter has fallen it began anew.
std::vector<costs::Passed> Pilot::passed() {
    std::vector<costs::Passed> all;
    const auto look = [&](std::string_view plane, const std::vector<telemetry::PathTraffic>& traffic) {
        for (const telemetry::PathTraffic& now : traffic) {
            auto& [received, sent] = carried_[{plane, now.service, now.path}];
            const auto since = [](uint64_t& before, uint64_t after) {
                const uint64_t last = std::exchange(before, after);
                return after < last ? after : after - last;
            };
            all.push_back({now.service, now.path, since(received, now.received_bytes), since(sent, now.sent_bytes)});
        }
    };
    look("stream", stream_.traffic());
    look("packet", packet_.traffic());
    return all;
}

void Pilot::follow_loads(const std::vector<costs::Passed>& passed, double seconds) {
    std::map<std::string_view, std::pair<uint64_t, uint64_t>> sums;
    for (const costs::Passed& one : passed) {
        sums[one.path].first += one.received_bytes;
        sums[one.path].second += one.sent_bytes;
    }
    for (const auto& [path, bytes] : sums) {
        Load& load = loads_[std::string(path)];
        load.up += newest * (8 * static_cast<double>(bytes.first) / seconds - load.up);
        load.down += newest * (8 * static_cast<double>(bytes.second) / seconds - load.down);
    }
}

// Prices move by tiers; what has no budget left takes nothing new, or is chosen by cost.
void Pilot::follow_costs() {
    if (!now_.snapshot) return;
    std::vector<costs::BudgetReading> spent = book_.budgets();
    std::erase_if(spent, [](const costs::BudgetReading& reading) { return !reading.is_spent(); });
    std::map<std::string_view, std::pair<const Path*, std::optional<double>>> paths;
    for (const Path& path : now_.snapshot->paths)
        paths[path.name] = {&path, book_.price(path)};
    for (auto& [name, steered] : now_.services) {
        bool prefers_cheaper = false;
        for (size_t i = 0; i < steered.candidates.size(); ++i) {
            const auto found = paths.find(*steered.candidates[i].path);
            if (found == paths.end()) continue;
            const auto& [path, price] = found->second;
            steered.course.set_cost(i, price);
            bool closed = false;
            for (const costs::BudgetReading& reading : spent) {
                if (!costs::covers(reading.budget.scope, name, *path)) continue;
                prefers_cheaper |= reading.budget.at_limit == AtLimit::prefer_cheaper;
                closed |= reading.budget.at_limit == AtLimit::stop_new;
            }
            steered.course.candidates()[i].state->set(routing::closed_by_budget, closed);
        }
        steered.course.prefer_cheaper(prefers_cheaper);
    }
}

// --- draining ------------------------------------------------------------------------------------------------------

// Also of endpoints that a reload has brought.
void Pilot::close_drained(const Chart& chart) const {
    for (const auto& [name, steered] : chart.services)
        for (size_t i = 0; i < steered.candidates.size(); ++i) {
            const Candidate& candidate = steered.candidates[i];
            const Path* path = chart.snapshot->find_path(*candidate.path);
            routing::EndpointState& state = *steered.course.candidates()[i].state;
            state.set(routing::closed_path, path && drains_.cover(*path));
            state.set(routing::closed_by_hand, drains_.cover(*candidate.endpoint, candidate.address));
        }
}

bool Pilot::drain(admin::Drainable what, const std::string& name, bool draining) {
    bool found = false;
    {
        std::lock_guard lock(mutex_);
        if (!now_.snapshot) return false;
        found = what == admin::Drainable::endpoint ? drain_endpoint(name, draining) : drain_paths(what, name, draining);
        news_ = true;
    }
    if (!found) return false;
    // The stream plane looks at the states with each choice.
    packet_.steer({});
    wake_();
    return true;
}

Drains Pilot::drains() const {
    std::lock_guard lock(mutex_);
    return drains_;
}

void Pilot::take_drains(Drains drains) {
    std::lock_guard lock(mutex_);
    drains_ = std::move(drains);
}

// One of the addresses of a drained name may take connections again: the others are drained by their own then.
bool Pilot::drain_endpoint(const std::string& name, bool draining) {
    using enum admin::Drainable;
    std::vector<const Candidate*> meant, others;
    for (const auto& [service, steered] : now_.services)
        for (const Candidate& candidate : steered.candidates)
            (*candidate.endpoint == name || to_string(candidate.address) == name ? meant : others)
                .push_back(&candidate);
    if (draining && !meant.empty()) drains_.add(endpoint, name);
    for (const Candidate* candidate : meant) {
        if (draining) continue;
        if (*candidate->endpoint != name && drains_.has(endpoint, *candidate->endpoint))
            for (const Candidate* other : others)
                if (*other->endpoint == *candidate->endpoint) drains_.add(endpoint, to_string(other->address));
        drains_.remove(endpoint, *candidate->endpoint);
        drains_.remove(endpoint, to_string(candidate->address));
    }
    if (!draining) drains_.remove(endpoint, name);
    close_drained(now_);
    return !meant.empty();
}

bool Pilot::drain_paths(admin::Drainable what, const std::string& name, bool draining) {
    const auto& paths = now_.snapshot->paths;
    const bool found = std::any_of(paths.begin(), paths.end(), [&](const Path& path) {
        return name == (what == admin::Drainable::path       ? path.name
                        : what == admin::Drainable::provider ? path.provider
                                                             : path.region);
    });
    if (found && draining) drains_.add(what, name);
    if (!draining) drains_.remove(what, name);
    close_drained(now_);
    return found;
}

}  // namespace marchproxy::control
