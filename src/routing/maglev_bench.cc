// What a Maglev table costs to build, once a service and snapshot, and to look up, once a connection.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "routing/maglev.h"

namespace {

using namespace marchproxy;
using namespace marchproxy::routing;

struct Pool {
    explicit Pool(size_t count) {
        for (size_t i = 0; i < count; ++i)
            names.push_back(fmt::format("10.0.{}.{}:80", i / 256, i % 256));
        for (const std::string& name : names)
            endpoints.push_back({name, 100});
    }
    std::vector<std::string> names;
    std::vector<MaglevEndpoint> endpoints;
};

void build(benchmark::State& state) {
    const Pool pool(static_cast<size_t>(state.range(0)));
    const uint32_t size = maglev_size(pool.endpoints.size());
    for (auto _ : state)
        benchmark::DoNotOptimize(maglev_table(pool.endpoints, 1, size));
}
BENCHMARK(build)->Arg(4)->Arg(64)->Arg(1000)->Unit(benchmark::kMillisecond);

void look_up(benchmark::State& state) {
    const Pool pool(static_cast<size_t>(state.range(0)));
    const std::vector<uint32_t> table = maglev_table(pool.endpoints, 1, maglev_size(pool.endpoints.size()));
    uint32_t client = 0;
    for (auto _ : state) {
        client += 0x9e3779b9;
        benchmark::DoNotOptimize(table[maglev_hash(IpAddress::v4(client), 1) % table.size()]);
    }
}
BENCHMARK(look_up)->Arg(4)->Arg(64)->Arg(1000);

}  // namespace
