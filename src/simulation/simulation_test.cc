#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "repository.h"
#include "simulation/command.h"
#include "simulation/report.h"

namespace marchproxy::simulation {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::StartsWith;

// Two paths, `near` and `far`; 20 connections a second for ten minutes.
std::string scenario(const std::string& policy, const std::string& events, const std::string& more = "") {
    return fmt::format(R"(name: test
duration: 10m
flows: {{ rate: 20/s, size: 100KB }}
configuration:
  multicloud: {{ enabled: true }}
  paths:
    - {{ name: near, cost_per_gb: 0.09 }}
    - {{ name: far, cost_per_gb: 0.02 }}
    - {{ name: third, cost_per_gb: 0.5 }}
  services:
    - name: web
      listen: "0.0.0.0:80"
      routing: {{ policy: {} }}
      endpoints:
        - {{ address: "10.1.0.1:80", path: near }}
        - {{ address: "10.2.0.1:80", path: far }}
        - {{ address: "10.3.0.1:80", path: third }}
paths:
  - {{ name: near, latency: 5ms, jitter: 300us }}
  - {{ name: far, latency: 20ms, jitter: 1ms }}
  - {{ name: third, latency: 90ms, jitter: 1ms }}
{}{}
)",
                       policy, events.empty() ? "" : "events:\n" + events, more);
}

Results played(const std::string& policy, const std::string& events, uint64_t seed = 1) {
    Read read = read_scenario_text(scenario(policy, events), "s");
    for (const config::Problem& problem : read.problems)
        ADD_FAILURE() << config::to_string(problem);
    read.scenario.seed = seed;
    return simulate(read.scenario);
}

double share(const Results& results, size_t path) {
    return static_cast<double>(results.paths[path].flows) / static_cast<double>(results.flows);
}

