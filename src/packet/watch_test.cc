#include "packet/watch.h"

#include <gmock/gmock.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

#include <array>
#include <chrono>
#include <random>

#include "packet/test_namespace.h"

namespace marchproxy::packet {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Kind = InterfaceChange::Kind;
using Bytes = std::vector<std::byte>;

Bytes link_message(uint16_t type, int index, std::string_view name, uint8_t family = AF_UNSPEC) {
    netlink::Request request(type);
    ifinfomsg link{};
    link.ifi_family = family;
    link.ifi_index = index;
    request.append(link).attribute(IFLA_IFNAME, std::as_bytes(std::span(name)));
    const auto bytes = request.bytes();
    return {bytes.begin(), bytes.end()};
}

Bytes neighbour_message(uint8_t family) {
    netlink::Request request(RTM_NEWNEIGH);
    ndmsg neighbour{};
    neighbour.ndm_family = family;
    request.append(neighbour);
    const auto bytes = request.bytes();
    return {bytes.begin(), bytes.end()};
}

TEST(NoteChanges, TellsNewInterfacesFromChangedOnes) {
    InterfaceNames names;
    Changes changes;
    note_changes(link_message(RTM_NEWLINK, 7, "eth7"), names, changes);
    EXPECT_TRUE(changes.links);
    EXPECT_THAT(changes.interfaces, ::testing::ElementsAre(InterfaceChange{Kind::appeared, 7, "eth7"}));

    changes = {};
    note_changes(link_message(RTM_NEWLINK, 7, "eth7"), names, changes);
    EXPECT_TRUE(changes.links);
    EXPECT_THAT(changes.interfaces, IsEmpty()) << "only its state changed";

    changes = {};
    note_changes(link_message(RTM_NEWLINK, 7, "wan"), names, changes);
    EXPECT_THAT(changes.interfaces, ::testing::ElementsAre(InterfaceChange{Kind::vanished, 7, "eth7"},
                                                           InterfaceChange{Kind::appeared, 7, "wan"}));

    changes = {};
    note_changes(link_message(RTM_DELLINK, 7, "wan", AF_BRIDGE), names, changes);
    EXPECT_FALSE(changes.any()) << "it left a bridge and is there still";

    note_changes(link_message(RTM_DELLINK, 7, "wan"), names, changes);
    EXPECT_THAT(changes.interfaces, ::testing::ElementsAre(InterfaceChange{Kind::vanished, 7, "wan"}));
    EXPECT_THAT(names, IsEmpty());
}

TEST(NoteChanges, LeavesTheTablesOfBridgesAlone) {
    InterfaceNames names;
    Changes changes;
    note_changes(neighbour_message(AF_BRIDGE), names, changes);
    EXPECT_FALSE(changes.neighbours);
    note_changes(neighbour_message(AF_INET6), names, changes);
    EXPECT_TRUE(changes.neighbours);
}

TEST(NoteChanges, ReadsNothingBehindTheEndOfABrokenMessage) {
    const Bytes whole = link_message(RTM_NEWLINK, 7, "eth7");
    for (size_t length = 0; length < whole.size(); ++length) {
        const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
        InterfaceNames names;
        Changes changes;
        note_changes(cut, names, changes);
        EXPECT_FALSE(changes.any()) << length;
    }
    std::mt19937 random(1);
    for (int round = 0; round < 20'000; ++round) {
        Bytes bent = link_message(RTM_NEWLINK, 7, "eth7");
        const Bytes second = neighbour_message(AF_INET);
        bent.insert(bent.end(), second.begin(), second.end());
        for (int count = 0; count < 3; ++count)
            bent[random() % bent.size()] = static_cast<std::byte>(random());
        InterfaceNames names;
        Changes changes;
        note_changes(bent, names, changes);
        for (const InterfaceChange& change : changes.interfaces)
            EXPECT_LE(change.name.size(), bent.size());
    }
}

// A length of zero must end the walk, not repeat it for ever.
TEST(NoteChanges, EndsAtALengthOfZero) {
    Bytes bytes = link_message(RTM_NEWLINK, 7, "eth7");
    std::memset(bytes.data() + sizeof(nlmsghdr) + sizeof(ifinfomsg), 0, sizeof(uint16_t));
    InterfaceNames names;
    Changes changes;
    note_changes(bytes, names, changes);
    EXPECT_THAT(changes.interfaces, IsEmpty());
    std::memset(bytes.data(), 0, sizeof(uint32_t));
    changes = {};
    note_changes(bytes, names, changes);
    EXPECT_FALSE(changes.any());
}

class Watch : public testing::Namespace {
  protected:
    static NetworkWatch open() {
        auto watch = NetworkWatch::open();
        EXPECT_TRUE(watch.ok()) << (watch.ok() ? "" : watch.error());
        return std::move(*watch);
    }

