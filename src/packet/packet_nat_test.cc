// nat: the endpoint sees an address of ours, and a port that stands for the client.
#include <set>

#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

class Nat : public Plane {
  protected:
    // The same packets over IPv4 and IPv6.
    static Frame ip(bool v6, const char* from4, const char* to4, const char* from6, const char* to6) {
        return v6 ? eth().ipv6(from6, to6) : eth().ipv4(from4, to4);
    }
    static Frame from_client(bool v6, const char* from = nullptr) {
        return ip(v6, from ? from : client, "10.0.0.1", from ? from : client6, "2001:db8:a::1");
    }
    static Frame to_endpoint(bool v6) { return ip(v6, source, "10.1.0.1", source6, "2001:db8:e::1"); }
    static Frame from_endpoint(bool v6) { return ip(v6, "10.1.0.1", source, "2001:db8:e::1", source6); }
    static Frame to_client(bool v6, const char* to = nullptr) {
        return ip(v6, "10.0.0.1", to ? to : client, "2001:db8:a::1", to ? to : client6);
    }
};
INSTANTIATE_HOOKS(Nat);

TEST_P(Nat, UdpGoesThereAndBackOnTheClientsOwnPort) {
    for (const bool v6 : {false, true}) {
        goes_up("there", from_client(v6).udp(5000, 80), to_endpoint(v6).ttl(63).udp(5000, 8080));
        goes_down("back", from_endpoint(v6).ttl(60).udp(8080, 5000), to_client(v6).ttl(59).udp(80, 5000));
        goes_up("again", from_client(v6).udp(5000, 80).payload("x"),
                to_endpoint(v6).ttl(63).udp(5000, 8080).payload("x"));
        goes_up("empty", from_client(v6).udp(5000, 80).payload(""),
                to_endpoint(v6).ttl(63).udp(5000, 8080).payload(""));
        goes_up("odd length, padded", from_client(v6).udp(5000, 80).payload("abc").padding(15),
                to_endpoint(v6).ttl(63).udp(5000, 8080).payload("abc").padding(15));
    }
}

TEST_P(Nat, TcpGoesThereAndBackOnTheClientsOwnPort) {
    const Bytes options{2, 4, 5, 180, 1, 3, 3, 7};
    for (const bool v6 : {false, true}) {
        goes_up("SYN", from_client(v6).tcp(5000, 80, syn).tcp_options(options).payload(""),
                to_endpoint(v6).ttl(63).tcp(5000, 8080, syn).tcp_options(options).payload(""));
        goes_down("SYN and ACK", from_endpoint(v6).tcp(8080, 5000, syn | ack).tcp_options(options).payload(""),
                  to_client(v6).ttl(63).tcp(80, 5000, syn | ack).tcp_options(options).payload(""));
        goes_up("data", from_client(v6).tcp(5000, 80, ack | push), to_endpoint(v6).ttl(63).tcp(5000, 8080, ack | push));
        goes_down("answer", from_endpoint(v6).tcp(8080, 5000, ack), to_client(v6).ttl(63).tcp(80, 5000, ack));
    }
}

// Two clients on one port: the second gets another, by which the answers find it.
TEST_P(Nat, AnotherPortWhereTheClientsIsTaken) {
    for (const bool v6 : {false, true}) {
        const char* other = v6 ? "2001:db8:c::2" : "11.0.0.2";
        goes_up("first", from_client(v6).udp(6000, 80), to_endpoint(v6).ttl(63).udp(6000, 8080));
        const Outcome second = run(from_client(v6, other).udp(6000, 80));
        const auto d = dissect(second.frame);
        ASSERT_TRUE(d && second.went == Went::sent);
        const auto port = static_cast<uint16_t>(get16(second.frame, d->transport));
        EXPECT_NE(port, 6000);
        EXPECT_GE(port, 1024);
        goes_up("second, again", from_client(v6, other).udp(6000, 80), to_endpoint(v6).ttl(63).udp(port, 8080));
        goes_down("to the second", from_endpoint(v6).udp(8080, port), to_client(v6, other).ttl(63).udp(80, 6000));
        goes_down("to the first", from_endpoint(v6).udp(8080, 6000), to_client(v6).ttl(63).udp(80, 6000));
    }
}

TEST_P(Nat, APortBelowTheFirstOfOursIsReplaced) {
    const Outcome outcome = run(from_client(false).udp(53, 80));
    const auto d = dissect(outcome.frame);
    ASSERT_TRUE(d && outcome.went == Went::sent);
    EXPECT_GE(get16(outcome.frame, d->transport), 1024u);
    EXPECT_TRUE(is_sound(outcome.frame));
}

