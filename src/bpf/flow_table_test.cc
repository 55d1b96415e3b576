#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <functional>
#include <random>
#include <thread>

#include "bpf/flow_table_rows.h"

namespace marchproxy::abi {
namespace {

using testing::Insertion;
using testing::Table;

uint64_t target_for(uint64_t identity) {
    return identity * 0x9e3779b97f4a7c15ULL + 1;
}

TEST(FlowTable, FindsWhatWasInsertedAndNothingElse) {
    for (uint32_t alignment = 0; alignment < 64; alignment += 8) {
        Table table(3, alignment);
        for (uint64_t identity = 1; identity <= 1000; ++identity)
            ASSERT_EQ(table.insert(identity, target_for(identity)), Insertion::done);
        for (uint64_t identity = 1; identity <= 1000; ++identity) {
            EXPECT_EQ(table.find(identity), target_for(identity));
            EXPECT_EQ(table.find(identity + 1000), std::nullopt);
        }
    }
}

TEST(FlowTable, EveryIdentityFitsIntoAnEmptyTable) {
    for (uint64_t identity = 1; identity <= 2000; ++identity) {
        Table table(1);
        ASSERT_EQ(table.insert(identity, 7), Insertion::done) << identity;
        ASSERT_TRUE(table.remove(identity)) << identity;
    }
}

TEST(FlowTable, EveryChoiceOfAPlaceIsAnotherBucket) {
    const Table table(1);
    for (uint64_t identity = 1; identity <= 20'000; ++identity) {
        const flow_place place = table.place_of(identity);
        std::vector<uint32_t> buckets{place.bucket};
        for (int choice = 1; choice < flow_choices; ++choice)
            buckets.push_back(flow_next_bucket(buckets.back(), place.step));
        std::ranges::sort(buckets);
        ASSERT_EQ(std::ranges::adjacent_find(buckets), buckets.end()) << identity;
        ASSERT_LT(buckets.back(), flow_buckets);
    }
}

TEST(FlowTable, RefusesASecondOfTheSame) {
    Table table(1);
    EXPECT_EQ(table.insert(5, 10), Insertion::done);
    EXPECT_EQ(table.insert(5, 11), Insertion::exists);
    EXPECT_EQ(table.find(5), 10u);
    EXPECT_TRUE(table.remove(5));
    EXPECT_EQ(table.find(5), std::nullopt);
    EXPECT_FALSE(table.remove(5));
    EXPECT_EQ(table.insert(5, 11), Insertion::done);
    EXPECT_EQ(table.find(5), 11u);
}

TEST(FlowTable, ATentativeCellIsSeenByInsertionsOnly) {
    const auto chunk = std::make_unique<flow_chunk>();
    const flow_place place{0, 3, 5};
    flow_cell* cell = flow_claim(chunk.get(), 9, place, 0, 77, 1);
    ASSERT_NE(cell, nullptr);
    __u64 target = 0;
    EXPECT_EQ(flow_find_in(chunk.get(), 9, place, 0, &target), nullptr);
    EXPECT_EQ(flow_count_of(chunk.get(), 9, place, 0), 1u);
    EXPECT_NE(flow_claim(chunk.get(), 9, place, 0, 78, 1), nullptr);
    EXPECT_EQ(flow_count_of(chunk.get(), 9, place, 0), 2u);
    flow_publish(cell, 9);
    EXPECT_EQ(flow_find_in(chunk.get(), 9, place, 0, &target), cell);
    EXPECT_EQ(target, 77u);
}

TEST(FlowTable, CellsAreNumberedOnceEach) {
    Table table(2, 40);
    std::map<uint32_t, uint64_t> numbers;
    for (uint64_t identity = 1; identity <= 1500; ++identity) {
        if (table.insert(identity, identity) != Insertion::done) continue;
        const uint32_t number = table.index_of(identity);
        EXPECT_LT(number, table.cells());
        EXPECT_TRUE(numbers.emplace(number, identity).second) << identity << " shares " << number;
    }
}

TEST(FlowTable, FullItRefusesAndKeepsWhatItHas) {
    Table table(1);
    std::vector<uint64_t> held;
    for (uint64_t identity = 1; identity <= 50'000; ++identity)
        if (table.insert(identity, target_for(identity)) == Insertion::done) held.push_back(identity);
    ASSERT_EQ(held.size(), table.cells());
    EXPECT_EQ(table.insert(1'000'000, 1), Insertion::full);
    EXPECT_EQ(table.find(1'000'000), std::nullopt);
    for (const uint64_t identity : held)
        ASSERT_EQ(table.find(identity), target_for(identity));
    EXPECT_LT(table.most_passed(), 128u) << "the count of a bucket is a byte";

    // Going, they leave nothing behind: not a cell, and no count that would make lookups go on.
    std::shuffle(held.begin(), held.end(), std::mt19937_64(1));
    for (const uint64_t identity : held)
        ASSERT_TRUE(table.remove(identity));
    EXPECT_TRUE(table.contents().empty());
    EXPECT_EQ(table.passed(), 0u);
}

// --- how full it gets
// -------------------------------------------------------------------------------------------------

// What share of new flows is refused while old ones go and new ones come, at a constant number.
template <class Insert, class Remove>
double refused_under_churn(uint64_t count, uint64_t turnover, Insert insert, Remove remove) {
    std::mt19937_64 random(7);
    std::vector<uint64_t> held;
    uint64_t next = 1, refused = 0, tried = 0;
    while (held.size() < count)
        if (insert(next++)) held.push_back(next - 1);
    for (uint64_t i = 0; i < turnover; ++i) {
        std::swap(held[random() % held.size()], held.back());
        remove(held.back());
        while (++tried && !insert(next++))
            ++refused;
        held.back() = next - 1;
    }
    return static_cast<double>(refused) / static_cast<double>(tried);
}

double refused_by_table(uint32_t chunks, double load, uint64_t turnover) {
    Table table(chunks);
    const auto count = static_cast<uint64_t>(load * static_cast<double>(table.cells()));
    return refused_under_churn(
        count, turnover, [&](uint64_t identity) { return table.insert(identity, identity) == Insertion::done; },
        [&](uint64_t identity) { table.remove(identity); });
}

// The same rule without hash, words and counts: numbers of cells in use, buckets drawn at random.
double refused_by_model(uint32_t chunks, double load, uint64_t turnover) {
    std::vector<int> used(chunks * uint64_t{flow_buckets});
    std::map<uint64_t, size_t> lies_in;
    std::mt19937_64 random(3);
    const auto count = static_cast<uint64_t>(load * static_cast<double>(used.size() * flow_cells));
    const auto insert = [&](uint64_t identity) {
        const size_t first = random() % chunks * flow_buckets;
        size_t bucket = random() % flow_buckets;
        const size_t step = 1 + random() % (flow_buckets - 1);
        for (int choice = 0; choice < flow_choices; ++choice, bucket = (bucket + step) % flow_buckets)
            if (used[first + bucket] < flow_cells) {
                ++used[first + bucket];
                lies_in[identity] = first + bucket;
                return true;
            }
        return false;
    };
    return refused_under_churn(count, turnover, insert, [&](uint64_t identity) {
        --used[lies_in[identity]];
        lies_in.erase(identity);
    });
}

TEST(FlowTable, RefusesAsSeldomAsItIsBuiltFor) {
    EXPECT_EQ(refused_by_table(8, 0.5, 40'000), 0);
    EXPECT_LE(refused_by_table(8, 0.6, 300'000), 1e-5);
    EXPECT_LE(refused_by_table(8, 0.7, 300'000), 1e-4);
    EXPECT_LE(refused_by_table(8, 0.8, 300'000), 2e-3);
}

TEST(FlowTable, RefusesAsSeldomAsRandomBucketsWould) {
    const double table = refused_by_table(8, 0.9, 40'000), model = refused_by_model(8, 0.9, 40'000);
    EXPECT_NEAR(table, model, model * 0.4) << "the hash does not spread";
}

// --- who chooses identities
// -------------------------------------------------------------------------------------------

// Of `count` identities: the share a table loaded to 0.8 refuses, filled once.
double refused_of(Table& table, const std::function<uint64_t(uint64_t)>& identity) {
    const uint64_t count = table.cells() * 8 / 10;
    uint64_t refused = 0;
    for (uint64_t i = 0; i < count; ++i)
        if (table.insert(identity(i), 1) != Insertion::done) ++refused;
    return static_cast<double>(refused) / static_cast<double>(count);
}

TEST(FlowTable, ChosenIdentitiesSpreadLikeRandomOnes) {
    constexpr uint32_t chunks = 8;
    std::mt19937_64 random(11);
    // Whoever knew another key's places: all in the first bucket of the first chunk there.
    const Table known(chunks, 0, 42);
    std::vector<uint64_t> aimed;
    for (uint64_t identity = 1; aimed.size() < 100; ++identity)
        if (const flow_place place = known.place_of(identity); place.chunk == 0 && place.bucket == 0)
            aimed.push_back(identity);

    const std::map<const char*, std::function<uint64_t(uint64_t)>> kinds = {
        {"random", [&](uint64_t) { return random() >> 2 | 1; }},
        {"sequential", [](uint64_t i) { return i + 1; }},
        {"one service's ports", [](uint64_t i) { return 0x0b00000100000000ULL >> 2 | i << 14 | 1; }},
        {"all low bits the same", [](uint64_t i) { return i << 30 | 0x3fffffff; }},
        {"all high bits the same", [](uint64_t i) { return 0x3fffffffULL << 32 | i; }},
    };
    for (const auto& [name, identity] : kinds) {
        Table table(chunks);
        EXPECT_LE(refused_of(table, identity), 2e-3) << name;
    }
    Table table(chunks);
    for (const uint64_t identity : aimed)
        EXPECT_EQ(table.insert(identity, 1), Insertion::done);
    EXPECT_EQ(table.passed(), 0u) << "a hundred identities filled a bucket of eight";
}

// --- by many threads
// --------------------------------------------------------------------------------------------------

// Rounds: in each, all threads insert the same identities, each in an order of its own, while one removes the last
// round's and others look up. No identity comes twice, so that a reader can tell whose target it was given: of a flow
// that goes and comes back on the same cell within one lookup it could not, and in the kernel no lookup lasts as long
// as that.
TEST(FlowTable, ThreadsNeverInsertTwiceAndNeverReadAnothersTarget) {
    constexpr uint64_t rounds = 60, identities = 500;
    constexpr int inserters = 3, readers = 2;
    Table table(1);
    std::atomic<uint64_t> round{1}, wrong_targets{0};
    std::atomic<bool> over{false};
    std::vector<std::atomic<uint64_t>> inserted(rounds + 1);
    const auto identity_of = [](uint64_t in, uint64_t i) { return in << 16 | (i + 1); };
    std::barrier turn(inserters + 1, [&]() noexcept { round.fetch_add(1); });

    std::vector<std::jthread> threads;
    for (int thread = 0; thread < inserters; ++thread)
        threads.emplace_back([&, thread] {
            std::mt19937_64 random(thread);
            std::vector<uint64_t> order(identities);
            for (uint64_t in = 1; in <= rounds; ++in, turn.arrive_and_wait()) {
                for (uint64_t i = 0; i < identities; ++i)
                    order[i] = identity_of(in, i);
                std::shuffle(order.begin(), order.end(), random);
                for (const uint64_t identity : order)  // both of a race may withdraw: whoever is refused tries again
                    while (!table.find(identity))
                        if (table.insert(identity, target_for(identity)) == Insertion::done) ++inserted[in];
            }
        });
    threads.emplace_back([&] {
        for (uint64_t in = 1; in <= rounds; ++in, turn.arrive_and_wait())
            for (uint64_t i = 0; in > 1 && i < identities; ++i)
                if (!table.remove(identity_of(in - 1, i))) ++wrong_targets;
    });
    for (int thread = 0; thread < readers; ++thread)
        threads.emplace_back([&, thread] {
            std::mt19937_64 random(100 + thread);
            bool hit = false;
            // On a busy machine a reader may begin when all is over: the last round's are there.
            while (!over || !hit) {
                const uint64_t now = round,
                               identity = identity_of(now - (now > 1 && random() % 2), random() % identities);
                const auto target = table.find(identity);
                if (target && *target != target_for(identity)) ++wrong_targets;
                hit = hit || target.has_value();
            }
        });
    for (int thread = 0; thread <= inserters; ++thread)
        threads[static_cast<size_t>(thread)].join();
    over = true;
    threads.clear();

    EXPECT_EQ(wrong_targets, 0u);
    for (uint64_t in = 1; in <= rounds; ++in)
        EXPECT_EQ(inserted[in], identities) << "in round " << in;
    const auto contents = table.contents();
    EXPECT_EQ(contents.size(), identities) << "the last round's, and nothing tentative";
    for (const auto& [identity, times] : contents)
        EXPECT_EQ(times, 1) << identity;
}

// The same few identities come and go at once from all sides.
TEST(FlowTable, ThreadsLeaveNothingBehind) {
    constexpr uint64_t identities = 64;
    constexpr int inserters = 3, attempts = 40'000;
    Table table(1);
    std::vector<std::atomic<int64_t>> balance(identities);
    std::atomic<bool> over{false};
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < inserters; ++thread)
        threads.emplace_back([&, thread] {
            std::mt19937_64 random(thread);
            for (int i = 0; i < attempts; ++i) {
                const uint64_t which = random() % identities;
                if (table.insert(which + 1, 1) == Insertion::done) ++balance[which];
            }
        });
    std::jthread sweep([&] {
        std::mt19937_64 random(99);
        while (!over) {
            const uint64_t which = random() % identities;
            if (table.remove(which + 1)) --balance[which];
        }
    });
    for (std::jthread& thread : threads)
        thread.join();
    over = true;
    sweep.join();

    const auto contents = table.contents();
    for (uint64_t which = 0; which < identities; ++which) {
        const auto lies = contents.find(which + 1);
        EXPECT_EQ(lies == contents.end() ? 0 : lies->second, balance[which]) << which;
        if (lies != contents.end()) table.remove(which + 1);
    }
    EXPECT_TRUE(table.contents().empty());
    EXPECT_EQ(table.passed(), 0u);
}

}  // namespace
}  // namespace marchproxy::abi
