// What a reload pays for access lists: from the lists to the tree, and from the tree to the maps' pieces.
#include <benchmark/benchmark.h>

#include <random>

#include "packet/access_tree.h"

namespace marchproxy::packet {
namespace {

Access hosts(int64_t count) {
    std::mt19937 random(1);
    Access access;
    for (int64_t i = 0; i < count; ++i)
        access.deny.push_back({IpAddress::v4(static_cast<uint32_t>(random())), 128});
    return access;
}

void make_tree(benchmark::State& state) {
    const Access access = hosts(state.range(0));
    for (auto _ : state)
        benchmark::DoNotOptimize(access_tree(access));
}
BENCHMARK(make_tree)->Arg(1'000)->Arg(1'000'000)->Unit(benchmark::kMillisecond);

void pack_tree(benchmark::State& state) {
    const AccessTrees trees{{1, access_tree(hosts(state.range(0)))}};
    for (auto _ : state)
        benchmark::DoNotOptimize(pack(trees, 1, abi::access_half));
}
BENCHMARK(pack_tree)->Arg(1'000)->Arg(1'000'000)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace marchproxy::packet
