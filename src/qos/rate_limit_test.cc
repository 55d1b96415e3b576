#include "qos/rate_limit.h"

#include <gtest/gtest.h>

#include <atomic>
#include <limits>
#include <random>
#include <thread>
#include <vector>

namespace marchproxy::qos {
namespace {

using namespace std::chrono_literals;

const TimePoint start = TimePoint{} + 1234s;

int admitted_at(RateLimit& limit, TimePoint now, int offered) {
    int admitted = 0;
    for (int i = 0; i < offered; ++i)
        admitted += limit.admit(now) ? 1 : 0;
    return admitted;
}

TEST(RateLimit, AdmitsEverythingUntilConfigured) {
    RateLimit limit;
    EXPECT_EQ(admitted_at(limit, start, 1000), 1000);
    limit.configure(1, 1);
    EXPECT_EQ(admitted_at(limit, start, 1000), 1);
    limit.configure(std::nullopt);
    EXPECT_EQ(admitted_at(limit, start, 1000), 1000);
}

TEST(RateLimit, ABurstAndThenTheRate) {
    RateLimit limit;
    limit.configure(10, 5);
    EXPECT_EQ(admitted_at(limit, start, 100), 5);
    EXPECT_EQ(admitted_at(limit, start + 99ms, 100), 0);
    EXPECT_EQ(admitted_at(limit, start + 100ms, 100), 1);
    EXPECT_EQ(admitted_at(limit, start + 300ms, 100), 2);
    EXPECT_EQ(admitted_at(limit, start + 1h, 100), 5);
}

TEST(RateLimit, NewConnectionsHaveABurstOfATenthOfASecondAndAtLeastOne) {
    RateLimit limit;
    limit.configure(Frequency{20'000});
    EXPECT_EQ(admitted_at(limit, start, 10'000), 2000);
    RateLimit slow;
    slow.configure(Frequency{0.5});
    EXPECT_EQ(admitted_at(slow, start, 10), 1);
    EXPECT_EQ(admitted_at(slow, start + 1999ms, 10), 0);
    EXPECT_EQ(admitted_at(slow, start + 2s, 10), 1);
}

TEST(RateLimit, ZeroAdmitsNothing) {
    RateLimit limit;
    limit.configure(Frequency{0});
    EXPECT_EQ(admitted_at(limit, start, 10), 0);
    EXPECT_EQ(admitted_at(limit, start + 10h, 10), 0);
}

// An hour of more offers than the rate, at random times: never above burst + rate * time, and at the end as good as
// that.
TEST(RateLimit, IsExactOverAnHour) {
    for (const double rate : {0.25, 3.0, 7.0, 999.0, 1999.5}) {
        std::mt19937_64 random(5);
        RateLimit limit;
        const double burst = std::max(2.0, rate / 10);
        limit.configure(rate, burst);
        double admitted = 0, bound = 0;
        const auto longest_pause = static_cast<uint64_t>(burst / 2 / rate * 1e9);
        for (Duration at{0}; at < 1h; at += Duration(1 + random() % longest_pause)) {
            while (limit.admit(start + at))
                ++admitted;
            bound = burst + rate * std::chrono::duration<double>(at).count();
            ASSERT_LE(admitted, bound + 1e-6) << rate;
        }
        EXPECT_GE(admitted, bound * (1 - 1e-6) - 1) << rate;
    }
}

TEST(RateLimit, VeryHighAndVeryLowRatesStayUsable) {
    RateLimit fast;
    fast.configure(1e12, 1e11);
    EXPECT_EQ(admitted_at(fast, start, 100'000), 100'000);
    RateLimit slow;
    slow.configure(1e-9, 1);
    EXPECT_EQ(admitted_at(slow, start, 10), 1);
    EXPECT_EQ(admitted_at(slow, start + 24h, 10), 0);
    RateLimit infinite;
    infinite.configure(std::numeric_limits<double>::infinity(), 10);
    EXPECT_GE(admitted_at(infinite, start, 10), 1);
}

TEST(RateLimit, AClockThatStepsBackDoesNotShutTheDoor) {
    RateLimit limit;
    limit.configure(100, 10);
    EXPECT_EQ(admitted_at(limit, start + 10h, 100), 10);
    EXPECT_EQ(admitted_at(limit, start, 100), 0);  // the burst was used: it fills again from empty
    EXPECT_EQ(admitted_at(limit, start + 50ms, 100), 5);
    EXPECT_EQ(admitted_at(limit, start + 1s, 100), 10);
}

TEST(RateLimit, AWorkersClockALittleBehindGivesNothingAway) {
    RateLimit limit;
    limit.configure(1000, 1);
    int admitted = 0;
    for (int i = 0; i < 10'000; ++i) {
        admitted += limit.admit(start + i * 100us) ? 1 : 0;
        admitted += limit.admit(start + i * 100us - 500us) ? 1 : 0;
    }
    EXPECT_LE(admitted, 1001);
    EXPECT_GE(admitted, 999);
}

TEST(RateLimit, AnotherRateTakesHoldAtOnce) {
    RateLimit limit;
    limit.configure(1, 100);
    EXPECT_EQ(admitted_at(limit, start, 1000), 100);
    limit.configure(1000, 10);  // the backlog of 100 s is worth nothing now
    EXPECT_EQ(admitted_at(limit, start + 1ms, 1000), 0);
    EXPECT_EQ(admitted_at(limit, start + 6ms, 1000), 5);
    limit.configure(10, 1);
    EXPECT_LE(admitted_at(limit, start + 2s, 1000), 1);
    EXPECT_EQ(admitted_at(limit, start + 3s, 1000), 1);
}

TEST(RateLimit, WorksHalfAYearLater) {
    RateLimit limit;
    limit.configure(10, 5);
    EXPECT_EQ(admitted_at(limit, start, 100), 5);
    for (const auto later : {24h * 100, 24h * 110, 24h * 200, 24h * 208, 24h * 1000}) {
        admitted_at(limit, start + later, 100);
        EXPECT_EQ(admitted_at(limit, start + later + 10s, 100), 5) << later.count();
    }
}

// An update lost between any two threads admits one too many. On a busy machine threads may run one after the other,
// and then nothing can be lost; hence the rounds.
TEST(RateLimit, ManyThreadsTogetherUseUpExactlyTheBurst) {
    constexpr int threads = 4, burst = 2'000'000;
    for (int round = 0; round < 12; ++round) {
        RateLimit limit;
        limit.configure(100, burst);
        std::atomic<int> admitted{0}, waiting{threads};
        std::vector<std::thread> running;
        for (int i = 0; i < threads; ++i) {
            running.emplace_back([&] {
                --waiting;
                while (waiting.load() > 0)
                    std::this_thread::yield();
                int mine = 0;
                while (limit.admit(start))
                    ++mine;
                admitted += mine;
            });
        }
        for (std::thread& thread : running)
            thread.join();
        ASSERT_EQ(admitted, burst);
    }
}

TEST(RateLimit, ManyThreadsTogetherNeverExceedIt) {
    constexpr int threads = 4;
    constexpr double rate = 50'000, burst = 100;
    RateLimit limit;
    limit.configure(rate, burst);
    std::atomic<int64_t> clock{0};  // microseconds, moved on by the threads themselves
    std::atomic<int> admitted{0};
    std::vector<std::thread> running;
    for (int i = 0; i < threads; ++i) {
        running.emplace_back([&] {
            for (int turn = 0; turn < 100'000; ++turn) {
                const TimePoint now = start + std::chrono::microseconds(clock.fetch_add(1));
                if (limit.admit(now)) ++admitted;
            }
        });
    }
    for (std::thread& thread : running)
        thread.join();
    const double seconds = static_cast<double>(clock.load()) * 1e-6;
    EXPECT_LE(admitted.load(), burst + rate * seconds + 1);
    EXPECT_GE(admitted.load(), rate * seconds * 0.9);
}

}  // namespace
}  // namespace marchproxy::qos