TEST_P(Nat, UdpAndTcpAreDifferentFlows) {
    goes_up("UDP", from_client(false).udp(5000, 80), to_endpoint(false).ttl(63).udp(5000, 8080));
    drops("TCP is not begun by it", from_client(false).tcp(5000, 80, ack), nat_tcp, abi::packet_verdict_no_flow);
    passes("nor answered", from_endpoint(false).tcp(8080, 5000, ack), "back");
}

TEST_P(Nat, TcpBeginsWithASynOnly) {
    for (const bool v6 : {false, true})
        for (const int flags : {+ack, ack | push, fin | ack, +rst, rst | ack, syn | ack, syn | rst, 0})
            drops("not a SYN", from_client(v6).tcp(5001, 80, static_cast<uint8_t>(flags)), v6 ? nat_tcp6 : nat_tcp,
                  abi::packet_verdict_no_flow);
}

TEST_P(Nat, TheEndpointsOwnTrafficWithTheMachinePasses) {
    for (const bool v6 : {false, true}) {
        passes("an answer that nobody waits for", from_endpoint(v6).udp(8080, 5000), "back");
        passes("from another port", from_endpoint(v6).udp(9, 5000), "back");
        goes_up("a flow", from_client(v6).udp(5000, 80), to_endpoint(v6).ttl(63).udp(5000, 8080));
        passes("to another port of ours", from_endpoint(v6).udp(8080, 5001), "back");
        passes("past our addresses",
               ip(v6, "10.1.0.1", "198.51.100.254", "2001:db8:e::1", "2001:db8:b::254").udp(8080, 5000), "back");
    }
}

