// What one choice costs: by policy and number of endpoints, all of them up, and with half of them down.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <deque>
#include <string>

#include "routing/selector.h"

namespace {

using namespace marchproxy;
using namespace marchproxy::routing;

void choose(benchmark::State& state, Policy policy, size_t down_of_two) {
    const TimePoint now = TimePoint{} + std::chrono::seconds(1000);
    std::deque<EndpointState> states;
    std::vector<Candidate> candidates;
    for (size_t i = 0; i < static_cast<size_t>(state.range(0)); ++i) {
        EndpointState& endpoint = states.emplace_back();
        candidates.push_back(
            {fmt::format("10.0.{}.{}:80", i / 256, i % 256), static_cast<uint32_t>(1 + i % 3), &endpoint});
        endpoint.active = i * 7 % 50;
        for (uint64_t k = 0; i % 2 < down_of_two && k < Health::failures_to_fall; ++k)
            endpoint.health.failed(now);
    }
    const Selector selector(policy, 1, candidates);
    uint64_t cursor = 0, random = 1;
    for (auto _ : state) {
        random = random * 6364136223846793005 + 1442695040888963407;
        benchmark::DoNotOptimize(selector.choose({.client = IpAddress::v4(static_cast<uint32_t>(random >> 32)),
                                                  .random = random,
                                                  .cursor = cursor,
                                                  .now = now}));
    }
}

// A tenth of the endpoints is preferred; with `down` those are what has just gone down.
void steered(benchmark::State& state, bool down) {
    const TimePoint now = TimePoint{} + std::chrono::seconds(1000);
    const auto count = static_cast<size_t>(state.range(0));
    std::deque<EndpointState> states;
    std::vector<Candidate> candidates;
    Shares shares;
    for (size_t i = 0; i < count; ++i) {
        EndpointState& endpoint = states.emplace_back();
        candidates.push_back({fmt::format("10.0.{}.{}:80", i / 256, i % 256), 1, &endpoint});
        const bool preferred = i % 10 == 0;
        shares.of.push_back(preferred ? 1000 : 0);
        shares.order.push_back(static_cast<uint32_t>(i));
        if (preferred && down) endpoint.close(closed_by_probe);
    }
    const Selector selector(Policy::latency, 1, candidates, &shares);
    uint64_t cursor = 0, random = 1;
    for (auto _ : state)
        benchmark::DoNotOptimize(selector.choose({.client = {}, .random = ++random, .cursor = cursor, .now = now}));
}

const bool registered = [] {
    for (const bool down : {false, true})
        benchmark::RegisterBenchmark(down ? "choose/latency/preferred_down" : "choose/latency", steered, down)
            ->Arg(10)
            ->Arg(1000);
    for (const Policy policy :
         {Policy::round_robin, Policy::weighted_round_robin, Policy::least_connections, Policy::maglev}) {
        for (const size_t down : {0U, 1U}) {
            const std::string name = fmt::format("choose/{}{}", name_of(policy), down == 0 ? "" : "/half_down");
            benchmark::RegisterBenchmark(name.c_str(), choose, policy, down)->Arg(4)->Arg(64)->Arg(1000);
        }
    }
    return true;
}();

}  // namespace
