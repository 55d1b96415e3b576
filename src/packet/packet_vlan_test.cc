// VLAN tags: whichever a frame comes in with, it leaves with that of the link it leaves by. At TC the kernel's VLAN
// devices put it in.
#include <sched.h>

#include "packet/wire_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

class Tags : public Plane {
  protected:
    // Clients in VLAN 100 and endpoints in VLAN 200 of interfaces of their own.
    static void two_vlans() {
        stands_for("front", "front_peer", 100);
        stands_for("back", "back_peer", 200);
    }
    struct Row {
        const char* name;
        Frame up, out, down, home;  // a client's request and what it becomes; the endpoint's answer and what it becomes
    };
    // A flow of each family and protocol, from frames that begin as given.
    static std::vector<Row> rows(const Frame& client_link, const Frame& endpoint_link) {
        const Frame up = client_link.ipv4(client, "10.0.0.1"), up6 = client_link.ipv6(client6, "2001:db8:a::1");
        const Frame out = eth().ipv4(source, "10.1.0.1").ttl(63), out6 = eth().ipv6(source6, "2001:db8:e::1").ttl(63);
        const Frame down = endpoint_link.ipv4("10.1.0.1", source), down6 = endpoint_link.ipv6("2001:db8:e::1", source6);
        const Frame home = eth().ipv4("10.0.0.1", client).ttl(63), home6 = eth().ipv6("2001:db8:a::1", client6).ttl(63);
        return {
            {"UDP", up.udp(5000, 80), out.udp(5000, 8080), down.udp(8080, 5000), home.udp(80, 5000)},
            {"UDP, IPv6", up6.udp(5000, 80), out6.udp(5000, 8080), down6.udp(8080, 5000), home6.udp(80, 5000)},
            {"TCP", up.tcp(5000, 80, syn), out.tcp(5000, 8080, syn), down.tcp(8080, 5000, syn | ack),
             home.tcp(80, 5000, syn | ack)},
            {"TCP, IPv6", up6.tcp(5000, 80, syn), out6.tcp(5000, 8080, syn), down6.tcp(8080, 5000, syn | ack),
             home6.tcp(80, 5000, syn | ack)},
        };
    }
    void bounces(const char* row, const Bytes& frame, const char* interface, const Bytes& expected) {
        const Outcome outcome = run(frame, interface);
        EXPECT_EQ(outcome.went, GetParam() == Hook::xdp ? Went::bounced : Went::sent) << row;
        EXPECT_EQ(hex(outcome.frame), hex(expected)) << row;
        EXPECT_TRUE(outcome.refusals.empty()) << row;
    }
    static Bytes out_of(const Frame& frame, bool back) {
        return back ? frame.from(back_mac, back_gateway) : frame.from(front_mac, front_gateway);
    }
};
INSTANTIATE_HOOKS(Tags);

TEST_P(Tags, AreTakenOffTowardsALinkWithout) {
    for (const Frame& link : {eth().vlan(7), eth().vlan(5 << 13 | 7), eth().vlan(100).vlan(4094)})
        for (const Row& row : rows(link, link)) {
            goes_up(row.name, row.up, row.out);
            goes_down(row.name, row.down, row.home);
        }
    passes("three are not ours", eth().vlan(1).vlan(2).vlan(3).ipv4(client, "10.0.0.1").udp(5000, 80));
}

TEST_P(Tags, ArePutInTowardsAVlan) {
    two_vlans();
    for (const Row& row : rows(eth(), eth())) {
        goes_up(row.name, row.up, into(row.out, 200));
        goes_down(row.name, row.down, into(row.home, 100));
    }
    const abi::next_hop hop = hop_of(nat_udp);
    EXPECT_EQ(hop.interface, ::if_nametoindex("back"));
    EXPECT_EQ(hop.xdp_interface, ::if_nametoindex("back_peer"));
    EXPECT_EQ(hop.xdp_tag, abi::vlan_tag(htons(0x8100), htons(200)));
}

