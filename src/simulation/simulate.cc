#include "simulation/simulate.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>
#include <queue>
#include <random>

#include "costs/tariff.h"
#include "routing/course.h"
#include "routing/score.h"
#include "routing/selector.h"

namespace marchproxy::simulation {

namespace {

constexpr size_t most_attempts = 8;  // as the stream plane's
constexpr double segment_bytes = 1448;
constexpr double retransmission = 0.2;  // seconds, above the round trip
constexpr Duration measure_interval = std::chrono::seconds(1);
constexpr double newest = 0.3;
const TimePoint beginning{std::chrono::hours(1)};

double seconds(Duration duration) {
    return std::chrono::duration<double>(duration).count();
}
Duration from_seconds(double value) {
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(value));
}

struct Flow {
    TimePoint began{};
    std::vector<uint32_t> tried{};
};

// An endpoint and the probes to it.
struct Place {
    size_t path = 0;
    std::shared_ptr<routing::EndpointState> state = std::make_shared<routing::EndpointState>();
    routing::Quality quality;
    std::vector<std::pair<TimePoint, Flow>> waiting{};  // connects into the dark
};

enum class What : uint8_t { probe, answer, loss, turn, flow };

struct Due {
    TimePoint time;
    What what;
    size_t place;
    Duration round_trip;
    TimePoint sent;
    bool operator>(const Due& other) const { return time > other.time; }
};

class Run {
  public:
    Run(const Scenario& scenario, Policy policy)
        : scenario_(scenario),
          probe_(scenario.snapshot.settings.multicloud.probe),
          weather_(scenario),
          random_(scenario.seed),
          course_(settings_of(scenario, policy), scenario.snapshot.settings.multicloud.max_ejected,
                  make_places(scenario)) {
        results_.policy = policy;
        for (const Weather::Outage& outage : weather_.outages())
            results_.failovers.push_back({.path = outage.path, .at = outage.from});
        outages_ = weather_.outages();
        results_.timeline.assign(buckets, {std::vector<uint64_t>(paths_.size()), 0, 0});
        for (const std::string& path : paths_)
            results_.paths.push_back({.path = path});
        loads_.assign(paths_.size(), 0);
        carried_.assign(paths_.size(), 0);
    }

    Results play() {
        for (size_t i = 0; i < places_.size(); ++i)
            queue_.push({beginning + from_seconds(uniform() * 0.1), What::probe, i, {}, {}});
        turn();
        queue_.push({beginning + routing::Steering::interval, What::turn, 0, {}, {}});
        queue_.push({next_flow(), What::flow, 0, {}, {}});
        while (!queue_.empty() && queue_.top().time < beginning + scenario_.duration) {
            const Due due = queue_.top();
            queue_.pop();
            now_ = due.time;
            happen(due);
        }
        finish();
        return std::move(results_);
    }

  private:
    static routing::SteeringSettings settings_of(const Scenario& scenario, Policy policy) {
        const MulticloudSettings& multicloud = scenario.snapshot.settings.multicloud;
        return {.policy = policy,
                .weights = scenario.service().routing.weights,
                .hysteresis = multicloud.hysteresis,
                .slow_start = multicloud.slow_start,
                .panic = multicloud.panic};
    }

    std::vector<routing::Course::Candidate> make_places(const Scenario& scenario) {
        const MulticloudSettings& multicloud = scenario.snapshot.settings.multicloud;
        for (const Path& path : scenario.snapshot.paths)
            paths_.push_back(path.name);
        std::vector<routing::Course::Candidate> candidates;
        for (const Endpoint& endpoint : scenario.service().endpoints) {
            Place place;
            place.path = static_cast<size_t>(std::find(paths_.begin(), paths_.end(), endpoint.path) - paths_.begin());
            const Path& path = scenario.snapshot.paths[place.path];
            routing::Course::Candidate candidate{.weight = endpoint.weight, .state = place.state, .facts = {}};
            candidate.facts.cost_per_gb = costs::price_at(path.cost_per_gb, 0);
            candidate.facts.bandwidth = path.bandwidth;
            if (path.location && multicloud.locality)
                candidate.facts.distance = routing::great_circle(*multicloud.locality, *path.location);
            candidates.push_back(std::move(candidate));
            addresses_.push_back(to_string(endpoint.address));
            places_.push_back(std::move(place));
        }
        return candidates;
    }

    void happen(const Due& due) {
        switch (due.what) {
            case What::probe:
                return probe(due.place);
            case What::answer:
                return answered(due);
            case What::loss:
                return lost(due);
            case What::turn:
                turn();
                queue_.push({now_ + routing::Steering::interval, What::turn, 0, {}, {}});
                return;
            case What::flow:
                begin({.began = now_, .tried = {}});
                queue_.push({next_flow(), What::flow, 0, {}, {}});
        }
    }

    // --- probes ---

