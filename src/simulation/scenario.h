// What a simulation plays: a configuration as the proxy would have it, how its paths behave, and what happens to them.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/load.h"
#include "model/snapshot.h"

namespace marchproxy::simulation {

// A path as it is at one moment.
struct Behaviour {
    Duration latency = std::chrono::milliseconds(20);  // a round trip
    Duration jitter{};                                 // its standard deviation
    double loss = 0;                                   // of round trips, probes' and traffic's
    double traffic_loss = 0;                           // of segments of traffic, which no probe sees
    Tariff cost_per_gb;                                // of the configuration, until an event sets a price
    bool down = false;                                 // packets vanish
    bool refuses = false;                              // connections are refused
};

struct Event {
    Duration at{};
    std::optional<Duration> lasts;  // then all is as it was; none: for good
    std::optional<Duration> every;  // again and again, until `until`
    std::optional<Duration> until;  // none: the end
    Duration over{};                // how long latency and loss take to get there
    std::string path;
    std::optional<Duration> latency, jitter;
    std::optional<double> loss, traffic_loss, cost_per_gb;
    std::optional<bool> down, refuses;
};

struct Scenario {
    std::string name, about;
    Duration duration = std::chrono::hours(24);
    uint64_t seed = 1;
    Frequency flows{20};            // new connections a second, on average
    std::optional<Frequency> peak;  // as many at 14:00, `flows` at 02:00, a sine in between; the clock begins at 00:00
    Bytes size{1'000'000};          // that a connection carries, on average
    Snapshot snapshot;              // one service
    std::map<std::string, Behaviour> paths;
    std::vector<Event> events;

    const Service& service() const { return snapshot.services.at(0); }
};

struct Read {
    Scenario scenario;  // usable only when there is no problem
    std::vector<config::Problem> problems;
    bool ok() const { return problems.empty(); }
};

// From YAML: `name`, `about`, `duration`, `seed`, `flows: { rate, peak, size }`, `configuration`, `paths` and `events`.
Read read_scenario(const std::string& file);
Read read_scenario_text(std::string_view yaml, std::string_view name);

}  // namespace marchproxy::simulation