TEST_P(Nat, PortsAreExhaustedByName) {
    Capacity few = small;
    few.nat_port_first = 40'000;
    few.nat_ports = 4;
    load(few);
    int sent = 0, refused = 0;
    for (uint16_t port = 1; port <= 12; ++port) {
        const Outcome outcome = run(from_client(false).udp(static_cast<uint16_t>(50'000 + port), 80));
        if (outcome.went == Went::sent) {
            ++sent;
            const auto d = dissect(outcome.frame);
            ASSERT_TRUE(d);
            EXPECT_GE(get16(outcome.frame, d->transport), 40'000u);
            EXPECT_LT(get16(outcome.frame, d->transport), 40'004u);
        } else {
            ++refused;
            ASSERT_EQ(outcome.refusals.size(), 1u);
            EXPECT_EQ(outcome.refusals[0], std::pair(uint32_t{nat_udp}, abi::packet_verdict_local_ports));
        }
    }
    EXPECT_EQ(sent, 4);
    EXPECT_EQ(refused, 8);
    const auto counters = programs->service_counters(nat_udp);
    EXPECT_EQ(counters->flows, 4u);
}

// The machine's one address may be a service's too: its port is not given to flows, and what comes there is a client's.
TEST_P(Nat, APortAtWhichAServiceListensIsNotTaken) {
    Capacity few = small;
    few.nat_port_first = 40'000;
    few.nat_ports = 4;
    load(few);
    set_endpoint(nat_udp, abi::endpoint_in_use | abi::endpoint_takes | abi::endpoint_shares);
    std::vector<abi::directory_entry> directory = entries();
    directory.push_back({address_of(source), htons(40'001), udp_protocol, abi::directory_service, dnat_udp});
    expect(programs->set_directory(**build_directory(directory)));
    std::set<unsigned> taken;
    for (uint16_t port = 1; port <= 12; ++port) {
        const Outcome outcome = run(from_client(false).udp(static_cast<uint16_t>(50'000 + port), 80));
        if (outcome.went != Went::sent) continue;
        const auto d = dissect(outcome.frame);
        ASSERT_TRUE(d);
        taken.insert(get16(outcome.frame, d->transport));
    }
    EXPECT_EQ(taken, (std::set<unsigned>{40'000, 40'002, 40'003}));
}

// At size: one service, two endpoints and one source address, so that three of four ports are taken in the end.
class NatAtSize : public Nat {
  protected:
    static constexpr uint32_t flows = 100'000;

    // Another beside the service's own.
    void two_endpoints(bool v6) {
        constexpr uint32_t second = place_count;
        const uint32_t first = v6 ? nat_udp6 : nat_udp;
        abi::packet_endpoint made{};
        made.address = address_of(endpoint(v6, 1));
        made.port_be = htons(endpoint_port);
        made.protocol = udp_protocol;
        made.flags = abi::endpoint_in_use | abi::endpoint_takes;
        made.source_first = v6 ? 2 : 1;
        made.source_count = 1;
        expect(programs->set_endpoint(second, made));
        const uint32_t ring[] = {first, second};
        expect(programs->set_ring(place_count, ring));
        abi::packet_service changed = service(first);
        changed.ring = uint64_t{place_count} << 32 | 2;
        expect(programs->set_service(first, changed));
        std::vector<abi::directory_entry> directory = entries();
        directory.push_back({made.address, made.port_be, udp_protocol, abi::directory_endpoint, second});
        expect(programs->set_directory(**build_directory(directory)));
    }
    static const char* endpoint(bool v6, size_t which) {
        constexpr const char* all[][2] = {{"10.1.0.1", "10.1.0.77"}, {"2001:db8:e::1", "2001:db8:e::77"}};
        return all[v6][which];
    }
    // Each on ten ports, the same for all, so that hardly any finds its own free.
    static std::string client_of(bool v6, uint32_t flow) {
        const uint32_t number = flow / 10;
        return v6 ? fmt::format("2001:db8:c::{:x}", number + 1) : fmt::format("11.1.{}.{}", number >> 8, number & 0xff);
    }
    static uint16_t port_of(uint32_t flow) { return static_cast<uint16_t>(20'000 + flow % 10); }
};
INSTANTIATE_HOOKS(NatAtSize);

TEST_P(NatAtSize, EveryFlowHasItsOwnPortAndItsAnswers) {
    Capacity large = small;
    large.flows = 2 * flows;
    load(large);
    for (const bool v6 : {false, true}) {
        two_endpoints(v6);
        constexpr uint32_t nobody = ~0U;
        std::vector<uint32_t> owners(2 << 16, nobody);  // flows, by endpoint and port
        uint32_t refused = 0;
        for (uint32_t flow = 0; flow < flows && !HasFailure(); ++flow) {
            const Bytes in = from_client(v6, client_of(v6, flow).c_str()).udp(port_of(flow), 80);
            const Outcome out = run_alone(in);
            if (out.went == Went::dropped) {
                ++refused;
                continue;
            }
            const Dissection d = *dissect(out.frame);
            const unsigned port = get16(out.frame, d.transport);
            const bool other = out.frame[d.addresses_at() + d.addresses_size() - 1] != 1;
            const Bytes expected = ip(v6, source, endpoint(v6, other), source6, endpoint(v6, other))
                                       .from(back_mac, back_gateway)
                                       .ttl(63)
                                       .udp(static_cast<uint16_t>(port), 8080);
            ASSERT_TRUE(out.frame == expected) << "flow " << flow << hex(in) << " became" << hex(out.frame);
            ASSERT_GE(port, 1024u) << flow << hex(in);
            uint32_t& owner = owners[other << 16 | port];
            ASSERT_EQ(owner, nobody) << "port " << port << " at " << endpoint(v6, other) << " is that flow's, not "
                                     << flow << "'s:" << hex(in);
            owner = flow;
        }
        EXPECT_LT(refused, flows / 100) << "32 attempts do nearly always where a fourth is free";
        // By a key that is another each time, a flow in a hundred thousand finds its bucket full.
        const auto counters = programs->service_counters(v6 ? nat_udp6 : nat_udp);
        const uint64_t full = counters->dropped[abi::packet_verdict_table_full];
        EXPECT_EQ(counters->dropped[abi::packet_verdict_local_ports] + full, refused);
        EXPECT_LE(full, 5u);
        for (size_t place = 0; place < owners.size() && !HasFailure(); place += 31) {
            if (owners[place] == nobody) continue;
            const uint32_t flow = owners[place];
            const char* from = endpoint(v6, place >> 16);
            goes_down(fmt::format("to flow {}", flow).c_str(),
                      ip(v6, from, source, from, source6).udp(8080, static_cast<uint16_t>(place)),
                      to_client(v6, client_of(v6, flow).c_str()).ttl(63).udp(80, port_of(flow)));
        }
    }
}

// One chunk is the whole table; what was refused left nothing, and what is in it goes on.
TEST_P(Nat, AFullTableRefusesByNameAndKeepsItsFlows) {
    std::vector<uint16_t> held;
    uint64_t refused = 0;
    for (uint16_t port = 2000; port < 30'000 && refused < 500; ++port) {
        const Outcome outcome = run_alone(from_client(false).udp(port, 80));
        if (outcome.went == Went::sent)
            held.push_back(port);
        else
            ++refused;
    }
    EXPECT_GT(held.size(), programs->flow_cells() * 97 / 100);
    const Outcome outcome = run(from_client(false).udp(40'000, 80));
    if (outcome.went == Went::dropped) {
        ASSERT_EQ(outcome.refusals.size(), 1u);
        EXPECT_EQ(outcome.refusals[0], std::pair(uint32_t{nat_udp}, abi::packet_verdict_table_full));
    }
    for (const uint16_t port : held)
        ASSERT_EQ(run_alone(from_client(false).udp(port, 80)).went, Went::sent) << port;
}

}  // namespace
}  // namespace marchproxy::packet