TEST(Simulation, TheNearestTakesAllAndCostsWhatItCosts) {
    const Results results = played("latency", "");
    EXPECT_NEAR(static_cast<double>(results.flows), 12'000, 400);
    EXPECT_GT(share(results, 0), 0.99);
    EXPECT_NEAR(results.mean_answer, 0.005, 0.0005);
    EXPECT_NEAR(results.dollars, static_cast<double>(results.paths[0].bytes) / 1e9 * 0.09, 0.002);
    EXPECT_NEAR(static_cast<double>(results.paths[0].bytes), 1.2e9, 1e8);
}

TEST(Simulation, IsTheSameForTheSameSeed) {
    const std::string events = "  - { at: 1m, for: 1m, path: near, down: true }\n";
    EXPECT_EQ(played("latency", events).mean_answer, played("latency", events).mean_answer);
    EXPECT_NE(played("latency", events).mean_answer, played("latency", events, 2).mean_answer);
}

TEST(Simulation, ADarkPathIsLeftInTimeAndComesBackSlowly) {
    const Results results = played("latency", "  - { at: 2m, for: 2m, path: near, down: true }\n");
    ASSERT_EQ(results.failovers.size(), 1U);
    EXPECT_EQ(results.failovers[0].at, 2min);
    EXPECT_LE(results.failovers[0].left_after, 650ms);
    EXPECT_GT(results.failovers[0].flows, 0U);
    EXPECT_EQ(results.failed, 0U);
    EXPECT_EQ(results.retried, results.failovers[0].flows);
    EXPECT_EQ(results.paths[0].falls, 1U);
    EXPECT_NEAR(share(results, 0), 0.79, 0.02) << "eight of ten minutes, less ten seconds of slow start";
    EXPECT_EQ(results.timeline[buckets * 3 / 10].flows[0], 0U);
}

TEST(Simulation, RefusedConnectionsAreLeftAtOnce) {
    const Results results = played("latency", "  - { at: 2m, for: 2m, path: near, refuses: true }\n");
    EXPECT_LE(results.failovers[0].left_after, 500ms);
    EXPECT_EQ(results.failed, 0U);
}

TEST(Simulation, WhereAllIsDarkConnectionsFindNobody) {
    const Results results = played("latency",
                                   "  - { at: 2m, for: 1m, path: near, refuses: true }\n"
                                   "  - { at: 2m, for: 1m, path: far, refuses: true }\n"
                                   "  - { at: 2m, for: 1m, path: third, refuses: true }\n");
    EXPECT_NEAR(static_cast<double>(results.failed), 1200, 120);
}

TEST(Simulation, LossThatNoProbeSeesIsFoundByWhatConnectionsShow) {
    const Results results = played("round_robin", "  - { at: 1m, path: far, traffic_loss: 5% }\n");
    EXPECT_EQ(results.paths[1].falls, 0U);
    EXPECT_GE(results.paths[1].ejected, 2U);
    EXPECT_LT(share(results, 1), 0.2);
}

TEST(Simulation, TheCheapestTakesAllUntilItsPriceChanges) {
    const Results results = played("cost", "  - { at: 5m, path: far, cost_per_gb: 0.2 }\n");
    EXPECT_NEAR(share(results, 0), 0.5, 0.02);
    EXPECT_NEAR(share(results, 1), 0.5, 0.02);
    EXPECT_EQ(results.moves, 1U);
}

TEST(Simulation, LatenciesMoveOverTime) {
    const Results results = played("latency", "  - { at: 2m, over: 4m, path: near, latency: 35ms }\n");
    EXPECT_NEAR(share(results, 0), 0.4, 0.04) << "it is slower than far from the fourth minute on";
}

TEST(Simulation, EventsComeAgain) {
    Read read = read_scenario_text(
        scenario("latency", "  - { at: 1m, every: 2m, until: 6m, for: 10s, path: near, down: true }\n"), "s");
    ASSERT_TRUE(read.ok());
    const auto outages = Weather(read.scenario).outages();
    ASSERT_EQ(outages.size(), 3U);
    EXPECT_EQ(outages[2].from, 5min);
    EXPECT_EQ(outages[2].to, 5min + 10s);
}

TEST(Simulation, RoundRobinIsWhatAPolicyIsComparedWith) {
    const Read read = read_scenario_text(scenario("latency", ""), "s");
    const Results own = simulate(read.scenario), baseline = simulate(read.scenario, Policy::round_robin);
    EXPECT_NEAR(share(baseline, 0), 1.0 / 3, 0.01);
    EXPECT_NEAR(baseline.mean_answer, 0.115 / 3, 0.001);
    const std::string text = report(read.scenario, own, baseline);
    EXPECT_THAT(text, HasSubstr("policy latency"));
    EXPECT_THAT(text, HasSubstr("no outage"));
    EXPECT_THAT(text, HasSubstr("% less, and takes "));
    const std::string drawn = plot(read.scenario, own, baseline);
    EXPECT_THAT(drawn, StartsWith("<svg "));
    EXPECT_THAT(drawn, HasSubstr("near"));
    EXPECT_EQ(drawn.find("nan"), std::string::npos);
}

// --- input
// -------------------------------------------------------------------------------------------------------------

std::string problems(const std::string& yaml) {
    std::string all;
    for (const config::Problem& problem : read_scenario_text(yaml, "s").problems)
        all += config::to_string(problem) + '\n';
    return all;
}

TEST(Scenario, WrongOnesAreToldWithTheirPlace) {
    EXPECT_THAT(problems("name: x"), HasSubstr("configuration: is missing"));
    EXPECT_THAT(problems(scenario("latency", "  - { at: 1m, path: mars, down: true }\n")),
                HasSubstr("s:23:21: events[0].path: mars is no path of the configuration"));
    EXPECT_THAT(problems(scenario("latency", "  - { path: near, down: true }\n")),
                HasSubstr("events[0].at: is missing"));
    EXPECT_THAT(problems(scenario("latency", "  - { at: 1m, path: near, dwon: true }\n")),
                HasSubstr("events[0].dwon: is not a key of a scenario"));
    EXPECT_THAT(problems(scenario("latency", "  - { at: 1m, path: near, cost_per_gb: .nan }\n")),
                HasSubstr("events[0].cost_per_gb: "));
    EXPECT_THAT(problems(scenario("latency", "  - { at: 1m, path: near, cost_per_gb: -1 }\n")),
                HasSubstr("must not be less than 0"));
    EXPECT_THAT(problems(scenario("latency", "  - { at: 1m, every: 1ms, path: near, down: true }\n")),
                HasSubstr("must be a second at least"));
    EXPECT_THAT(problems(scenario("latency", "  - { at: 1m, every: 1m, for: 2m, path: near, down: true }\n")),
                HasSubstr("must be shorter than `every`"));
    EXPECT_THAT(problems(scenario("latnecy", "")), HasSubstr("is not one of: latency"));
    EXPECT_THAT(problems("duration: 1h\n" + scenario("latency", "")), HasSubstr("duration"));
    EXPECT_THAT(problems(scenario("latency", "", "seeed: 1\n")), HasSubstr("seeed: is not a key of a scenario"));
}

TEST(Scenario, ThoseThatShipPlay) {
    size_t count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(repository / "examples/scenarios")) {
        ++count;
        Read read = read_scenario(entry.path());
        for (const config::Problem& problem : read.problems)
            ADD_FAILURE() << config::to_string(problem);
        if (!read.ok()) continue;
        EXPECT_FALSE(read.scenario.about.empty()) << entry.path();
        read.scenario.flows.per_second /= 20;
        if (read.scenario.peak) read.scenario.peak->per_second /= 20;
        read.scenario.duration = std::min<Duration>(read.scenario.duration, 2h);
        EXPECT_GT(simulate(read.scenario).flows, 1000U);
    }
    EXPECT_GE(count, 5U);
}

TEST(Scenario, TheCommandSaysWhatIsWrongAndWritesThePlot) {
    const auto directory = std::filesystem::temp_directory_path() / fmt::format("simulation-{}", getpid());
    std::filesystem::create_directory(directory);
    std::ofstream(directory / "s.yaml") << scenario("latency", "");
    std::ostringstream out, error;
    Command command{.scenario = directory / "s.yaml", .plot = directory / "s.svg", .json = true, .seed = 7};
    EXPECT_EQ(run(command, out, error), 0) << error.str();
    EXPECT_THAT(out.str(), HasSubstr("\"seed\":7"));
    EXPECT_TRUE(std::filesystem::exists(directory / "s.svg"));
    command.plot = directory / "none/s.svg";
    EXPECT_EQ(run(command, out, error), 1);
    command.scenario = directory / "none.yaml";
    error.str("");
    EXPECT_EQ(run(command, out, error), 2);
    EXPECT_THAT(error.str(), HasSubstr("none.yaml: cannot be read"));
    EXPECT_EQ(error.str().find("is missing"), std::string::npos) << "that would be no news";
    std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace marchproxy::simulation
