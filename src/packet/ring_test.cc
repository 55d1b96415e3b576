#include "packet/ring.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "routing/maglev.h"
#include "routing/selector.h"

namespace marchproxy::packet {
namespace {

std::vector<Target> targets(uint32_t count) {
    std::vector<Target> made;
    for (uint32_t i = 0; i < count; ++i)
        made.push_back({.address = {IpAddress::v4(0x0a000001 + i), 80}, .path = {}});
    return made;
}

TEST(Ring, ChoosesAsTheStreamPlaneDoesForMaglev) {
    std::vector<Target> pool = targets(20);
    pool[3].weight = 300;
    pool[4].weight = 0;
    pool[5].draining = true;
    std::vector<routing::EndpointState> states(pool.size());
    std::vector<routing::Candidate> candidates;
    for (size_t i = 0; i < pool.size(); ++i) {
        states[i].set(routing::closed_by_hand, pool[i].draining);
        candidates.push_back({to_string(pool[i].address), pool[i].weight, &states[i]});
    }
    pool[7].up = false;
    const TimePoint now(std::chrono::hours(1));
    for (uint64_t i = 0; i < routing::Health::failures_to_fall; ++i)
        states[7].health.failed(now);

    const routing::Selector selector(Policy::maglev, 42, candidates);
    const std::vector<uint32_t> ring = ring_of(Policy::maglev, 42, pool);
    uint64_t cursor = 0;
    for (uint32_t client = 0; client < 20'000; ++client) {
        const IpAddress address = IpAddress::v4(0xc0000000 + client);
        const auto chosen = selector.choose({.client = address, .cursor = cursor, .now = now, .tried = {}});
        ASSERT_EQ(ring[routing::maglev_hash(address, 42) % ring.size()], *chosen);
    }
}

TEST(Ring, OnlyTheClientsOfWhoIsMissingMove) {
    for (const Policy policy : {Policy::maglev, Policy::round_robin}) {
        std::vector<Target> pool = targets(5);
        const std::vector<uint32_t> all = ring_of(policy, 1, pool);
        pool[2].up = false;
        const std::vector<uint32_t> rest = ring_of(policy, 1, pool);
        ASSERT_EQ(all.size(), rest.size());
        for (size_t slot = 0; slot < all.size(); ++slot) {
            ASSERT_NE(rest[slot], 2U);
            if (all[slot] != 2) {
                ASSERT_EQ(rest[slot], all[slot]);
            }
        }
    }
}

TEST(Ring, TriesWhoIsDownWhereNobodyIsUpAndNobodyWhereNoneHasWeight) {
    std::vector<Target> pool = targets(2);
    pool[0].up = pool[1].up = false;
    const std::vector<uint32_t> ring = ring_of(Policy::maglev, 1, pool);
    EXPECT_NE(std::count(ring.begin(), ring.end(), 0U), 0);
    pool[0].draining = true;
    pool[1].weight = 0;
    EXPECT_TRUE(ring_of(Policy::maglev, 1, pool).empty());
    EXPECT_TRUE(ring_of(Policy::maglev, 1, {}).empty());
}

TEST(Ring, FollowsSharesAndTakesTheOthersWhereNobodyWithOneIsUp) {
    std::vector<Target> pool = targets(4);
    const std::array<uint32_t, 4> shares{0, 1000, 3000, 0};
    for (size_t i = 0; i < pool.size(); ++i)
        pool[i].share = shares[i];
    const auto share = [&](uint32_t target) {
        const std::vector<uint32_t> ring = ring_of(Policy::latency, 1, pool);
        return static_cast<double>(std::count(ring.begin(), ring.end(), target)) / static_cast<double>(ring.size());
    };
    EXPECT_EQ(share(0), 0);
    EXPECT_EQ(share(3), 0);
    EXPECT_NEAR(share(1), 0.25, 0.06);
    EXPECT_NEAR(share(2), 0.75, 0.06);
    pool[2].up = false;
    EXPECT_EQ(share(1), 1);
    pool[1].up = false;
    EXPECT_NEAR(share(0), 0.5, 0.1);
    EXPECT_NEAR(share(3), 0.5, 0.1);
}

TEST(Ring, RoundRobinKnowsNoWeights) {
    std::vector<Target> pool = targets(2);
    pool[0].weight = 900;
    const auto share = [&](Policy policy) {
        const std::vector<uint32_t> ring = ring_of(policy, 1, pool);
        return static_cast<double>(std::count(ring.begin(), ring.end(), 0U)) / static_cast<double>(ring.size());
    };
    EXPECT_NEAR(share(Policy::round_robin), 0.5, 0.01);
    EXPECT_NEAR(share(Policy::weighted_round_robin), 0.9, 0.01);
}

TEST(Ring, RegionsLieBesideEachOther) {
    EXPECT_EQ(find_region({}, 10, 10), 0U);
    EXPECT_EQ(find_region({}, 11, 10), std::nullopt);
    EXPECT_EQ(find_region({{0, 5}, {15, 5}}, 10, 100), 5U);
    EXPECT_EQ(find_region({{0, 5}, {15, 5}}, 11, 100), 20U);
    EXPECT_EQ(find_region({{0, 5}, {15, 5}}, 11, 30), std::nullopt);
}

}  // namespace
}  // namespace marchproxy::packet
