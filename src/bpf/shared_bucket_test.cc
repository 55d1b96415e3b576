#include "bpf/lib/shared_bucket.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

namespace marchproxy::abi {
namespace {

__extension__ using Wide = unsigned __int128;
constexpr uint64_t second = 1'000'000'000, gigabit = 1'000'000'000;
constexpr uint64_t packet = 1448 * 8;

bool take(__u64* word, uint64_t rate, uint64_t burst, uint64_t time, uint64_t bits) {
    const bucket b{rate, burst, bits_carried(rate, time)};
    return bucket_take(word, &b, bits);
}

TEST(SharedBucket, BitsCarriedAreExact) {
    std::mt19937_64 random(1);
    for (int i = 0; i < 100'000; ++i) {
        const uint64_t rate = random() >> (10 + random() % 50), time = random() >> (random() % 60);
        ASSERT_EQ(bits_carried(rate, time), static_cast<uint64_t>(Wide{rate} * time / second)) << rate << ", " << time;
    }
}

// Whoever always asks gets the rate, to the packet, however long it takes.
TEST(SharedBucket, NothingIsLostOrWonInADay) {
    for (const uint64_t rate : {gigabit / 1000, gigabit / 3, 10 * gigabit}) {
        constexpr uint64_t day = 86'400 * second;
        const uint64_t begin = 12'345'678'901'234, item = rate / 400,
                       burst = rate / 100;  // some milliseconds', so that a day is soon over
        __u64 word = bits_carried(rate, begin) - burst;
        uint64_t passed = 0;
        for (uint64_t time = begin; time <= begin + day; time += 3'333'333)
            while (take(&word, rate, burst, time, item))
                passed += item;
        const auto earned = static_cast<uint64_t>(Wide{rate} * day / second);
        EXPECT_LE(passed, earned + burst + item) << rate;
        EXPECT_GE(passed + item, earned + burst - rate / 2000) << rate;
    }
}

TEST(SharedBucket, ItHoldsABurstAndNoMore) {
    constexpr uint64_t rate = gigabit, burst = 10 * packet;
    const auto bursts = [&](__u64* word, uint64_t time) {
        int taken = 0;
        while (take(word, rate, burst, time, packet))
            ++taken;
        return taken;
    };
    __u64 word = bits_carried(rate, second);
    EXPECT_EQ(bursts(&word, second), 0) << "nothing is in it yet";
    EXPECT_EQ(bursts(&word, second + 1), 1) << "what is left of a bit lets a packet through";
    EXPECT_EQ(bursts(&word, second + 1), 0) << "which is owed now";
    EXPECT_EQ(bursts(&word, 3 * second), 10);
    EXPECT_EQ(bursts(&word, 1000 * second), 10);
}

// A reload that user space did not tell the word of: neither a pause nor a flood.
TEST(SharedBucket, AnotherRatesWordIsNotOwed) {
    constexpr uint64_t now = 1'000'000 * second;
    for (const uint64_t before : {gigabit / 1000, 400 * gigabit})
        for (const uint64_t after : {gigabit / 1000, gigabit, 400 * gigabit}) {
            __u64 word = bits_carried(before, now);
            const uint64_t burst = packet + after / 1000;
            uint64_t passed = 0;
            for (uint64_t time = now; time < now + second / 10; time += second / 100'000)
                while (take(&word, after, burst, time, packet))
                    passed += packet;
            EXPECT_LE(passed, burst + after / 10 + packet);
            EXPECT_GE(passed + burst, after / 10);
        }
}

// CPUs that take shares: together they have the rate, and one alone has all of it.
TEST(SharedBucket, SharesFollowDemand) {
    constexpr uint64_t rate = 10 * gigabit, burst = rate / 200, cpus = 8, share = burst / 4 / cpus;
    for (const uint64_t busy : {uint64_t{1}, uint64_t{3}, cpus}) {
        std::vector<__u64> left(cpus);
        std::vector<uint64_t> passed(cpus);
        __u64 word = bits_carried(rate, second);
        std::mt19937_64 random(busy);
        for (uint64_t time = second; time < 2 * second; time += 400)  // each asks for more than it can have
            for (uint64_t i = 0, first = random(); i < busy; ++i) {
                const uint64_t cpu = (first + i) % busy;
                const bucket b{rate, burst - share * cpus, bits_carried(rate, time)};
                if (bucket_take_by_share(&left[cpu], &word, &b, share, packet)) passed[cpu] += packet;
            }
        uint64_t all = 0;
        for (uint64_t cpu = 0; cpu < busy; ++cpu)
            all += passed[cpu];
        EXPECT_NEAR(static_cast<double>(all) / rate, 1, 0.005) << busy;
        for (uint64_t cpu = 0; cpu < busy; ++cpu)
            EXPECT_NEAR(static_cast<double>(passed[cpu]) * static_cast<double>(busy) / rate, 1, 0.1) << busy;
    }
}

// Threads on one word, with a clock of their own: no more than the rate, a burst, the shares and what was in hand.
TEST(SharedBucket, ThreadsTogetherStayWithinTheRate) {
    constexpr uint64_t rate = 100 * gigabit, burst = rate / 200, share = 16 * packet;
    constexpr int threads = 4;
    __u64 word = bits_carried(rate, second);
    std::atomic<uint64_t> clock{second}, passed{0};
    std::vector<std::thread> running;
    for (int i = 0; i < threads; ++i)
        running.emplace_back([&] {
            __u64 left = 0;
            uint64_t mine = 0;
            for (int ask = 0; ask < 200'000; ++ask) {
                const uint64_t now = clock.fetch_add(20, std::memory_order_relaxed);
                const bucket b{rate, burst, bits_carried(rate, now)};
                if (bucket_take_by_share(&left, &word, &b, share, packet)) mine += packet;
            }
            passed += mine;
        });
    for (std::thread& thread : running)
        thread.join();
    const auto earned = static_cast<uint64_t>(Wide{rate} * (clock - second) / second);
    EXPECT_LE(passed, earned + burst + threads * (share + packet));
    EXPECT_GE(passed, earned * 98 / 100);
}

}  // namespace
}  // namespace marchproxy::abi
