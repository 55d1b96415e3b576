// What a packet costs from enqueue to dequeue, by how many classes there are, each a service of its own whose four
// flows are always backlogged: what leaves is followed by another of its flow, so all classes take turns and the next
// one's lines are the coldest. turns: nothing but the link holds them back. ceilings: each is at its rate nearly all
// the time, and waits for it. guarantees: half of each turn is owed, the rest spare.
#include <benchmark/benchmark.h>

#include <array>
#include <vector>

#include "qos/packet_queues.h"

namespace {

using namespace marchproxy;
using namespace marchproxy::qos;

constexpr uint64_t link_rate = 10'000'000'000;
constexpr uint32_t packet_bytes = 1000;
constexpr uint32_t batch = 32;  // packets come and go in batches, as from a ring of frames
const TimePoint start{std::chrono::seconds(5)};

enum Limits { turns, ceilings, guarantees };

// Nothing is dropped: what is measured is a packet that gets its turn.
constexpr Duration never = std::chrono::hours(1);
constexpr AqmSettings patient{.codel = {.target = never}, .l4s_threshold = never, .longest = never};

struct World {
    World(uint32_t count, Limits limits)
        : scheduler({.rate = Rate{link_rate}, .floors = {Share{}, Share{.05}, Share{.05}, Share{.05}}}, start),
          queues(scheduler, 8 * count + 1024, uint64_t{1} << 40),
          classes(count) {
        for (uint32_t i = 0; i < count; ++i) {
            ServiceLimits wanted;
            if (limits == ceilings) wanted.ceiling = Rate{link_rate / count};
            if (limits == guarantees) wanted.guarantee = Rate{link_rate / count / 2};
            classes[i] = {scheduler.add(wanted, start).at(Priority::p2), patient};
        }
        for (uint32_t flow = 0; flow < 4; ++flow)
            for (uint32_t i = 0; i < count; ++i)
                enqueue(uint64_t{flow} << 32 | i);
    }

    // A packet's handle says which class and flow it is of.
    static uint32_t hash_of(uint64_t handle) { return static_cast<uint32_t>(handle >> 32); }
    QueuedClass& class_of(uint64_t handle) { return classes[static_cast<uint32_t>(handle)]; }
    void enqueue(uint64_t handle) {
        const QueuedPacket packet{.handle = handle, .bytes = packet_bytes};
        benchmark::DoNotOptimize(queues.enqueue(class_of(handle), hash_of(handle), packet, now));
    }

    Scheduler scheduler;
    PacketQueues queues;
    std::vector<QueuedClass> classes;
    std::vector<QueuedPacket> dropped;
    TimePoint now = start;
};

void enqueue_and_dequeue(benchmark::State& state, Limits limits) {
    World world(static_cast<uint32_t>(state.range(0)), limits);
    int64_t packets = 0;
    std::array<uint64_t, batch> taken;
    while (state.KeepRunning()) {
        world.now += std::chrono::nanoseconds(batch * packet_bytes * 8 * 1'000'000'000ULL / link_rate);
        uint32_t count = 0;
        for (QueuedPacket packet; count < batch && world.queues.dequeue(world.now, packet, world.dropped);)
            taken[count++] = packet.handle;
        for (uint32_t i = 0; i < count; ++i)
            PacketQueues::fetch_class(world.class_of(taken[i]));
        for (uint32_t i = 0; i < count; ++i)
            world.queues.fetch_bucket(world.class_of(taken[i]), World::hash_of(taken[i]));
        for (uint32_t i = 0; i < count; ++i)
            world.queues.fetch_flow(world.class_of(taken[i]), World::hash_of(taken[i]));
        for (uint32_t i = 0; i < count; ++i)
            world.enqueue(taken[i]);
        packets += count;
    }
    state.SetItemsProcessed(packets);
}
// What the memory alone takes: as many lines as one packet changes (its class's two, those of the first, the second and
// the last flow of the class, the packet's and its bucket's), at random in as much as the classes take, all known
// beforehand.
void lines_alone(benchmark::State& state) {
    constexpr unsigned lines = 7;
    struct alignas(64) Line {
        uint64_t changed = 0;
    };
    constexpr size_t of_class = 10;  // two, and four times those of a flow and half of one for packet and bucket
    LargeArray<Line> memory(static_cast<size_t>(state.range(0)) * of_class);
    uint64_t random = 88172645463325252;
    while (state.KeepRunning()) {
        for (unsigned i = 0; i < lines; ++i) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;  // xorshift64
            ++memory[(random >> 32) * memory.size() >> 32].changed;
        }
    }
    state.SetItemsProcessed(state.iterations());
}

BENCHMARK_CAPTURE(enqueue_and_dequeue, turns, turns)->RangeMultiplier(10)->Range(10, 10000);
BENCHMARK_CAPTURE(enqueue_and_dequeue, ceilings, ceilings)->RangeMultiplier(10)->Range(10, 10000);
BENCHMARK_CAPTURE(enqueue_and_dequeue, guarantees, guarantees)->RangeMultiplier(10)->Range(10, 10000);
BENCHMARK(lines_alone)->RangeMultiplier(10)->Range(10, 10000);

}  // namespace
