// What a packet costs from enqueue to dequeue, by how many classes there are: each a service of its own, its packets
// arriving at random, four flows each. Limits: none but the link's; also a ceiling each, above and below what it
// offers; also a guarantee.
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "qos/packet_queues.h"

namespace {

using namespace marchproxy;
using namespace marchproxy::qos;

constexpr uint64_t link_rate = 10'000'000'000;
constexpr uint32_t packet_bytes = 1000;
constexpr uint32_t batch = 32;  // packets come and go in batches, as from a ring of frames
const TimePoint start{std::chrono::seconds(5)};

enum Limits { link_only, ceilings, all };

struct World {
    World(uint32_t count, Limits limits)
        : scheduler({.rate = Rate{link_rate}, .floors = {Share{}, Share{.05}, Share{.05}, Share{.05}}}, start),
          queues(scheduler, 4 * count + 1024, uint64_t{1} << 40),
          classes(count) {
        for (uint32_t i = 0; i < count; ++i) {
            ServiceLimits wanted;
            if (limits >= ceilings) wanted.ceiling = Rate{link_rate / count * (i % 2 ? 4 : 1) / 2};
            if (limits >= all) wanted.guarantee = Rate{link_rate / count / 4};
            classes[i].of = &scheduler.add(wanted, start).at(static_cast<Priority>(i % 4));
            classes[i].aqm.longest =
                std::chrono::hours(1);  // nothing is dropped: the packet in hand is what is measured
            classes[i].aqm.codel.target = std::chrono::hours(1);
        }
        std::mt19937_64 random(1);
        for (uint32_t& index : order)
            index = static_cast<uint32_t>(random() % count);
        for (uint32_t i = 0; i < 2 * count; ++i)
            enqueue();
    }

    void enqueue() {
        QueuedClass& to = classes[order[at++ % order.size()]];
        benchmark::DoNotOptimize(
            queues.enqueue(to, static_cast<uint32_t>(at), {.handle = at, .bytes = packet_bytes}, now));
    }

    Scheduler scheduler;
    PacketQueues queues;
    std::vector<QueuedClass> classes;
    std::array<uint32_t, 1 << 16> order;
    std::vector<QueuedPacket> dropped;
    TimePoint now = start;
    size_t at = 0;
};

void enqueue_and_dequeue(benchmark::State& state, Limits limits) {
    World world(static_cast<uint32_t>(state.range(0)), limits);
    int64_t packets = 0;
    while (state.KeepRunning()) {
        world.now += std::chrono::nanoseconds(batch * packet_bytes * 8 * 1'000'000'000ULL / link_rate);
        uint32_t taken = 0;
        for (QueuedPacket packet; taken < batch && world.queues.dequeue(world.now, packet, world.dropped);)
            ++taken;
        for (uint32_t i = 0; i < taken; ++i)
            world.enqueue();
        packets += taken;
    }
    state.SetItemsProcessed(packets);
}
BENCHMARK_CAPTURE(enqueue_and_dequeue, link_only, link_only)->RangeMultiplier(10)->Range(10, 10000);
BENCHMARK_CAPTURE(enqueue_and_dequeue, ceilings, ceilings)->RangeMultiplier(10)->Range(10, 10000);
BENCHMARK_CAPTURE(enqueue_and_dequeue, all, all)->RangeMultiplier(10)->Range(10, 10000);

}  // namespace
