#include "qos/packet_queues.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>

namespace marchproxy::qos {
namespace {

using namespace std::chrono_literals;

const TimePoint start = TimePoint{} + 99s;

LinkLimits link_of(uint64_t rate) {
    return {.rate = Rate{rate}};
}

struct World {
    explicit World(uint64_t rate, uint32_t packets = 4096, uint64_t bytes = 100'000'000)
        : scheduler(link_of(rate), start), queues(scheduler, packets, bytes) {}

    QueuedClass make(Priority priority, AqmSettings aqm = {}) { return {scheduler.add({}, start).at(priority), aqm}; }
    std::vector<QueuedPacket> all(TimePoint now) {
        std::vector<QueuedPacket> out;
        QueuedPacket packet;
        while (queues.dequeue(now, packet, dropped))
            out.push_back(packet);
        return out;
    }

    Scheduler scheduler;
    PacketQueues queues;
    std::vector<QueuedPacket> dropped;
};

// A sender that keeps a window of packets on their way: halves it for a mark or a loss once a round trip (RFC 5681),
// or, as L4S does, takes it back by half the share of marked ones (RFC 8257).
struct Sender {
    bool scalable = false;
    Ecn ecn = Ecn::not_capable;
    double window = 10, marked_share = 1;
    uint32_t on_their_way = 0, acknowledged = 0, marked = 0;
    bool slow_start = true;
    Duration next_round{0};

