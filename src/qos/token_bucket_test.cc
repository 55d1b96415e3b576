#include "qos/token_bucket.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

namespace marchproxy::qos {
namespace {

using namespace std::chrono_literals;

__extension__ using Whole = __int128;

uint64_t taken_at(TokenBucket& bucket, Duration now, uint32_t item) {
    uint64_t taken = 0;
    for (bucket.refill(now); bucket.ready(); taken += item)
        bucket.take(item);
    return taken;
}

TEST(TokenBucket, ABurstAndThenTheRate) {
    TokenBucket bucket(Rate{8'000'000}, Bytes{10'000}, 0s);  // a byte a microsecond
    EXPECT_EQ(taken_at(bucket, 0s, 1000), 10'000U);
    EXPECT_EQ(taken_at(bucket, 0s, 1000), 0U);
    EXPECT_EQ(taken_at(bucket, 1ms, 1000), 1000U);
    EXPECT_EQ(taken_at(bucket, 4ms, 1000), 3000U);
    EXPECT_EQ(taken_at(bucket, 1h, 1000), 10'000U);
}

TEST(TokenBucket, WhatIsLargerThanTheBurstPassesAndIsEarnedBack) {
    TokenBucket bucket(Rate{8'000'000}, Bytes{100}, 0s);
    EXPECT_EQ(taken_at(bucket, 0s, 9000), 9000U);
    EXPECT_EQ(taken_at(bucket, 8900us, 9000), 0U);
    EXPECT_EQ(taken_at(bucket, 8901us, 9000), 9000U);
}

TEST(TokenBucket, SaysWhenItIsReadyAgain) {
    for (const uint64_t rate : {1000ULL, 999'999ULL, 7'000'000ULL, 10'000'000'000ULL, 400'000'000'000ULL}) {
        TokenBucket bucket(Rate{rate}, Bytes{3000}, 5s);
        while (bucket.ready())
            bucket.take(1514);
        const Duration ready = bucket.ready_at(0s);
        bucket.refill(ready - 1ns);
        EXPECT_FALSE(bucket.ready()) << rate;
        bucket.refill(ready);
        EXPECT_TRUE(bucket.ready()) << rate;
    }
}

// A day at 10 Gbit/s, looked at when it happens to be: never above burst + rate * time, and at the end as good as that.
TEST(TokenBucket, IsExactOverADay) {
    for (const uint64_t rate : {10'000'000'000ULL, 9'999'999'937ULL, 1'000'003ULL}) {
        std::mt19937_64 random(rate);
        const Bytes burst{500'000'000};
        TokenBucket bucket(Rate{rate}, burst, 0s);
        Whole taken = 0;  // bits
        Duration now{0};
        const auto largest = static_cast<uint32_t>(rate / 200);  // 40 ms worth
        const auto most = [&] {
            return static_cast<Whole>(burst.count) * 8 + static_cast<Whole>(rate) * now.count() / 1'000'000'000;
        };
        while (now < 24h) {
            const auto item = static_cast<uint32_t>(1 + random() % largest);
            taken += static_cast<Whole>(taken_at(bucket, now, item)) * 8;
            ASSERT_LE(taken, most() + Whole{largest} * 8);
            now += Duration(random() % 200'000'000);
        }
        now += 100ms;  // what the last one owed is paid
        taken += static_cast<Whole>(taken_at(bucket, now, 1500)) * 8;
        EXPECT_GT(taken, most() - 1) << rate;
        EXPECT_LE(taken, most() + 1500 * 8) << rate;
    }
}

TEST(TokenBucket, ADebtIsLimitedWhereThatIsAsked) {
    TokenBucket bucket(Rate{8'000'000}, Bytes{1000}, 0s);
    bucket.take_within(500, 5);
    EXPECT_TRUE(bucket.ready());
    for (int i = 0; i < 100; ++i)
        bucket.take_within(1000, 5);
    EXPECT_EQ(bucket.ready_at(0s), 5ms + 1ns);
    bucket.take(1000);
    bucket.take_within(1000, 5);  // does not forgive what is owed beyond
    EXPECT_EQ(bucket.ready_at(0s), 6ms + 1ns);
}

TEST(TokenBucket, ANewRateKeepsWhatIsInIt) {
    TokenBucket bucket(Rate{8'000'000}, Bytes{10'000}, 0s);
    bucket.take(9000);
    bucket.configure(Rate{16'000'000}, Bytes{10'000}, 0s);
    EXPECT_EQ(taken_at(bucket, 0s, 1000), 1000U);
    EXPECT_EQ(taken_at(bucket, 1ms, 1000), 2000U);
    bucket.configure(Rate{16'000'000}, Bytes{1}, 0s);
    EXPECT_EQ(taken_at(bucket, 1h, 1), 1U);
    // What is owed is paid within a second, however slow the new rate is.
    bucket.take(1'000'000);
    bucket.configure(Rate{1000}, Bytes{1500}, 1h);
    EXPECT_LE(bucket.ready_at(0s), 1h + 1s + 1ms);
}

TEST(TokenBucket, NothingAbsurdDoesHarm) {
    for (const uint64_t rate : {0UL, 1UL, std::numeric_limits<uint64_t>::max()})
        for (const uint64_t burst : {0UL, 1UL, std::numeric_limits<uint64_t>::max()}) {
            TokenBucket bucket(Rate{rate}, Bytes{burst}, 0s);
            for (const Duration now : {Duration(0), Duration(1), Duration(24h * 365 * 200), Duration(5)}) {
                bucket.refill(now);
                bucket.take(std::numeric_limits<uint32_t>::max());
                bucket.give_back(17);
                bucket.take_within(std::numeric_limits<uint32_t>::max(), 4);
                EXPECT_GT(bucket.ready_at(1h), Duration(0)) << rate << " " << burst;
                bucket.configure(Rate{rate}, Bytes{burst}, now);
            }
        }
    TokenBucket unset;
    unset.refill(1h);
    EXPECT_FALSE(unset.ready());
}

}  // namespace
}  // namespace marchproxy::qos