    // What came until `enough`, or for two seconds.
    template <class Enough>
    static Changes wait(NetworkWatch& watch, Enough enough) {
        Changes all;
        const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2);
        while (!enough(all) && std::chrono::steady_clock::now() < end) {
            pollfd waiting{watch.descriptor(), POLLIN, 0};
            constexpr int milliseconds = 100;
            ::poll(&waiting, 1, milliseconds);
            const Changes now = watch.read();
            all.links |= now.links;
            all.addresses |= now.addresses;
            all.routes |= now.routes;
            all.neighbours |= now.neighbours;
            all.settings |= now.settings;
            all.everything |= now.everything;
            all.interfaces.insert(all.interfaces.end(), now.interfaces.begin(), now.interfaces.end());
        }
        return all;
    }
};

TEST_F(Watch, IsQuietWhileNothingChanges) {
    NetworkWatch watch = open();
    EXPECT_THAT(watch.interfaces(), Contains(std::pair(::if_nametoindex("near"), std::string("near"))));
    // Carrier and the kernel's own addresses may still come from the interfaces that were just made.
    wait(watch, [](const Changes&) { return false; });
    EXPECT_FALSE(watch.read().any());
}

TEST_F(Watch, ReportsInterfacesThatComeAndGo) {
    NetworkWatch watch = open();
    const unsigned index = ::if_nametoindex("near");
    ASSERT_TRUE(testing::run("ip link del near"));
    Changes changes = wait(watch, [](const Changes& seen) { return seen.interfaces.size() >= 2; });
    EXPECT_TRUE(changes.links);
    EXPECT_THAT(changes.interfaces, Contains(InterfaceChange{Kind::vanished, index, "near"}));
    ASSERT_TRUE(add_pair());
    const InterfaceChange returned{Kind::appeared, ::if_nametoindex("near"), "near"};
    changes = wait(watch, [](const Changes& seen) { return seen.interfaces.size() >= 2; });
    EXPECT_THAT(changes.interfaces, Contains(returned));
}

TEST_F(Watch, KnowsVlansThatComeAndGo) {
    if (!testing::run("ip link add link near name near.7 type vlan id 7")) GTEST_SKIP() << "no VLAN devices here";
    NetworkWatch watch = open();
    ASSERT_EQ(watch.vlans().size(), 1u) << "that was there before";
    const Vlan seven = watch.vlans().begin()->second;
    EXPECT_EQ(seven.name, "near.7");
    EXPECT_EQ(seven.below, ::if_nametoindex("near"));
    EXPECT_EQ(seven.tag, abi::vlan_tag(htons(0x8100), htons(7)));
    ASSERT_TRUE(testing::run("ip link add link near name provider type vlan proto 802.1ad id 8"));
    wait(watch, [&](const Changes&) { return watch.vlans().size() == 2; });
    EXPECT_TRUE(watch.vlans().contains(::if_nametoindex("provider")));
    ASSERT_TRUE(testing::run("ip link del near.7 && ip link del provider"));
    wait(watch, [&](const Changes&) { return watch.vlans().empty(); });
    EXPECT_THAT(watch.vlans(), IsEmpty());
}

TEST_F(Watch, ReportsAddressesRoutesAndNeighbours) {
    NetworkWatch watch = open();
    ASSERT_TRUE(testing::run("ip address add 10.9.0.1/24 dev near"));
    EXPECT_TRUE(wait(watch, [](const Changes& seen) { return seen.addresses; }).addresses);
    ASSERT_TRUE(testing::run("ip route add 10.10.0.0/16 via 10.9.0.2"));
    EXPECT_TRUE(wait(watch, [](const Changes& seen) { return seen.routes; }).routes);
    ASSERT_TRUE(testing::run("ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev near"));
    EXPECT_TRUE(wait(watch, [](const Changes& seen) { return seen.neighbours; }).neighbours);
    wait(watch, [](const Changes& seen) { return !seen.any(); });
    ASSERT_TRUE(testing::run("ip rule add to 10.11.0.0/16 table 100"));
    EXPECT_TRUE(wait(watch, [](const Changes& seen) { return seen.routes; }).routes);
}

// The kernel tells of each interface whose forwarding changes, also where that of all is set.
TEST_F(Watch, ReportsThatForwardingWasSwitched) {
    for (const char* setting : {"net.ipv4.conf.lo.forwarding", "net.ipv6.conf.lo.forwarding", "net.ipv4.ip_forward"}) {
        ASSERT_TRUE(testing::run(std::string("sysctl -qw ") + setting + "=0"));
        NetworkWatch watch = open();
        ASSERT_TRUE(testing::run(std::string("sysctl -qw ") + setting + "=1"));
        EXPECT_TRUE(wait(watch, [](const Changes& seen) { return seen.settings; }).settings) << setting;
    }
}