// What a CPU learned of a way at one hook, it uses at the other as that needs it.
TEST_P(Tags, WaysAreLearnedForBothHooks) {
    cpu_set_t all, one;
    ASSERT_EQ(::sched_getaffinity(0, sizeof all, &all), 0);
    CPU_ZERO(&one);
    CPU_SET(static_cast<size_t>(::sched_getcpu()), &one);
    ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
    two_vlans();
    for (const Row& row : rows(eth(), eth())) {
        run_alone(row.up, "front", GetParam() == Hook::xdp ? Hook::tc : Hook::xdp);
        run_alone(row.down, "back", GetParam() == Hook::xdp ? Hook::tc : Hook::xdp);
        goes_up(row.name, row.up, into(row.out, 200));
        goes_down(row.name, row.down, into(row.home, 100));
    }
    ASSERT_EQ(::sched_setaffinity(0, sizeof all, &all), 0);
}

// The priority is that of a frame of ours: the least.
TEST_P(Tags, ChangeFromOneVlanToAnother) {
    two_vlans();
    for (const unsigned priority : {0, 5 << 13}) {
        const auto tag = [&](unsigned number) { return eth().vlan(static_cast<uint16_t>(number | priority)); };
        for (const Row& row : rows(tag(100), tag(200))) {
            goes_up(row.name, row.up, into(row.out, 200));
            goes_down(row.name, row.down, into(row.home, 100));
        }
    }
}

TEST_P(Tags, TwoBecomeOne) {
    two_vlans();
    for (const Row& row : rows(eth().vlan(30).vlan(100), eth().vlan(30).vlan(200))) {
        goes_up(row.name, row.up, into(row.out, 200));
        goes_down(row.name, row.down, into(row.home, 100));
    }
}

TEST_P(Tags, OfAProvidersKind) {
    stands_for("back", "back_peer", 200, 0x88a8);
    for (const Row& row : rows(eth().vlan(200), eth())) {
        Bytes expected = out_of(into(row.out, 200), true);
        if (GetParam() == Hook::xdp) put16(expected, 12, 0x88a8);
        goes(row.name, row.up, "front", expected);
    }
}

// Of a trunk that has both, XDP sends back out of it.
TEST_P(Tags, BackOutOfTheTrunk) {
    for (const uint16_t endpoints : std::initializer_list<uint16_t>{100, 200}) {
        stands_for("front", "front_peer", 100);
        stands_for("back", "front_peer", endpoints);
        for (const Row& row : rows(eth().vlan(100), eth().vlan(endpoints))) {
            bounces(row.name, row.up, "front_peer", out_of(into(row.out, endpoints), true));
            bounces(row.name, row.down, "front_peer", out_of(into(row.home, 100), false));
        }
    }
}

// And the trunk's own network beside its VLANs.
TEST_P(Tags, BetweenAVlanAndTheTrunkItself) {
    stands_for("front", "back", 100);
    for (const Row& row : rows(eth().vlan(100), eth())) {
        bounces(row.name, row.up, "back", out_of(row.out, true));
        bounces(row.name, row.down, "back", out_of(into(row.home, 100), false));
    }
}

TEST_P(Tags, NoneIsSentWhereItWouldTakeTwo) {
    stands_for("back", nullptr, 200);
    for (const bool v6 : {false, true}) {
        const Row row = rows(eth().vlan(100), eth())[v6];
        if (GetParam() == Hook::xdp)
            drops(row.name, row.up, v6 ? nat_udp6 : nat_udp, abi::packet_verdict_no_route);
        else
            goes_up(row.name, row.up, row.out);
    }
}

