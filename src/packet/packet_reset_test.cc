// The client of a TCP flow whose endpoint is dead is told so, in all ways of forwarding.
#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

constexpr uint32_t tcp_services[] = {nat_tcp, nat_tcp6, dnat_tcp, dnat_tcp6, ipip_tcp, ipip_tcp6, gue_tcp, gue_tcp6};
constexpr uint32_t opening_seconds = 60;
constexpr uint32_t said = 0x12345678, heard = 0xfedcba98;

class Reset : public Plane {
  protected:
    void SetUp() override {
        Plane::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        for (uint32_t i = 1; i < place_count; ++i) {
            abi::packet_service changed = service(i);
            changed.idle_seconds = 3600;
            changed.opening_seconds = opening_seconds;
            expect(programs->set_service(i, changed));
        }
        sweep();
    }
    static bool is_v6(uint32_t index) { return places[index].service[0] == '2'; }
    static bool is_dsr(uint32_t index) { return places[index].forwarding >= abi::forwarding_dsr_ipip; }
    static Frame to(uint32_t index) {
        return is_v6(index) ? eth().ipv6(client6, places[index].service) : eth().ipv4(client, places[index].service);
    }
    static Frame from(uint32_t index) {
        return is_v6(index) ? eth().ipv6(places[index].service, client6) : eth().ipv4(places[index].service, client);
    }
    static Frame answer_of(uint32_t index) {
        const char* endpoint = places[index].endpoint;
        const bool nat = places[index].forwarding == abi::forwarding_nat;
        return is_v6(index) ? eth().ipv6(endpoint, nat ? source6 : client6)
                            : eth().ipv4(endpoint, nat ? source : client);
    }
    void establish(uint32_t index) {
        run(to(index).tcp(5000, 80, syn));
        if (!is_dsr(index)) run(answer_of(index).tcp(8080, 5000, syn | ack), "back");
        run(to(index).tcp(5000, 80, ack));
        run(to(index).tcp(5000, 80, ack));
    }
    void kill(uint32_t index) { set_endpoint(index, abi::endpoint_dead); }

    // The sweep ends so many flows, each for this.
    void ends(size_t count, abi::packet_verdict why) {
        const auto ended = sweep();
        EXPECT_EQ(ended.size(), count);
        for (const abi::flow_report& report : ended)
            EXPECT_EQ(report.why, why);
    }
    static std::vector<abi::flow_report> sweep() {
        EXPECT_TRUE(programs->sweep(0, programs->flow_buckets(), 0, 0).ok());
        std::vector<abi::flow_report> reports;
        EXPECT_TRUE(programs->take_reports([&](const abi::flow_report& one) { reports.push_back(one); }).ok());
        return reports;
    }
    static void age(uint32_t seconds) {
        chunks_of(*programs, "client_flows").age(seconds);
        chunks_of(*programs, "endpoint_flows").age(seconds);
    }
    void is_reset(const char* row, uint32_t index, const Frame& frame) {
        const Outcome outcome = run(frame);
        EXPECT_STREQ(name_of(outcome.went), GetParam() == Hook::xdp ? "bounced" : "sent") << row;
        const Bytes expected = from(index)
                                   .from({2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 1})
                                   .tcp(80, 5000, rst)
                                   .sequence(heard)
                                   .acknowledges(0)
                                   .window(0)
                                   .payload("");
        EXPECT_EQ(hex(outcome.frame), hex(expected)) << row;
        ASSERT_EQ(outcome.refusals.size(), 1u) << row;
        EXPECT_EQ(outcome.refusals[0], std::pair(index, abi::packet_verdict_endpoint_down)) << row;
    }
    static Frame says(uint32_t index, int flags, const std::string& data = "") {
        return to(index).tcp(5000, 80, static_cast<uint8_t>(flags)).sequence(said).acknowledges(heard).payload(data);
    }
};
INSTANTIATE_HOOKS(Reset);

TEST_P(Reset, WhoGoesOnWithADeadEndpointIsTold) {
    for (const uint32_t index : tcp_services) {
        SCOPED_TRACE(index);
        establish(index);
        kill(index);
        ends(0, {});
        is_reset("data", index, says(index, ack | push, std::string(1000, 'd')));
        is_reset("the same again", index, says(index, ack | push, std::string(1000, 'd')));
        is_reset("a bare acknowledgement", index, says(index, ack));
        drops("a RST", says(index, rst | ack), index, abi::packet_verdict_endpoint_down);
        ends(1, abi::packet_verdict_endpoint_down);
        set_endpoint(index, abi::endpoint_in_use | abi::endpoint_takes);
    }
}

TEST_P(Reset, WhoIsSilentForLongIsForgotten) {
    for (const uint32_t index : tcp_services) {
        SCOPED_TRACE(index);
        establish(index);
        kill(index);
        age(opening_seconds - 2);
        ends(0, {});
        age(2);
        ends(1, abi::packet_verdict_endpoint_down);
        set_endpoint(index, abi::endpoint_in_use | abi::endpoint_takes);
    }
}

TEST_P(Reset, WhatComesBackToLifeGoesOn) {
    establish(nat_tcp);
    kill(nat_tcp);
    ends(0, {});
    set_endpoint(nat_tcp, abi::endpoint_in_use | abi::endpoint_takes);
    goes_up("as if nothing had been", to(nat_tcp).tcp(5000, 80, ack),
            eth().ipv4(source, "10.1.0.1").ttl(63).tcp(5000, 8080, ack));
}

// A connection that is not there yet is better off with another endpoint; so are datagrams.
TEST_P(Reset, OthersBeginAnew) {
    run(to(nat_tcp).tcp(5000, 80, syn));
    kill(nat_tcp);
    drops("SYN again", to(nat_tcp).tcp(5000, 80, syn), nat_tcp, abi::packet_verdict_endpoint_down);
    ends(1, abi::packet_verdict_endpoint_down);
    run(to(nat_udp).udp(5000, 80));
    kill(nat_udp);
    ends(1, abi::packet_verdict_endpoint_down);
    establish(dnat_tcp);
    set_endpoint(dnat_tcp, 0);
    drops("of an endpoint that a reload took away", says(dnat_tcp, ack), dnat_tcp, abi::packet_verdict_no_endpoint);
    ends(1, abi::packet_verdict_service_removed);
}

TEST_P(Reset, AFragmentIsOnlyDropped) {
    establish(nat_tcp);
    kill(nat_tcp);
    drops("the first part", to(nat_tcp).fragment(0x2000).tcp(5000, 80, ack), nat_tcp,
          abi::packet_verdict_endpoint_down);
}

TEST_P(Reset, AnswersAreBare) {
    establish(nat_tcp);
    kill(nat_tcp);
    const Bytes options{1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0};
    is_reset("TCP's options go", nat_tcp, Frame(says(nat_tcp, ack, "data")).tcp_options(options));
}

}  // namespace
}  // namespace marchproxy::packet
