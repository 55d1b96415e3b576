#include "packet/access_tree.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "packet/access_rows.h"

namespace marchproxy::packet {
namespace {

using testing::admits;
using testing::prefix;

AccessTree tree_of(const Access& access) {
    return *access_tree(fold_access(access));
}

// Few bits differ, so that prefixes nest and part everywhere.
IpAddress draw_address(std::mt19937& random, bool v4) {
    if (v4) return IpAddress::v4(static_cast<uint32_t>(random() & random() & 0xc1834307));
    IpAddress drawn;
    drawn.bytes[0] = 0x20;
    for (int i = 0; i < 3; ++i)
        drawn.bytes[random() % 16] ^= static_cast<uint8_t>(1 << random() % 8);
    return drawn;
}
Prefix draw_prefix(std::mt19937& random, bool v4) {
    Prefix drawn{draw_address(random, v4), static_cast<uint8_t>(v4 ? 96 + random() % 33 : random() % 129)};
    for (size_t bit = drawn.length; bit < 128; ++bit)
        drawn.ip.bytes[bit / 8] &= static_cast<uint8_t>(~(1 << (7 - bit % 8)));
    if (!v4 && drawn.ip.is_v4()) drawn.length = 128;  // ::ffff:0:0 itself: as good as any
    return drawn;
}
Access draw_access(std::mt19937& random, size_t most) {
    Access access;
    for (size_t i = random() % most; i > 0; --i)
        access.allow.push_back(draw_prefix(random, random() % 2));
    for (size_t i = random() % most; i > 0; --i)
        access.deny.push_back(draw_prefix(random, random() % 2));
    return access;
}

// Hosts that have little in common.
std::shared_ptr<const AccessTree> scattered(std::mt19937& random, int hosts) {
    Access access;
    for (int i = 0; i < hosts; ++i) {
        IpAddress host = IpAddress::v4(static_cast<uint32_t>(random()));
        if (i % 2) host.bytes[0] = 0x20;
        access.deny.push_back({host, 128});
    }
    return access_tree(access);
}

TEST(AccessTree, SaysWhatTheListsSay) {
    std::mt19937 random(3);
    for (int round = 0; round < 3'000; ++round) {
        const Access access = draw_access(random, round % 10 ? 6 : 60);
        const AccessTree tree = tree_of(access);
        std::vector<IpAddress> asked{IpAddress::v4(0), IpAddress::v4(UINT32_MAX), {}};
        for (int i = 0; i < 40; ++i)
            asked.push_back(draw_address(random, i % 2));
        for (const auto* list : {&access.allow, &access.deny})
            for (const Prefix& listed : *list) {
                asked.push_back(listed.ip);
                IpAddress last = listed.ip, beside = listed.ip;
                for (size_t bit = listed.length; bit < 128; ++bit)
                    last.bytes[bit / 8] |= static_cast<uint8_t>(1 << (7 - bit % 8));
                asked.push_back(last);
                beside.bytes[random() % 16] ^= static_cast<uint8_t>(1 << random() % 8);
                asked.push_back(beside);
            }
        for (const IpAddress& address : asked)
            ASSERT_EQ(tree.passes(address), admits(access, address)) << to_string(address) << " in round " << round;
    }
}

TEST(AccessTree, ThereIsNoneWhereListsSayNothing) {
    EXPECT_EQ(access_tree(Access{}), nullptr);
    EXPECT_NE(access_tree(Access{.allow = {prefix("::/0")}, .deny = {}}), nullptr);
}

TEST(AccessTree, ALonePrefixTakesOneNode) {
    EXPECT_EQ(tree_of({.allow = {}, .deny = {prefix("192.0.2.128/25")}}).nodes.size(), 2u) << "and IPv6's first";
    EXPECT_EQ(tree_of({.allow = {}, .deny = {prefix("2001:db8::/56")}}).nodes.size(), 2u);
    EXPECT_LE(tree_of({.allow = {}, .deny = {prefix("2001:db8::1")}}).nodes.size(), 4u) << "a path has 57 bits";
}

// What the bound on entries stands on: most_access_prefixes have room in one half.
TEST(AccessTree, APrefixTakesTwoNodesAtMost) {
    std::mt19937 random(4);
    for (const unsigned shortest : {8U, 16U, 24U}) {
        Access access;
        for (int i = 0; i < 30'000; ++i) {
            const auto length = static_cast<unsigned>(shortest + random() % (33 - shortest));
            const auto bits = static_cast<uint32_t>(random()) >> (32 - length) << (32 - length);
            access.deny.push_back({IpAddress::v4(bits), static_cast<uint8_t>(96 + length)});
        }
        const FoldedAccess folded = fold_access(access);
        EXPECT_LE(access_tree(folded)->nodes.size(), 2 * folded.entries.size() + 2);
    }
}

TEST(AccessTree, TreesPackedComeBackTheSame) {
    std::mt19937 random(5);
    AccessTrees trees;
    for (uint32_t service = 1; service < 400; service += 1 + static_cast<uint32_t>(random() % 3))
        trees.emplace(service, scattered(random, 20));
    auto packed = pack(trees, 4097, 100);
    ASSERT_TRUE(packed.ok()) << packed.error();
    EXPECT_EQ(packed->roots->first_chunk, 4097u);
    EXPECT_GT(packed->roots->chunks, 3u) << "siblings at the end of a chunk are to be seen";
    const auto again = unpack(*packed);
    ASSERT_TRUE(again);
    EXPECT_TRUE(same(*again, trees));
    trees.erase(trees.begin());
    EXPECT_FALSE(same(*again, trees));
}

TEST(AccessTree, SiblingsLieInOneChunk) {
    Access access;
    for (uint32_t i = 0; i < 64 * 64; ++i)
        access.deny.push_back({IpAddress::v4(i << 20 | 1), 128});
    const auto packed = pack({{1, access_tree(access)}}, 1, 100);
    ASSERT_TRUE(packed.ok()) << packed.error();
    std::set<uint32_t> taken;
    for (const abi::access_chunk& chunk : packed->chunks)
        for (const abi::access_node& node : chunk.node)
            for (uint32_t child = 0; child < static_cast<uint32_t>(__builtin_popcountll(node.deeper)); ++child) {
                const uint32_t place = node.children + child;
                EXPECT_LT(place & 1023U, uint32_t{abi::access_chunk_nodes});
                EXPECT_LE(place >> 10, packed->roots->chunks);
                EXPECT_TRUE(taken.insert(place).second) << "two parents";
            }
    EXPECT_GE(taken.size(), 64u * 64);
}

TEST(AccessTree, SaysThatThereIsNoRoom) {
    std::mt19937 random(6);
    AccessTrees trees;
    for (uint32_t service = 1; service < 100; ++service)
        trees.emplace(service, scattered(random, 20));
    const auto packed = pack(trees, 1, 2);
    ASSERT_FALSE(packed.ok());
    EXPECT_NE(packed.error().find("fold them into larger networks"), std::string::npos);
}

TEST(AccessTree, DoesNotTakeForATreeWhatIsNone) {
    std::mt19937 random(7);
    const AccessTrees trees{{1, scattered(random, 20)}, {2, scattered(random, 20)}};
    for (int round = 0; round < 2'000; ++round) {
        auto packed = pack(trees, 1, 10);
        ASSERT_TRUE(packed.ok());
        abi::access_node& node = packed->chunks[0].node[random() % 40];
        (random() % 2 ? node.children : packed->roots->of[1].v6) = static_cast<uint32_t>(random());
        unpack(*packed);  // whatever it says, it ends and reads nothing else
    }
    auto packed = pack(trees, 1, 10);
    packed->roots->of[2].v4 = 5;
    EXPECT_FALSE(unpack(*packed));
}

}  // namespace
}  // namespace marchproxy::packet
