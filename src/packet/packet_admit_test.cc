// Who may enter, who may begin, and who is there to take it.
#include <functional>

#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

class Admit : public Plane {
  protected:
    void change(uint32_t index, const std::function<void(abi::packet_service&)>& how) {
        abi::packet_service changed = service(index);
        how(changed);
        expect(programs->set_service(index, changed));
    }
    // A service has these lists from now on.
    void list(uint32_t index, const Access& access) {
        lists_.insert_or_assign(index, access_tree(access));
        expect(programs->set_access(lists_));
        change(index, [](auto& s) { s.flags = abi::service_has_access; });
    }
    static Prefix prefix(const char* text) { return *Prefix::parse(text); }
    static Frame udp(const char* from, uint16_t port = 5000) { return eth().ipv4(from, "10.0.0.1").udp(port, 80); }
    static Frame udp6(const char* from) { return eth().ipv6(from, "2001:db8:a::1").udp(5000, 80); }
    void enters(const char* row, const Bytes& frame) { EXPECT_EQ(run(frame).went, Went::sent) << row; }

  private:
    AccessTrees lists_;
};
INSTANTIATE_HOOKS(Admit);

TEST_P(Admit, WhomItsListsLetIn) {
    list(nat_udp, {.allow = {prefix("11.0.0.0/16")}, .deny = {prefix("11.0.7.0/25"), prefix("11.0.7.255")}});
    list(nat_udp6, {.allow = {prefix("2001:db8:c::/64")}, .deny = {prefix("2001:db8:c::bad")}});
    enters("allowed", udp("11.0.0.1"));
    drops("denied", udp("11.0.7.1"), nat_udp, abi::packet_verdict_access_denied);
    enters("allowed among the denied", udp("11.0.7.254"));
    drops("denied, alone", udp("11.0.7.255"), nat_udp, abi::packet_verdict_access_denied);
    drops("not covered", udp("11.1.0.1"), nat_udp, abi::packet_verdict_access_denied);
    drops("denied, who is not told of its hop limit", udp("11.0.7.1").ttl(1), nat_udp,
          abi::packet_verdict_access_denied);
    enters("allowed, IPv6", udp6("2001:db8:c::1"));
    drops("denied, IPv6", udp6("2001:db8:c::bad"), nat_udp6, abi::packet_verdict_access_denied);
    drops("not covered, IPv6", udp6("2001:db8:d::1"), nat_udp6, abi::packet_verdict_access_denied);
    enters("another service has no list", eth().ipv4("11.1.0.1", "10.0.0.1").tcp(5000, 80, syn));
}

TEST_P(Admit, AServiceMayLetInWhomNoPrefixCovers) {
    list(nat_udp, {.allow = {}, .deny = {prefix("11.0.7.0/24")}});
    enters("not covered", udp("11.200.0.1"));
    drops("denied", udp("11.0.7.1"), nat_udp, abi::packet_verdict_access_denied);
    list(nat_udp, {.allow = {}, .deny = {prefix("11.0.8.0/24")}});
    enters("no longer", udp("11.0.7.1"));
    drops("denied instead", udp("11.0.8.1"), nat_udp, abi::packet_verdict_access_denied);
    expect(programs->set_access({}));
    enters("the list is gone before its service says so", udp("11.0.8.1"));
}

TEST_P(Admit, ADenialEndsAFlowThatHasBegun) {
    enters("not denied yet", udp("11.0.9.1"));
    list(nat_udp, {.allow = {}, .deny = {prefix("11.0.9.1")}});
    drops("now", udp("11.0.9.1"), nat_udp, abi::packet_verdict_access_denied);
}

