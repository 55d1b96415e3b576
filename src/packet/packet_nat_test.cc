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