TEST_P(Tags, PartsGoWithTheirFirst) {
    two_vlans();
    for (const bool v6 : {false, true}) {
        const Row row = rows(eth().vlan(100), eth())[v6];
        const std::string data(200, 'x');
        const auto in = parts(row.up.payload(data), {64, 128});
        const auto out = parts(out_of(into(row.out, 200).payload(data), true), {64, 128});
        for (size_t i = 0; i < in.size(); ++i) {
            const Outcome outcome = run(in[i]);
            EXPECT_STREQ(name_of(outcome.went), "sent") << row.name << i;
            EXPECT_EQ(hex(outcome.frame), hex(out[i])) << row.name << i;
        }
    }
}

TEST_P(Tags, ErrorsTakeThoseOfTheirWay) {
    two_vlans();
    for (const bool v6 : {false, true}) {
        const Row row = rows(eth().vlan(100), eth())[v6];
        run_alone(row.up);
        const Icmp icmp = v6 ? Icmp{true, 1, 0, 4} : Icmp{false, 3, 0, 3};
        const Frame link = eth().vlan(200);
        const Frame in = v6 ? link.ipv6("2001:db8:e::99", source6) : link.ipv4("10.1.0.99", source);
        const Frame out = v6 ? eth().ipv6("2001:db8:e::99", client6) : eth().ipv4("10.1.0.99", client);
        const Bytes sent = out_of(row.out, true);
        const Frame asked = v6 ? eth().ipv6(client6, "2001:db8:a::1") : eth().ipv4(client, "10.0.0.1");
        goes(row.name, icmp_message(in.ttl(60).payload(quote(sent)), icmp), "back",
             icmp_message(
                 into(out, 100).from(front_mac, front_gateway).ttl(59).payload(quote(asked.ttl(63).udp(5000, 80))),
                 icmp));
    }
}

// What is answered here goes back by the way it came, tags and all, whatever the routes say.
TEST_P(Tags, AnswersKeepTheirs) {
    two_vlans();
    expect(programs->set_directory(**build_directory(entries(true))));
    const Mac asker{2, 0, 0, 0, 0, 1}, proxy{2, 0, 0, 0, 0, 2};
    for (const Frame& link : {eth().vlan(100), eth().vlan(7), eth().vlan(30).vlan(100)})
        for (const bool v6 : {false, true}) {
            const char* from = v6 ? client6 : client;
            const char* to = v6 ? "2001:db8:a::1" : "10.0.0.1";
            const auto between = [&](const char* a, const char* b) { return v6 ? link.ipv6(a, b) : link.ipv4(a, b); };
            const Frame asked = between(from, to).payload("are you there");
            const Icmp question{v6, static_cast<uint8_t>(v6 ? 128 : 8), 0x12340007};
            const Icmp answer{v6, static_cast<uint8_t>(v6 ? 129 : 0), 0x12340007};
            bounces("ping", icmp_message(asked, question), "front",
                    icmp_message(between(to, from).from(proxy, asker).payload("are you there"), answer));
        }
}

// --- on the wire ---------------------------------------------------------------------------------------------------

class TagsOnTheWire : public Tags {
  protected:
    void SetUp() override {
        Tags::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        // veth takes what XDP sends where its peer receives by NAPI.
        ASSERT_EQ(
            std::system("ip link add trunk type veth peer trunk_peer && ip link set trunk up &&"
                        "ip link set trunk_peer up && ethtool -K trunk_peer gro on && ethtool -K back_peer gro on"),
            0);
        attach(*programs, GetParam(), "front");
    }
    static std::vector<Frame> links() { return {eth(), eth().vlan(100), eth().vlan(30).vlan(100)}; }
};
INSTANTIATE_HOOKS(TagsOnTheWire);

TEST_P(TagsOnTheWire, AreTakenOff) {
    const Wire clients("front_peer"), endpoints("back_peer");
    for (const Frame& link : links())
        for (const Row& row : rows(link, eth())) {
            clients.send(row.up.from(front_gateway, front_mac));
            EXPECT_EQ(hex(endpoints.next_to(back_gateway)), hex(out_of(row.out, true))) << row.name;
        }
}

