#include "packet/access_entries.h"

#include <gtest/gtest.h>

#include <random>

#include "packet/access_rows.h"

namespace marchproxy::packet {
namespace {

// The longest prefix by bits, whatever family it was written for.
bool passes(const FoldedAccess& folded, const IpAddress& address) {
    const bool* best = nullptr;
    int longest = -1;
    for (const auto& [prefix, verdict] : folded.entries) {
        bool same = true;
        for (size_t bit = 0; bit < prefix.length && same; ++bit)
            same = ((prefix.ip.bytes[bit / 8] ^ address.bytes[bit / 8]) >> (7 - bit % 8) & 1) == 0;
        if (!same || prefix.length <= longest) continue;
        longest = prefix.length;
        best = &verdict;
    }
    return best ? *best : folded.others_pass;
}

using testing::admits;
using testing::prefix;

TEST(FoldAccess, NothingListedAdmitsEverybody) {
    const FoldedAccess folded = fold_access({});
    EXPECT_TRUE(folded.entries.empty());
    EXPECT_TRUE(folded.others_pass);
}

TEST(FoldAccess, DenyWinsInsideAndAroundWhatIsAllowed) {
    const FoldedAccess folded = fold_access({.allow = {prefix("10.0.0.0/8"), prefix("192.168.1.0/24")},
                                             .deny = {prefix("10.1.0.0/16"), prefix("192.168.0.0/16")}});
    EXPECT_EQ(folded.entries, (AccessEntries{{prefix("10.0.0.0/8"), true}, {prefix("10.1.0.0/16"), false}}));
    EXPECT_FALSE(folded.others_pass);
}

TEST(FoldAccess, PrefixesOfIpv6DoNotMeanIpv4) {
    const IpAddress four = *IpAddress::parse("192.0.2.1"), six = *IpAddress::parse("2001:db8::1");
    const FoldedAccess denied = fold_access({.allow = {}, .deny = {prefix("::/0")}});
    EXPECT_TRUE(passes(denied, four));
    EXPECT_FALSE(passes(denied, six));
    const FoldedAccess allowed = fold_access({.allow = {prefix("::/0")}, .deny = {prefix("::1")}});
    EXPECT_FALSE(passes(allowed, four));
    EXPECT_TRUE(passes(allowed, six));
    EXPECT_FALSE(passes(allowed, *IpAddress::parse("::1")));
}

// A small world, so that prefixes nest: few bits differ, some of them at the edges of IPv4's block.
Prefix draw_prefix(std::mt19937& random) {
    Prefix drawn;
    if (random() % 2) {
        drawn.length = static_cast<uint8_t>(96 + random() % 33);
        drawn.ip = IpAddress::v4(static_cast<uint32_t>(random() & 0x0f000003));
    } else {
        drawn.length = static_cast<uint8_t>(random() % 129);
        if (random() % 2) drawn.ip.bytes[10] = drawn.ip.bytes[11] = 0xff;
        drawn.ip.bytes[random() % 16] ^= static_cast<uint8_t>(1 << random() % 8);
        if (drawn.ip.is_v4() && drawn.length < 96) drawn.length = 96;
    }
    for (size_t bit = drawn.length; bit < 128; ++bit)
        drawn.ip.bytes[bit / 8] &= static_cast<uint8_t>(~(1 << (7 - bit % 8)));
    return drawn;
}

std::vector<IpAddress> addresses_about(const Access& access, std::mt19937& random) {
    std::vector<IpAddress> addresses{IpAddress::v4(0), IpAddress::v4(UINT32_MAX), {}};
    for (const auto* list : {&access.allow, &access.deny})
        for (const Prefix& listed : *list) {
            addresses.push_back(listed.ip);
            for (int i = 0; i < 4; ++i) {
                IpAddress near = listed.ip;
                near.bytes[random() % 16] ^= static_cast<uint8_t>(1 << random() % 8);
                addresses.push_back(near);
            }
        }
    return addresses;
}

TEST(FoldAccess, SaysWhatTheListsSay) {
    std::mt19937 random(1);
    for (int round = 0; round < 20'000; ++round) {
        Access access;
        for (size_t i = random() % 5; i > 0; --i)
            access.allow.push_back(draw_prefix(random));
        for (size_t i = random() % 5; i > 0; --i)
            access.deny.push_back(draw_prefix(random));
        const FoldedAccess folded = fold_access(access);
        for (const IpAddress& address : addresses_about(access, random))
            ASSERT_EQ(passes(folded, address), admits(access, address)) << to_string(address) << " in round " << round;
    }
}

TEST(FoldAccess, SaysItOfEveryAddressOfASmallNetwork) {
    std::mt19937 random(2);
    for (int round = 0; round < 2'000; ++round) {
        Access access;
        for (size_t i = 0; i < 6; ++i) {
            const auto length = static_cast<uint8_t>(120 + random() % 9);
            const uint32_t host = static_cast<uint32_t>(random() & 255) >> (128 - length) << (128 - length);
            (random() % 2 ? access.allow : access.deny).push_back({IpAddress::v4(0x0a000000 | host), length});
        }
        const FoldedAccess folded = fold_access(access);
        for (uint32_t host = 0; host < 256; ++host)
            ASSERT_EQ(passes(folded, IpAddress::v4(0x0a000000 | host)),
                      admits(access, IpAddress::v4(0x0a000000 | host)));
    }
}

}  // namespace
}  // namespace marchproxy::packet
