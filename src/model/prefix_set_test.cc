#include "model/prefix_set.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace marchproxy {
namespace {

IpAddress ip(std::string_view text) {
    return *IpAddress::parse(text);
}

std::vector<Prefix> prefixes(std::initializer_list<std::string_view> texts) {
    std::vector<Prefix> out;
    for (const std::string_view text : texts)
        out.push_back(*Prefix::parse(text));
    return out;
}

TEST(PrefixSet, AnEmptyOneContainsNobody) {
    EXPECT_TRUE(PrefixSet().empty());
    EXPECT_FALSE(PrefixSet().contains(ip("10.0.0.1")));
    EXPECT_FALSE(PrefixSet().contains(ip("::")));
}

TEST(PrefixSet, ContainsExactlyItsRanges) {
    const PrefixSet set(prefixes({"10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8", "192.0.2.7", "2001:db8::/32"}));
    EXPECT_FALSE(set.empty());
    for (const std::string_view inside : {"10.0.0.0", "10.255.255.255", "11.0.0.0", "11.255.255.255", "192.0.2.7",
                                          "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"})
        EXPECT_TRUE(set.contains(ip(inside))) << inside;
    for (const std::string_view outside : {"9.255.255.255", "12.0.0.0", "192.0.2.6", "192.0.2.8", "::10.0.0.1",
                                           "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::", "::", "::1"})
        EXPECT_FALSE(set.contains(ip(outside))) << outside;
}

TEST(PrefixSet, AllOfOneFamilyIsNothingOfTheOther) {
    const PrefixSet six(prefixes({"::/0"}));
    EXPECT_TRUE(six.contains(ip("::")));
    EXPECT_TRUE(six.contains(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")));
    EXPECT_FALSE(six.contains(ip("0.0.0.0")));
    EXPECT_FALSE(six.contains(ip("255.255.255.255")));
    const PrefixSet around(prefixes({"::/80", "::fffe:0:0/95"}));  // both end where IPv4 does
    EXPECT_TRUE(around.contains(ip("::fffe:0:1")));
    EXPECT_FALSE(around.contains(ip("0.0.0.0")));
    EXPECT_FALSE(around.contains(ip("255.255.255.255")));
    const PrefixSet four(prefixes({"0.0.0.0/0"}));
    EXPECT_TRUE(four.contains(ip("255.255.255.255")));
    EXPECT_FALSE(four.contains(ip("::1")));
    const PrefixSet both(prefixes({"0.0.0.0/0", "::/0"}));
    EXPECT_TRUE(both.contains(ip("10.0.0.1")));
    EXPECT_TRUE(both.contains(ip("2001:db8::1")));
}

// Random prefixes in a small corner of the space, so that they nest, touch and repeat; the edges of each are asked.
TEST(PrefixSet, AgreesWithAskingEveryPrefix) {
    std::mt19937 random(3);
    const auto below = [&](uint32_t bound) { return static_cast<uint32_t>(random()) % bound; };
    for (int round = 0; round < 200; ++round) {
        std::vector<Prefix> list;
        std::vector<IpAddress> questions;
        for (uint32_t i = 0, count = 1 + below(30); i < count; ++i) {
            const uint32_t length = below(4) == 0 ? below(33) : 24 + below(9);
            const uint32_t mask = length == 0 ? 0 : ~0U << (32 - length);
            const uint32_t base = (0x0a000000U | below(1024)) & mask;
            list.push_back({IpAddress::v4(base), static_cast<uint8_t>(96 + length)});
            for (const uint32_t edge : {base, base - 1, base | ~mask, (base | ~mask) + 1})
                questions.push_back(IpAddress::v4(edge));
        }
        const PrefixSet set(list);
        for (const IpAddress& question : questions) {
            const bool expected =
                std::any_of(list.begin(), list.end(), [&](const Prefix& prefix) { return prefix.contains(question); });
            ASSERT_EQ(set.contains(question), expected) << to_string(question);
        }
    }
}

TEST(AccessList, AdmitsEverybodyWhenNothingIsSaid) {
    EXPECT_TRUE(AccessList().admits(ip("10.0.0.1")));
    EXPECT_TRUE(AccessList(Access{}).admits(ip("2001:db8::1")));
}

TEST(AccessList, AnAllowListShutsOutTheRest) {
    const AccessList list(Access{prefixes({"10.0.0.0/8"}), {}});
    EXPECT_TRUE(list.admits(ip("10.1.2.3")));
    EXPECT_FALSE(list.admits(ip("11.0.0.1")));
    EXPECT_FALSE(list.admits(ip("::1")));
}

TEST(AccessList, DenyWins) {
    const AccessList list(Access{prefixes({"10.0.0.0/8"}), prefixes({"10.1.0.0/16"})});
    EXPECT_TRUE(list.admits(ip("10.2.0.1")));
    EXPECT_FALSE(list.admits(ip("10.1.0.1")));
    const AccessList only_deny(Access{{}, prefixes({"10.1.0.0/16"})});
    EXPECT_FALSE(only_deny.admits(ip("10.1.0.1")));
    EXPECT_TRUE(only_deny.admits(ip("8.8.8.8")));
}

}  // namespace
}  // namespace marchproxy