TEST_F(Watch, AnOverflowMeansEverythingAndLosesNoInterface) {
    NetworkWatch watch = open();
    const int smallest = 1;
    ASSERT_EQ(::setsockopt(watch.descriptor(), SOL_SOCKET, SO_RCVBUF, &smallest, sizeof smallest), 0);
    ASSERT_TRUE(testing::run("for n in 1 2 3 4 5 6 7 8; do ip link add dummy$n type veth peer name other$n; done"));
    const Changes changes = wait(watch, [](const Changes& seen) { return seen.everything; });
    EXPECT_TRUE(changes.everything);
    for (const char* name : {"dummy1", "dummy8"})
        EXPECT_THAT(watch.interfaces(), Contains(std::pair(::if_nametoindex(name), std::string(name))));
}

TEST_F(Watch, FindsNextHops) {
    ASSERT_TRUE(testing::run("ip address add 10.9.0.1/24 dev near && ip route add 10.10.0.0/16 via 10.9.0.2"));
    const unsigned near = ::if_nametoindex("near");
    const auto connected = find_next_hop(IpAddress::v4(0x0a090007));
    ASSERT_TRUE(connected.ok()) << connected.error();
    EXPECT_EQ(connected->interface_index, near);
    EXPECT_EQ(connected->address, IpAddress::v4(0x0a090007));
    const auto behind = find_next_hop(IpAddress::v4(0x0a0a0001));
    ASSERT_TRUE(behind.ok()) << behind.error();
    EXPECT_EQ(behind->interface_index, near);
    EXPECT_EQ(behind->address, IpAddress::v4(0x0a090002));
    const auto own = find_next_hop(IpAddress::v4(0x0a090001));
    ASSERT_TRUE(own.ok()) << own.error();
    EXPECT_TRUE(own->local);
    const auto none = find_next_hop(IpAddress::v4(0x08080808));
    ASSERT_FALSE(none.ok());
    EXPECT_THAT(none.error(), HasSubstr("no route to 8.8.8.8"));
}

TEST_F(Watch, FindsAnIpv6GatewayOfAnIpv4Route) {
    if (!testing::run("sysctl -qw net.ipv6.conf.near.disable_ipv6=0 && ip address add 2001:db8::1/64 dev near nodad && "
                      "ip route add 10.10.0.0/16 via inet6 2001:db8::2 dev near"))
        GTEST_SKIP() << "no IPv6 here";
    const auto hop = find_next_hop(IpAddress::v4(0x0a0a0001));
    ASSERT_TRUE(hop.ok()) << hop.error();
    EXPECT_EQ(to_string(hop->address), "2001:db8::2");
    const auto own_family = find_next_hop(*IpAddress::parse("2001:db8::7"));
    ASSERT_TRUE(own_family.ok()) << own_family.error();
    EXPECT_EQ(to_string(own_family->address), "2001:db8::7");
}

TEST_F(Watch, ResolvesANeighbourWithoutTraffic) {
    ASSERT_TRUE(testing::run("ip address add 10.9.0.1/24 dev near && ip route add 10.10.0.0/16 via 10.9.0.2"));
    const auto arp = htons(ETH_P_ARP);
    const Descriptor wire(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, arp));
    sockaddr_ll address{};
    address.sll_family = AF_PACKET;
    address.sll_protocol = arp;
    address.sll_ifindex = static_cast<int>(::if_nametoindex("far"));
    ASSERT_EQ(::bind(wire.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);

    const auto asked = resolve_neighbour(IpAddress::v4(0x0a0a0001));
    ASSERT_TRUE(asked.ok()) << asked.error();
    EXPECT_EQ(asked->address, IpAddress::v4(0x0a090002));
    pollfd waiting{wire.get(), POLLIN, 0};
    ASSERT_GT(::poll(&waiting, 1, 2000), 0) << "no ARP request was sent";
    std::array<uint8_t, 128> frame{};
    ASSERT_GE(::recv(wire.get(), frame.data(), frame.size(), 0), 42);
    constexpr size_t target = 14 + 24;  // behind the Ethernet header, the ARP target's address
    EXPECT_EQ((std::array{frame[target], frame[target + 1], frame[target + 2], frame[target + 3]}),
              (std::array<uint8_t, 4>{10, 9, 0, 2}));

    // One that an administrator set stays as it is.
    ASSERT_TRUE(testing::run("ip neigh replace 10.9.0.2 lladdr 02:00:00:00:00:02 dev near nud permanent"));
    ASSERT_TRUE(resolve_neighbour(IpAddress::v4(0x0a0a0001)).ok());
    EXPECT_TRUE(testing::run("ip neigh show 10.9.0.2 dev near nud permanent | grep -q 02:00:00:00:00:02"));
}

}  // namespace
}  // namespace marchproxy::packet