    void acknowledge(bool congested, Duration now, Duration round_trip) {
        --on_their_way;
        ++acknowledged;
        marked += congested;
        if (congested && slow_start) next_round = now;
        if (slow_start && !congested) window += 1;
        if (!slow_start) window += 1 / window;
        if (now < next_round) return;
        if (scalable) marked_share += (double(marked) / acknowledged - marked_share) / 16;
        if (marked) {
            window = std::max(2.0, window * (scalable && !slow_start ? 1 - marked_share / 2 : 0.5));
            slow_start = false;
        }
        if (marked || !slow_start) next_round = now + round_trip;
        acknowledged = marked = 0;
    }
};

struct Path {
    std::vector<Duration> delays;  // in the queue, after a second
    uint64_t bytes = 0, marks = 0;
    uint64_t drops = 0;  // after a second
};

// One sender through the queue for ten seconds, its packets 1,500 bytes.
Path run(Sender sender, uint64_t rate, Duration round_trip, const AqmSettings& aqm = {}) {
    World world(rate);
    QueuedClass of = world.make(Priority::p2, aqm);
    std::multimap<Duration, bool> answers;  // when they are back, and whether they say congestion
    std::map<uint64_t, Duration> sent;
    Path path;
    uint64_t number = 0;
    for (Duration now{0}; now < 10s; now += 20us) {
        while (!answers.empty() && answers.begin()->first <= now) {
            sender.acknowledge(answers.begin()->second, now, round_trip);
            answers.erase(answers.begin());
        }
        while (sender.on_their_way < sender.window) {
            ++sender.on_their_way;
            sent[++number] = now;
            const QueuedPacket packet{.handle = number, .bytes = 1500, .ecn = sender.ecn};
            if (!world.queues.enqueue(of, 7, packet, start + now)) answers.emplace(now + round_trip, true);
        }
        for (const QueuedPacket& packet : world.all(start + now)) {
            if (now > 1s) path.delays.push_back(now - sent[packet.handle]);
            path.bytes += packet.bytes;
            const bool congested = packet.ecn == Ecn::congested;
            path.marks += congested;
            answers.emplace(now + round_trip, congested);
        }
        if (now > 1s) path.drops += world.dropped.size();
        for ([[maybe_unused]] const QueuedPacket& packet : world.dropped)
            answers.emplace(now + round_trip, true);
        world.dropped.clear();
    }
    return path;
}

Duration median(std::vector<Duration> delays) {
    std::nth_element(delays.begin(), delays.begin() + static_cast<long>(delays.size() / 2), delays.end());
    return delays.at(delays.size() / 2);
}

double used(const Path& path, double rate) {
    return static_cast<double>(path.bytes) * 8 / 10 / rate;
}

TEST(PacketQueues, OneFlowAtFiftyMegabitsKeepsNoStandingQueue) {
    for (const Duration round_trip : {5ms, 20ms, 40ms}) {
        const Path path = run({}, 50'000'000, round_trip);
        EXPECT_LT(median(path.delays), 10ms) << round_trip.count();
        EXPECT_GT(used(path, 50e6), round_trip > 30ms ? 0.7 : 0.9) << round_trip.count();
        EXPECT_GT(path.drops, 0U);
        EXPECT_EQ(path.marks, 0U);
    }
}

TEST(PacketQueues, WhatCanCarryAMarkIsNotDropped) {
    const Path path = run({.ecn = Ecn::classic}, 50'000'000, 20ms);
    EXPECT_LT(median(path.delays), 10ms);
    EXPECT_GT(used(path, 50e6), 0.9);
    EXPECT_EQ(path.drops, 0U);
    EXPECT_GT(path.marks, 0U);
}

TEST(PacketQueues, WithoutEcnNothingIsMarked) {
    const Path path = run({.ecn = Ecn::classic}, 50'000'000, 20ms, {.ecn = false});
    EXPECT_GT(path.drops, 0U);
    EXPECT_EQ(path.marks, 0U);
}

TEST(PacketQueues, L4sHasAShallowQueueOfItsOwn) {
    const Path path = run({.scalable = true, .ecn = Ecn::l4s}, 50'000'000, 10ms);
    EXPECT_LT(median(path.delays), 1500us);
    EXPECT_GT(used(path, 50e6), 0.85);
    EXPECT_EQ(path.drops, 0U);
    EXPECT_GT(path.marks, 100U);
}

TEST(PacketQueues, KeepsTheOrderOfAFlow) {
    World world(1'000'000'000);
    std::vector<QueuedClass> classes{world.make(Priority::p0), world.make(Priority::p3)};
    std::mt19937_64 random(1);
    std::map<std::pair<size_t, uint32_t>, std::deque<uint64_t>> wanted;
    std::map<uint64_t, std::pair<size_t, uint32_t>> flow_of;
    uint64_t number = 0, seen = 0;
    for (TimePoint now = start; now < start + 100ms; now += 10us) {
        const size_t which = random() % 2;
        const auto hash = static_cast<uint32_t>(random() % 5);
        const QueuedPacket packet{.handle = ++number, .bytes = static_cast<uint32_t>(64 + random() % 1400)};
        if (world.queues.enqueue(classes[which], hash, packet, now)) {
            wanted[{which, hash}].push_back(number);
            flow_of[number] = {which, hash};
        }
        for (const QueuedPacket& out : world.all(now)) {
            std::deque<uint64_t>& queue = wanted[flow_of[out.handle]];
            ASSERT_EQ(queue.front(), out.handle);
            queue.pop_front();
            ++seen;
        }
    }
    EXPECT_TRUE(world.dropped.empty());
    EXPECT_GT(seen, 9'000U);
}

TEST(PacketQueues, AFloodFindsItsOwnEndAndNobodyElses) {
    World world(100'000'000, 1024);
    QueuedClass flood = world.make(Priority::p3), other = world.make(Priority::p3), urgent = world.make(Priority::p0);
    uint64_t number = 0;
    for (TimePoint now = start; now < start + 1s; now += 100us) {
        for (int i = 0; i < 20; ++i)
            world.queues.enqueue(flood, static_cast<uint32_t>(i), {.handle = ++number, .bytes = 1500}, now);
        EXPECT_TRUE(world.queues.enqueue(other, 1, {.handle = ++number, .bytes = 500}, now));
        EXPECT_TRUE(world.queues.enqueue(urgent, 1, {.handle = ++number, .bytes = 100}, now));
        world.all(now);
        EXPECT_LE(world.queues.free(), 1024U);
    }
    EXPECT_GT(flood.counters.dropped_full, 100'000U);
    EXPECT_EQ(other.counters.dropped_full + urgent.counters.dropped_full + urgent.counters.dropped_late, 0U);
    for (const QueuedClass* of : {&flood, &other, &urgent}) {
        const QueueCounters& c = of->counters;
        const uint64_t offered = of == &flood ? 200'000 : 10'000;
        EXPECT_EQ(offered, c.sent_packets + c.dropped_full + c.dropped_late + c.queued_packets);
    }
    for (QueuedClass* of : {&flood, &other, &urgent})
        world.queues.clear(*of, world.dropped);
    EXPECT_EQ(world.queues.free(), 1024U);
}

TEST(PacketQueues, ASenderThatDoesNotListenHasNoLongQueueEither) {
    World world(10'000'000);
    QueuedClass of = world.make(Priority::p2);
    std::map<uint64_t, TimePoint> sent;
    uint64_t number = 0;
    for (TimePoint now = start; now < start + 3s; now += 600us) {  // 20 Mbit/s
        sent[++number] = now;
        world.queues.enqueue(of, 1, {.handle = number, .bytes = 1500, .ecn = Ecn::classic}, now);
        for (const QueuedPacket& packet : world.all(now))
            EXPECT_LE(now - sent[packet.handle], 102ms);
    }
    EXPECT_NEAR(static_cast<double>(of.counters.sent_bytes) * 8 / 3, 10e6, 0.2e6);
}

TEST(PacketQueues, AFullHouseIsNoCatastrophe) {
    World world(1'000'000, 2);
    QueuedClass of = world.make(Priority::p0);
    uint64_t taken = 0;
    for (uint32_t i = 0; i < 100; ++i)
        taken += world.queues.enqueue(of, i, {.handle = i, .bytes = 1500}, start) ? 1 : 0;
    EXPECT_EQ(taken, 2U);
    uint64_t left = 0;
    for (TimePoint now = start; now < start + 1s; now += 1ms)
        left += world.all(now).size();
    EXPECT_EQ(left + world.dropped.size(), 2U);
    EXPECT_EQ(of.counters.queued_bytes, 0U);
}

TEST(PacketQueues, RoomIsBoundedInBytesToo) {
    World world(1'000'000, 1000, 100'000);
    QueuedClass large = world.make(Priority::p3), small = world.make(Priority::p3);
    for (uint32_t i = 0; i < 100; ++i)
        world.queues.enqueue(large, 1, {.handle = i, .bytes = 9000}, start);
    EXPECT_LE(large.counters.queued_bytes, 63'000U);
    EXPECT_GE(large.counters.queued_bytes, 45'000U);
    for (uint32_t i = 0; i < 10; ++i)
        EXPECT_TRUE(world.queues.enqueue(small, 1, {.handle = i, .bytes = 1500}, start));
    EXPECT_FALSE(world.queues.enqueue(small, 2, {.handle = 0, .bytes = 90'000}, start));
}

}  // namespace
}  // namespace marchproxy::qos