TEST_P(Admit, NewFlowsAreLimitedOldOnesAreNot) {
    constexpr uint32_t hour = 3'600'000'000;
    change(nat_udp, [](auto& s) { s.new_flow_step = hour, s.new_flow_tolerance = 0; });
    enters("the first", udp(client, 5000));
    drops("the next", udp(client, 5001), nat_udp, abi::packet_verdict_rate_limit);
    enters("of a flow", udp(client, 5000));
    change(nat_udp, [](auto&) {});
    enters("no limit", udp(client, 5002));
    change(nat_udp, [](auto& s) { s.new_flow_step = hour, s.new_flow_tolerance = 0; });
    drops("limited again", udp(client, 5003), nat_udp, abi::packet_verdict_rate_limit);
    enters("of a flow", udp(client, 5002));
    enters("of another service", eth().ipv4(client, "10.0.0.2").udp(5001, 80));
}

TEST_P(Admit, AServiceWithoutEndpointsRefuses) {
    change(nat_udp, [](auto& s) { s.ring = 0; });
    change(dnat_tcp, [](auto& s) { s.ring = 0; });
    drops("nat", udp(client), nat_udp, abi::packet_verdict_no_endpoint);
    drops("dnat", eth().ipv4(client, "10.0.0.2").tcp(5000, 80, syn), dnat_tcp, abi::packet_verdict_no_endpoint);
    change(nat_udp, [](auto&) {});
    enters("an endpoint came", udp(client));
    change(nat_udp, [](auto& s) { s.ring = 0; });
    enters("its flows go on without new ones", udp(client));
}

TEST_P(Admit, AnEndpointOutOfUseEndsItsFlows) {
    enters("in use", udp(client));
    set_endpoint(nat_udp, 0);
    drops("an old flow", udp(client), nat_udp, abi::packet_verdict_no_endpoint);
    drops("a new flow", udp(client, 5001), nat_udp, abi::packet_verdict_no_endpoint);
    set_endpoint(nat_udp, abi::endpoint_in_use);
    enters("back in use", udp(client));
}

TEST_P(Admit, TheLastHopAndRoutesEndPackets) {
    goes_up("TTL 2", udp(client).ttl(2), eth().ipv4(source, "10.1.0.1").ttl(1).udp(5000, 8080));
    ASSERT_EQ(std::system("ip route add blackhole 11.0.66.0/24"), 0);
    run_alone(udp("11.0.66.1", 5005));
    drops("no way back", eth().ipv4("10.1.0.1", source).udp(8080, 5005), nat_udp, abi::packet_verdict_no_route, "back");
}

// Out of the interface it came in by: XDP sends it from there itself.
TEST_P(Admit, BouncesWhereBothSidesAreOnOneInterface) {
    const Outcome outcome = run(udp(client), "back");
    EXPECT_EQ(outcome.went, GetParam() == Hook::xdp ? Went::bounced : Went::sent);
    EXPECT_EQ(outcome.frame,
              eth().from(back_mac, back_gateway).ipv4(source, "10.1.0.1").ttl(63).udp(5000, 8080).bytes());
}

// A limit of flows at one time; one that ends makes room.
TEST_P(Admit, FlowsAtOneTimeAreLimited) {
    const auto lives = [&] {  // of earlier tests
        const auto swept = programs->sweep(0, programs->flow_buckets());
        return swept.ok() && programs->take_reports([](const abi::flow_report&) {}).ok();
    };
    change(nat_udp, [](auto& s) { s.protocol = 0; });  // gone: its flows end
    ASSERT_TRUE(lives());
    set_admission(nat_udp, {});
    change(nat_udp, [](auto& s) { s.connections = 2, s.opening_seconds = s.idle_seconds = 60; });
    enters("first", udp("11.0.0.1"));
    enters("second", udp("11.0.0.2"));
    drops("third", udp("11.0.0.3"), nat_udp, abi::packet_verdict_connection_limit);
    enters("first, again", udp("11.0.0.1"));
    chunks_of(*programs, "client_flows").age(100);
    chunks_of(*programs, "endpoint_flows").age(100);
    ASSERT_TRUE(lives());
    enters("third, when the others are over", udp("11.0.0.3"));
}

