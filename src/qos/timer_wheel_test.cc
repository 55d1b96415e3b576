#include "qos/timer_wheel.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <vector>

namespace marchproxy::qos {
namespace {

using namespace std::chrono_literals;

using MillisecondWheel = TimerWheel<std::chrono::milliseconds>;

const TimePoint start = TimePoint{} + 123456789us;  // off the millisecond, as real clocks are

std::vector<const Timer*> fired_by(MillisecondWheel& wheel, TimePoint now) {
    std::vector<const Timer*> fired;
    wheel.advance(now, [&](Timer& timer) { fired.push_back(&timer); });
    return fired;
}

TEST(TimerWheel, FiresOnceAndNeverEarly) {
    for (const Duration delay : {Duration(1ms), Duration(63ms), Duration(64ms), Duration(65ms), Duration(4095ms),
                                 Duration(4096ms), Duration(5s), Duration(1h), Duration(24h), Duration(24h * 365)}) {
        MillisecondWheel wheel(start);
        Timer timer;
        wheel.arm(timer, start + delay);
        EXPECT_TRUE(timer.armed());
        EXPECT_TRUE(fired_by(wheel, start + delay - 1ms).empty()) << delay.count();
        EXPECT_EQ(fired_by(wheel, start + delay), std::vector<const Timer*>{&timer}) << delay.count();
        EXPECT_FALSE(timer.armed());
        EXPECT_TRUE(fired_by(wheel, start + delay * 2).empty());
        EXPECT_FALSE(wheel.next_expiry());
    }
}

TEST(TimerWheel, RoundsUpToItsTick) {
    MillisecondWheel wheel(start);
    Timer timer;
    wheel.arm(timer, start + 1500us);
    EXPECT_TRUE(fired_by(wheel, start + 1999us).empty());
    EXPECT_EQ(fired_by(wheel, start + 2ms).size(), 1U);
}

TEST(TimerWheel, WhatIsPastFiresAtTheNextTick) {
    MillisecondWheel wheel(start);
    wheel.advance(start + 10s, [](Timer&) {});
    Timer timer;
    wheel.arm(timer, start + 1s);
    EXPECT_LE(*wheel.next_expiry(), start + 10s + 1ms);
    EXPECT_EQ(fired_by(wheel, start + 10s + 1ms).size(), 1U);
}

TEST(TimerWheel, FiresInOrderEvenAfterALongSleep) {
    MillisecondWheel wheel(start);
    std::array<Timer, 4> timers;
    wheel.arm(timers[0], start + 1h);
    wheel.arm(timers[1], start + 5ms);
    wheel.arm(timers[2], start + 70ms);
    wheel.arm(timers[3], start + 2min);
    EXPECT_EQ(fired_by(wheel, start + 2h), (std::vector<const Timer*>{&timers[1], &timers[2], &timers[3], &timers[0]}));
}

TEST(TimerWheel, ArmingAgainMovesATimerAndDisarmingStopsIt) {
    MillisecondWheel wheel(start);
    Timer moved, stopped;
    wheel.arm(moved, start + 10ms);
    wheel.arm(stopped, start + 10ms);
    wheel.arm(moved, start + 20ms);
    wheel.disarm(stopped);
    wheel.disarm(stopped);
    EXPECT_EQ(wheel.armed(), 1U);
    EXPECT_TRUE(fired_by(wheel, start + 19ms).empty());
    EXPECT_EQ(fired_by(wheel, start + 20ms), std::vector<const Timer*>{&moved});
    EXPECT_EQ(wheel.armed(), 0U);
}

TEST(TimerWheel, CallbacksMayArmAndDisarmWhatTheyLike) {
    MillisecondWheel wheel(start);
    Timer first, sibling, later;
    wheel.arm(first, start + 5ms);
    wheel.arm(sibling, start + 5ms);
    int fired = 0;
    wheel.advance(start + 5ms, [&](Timer& timer) {
        ++fired;
        wheel.disarm(&timer == &first ? sibling : first);  // in the slot that is just being emptied
        wheel.arm(timer, start + 6ms);
        wheel.arm(later, start + 1h);
    });
    EXPECT_EQ(fired, 1);
    EXPECT_EQ(wheel.armed(), 2U);
    EXPECT_EQ(fired_by(wheel, start + 6ms).size(), 1U);
}

TEST(TimerWheel, ATimerThatRearmsItselfDoesNotHoldTheLoop) {
    MillisecondWheel wheel(start);
    Timer timer;
    wheel.arm(timer, start + 1ms);
    int fired = 0;
    wheel.advance(start + 100ms, [&](Timer& t) {
        ++fired;
        wheel.arm(t, start);
    });
    EXPECT_LE(fired, 100);
    EXPECT_TRUE(timer.armed());
}

TEST(TimerWheel, TheNextExpiryIsNeverTooLateAndSoonExact) {
    MillisecondWheel wheel(start);
    EXPECT_FALSE(wheel.next_expiry());
    Timer timer;
    const TimePoint expiry = start + 24h + 17ms;
    wheel.arm(timer, expiry);
    int wakes = 0;
    for (TimePoint now = start; timer.armed(); ++wakes) {
        ASSERT_LE(*wheel.next_expiry(), expiry);
        now = *wheel.next_expiry();
        wheel.advance(now, [&](Timer&) { EXPECT_EQ(now, expiry); });
    }
    EXPECT_LE(wakes, 6);  // one a wheel, however far off the timer is
}

TEST(TimerWheel, OneTimerDisarmedOfManyLeavesTheOthersVisible) {
    MillisecondWheel wheel(start);
    std::array<Timer, 3> timers;
    for (Timer& timer : timers)
        wheel.arm(timer, start + 10ms);
    wheel.disarm(timers[1]);
    wheel.disarm(timers[0]);
    EXPECT_EQ(*wheel.next_expiry(), start + 10ms);
    wheel.disarm(timers[2]);
    EXPECT_FALSE(wheel.next_expiry());
}

// Random work on the wheel and on a sorted map of the same timers: they must agree at every step.
TEST(TimerWheel, BehavesLikeASortedMap) {
    std::mt19937_64 random(11);
    MillisecondWheel wheel(start);
    std::vector<Timer> timers(100'000);
    std::multimap<TimePoint, Timer*> model;
    std::vector<std::multimap<TimePoint, Timer*>::iterator> where(timers.size(), model.end());
    const auto forget = [&](Timer& timer) {
        auto& place = where[static_cast<size_t>(&timer - timers.data())];
        if (place != model.end()) model.erase(place);
        place = model.end();
    };

    TimePoint now = start;
    for (int step = 0; step < 4'000; ++step) {
        for (int i = 0; i < 50; ++i) {
            Timer& timer = timers[random() % timers.size()];
            forget(timer);
            if (random() % 4 == 0) {
                wheel.disarm(timer);
                continue;
            }
            const Duration delay = std::chrono::milliseconds(1 + random() % (1ULL << (random() % 27)));
            wheel.arm(timer, now + delay);
            where[static_cast<size_t>(&timer - timers.data())] = model.emplace(now + delay, &timer);
        }
        ASSERT_EQ(wheel.armed(), model.size());
        if (!model.empty()) {
            ASSERT_LE(*wheel.next_expiry(), model.begin()->first + 1ms);
        }

        now += std::chrono::microseconds(random() % (1ULL << (random() % 30)));
        TimePoint previous = start;
        wheel.advance(now, [&](Timer& timer) {
            const auto place = where[static_cast<size_t>(&timer - timers.data())];
            ASSERT_NE(place, model.end());
            ASSERT_LE(place->first, now);
            ASSERT_GE(place->first, previous - 1ms);
            previous = place->first;
            forget(timer);
        });
        if (!model.empty()) {
            ASSERT_GT(model.begin()->first, now - 1ms);
        }
    }
}

TEST(TimerWheel, TicksAsFineAsAsked) {
    TimerWheel<std::chrono::duration<int64_t, std::ratio<1024, 1'000'000'000>>> wheel(start);
    for (const Duration delay : {Duration(1us), Duration(10us), Duration(999ms), Duration(24h * 365 * 20)}) {
        Timer timer;
        const TimePoint due = start + delay;
        wheel.arm(timer, due);
        wheel.advance(due - 1us, [&](Timer&) { ADD_FAILURE() << delay.count() << " fired early"; });
        int fired = 0;
        wheel.advance(due + 1024ns, [&](Timer&) { ++fired; });
        EXPECT_EQ(fired, 1) << delay.count();
    }
}

}  // namespace
}  // namespace marchproxy::qos
