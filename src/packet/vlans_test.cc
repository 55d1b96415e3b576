#include "packet/vlans.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include <random>

namespace marchproxy::packet {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Bytes = std::vector<std::byte>;

netlink::Bytes text(std::string_view words) {
    return std::as_bytes(std::span(words));
}

struct Link {
    int index = 0;
    std::string name;
    std::string kind = "vlan";
    uint32_t below = 2;
    uint16_t number = 0, protocol = 0x8100;
    bool elsewhere = false;
};

// As the kernel writes it, though with fewer attributes.
Bytes message(const Link& link, uint16_t type = RTM_NEWLINK, uint8_t family = AF_UNSPEC) {
    netlink::Request request(type);
    ifinfomsg header{};
    header.ifi_family = family;
    header.ifi_index = link.index;
    request.append(header).attribute(IFLA_IFNAME, text(link.name)).attribute(IFLA_LINK, link.below);
    if (link.elsewhere) request.attribute(IFLA_LINK_NETNSID, 0);
    const size_t info = request.open_nested(IFLA_LINKINFO);
    request.attribute(IFLA_INFO_KIND, text(link.kind));
    const size_t data = request.open_nested(IFLA_INFO_DATA);
    request.attribute(IFLA_VLAN_ID, link.number).attribute(IFLA_VLAN_PROTOCOL, htons(link.protocol));
    request.close_nested(data);
    request.close_nested(info);
    const auto bytes = request.bytes();
    return {bytes.begin(), bytes.end()};
}

uint32_t tag(uint16_t number, uint16_t protocol = 0x8100) {
    return abi::vlan_tag(htons(protocol), htons(number));
}

Vlans known(const std::vector<Link>& links) {
    Vlans vlans;
    for (const Link& link : links)
        note_vlans(message(link), vlans);
    return vlans;
}

TEST(Vlans, ComeAndGo) {
    const Link hundred{.index = 7, .name = "eth0.100", .number = 100};
    Vlans vlans = known({hundred, {.index = 8, .name = "provider", .number = 5, .protocol = 0x88a8}});
    EXPECT_EQ(vlans, (Vlans{{7, {.name = "eth0.100", .below = 2, .tag = tag(100)}},
                            {8, {.name = "provider", .below = 2, .tag = tag(5, 0x88a8)}}}));
    note_vlans(message(hundred, RTM_DELLINK, AF_BRIDGE), vlans);
    EXPECT_TRUE(vlans.contains(7)) << "it left a bridge and is there still";
    note_vlans(message({.index = 7, .name = "renamed", .number = 100}), vlans);
    EXPECT_EQ(vlans[7].name, "renamed");
    note_vlans(message(hundred, RTM_DELLINK), vlans);
    EXPECT_FALSE(vlans.contains(7));
}

TEST(Vlans, OthersAreNone) {
    EXPECT_THAT(known({{.index = 7, .name = "pair", .kind = "veth"}, {.index = 8, .name = "m", .kind = "macvlan"}}),
                IsEmpty());
}

TEST(Vlans, TagsLieInFramesAsTheyAreTold) {
    const uint32_t word = tag(0x123);
    uint8_t bytes[4];
    std::memcpy(bytes, &word, sizeof bytes);
    EXPECT_THAT(bytes, ElementsAre(0x81, 0x00, 0x01, 0x23));
}

TEST(Vlans, XdpIsToldWhatIsBelowAndOfNoneWhereItWouldTakeTwoTags) {
    const Vlans vlans = known({{.index = 7, .name = "eth0.100", .number = 100},
                               {.index = 8, .name = "eth0.100.5", .below = 7, .number = 5},
                               {.index = 9, .name = "given", .number = 9, .elsewhere = true}});
    const auto records = records_of(vlans);
    ASSERT_EQ(records.size(), 3u);
    EXPECT_EQ(records.at(7).parent, 2u);
    EXPECT_EQ(records.at(7).tag, tag(100));
    EXPECT_EQ(records.at(8).parent, 0u);
    EXPECT_EQ(records.at(9).parent, 0u);
    EXPECT_THAT(out_of_reach(vlans),
                ElementsAre(::testing::AllOf(HasSubstr("eth0.100.5: "), HasSubstr("on top of another one, eth0.100"),
                                             HasSubstr("no_route"), HasSubstr("packet.mode: tc")),
                            ::testing::AllOf(HasSubstr("given: "), HasSubstr("another network namespace"))));
}

TEST(Vlans, WhoIsSeenByATagIsSeenByItsDevice) {
    const Vlans vlans = known({{.index = 7, .name = "eth0.100", .number = 100},
                               {.index = 8, .name = "eth1.100", .below = 3, .number = 100},
                               {.index = 9, .name = "eth0.5", .number = 5, .protocol = 0x88a8}});
    EXPECT_EQ(device_of(vlans, 2, 0), 2u);
    EXPECT_EQ(device_of(vlans, 2, tag(100)), 7u);
    EXPECT_EQ(device_of(vlans, 3, tag(100)), 8u);
    EXPECT_EQ(device_of(vlans, 2, tag(5, 0x88a8)), 9u);
    EXPECT_EQ(device_of(vlans, 2, tag(5)), 0u);
    EXPECT_EQ(device_of(vlans, 3, tag(7)), 0u);
}

TEST(Vlans, NothingIsReadBehindTheEndOfABrokenMessage) {
    const Bytes whole = message({.index = 7, .name = "eth0.100", .number = 100});
    for (size_t length = 0; length < whole.size(); ++length) {
        Vlans vlans;
        note_vlans(netlink::Bytes(whole).first(length), vlans);
        EXPECT_THAT(vlans, IsEmpty()) << length;
    }
    std::mt19937 random(1);
    for (int round = 0; round < 20'000; ++round) {
        Bytes bent = whole;
        for (int count = 0; count < 3; ++count)
            bent[random() % bent.size()] = static_cast<std::byte>(random());
        Vlans vlans;
        note_vlans(bent, vlans);
        EXPECT_LE(vlans.size(), 1u);
    }
}

}  // namespace
}  // namespace marchproxy::packet