// A client that comes back on the ports of a flow that is over, to an endpoint that drains.
TEST_P(Admit, AClosedFlowDoesNotBeginAgainAtAnEndpointThatDrains) {
    const Frame to = eth().ipv4(client, "10.0.0.1");
    const auto answered = [&] {
        run(eth().ipv4("10.1.0.1", source).tcp(8080, 5000, syn | ack), "back");
        enters("ACK", Frame(to).tcp(5000, 80, ack));
    };
    enters("SYN", Frame(to).tcp(5000, 80, syn));
    answered();
    enters("RST", Frame(to).tcp(5000, 80, rst));
    enters("again, while it takes flows", Frame(to).tcp(5000, 80, syn));
    set_endpoint(nat_tcp, abi::endpoint_in_use);
    enters("the flow that lives goes on", Frame(to).tcp(5000, 80, syn));
    answered();
    enters("RST", Frame(to).tcp(5000, 80, rst));
    drops("again", Frame(to).tcp(5000, 80, syn), nat_tcp, abi::packet_verdict_no_endpoint);
}

// On the ports of one that is over, too.
TEST_P(Admit, WhatBeginsAnewIsLimitedAsWhatBegins) {
    const Frame to = eth().ipv4(client, "10.0.0.1");
    enters("SYN", Frame(to).tcp(5000, 80, syn));
    run(eth().ipv4("10.1.0.1", source).tcp(8080, 5000, rst | ack), "back");
    abi::packet_service limited = service(nat_tcp);
    limited.connections = 1;
    expect(programs->set_service(nat_tcp, limited));
    drops("no place", Frame(to).tcp(5000, 80, syn), nat_tcp, abi::packet_verdict_connection_limit);
    limited.connections = 0;
    limited.new_flow_step = 3'600'000'000;
    expect(programs->set_service(nat_tcp, limited));
    enters("the one of this hour", Frame(to).tcp(5000, 80, syn));
    run(eth().ipv4("10.1.0.1", source).tcp(8080, 5000, rst | ack), "back");
    drops("not another", Frame(to).tcp(5000, 80, syn), nat_tcp, abi::packet_verdict_rate_limit);
}

// --- whose address it cannot be ------------------------------------------------------------------------------------

TEST_P(Admit, NoFlowBeginsFromWhereNobodyCanBe) {
    expect(programs->set_directory(**build_directory(entries(true))));
    for (const char* from :
         {"0.0.0.0", "0.0.3.255", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.0.0.1", "10.0.0.2"}) {
        drops(from, eth().ipv4(from, "10.0.0.1").udp(80, 80), nat_udp, abi::packet_verdict_spoofed_source);
        drops(from, eth().ipv4(from, "10.0.0.2").tcp(80, 80, syn), dnat_tcp, abi::packet_verdict_spoofed_source);
    }
    for (const char* from : {"::", "::1", "ff02::1", "2001:db8:a::1", "2001:db8:a::2"}) {
        drops(from, eth().ipv6(from, "2001:db8:a::1").udp(80, 80), nat_udp6, abi::packet_verdict_spoofed_source);
        drops(from, eth().ipv6(from, "2001:db8:a::2").tcp(80, 80, syn), dnat_tcp6, abi::packet_verdict_spoofed_source);
    }
    goes_up("its neighbour", eth().ipv4("10.0.0.9", "10.0.0.2").udp(80, 80),
            eth().ipv4("10.0.0.9", "10.1.0.2").ttl(63).udp(80, 8080));
    goes_up("an endpoint", eth().ipv4("10.1.0.1", "10.0.0.2").udp(80, 80),
            eth().ipv4("10.1.0.1", "10.1.0.2").ttl(63).udp(80, 8080));
    goes_up("the loopback's neighbour", eth().ipv6("::2", "2001:db8:a::2").udp(80, 80),
            eth().ipv6("::2", "2001:db8:e::2").ttl(63).udp(80, 8080));
}

}  // namespace
}  // namespace marchproxy::packet
