#include "qos/standing_queue.h"

#include <gtest/gtest.h>

#include <vector>

namespace marchproxy::qos {
namespace {

using namespace std::chrono_literals;

constexpr auto step = 200us;

// A sender that has always something, as far away as a round trip, and a buffer that is emptied at a rate.
struct Line {
    Line(double bytes_per_second, Duration round_trip, uint64_t size) : rate(bytes_per_second) {
        buffer = {size, 0, round_trip, 1448};
    }

    void run(Duration time) {
        for (const TimePoint end = now + time; now < end; now += step) {
            const auto ago = static_cast<size_t>(buffer.round_trip / step);
            const double promised =
                edges.size() > ago ? edges[edges.size() - 1 - ago] : std::min(edges.front(), 14480.0);
            const double come = sends ? std::max(received, promised) - received : 0;
            received += come;
            queued += come;
            const auto found = static_cast<uint64_t>(queued);
            const double turn = rate * std::chrono::duration<double>(step).count();
            buffer.used = 2 * found;
            if (buffer.used > buffer.size && come > 0) lost += come;
            const double took = std::min(queued, turn);
            queued -= took;
            taken += took;
            queue.took(static_cast<uint64_t>(took), now);
            queue.found(found, static_cast<uint64_t>(turn));
            if (queue.due(now)) buffer.size = queue.size_after(buffer, now);
            const double room = static_cast<double>(buffer.size) / 2 - queued;
            edges.push_back(std::max(edges.back(), received + std::max(room, 0.0)));
        }
    }

    // In milliseconds, and as a part of the rate, in the next so much time.
    struct Seen {
        double longest = 0, carried = 0;
    };
    Seen watch(Duration time) {
        Seen seen;
        const double before = taken;
        for (Duration left = time; left > 0ms; left -= 10ms) {
            run(10ms);
            seen.longest = std::max(seen.longest, queued / rate * 1e3);
        }
        seen.carried = (taken - before) / (rate * std::chrono::duration<double>(time).count());
        return seen;
    }

    double rate;  // bytes a second
    StandingQueue queue;
    StandingQueue::Buffer buffer;
    TimePoint now{1h};
    std::vector<double> edges{65536};
    double received = 0, queued = 0, taken = 0, lost = 0;
    bool sends = true;
};

constexpr double mbit = 1e6 / 8;

TEST(StandingQueue, IsShortAtEveryRateAndDistanceWithoutLosingRate) {
    for (const double rate : {10 * mbit, 50 * mbit, 400 * mbit}) {
        for (const Duration round_trip : {Duration(0), Duration(10ms), Duration(100ms)}) {
            Line line(rate, round_trip, 131072);
            line.buffer.size = line.queue.first_size(rate, line.buffer);
            line.run(2s);
            const auto seen = line.watch(3s);
            SCOPED_TRACE(testing::Message() << rate / mbit << " Mbit/s, " << round_trip / 1ms << " ms");
            EXPECT_LT(seen.longest, rate < 20 * mbit ? 15 : 10);  // a few packets are what they are
            EXPECT_GT(seen.carried, .99);
            EXPECT_EQ(line.lost, 0);
        }
    }
}

TEST(StandingQueue, IsWorkedOffWhereTheBufferWasLarge) {
    for (const Duration round_trip : {Duration(0), Duration(20ms)}) {
        Line line(50 * mbit, round_trip, 6 << 20);
        line.run(1s);
        EXPECT_GT(line.buffer.size, 200'000U);
        line.run(3s);
        const auto seen = line.watch(2s);
        EXPECT_LT(seen.longest, 10);
        EXPECT_GT(seen.carried, .99);
        EXPECT_LT(line.lost, 3 * 1448);  // of 30 MB
    }
}

TEST(StandingQueue, FollowsAShareThatChanges) {
    Line line(50 * mbit, 10ms, 200'000);
    line.run(2s);
    line.rate = 5 * mbit;
    line.run(4s);
    EXPECT_LT(line.watch(1s).longest, 30);
    line.rate = 50 * mbit;
    line.run(3s);
    EXPECT_GT(line.watch(1s).carried, .99);
}

TEST(StandingQueue, APauseIsNoReasonForAnything) {
    Line line(50 * mbit, 10ms, 200'000);
    line.run(2s);
    const uint64_t size = line.buffer.size;
    line.sends = false;
    line.run(100ms);  // what is there is taken
    line.now += 1h;   // nobody looks while nothing comes
    line.queue.found(0, 1000);
    line.queue.took(1000, line.now);
    EXPECT_FALSE(line.queue.due(line.now));
    line.sends = true;
    line.run(500ms);
    EXPECT_GT(line.watch(1s).carried, .99);
    EXPECT_NEAR(static_cast<double>(line.buffer.size), static_cast<double>(size), static_cast<double>(size) / 3);
}

}  // namespace
}  // namespace marchproxy::qos
