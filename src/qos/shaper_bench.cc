// What a turn of a connection's direction costs with the lock that all threads share, by how many threads take turns
// all the time and do nothing else: the most that one direction of a link can hand out, whatever each turn carries.
#include <benchmark/benchmark.h>

#include "qos/shaper.h"

namespace {

using namespace marchproxy;
using namespace marchproxy::qos;

constexpr unsigned threads = 8;
constexpr uint32_t turn_bytes = 1448;

struct World {
    World() { shaper.configure({.rate = Rate{100'000'000'000'000}}); }
    Shaper shaper{threads};
    ShapedService service{shaper, {.ceiling = Rate{10'000'000'000'000}}, {}};
};

void turns(benchmark::State& state) {
    static World world;
    const auto desk = static_cast<unsigned>(state.thread_index());
    ShapedFlow flow(desk);
    Turns found;
    for (auto _ : state) {
        const TimePoint now = Clock::now();
        flow.granted = world.shaper.request(flow, world.service.at(Priority::p1), turn_bytes, turn_bytes, now);
        while (flow.asked) {  // another thread found its turn, or its time is not there yet
            world.shaper.run(desk, Clock::now(), found);
            found.clear();
        }
        flow.granted = 0;
    }
    world.shaper.withdraw(flow);
    state.SetItemsProcessed(state.iterations());
}
BENCHMARK(turns)->Threads(1)->Threads(2)->Threads(4)->UseRealTime();

}  // namespace
