#include "routing/maglev.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>

namespace marchproxy::routing {
namespace {

constexpr uint32_t size = 65'537;

struct Pool {
    std::vector<std::string> names;
    std::vector<MaglevEndpoint> endpoints;
};

Pool pool(size_t count, uint32_t weight = 100) {
    Pool made;
    for (size_t i = 0; i < count; ++i)
        made.names.push_back(fmt::format("10.{}.{}.{}:80", i / 65536, i / 256 % 256, i % 256));
    for (const std::string& name : made.names)
        made.endpoints.push_back({name, weight});
    return made;
}

// For each slot whose it is, by name.
std::vector<std::string> owners(const std::vector<MaglevEndpoint>& endpoints, uint64_t seed = 1,
                                uint32_t slots = size) {
    std::vector<std::string> names;
    for (const uint32_t index : maglev_table(endpoints, seed, slots))
        names.emplace_back(index == maglev_nobody ? "" : endpoints[index].identity);
    return names;
}

std::map<uint32_t, uint32_t> shares(const std::vector<uint32_t>& table) {
    std::map<uint32_t, uint32_t> slots;
    for (const uint32_t index : table)
        ++slots[index];
    return slots;
}

TEST(Maglev, SpreadsSlotsEvenly) {
    for (const size_t count : {1UL, 2UL, 3UL, 10UL, 655UL}) {
        const Pool made = pool(count);
        const auto held = shares(maglev_table(made.endpoints, 1, maglev_size(count)));
        ASSERT_EQ(held.size(), count);
        for (const auto& [index, slots] : held)
            EXPECT_NEAR(slots, static_cast<double>(size) / static_cast<double>(count), 1);
    }
}

TEST(Maglev, SpreadsClientsEvenly) {
    const Pool made = pool(10);
    const std::vector<uint32_t> table = maglev_table(made.endpoints, 1, size);
    std::vector<int> clients(10);
    for (uint32_t i = 0; i < 100'000; ++i)
        ++clients[table[maglev_hash(IpAddress::v4(0x0a000000 + i), 1) % size]];
    for (const int count : clients)
        EXPECT_NEAR(count, 10'000, 500);  // five standard deviations
}

TEST(Maglev, RemovingAnEndpointMovesFewOfTheOthersClients) {
    for (const size_t count : {3UL, 10UL, 100UL, 500UL}) {
        const Pool made = pool(count);
        const auto before = owners(made.endpoints);
        auto left = made.endpoints;
        left.erase(left.begin() + static_cast<int>(count / 2));
        const auto after = owners(left);
        int moved = 0;
        for (size_t i = 0; i < size; ++i)
            moved += before[i] != made.names[count / 2] && before[i] != after[i] ? 1 : 0;
        EXPECT_LT(moved, size * 4 / 100) << count;  // a modulo would move nearly all
    }
}

TEST(Maglev, IsTheSameOnEveryNodeWhateverTheOrder) {
    Pool made = pool(50);
    for (size_t i = 0; i < made.endpoints.size(); ++i)
        made.endpoints[i].weight = static_cast<uint32_t>(i % 3 + 1);
    const auto here = owners(made.endpoints);
    std::shuffle(made.endpoints.begin(), made.endpoints.end(), std::mt19937(4));
    EXPECT_EQ(owners(made.endpoints), here);
}

// Nodes of different releases share clients: a change of these values breaks that and needs a word to users. They come
// from a separate implementation of the paper's pseudocode.
TEST(Maglev, StaysTheSameFromReleaseToRelease) {
    const Pool made = pool(5);
    const std::vector<uint32_t> table = maglev_table(made.endpoints, 7, 13);
    EXPECT_EQ(table, (std::vector<uint32_t>{0, 2, 0, 3, 3, 1, 1, 1, 4, 2, 4, 0, 2}));
    EXPECT_EQ(maglev_hash(*IpAddress::parse("192.0.2.1"), 7), 1676281915071624678U);
    EXPECT_EQ(maglev_hash(*IpAddress::parse("2001:db8::1"), 7), 8126019440043818717U);
}

TEST(Maglev, AnotherSeedIsAnotherTable) {
    const Pool made = pool(10);
    const auto one = owners(made.endpoints, 1), two = owners(made.endpoints, 2);
    int same = 0;
    for (size_t i = 0; i < size; ++i)
        same += one[i] == two[i] ? 1 : 0;
    EXPECT_NEAR(same, size / 10, size / 50);
    EXPECT_NE(maglev_hash(IpAddress::v4(1), 1), maglev_hash(IpAddress::v4(1), 2));
}

TEST(Maglev, SlotsFollowWeights) {
    Pool made = pool(4);
    const std::vector<uint32_t> weights{300, 100, 50, 0};
    for (size_t i = 0; i < 4; ++i)
        made.endpoints[i].weight = weights[i];
    auto held = shares(maglev_table(made.endpoints, 1, size));
    for (uint32_t i = 0; i < 4; ++i)
        EXPECT_NEAR(held[i], size * (weights[i] / 450.0), 2) << i;
    EXPECT_EQ(held[3], 0U);
}

TEST(Maglev, OnlyProportionsOfWeightsCount) {
    EXPECT_EQ(owners(pool(7, 1).endpoints), owners(pool(7, 1'000'000).endpoints));
}

TEST(Maglev, WithoutAnyWeightNobodyIsInIt) {
    EXPECT_EQ(maglev_table({}, 1, 13), std::vector<uint32_t>(13, maglev_nobody));
    EXPECT_EQ(maglev_table(pool(3, 0).endpoints, 1, 13), std::vector<uint32_t>(13, maglev_nobody));
}

TEST(Maglev, GrowsWithTheEndpoints) {
    EXPECT_EQ(maglev_size(0), 65'537U);
    EXPECT_EQ(maglev_size(655), 65'537U);
    EXPECT_EQ(maglev_size(656), 655'373U);
    EXPECT_EQ(maglev_size(6554), 6'553'621U);
    EXPECT_EQ(maglev_size(1'000'000), 6'553'621U);
}

}  // namespace
}  // namespace marchproxy::routing
