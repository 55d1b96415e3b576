#include "routing/health.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace marchproxy::routing {
namespace {

using namespace std::chrono_literals;

const TimePoint start = TimePoint{} + 1000s;

void bring_down(Health& health, TimePoint now) {
    EXPECT_FALSE(health.failed(now));
    EXPECT_FALSE(health.failed(now));
    EXPECT_TRUE(health.failed(now));
}

TEST(Health, IsUpUntilThreeConnectsInARowHaveFailed) {
    Health health;
    EXPECT_TRUE(health.up());
    EXPECT_FALSE(health.failed(start));
    EXPECT_FALSE(health.failed(start));
    EXPECT_FALSE(health.succeeded());  // it was up all the time: nothing to tell
    bring_down(health, start);
    EXPECT_FALSE(health.up());
    EXPECT_FALSE(health.usable(start));
    EXPECT_FALSE(health.take(start));
}

TEST(Health, AfterTheBackoffExactlyOneConnectionIsTheTrial) {
    Health health;
    bring_down(health, start);
    EXPECT_FALSE(health.usable(start + 999ms));
    EXPECT_TRUE(health.usable(start + 1s));
    EXPECT_TRUE(health.usable(start + 1s));  // to look takes nothing
    EXPECT_TRUE(health.take(start + 1s));
    EXPECT_FALSE(health.take(start + 1s));
    EXPECT_FALSE(health.usable(start + 1s));
    EXPECT_FALSE(health.up());
}

TEST(Health, OneSuccessBringsItUpAtOnce) {
    Health health;
    bring_down(health, start);
    ASSERT_TRUE(health.take(start + 1s));
    EXPECT_TRUE(health.succeeded());
    EXPECT_FALSE(health.succeeded());
    EXPECT_TRUE(health.up());
    EXPECT_TRUE(health.take(start + 1s));
    bring_down(health, start + 2s);  // and the count begins anew
    EXPECT_TRUE(health.usable(start + 3s));
}

TEST(Health, TheBackoffDoublesToThirtySeconds) {
    Health health;
    bring_down(health, start);
    TimePoint now = start;
    for (const Duration backoff : {1s, 2s, 4s, 8s, 16s, 30s, 30s, 30s}) {
        EXPECT_FALSE(health.usable(now + backoff - 1ms)) << backoff.count();
        now += backoff;
        ASSERT_TRUE(health.take(now)) << backoff.count();
        EXPECT_FALSE(health.failed(now));  // it was down before
    }
    for (int trial = 0; trial < 100; ++trial) {  // an endpoint that is gone for good
        EXPECT_FALSE(health.usable(now + 30s - 1ms));
        now += 30s;
        ASSERT_TRUE(health.take(now)) << trial;
        health.failed(now);
    }
}

TEST(Health, ManyConnectsFailingTogetherAreOneEvent) {
    Health health;
    bring_down(health, start);
    for (int i = 0; i < 100; ++i)
        EXPECT_FALSE(health.failed(start + 10ms));
    EXPECT_TRUE(health.usable(start + 1s));
    ASSERT_TRUE(health.take(start + 1s));
    for (int i = 0; i < 100; ++i)
        EXPECT_FALSE(health.failed(start + 1s));
    EXPECT_TRUE(health.usable(start + 3s));
}

TEST(Health, ATrialThatIsNeverHeardOfAgainIsFollowedByAnother) {
    Health health;
    bring_down(health, start);
    ASSERT_TRUE(health.take(start + 1s));
    EXPECT_FALSE(health.usable(start + 1999ms));
    EXPECT_TRUE(health.take(start + 2s));
}

TEST(Health, OfManyThreadsOneGetsTheTrialAndOneTellsTheChange) {
    constexpr int threads = 4;
    for (int round = 0; round < 200; ++round) {
        Health health;
        std::atomic<int> waiting{threads}, fell{0}, trials{0}, rose{0};
        std::vector<std::thread> running;
        const auto meet = [&](int phase) {
            --waiting;
            while (waiting.load() > -threads * phase)
                std::this_thread::yield();
        };
        for (int i = 0; i < threads; ++i) {
            running.emplace_back([&] {
                meet(0);
                for (int turn = 0; turn < 3; ++turn)
                    fell += health.failed(start) ? 1 : 0;
                meet(1);
                trials += health.take(start + 1s) ? 1 : 0;
                meet(2);
                rose += health.succeeded() ? 1 : 0;
            });
        }
        for (std::thread& thread : running)
            thread.join();
        EXPECT_EQ(fell, 1);
        EXPECT_EQ(trials, 1);
        EXPECT_EQ(rose, 1);
    }
}

}  // namespace
}  // namespace marchproxy::routing