TEST_P(TagsOnTheWire, ArePutInAndSentByTheTrunk) {
    stands_for("back", "trunk", 200);
    const Wire clients("front_peer"), endpoints(GetParam() == Hook::xdp ? "trunk_peer" : "back_peer");
    for (const Frame& link : links())
        for (const Row& row : rows(link, eth())) {
            clients.send(row.up.from(front_gateway, front_mac));
            EXPECT_EQ(hex(endpoints.next_to(back_gateway)), hex(out_of(into(row.out, 200), true))) << row.name;
        }
}

// Where the kernel holds a packet until it knows the neighbour, too, it has no tag beside it any more.
TEST_P(TagsOnTheWire, AreTakenOffWhatTheKernelHolds) {
    if (GetParam() != Hook::tc) return;
    ASSERT_EQ(std::system("ip route replace 10.1.0.0/16 dev back"), 0);
    const Wire clients("front_peer"), endpoints("back_peer");
    clients.send(eth().vlan(100).ipv4(client, "10.0.0.1").udp(5000, 80).from(front_gateway, front_mac));
    const Bytes question = endpoints.next_to({255, 255, 255, 255, 255, 255});
    ASSERT_GE(question.size(), 42u) << "the kernel asks for the endpoint";
    EXPECT_EQ(get16(question, 12), 0x0806u);
    ASSERT_EQ(std::system("ip neighbour replace 10.1.0.1 lladdr 02:00:00:00:0b:02 dev back"), 0);
    EXPECT_EQ(hex(endpoints.next_to(back_gateway)),
              hex(out_of(eth().ipv4(source, "10.1.0.1").ttl(63).udp(5000, 8080), true)));
}

// Those beside the frame, too, which BPF_PROG_TEST_RUN cannot give; at XDP all are in it.
TEST_P(TagsOnTheWire, OfAnswersAreTheAskers) {
    if (GetParam() != Hook::tc) return;
    expect(programs->set_directory(**build_directory(entries(true))));
    expect(programs->set_interface(::if_nametoindex("front"), front_mac));
    take_neighbours();
    const Wire clients("front_peer");
    for (const Frame& link : links())
        for (const bool v6 : {false, true}) {
            const auto between = [&](const char* a, const char* b) { return v6 ? link.ipv6(a, b) : link.ipv4(a, b); };
            const char* from = v6 ? client6 : client;
            const char* to = v6 ? "2001:db8:a::1" : "10.0.0.1";
            const Icmp question{v6, static_cast<uint8_t>(v6 ? 128 : 8), 0x12340007};
            const Icmp answer{v6, static_cast<uint8_t>(v6 ? 129 : 0), 0x12340007};
            clients.send(icmp_message(between(from, to).from(front_gateway, front_mac), question));
            EXPECT_EQ(hex(clients.next_to(front_gateway)),
                      hex(icmp_message(between(to, from).from(front_mac, front_gateway), answer)));
        }
    for (const Frame& link : {eth().vlan(100), eth().vlan(100).vlan(30)}) {
        Bytes asks = link.from(front_gateway, front_mac).ipv4("0.0.0.0", "0.0.0.0");
        const size_t network = dissect(asks)->network;
        asks.resize(network - 2);
        const Bytes rest{8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0xf, 2, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 1};
        asks.insert(asks.end(), rest.begin(), rest.end());
        clients.send(asks);
        const Bytes answer = clients.next_to(front_gateway);
        ASSERT_EQ(answer.size(), asks.size());
        EXPECT_EQ(hex(Bytes(answer.begin() + 12, answer.begin() + static_cast<long>(network))),
                  hex(Bytes(asks.begin() + 12, asks.begin() + static_cast<long>(network))));
        const auto told = take_neighbours();
        ASSERT_EQ(told.size(), network == 18 ? 1u : 0u);
        if (network == 18) {
            EXPECT_EQ(told[0].tag, abi::vlan_tag(htons(0x8100), htons(100)));
        }
        forget_next_hops();
    }
}

}  // namespace
}  // namespace marchproxy::packet