    void probe(size_t index) {
        const Behaviour behaviour = behaviour_of(index);
        const Duration round_trip = sample(behaviour);
        if (behaviour.down || uniform() < behaviour.loss || round_trip >= probe_.timeout)
            queue_.push({now_ + probe_.timeout, What::loss, index, {}, now_});
        else
            queue_.push({now_ + round_trip, behaviour.refuses ? What::loss : What::answer, index, round_trip, now_});
    }

    void answered(const Due& due) {
        Place& place = places_[due.place];
        const bool rose = place.quality.answered(due.round_trip, thresholds(), now_);
        if (rose) {
            place.state->health.succeeded();
            place.state->open(routing::closed_by_probe);
            turn();
        }
        next_probe(due, false);
    }

    void lost(const Due& due) {
        Place& place = places_[due.place];
        if (place.quality.lost(thresholds(), now_)) {
            ++results_.paths[place.path].falls;
            place.state->close(routing::closed_by_probe);
            turn();
        }
        next_probe(due, place.quality.up());
    }

    // As the prober does it.
    void next_probe(const Due& due, bool hurry) {
        const Duration early = from_seconds(seconds(probe_.interval) / 10 * uniform());
        const TimePoint next = due.sent + (hurry ? probe_.timeout : probe_.interval - early);
        queue_.push({std::max(next, now_), What::probe, due.place, {}, {}});
    }

    routing::Thresholds thresholds() const { return {.fall = probe_.fall, .rise = probe_.rise}; }

    // --- steering ---

    void turn() {
        measure();
        follow_prices();
        const auto look = [this](size_t index) {
            const Place& place = places_[index];
            return routing::Course::Measured{
                .reading = place.quality.reading(), .problem = {}, .load = loads_[place.path]};
        };
        const auto ejected = [this](size_t index, bool is) {
            results_.paths[places_[index].path].ejected += is ? 1 : 0;
        };
        const bool changed = course_.turn(now_, look, ejected);
        if (changed || !selector_) make_selector();
        for (const size_t index : course_.take_fallen())
            give_up(index, now_);
        const Duration patience = scenario_.snapshot.settings.stream.connect_timeout;
        for (size_t i = 0; i < places_.size(); ++i)
            if (!places_[i].waiting.empty() && places_[i].waiting.front().first + patience <= now_)
                give_up(i, now_ - patience);
    }

    void make_selector() {
        std::vector<routing::Candidate> candidates;
        std::vector<bool> preferred;
        for (size_t i = 0; i < places_.size(); ++i) {
            candidates.push_back({addresses_[i], course_.candidates()[i].weight, places_[i].state.get()});
            preferred.push_back(course_.shares().of[i] > 0);
        }
        if (!preferred_.empty() && preferred != preferred_) ++results_.moves;
        preferred_ = preferred;
        selector_.emplace(course_.settings().policy, scenario_.service().routing.seed, candidates, &course_.shares());
    }

    void measure() {
        if (now_ - measured_ < measure_interval) return;
        const double passed = seconds(now_ - measured_);
        for (size_t i = 0; i < loads_.size(); ++i)
            loads_[i] += newest * (8 * std::exchange(carried_[i], 0.0) / passed - loads_[i]);
        measured_ = now_;
    }

    // By tiers, as the pilot does it, of a month that lasts as long as the scenario; or by an event, which stands for a
    // reload.
    void follow_prices() {
        for (size_t i = 0; i < places_.size(); ++i)
            course_.set_cost(i, costs::price_at(behaviour_of(i).cost_per_gb, results_.paths[places_[i].path].bytes));
    }

    // --- flows ---

    TimePoint next_flow() {
        double rate = scenario_.flows.per_second;
        if (scenario_.peak) {
            const double hour = std::fmod(seconds(now_ - beginning) / 3600, 24);
            const double height = (1 - std::cos((hour - 2) / 24 * 2 * std::numbers::pi)) / 2;
            rate += (scenario_.peak->per_second - rate) * height;
        }
        return now_ + from_seconds(std::exponential_distribution<double>(std::max(rate, 1e-6))(random_));
    }

    void begin(Flow flow) {
        if (flow.tried.empty()) ++results_.flows;
        while (flow.tried.size() < most_attempts) {
            const auto index = selector_->choose({.client = IpAddress::v4(static_cast<uint32_t>(random_())),
                                                  .random = random_(),
                                                  .cursor = cursor_,
                                                  .now = now_,
                                                  .tried = flow.tried});
            if (!index) break;
            Place& place = places_[*index];
            ++place.state->attempts;
            const Behaviour behaviour = behaviour_of(*index);
            if (behaviour.down || behaviour.refuses) note_in_vain(place.path);
            if (behaviour.down) {
                place.waiting.emplace_back(now_, std::move(flow));
                return;
            }
            if (!behaviour.refuses) return complete(flow, place, behaviour);
            fail(place);
            flow.tried.push_back(*index);
        }
        ++results_.failed;
    }

    void fail(Place& place) {
        ++place.state->failures;
        place.state->health.failed(now_);
        ++results_.retried;
    }

    // Those that began to connect up to `until` go on elsewhere.
    void give_up(size_t index, TimePoint until) {
        Place& place = places_[index];
        const auto end = std::find_if(place.waiting.begin(), place.waiting.end(),
                                      [&](const auto& one) { return one.first > until; });
        std::vector<std::pair<TimePoint, Flow>> given_up(std::make_move_iterator(place.waiting.begin()),
                                                         std::make_move_iterator(end));
        place.waiting.erase(place.waiting.begin(), end);
        for (auto& [since, flow] : given_up) {
            fail(place);
            flow.tried.push_back(static_cast<uint32_t>(index));
            begin(std::move(flow));
        }
    }

    void complete(const Flow& flow, Place& place, const Behaviour& behaviour) {
        place.state->health.succeeded();
        const double size =
            std::exponential_distribution<double>(1 / static_cast<double>(scenario_.size.count))(random_);
        const double loss = 1 - (1 - behaviour.loss) * (1 - behaviour.traffic_loss);
        const double segments = std::ceil(size / segment_bytes) + 1;
        place.state->segments += static_cast<uint64_t>(segments);
        place.state->retransmissions += drawn(segments * loss);
        carried_[place.path] += size;

        const double round_trip = seconds(sample(behaviour));
        const double answer = seconds(now_ - flow.began) + round_trip +
                              static_cast<double>(drawn(routing::exchange * loss)) * (round_trip + retransmission);
        answers_.push_back(static_cast<float>(answer));
        Bucket& bucket = results_.timeline[bucket_of(now_)];
        ++bucket.flows[place.path];
        ++bucket.answered;
        bucket.answer_sum += answer;
        PathResult& path = results_.paths[place.path];
        ++path.flows;
        const auto bytes = static_cast<uint64_t>(size);
        path.dollars += costs::dollars_for(behaviour.cost_per_gb, path.bytes, bytes);
        path.bytes += bytes;
    }

    void note_in_vain(size_t path) {
        for (size_t i = 0; i < outages_.size(); ++i) {
            const Duration time = now_ - beginning;
            if (outages_[i].path != paths_[path] || time < outages_[i].from || time >= outages_[i].to) continue;
            ++results_.failovers[i].flows;
            // What is tried now and then while it is down is no failover any more.
            if (places_up(path)) results_.failovers[i].left_after = time - outages_[i].from;
        }
    }
    bool places_up(size_t path) const {
        return std::any_of(places_.begin(), places_.end(),
                           [&](const Place& place) { return place.path == path && place.state->up(); });
    }

    // --- chance ---

    double uniform() { return std::uniform_real_distribution<double>(0, 1)(random_); }
    uint64_t drawn(double mean) {
        return mean <= 0 ? 0 : static_cast<uint64_t>(std::poisson_distribution<int64_t>(mean)(random_));
    }
    Duration sample(const Behaviour& behaviour) {
        if (behaviour.jitter <= Duration(0)) return behaviour.latency;
        const double drawn =
            std::normal_distribution<double>(seconds(behaviour.latency), seconds(behaviour.jitter))(random_);
        return from_seconds(std::max(drawn, seconds(behaviour.latency) / 2));
    }
    Behaviour behaviour_of(size_t place) { return weather_.at(paths_[places_[place].path], now_ - beginning); }
    size_t bucket_of(TimePoint time) const {
        const double share = seconds(time - beginning) / seconds(scenario_.duration);
        return std::min(buckets - 1, static_cast<size_t>(share * buckets));
    }

    void finish() {
        for (const PathResult& path : results_.paths)
            results_.dollars += path.dollars;
        if (answers_.empty()) return;
        double sum = 0;
        for (const float answer : answers_)
            sum += answer;
        results_.mean_answer = sum / static_cast<double>(answers_.size());
        const auto quantile = [this](double share) {
            const auto at = answers_.begin() + static_cast<ptrdiff_t>(share * static_cast<double>(answers_.size() - 1));
            std::nth_element(answers_.begin(), at, answers_.end());
            return static_cast<double>(*at);
        };
        results_.median_answer = quantile(0.5);
        results_.p99_answer = quantile(0.99);
    }

    const Scenario& scenario_;
    const ProbeSettings& probe_;
    Weather weather_;
    std::mt19937_64 random_;
    TimePoint now_ = beginning, measured_ = beginning;
    std::vector<std::string> paths_, addresses_;
    std::vector<Place> places_;
    routing::Course course_;
    std::optional<routing::Selector> selector_;
    uint64_t cursor_ = 0;
    std::vector<bool> preferred_;
    std::vector<double> loads_, carried_;
    std::vector<Weather::Outage> outages_;
    std::vector<float> answers_;
    std::priority_queue<Due, std::vector<Due>, std::greater<>> queue_;
    Results results_;
};

}  // namespace

Results simulate(const Scenario& scenario, std::optional<Policy> policy) {
    return Run(scenario, policy.value_or(scenario.service().routing.policy)).play();
}

}  // namespace marchproxy::simulation
