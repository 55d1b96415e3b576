// A client that has to prove its address before anything is kept for it: what it is asked, what proves it, and what
// does not.
#include <random>

#include "packet/flow_limits.h"
#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

constexpr uint32_t isn = 0xfffffff0;  // what follows it wraps
constexpr uint32_t window = 65000;  // how far behind connection tracking takes an acknowledgement for the connection's

class Cookie : public Plane {
  protected:
    void SetUp() override {
        Plane::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        for (uint32_t i = 1; i < place_count; ++i)
            set_backlog(i, 0);
    }
    void set_backlog(uint32_t index, uint32_t backlog) {
        abi::packet_limits limits{};
        if (places[index].protocol == tcp_protocol) limits.proven_from = backlog + 1;
        expect(programs->set_limits(index, limits));
        abi::packet_service limited = service(index);
        limited.flags = flags_of(limits);
        limited.idle_seconds = limited.opening_seconds = 60;
        expect(programs->set_service(index, limited));
    }
    static bool is_v6(uint32_t index) { return index == nat_tcp6 || index == dnat_tcp6; }
    static Frame to(uint32_t index) {
        return is_v6(index) ? eth().ipv6(client6, places[index].service) : eth().ipv4(client, places[index].service);
    }
    static Frame from(uint32_t index) {
        return is_v6(index) ? eth().ipv6(places[index].service, client6) : eth().ipv4(places[index].service, client);
    }
    static Frame syn_to(uint32_t index, uint32_t sequence = isn, uint16_t port = 5000) {
        return to(index).tcp(port, 80, syn).sequence(sequence).payload("");
    }
    static Frame rst_to(uint32_t index, uint32_t sequence, uint16_t port = 5000) {
        return to(index).tcp(port, 80, rst).sequence(sequence).payload("");
    }

    // A SYN is answered; returns what the answer acknowledges.
    uint32_t asks(const char* row, const Bytes& frame) {
        const Outcome outcome = run(frame);
        EXPECT_STREQ(name_of(outcome.went), GetParam() == Hook::xdp ? "bounced" : "sent") << row;
        EXPECT_TRUE(outcome.refusals.empty()) << row;
        EXPECT_TRUE(is_sound(outcome.frame)) << row << hex(outcome.frame);
        const auto asked = dissect(frame), answer = dissect(outcome.frame);
        if (!asked || !answer) return 0;
        const uint32_t sequence = get32(frame, asked->transport + 4);
        const uint32_t acknowledged = get32(outcome.frame, answer->transport + 8);
        EXPECT_GE(sequence + 1 - acknowledged, 1u) << row;
        EXPECT_LE(sequence + 1 - acknowledged, window) << row;
        answer_ = outcome.frame;
        return acknowledged;
    }
    void enters(const char* row, const Bytes& frame) {
        const Outcome outcome = run(frame);
        EXPECT_STREQ(name_of(outcome.went), "sent") << row;
        EXPECT_EQ(get16(outcome.frame, dissect(outcome.frame)->transport + 2), endpoint_port) << row;
    }
    static uint32_t live() {
        const auto run = programs->sweep(0, programs->flow_buckets());
        EXPECT_TRUE(run.ok() && programs->take_reports([](const abi::flow_report&) {}).ok());
        return run.ok() ? uint32_t{run->live} : 0;
    }
    static uint32_t half_open(uint32_t index) { return abi::admission_half_open(admission(index).live); }
    static std::pair<uint64_t, uint64_t> counted(uint32_t index) {
        const auto counters = programs->service_counters(index);
        return {counters->cookies, counters->proven};
    }
    static void age(uint32_t seconds) {
        chunks_of(*programs, "client_flows").age(seconds);
        chunks_of(*programs, "endpoint_flows").age(seconds);
    }

    Bytes answer_;
};
INSTANTIATE_HOOKS(Cookie);

constexpr uint32_t tcp_services[] = {nat_tcp, nat_tcp6, dnat_tcp, dnat_tcp6};

TEST_P(Cookie, AClientProvesItsAddress) {
    for (const uint32_t index : tcp_services) {
        SCOPED_TRACE(index);
        const auto [sent, proven] = counted(index);
        const uint32_t number = asks("SYN", syn_to(index));
        const Bytes expected = from(index)
                                   .from({2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 1})
                                   .tcp(80, 5000, syn | ack)
                                   .sequence(get32(answer_, dissect(answer_)->transport + 4))
                                   .acknowledges(number)
                                   .window(0)
                                   .payload("");
        EXPECT_EQ(hex(answer_), hex(expected));
        EXPECT_EQ(asks("the same again", syn_to(index)), number);
        drops("RST", rst_to(index, number), index, abi::packet_verdict_no_flow);
        EXPECT_EQ(live(), 0u);
        EXPECT_EQ(counted(index), std::pair(sent + 2, proven));
        enters("SYN again", syn_to(index));
        EXPECT_EQ(live(), 1u);
        EXPECT_EQ(counted(index), std::pair(sent + 2, proven + 1));
        enters("what follows", to(index).tcp(5000, 80, ack));
        chunks_of(*programs, "client_flows").clear();
        chunks_of(*programs, "endpoint_flows").clear();
    }
}

TEST_P(Cookie, NothingElseProvesIt) {
    for (const uint32_t index : tcp_services) {
        SCOPED_TRACE(index);
        const uint32_t number = asks("SYN", syn_to(index));
        for (const uint32_t guess : {number + 1, number - 1, isn, isn + 1, 0u}) {
            drops("RST with another number", rst_to(index, guess), index, abi::packet_verdict_no_flow);
            EXPECT_EQ(asks("SYN", syn_to(index)), number);
        }
        drops("RST from another port", rst_to(index, number, 5001), index, abi::packet_verdict_no_flow);
        asks("SYN", syn_to(index));
        drops("RST", rst_to(index, number), index, abi::packet_verdict_no_flow);
        asks("SYN with another number", syn_to(index, isn + 1));
        asks("SYN from another port", syn_to(index, isn, 5002));
        drops("ACK as of a cookie", to(index).tcp(5000, 80, ack).sequence(isn + 1), index, abi::packet_verdict_no_flow);
        drops("ACK and data of another node's flow", to(index).tcp(5003, 80, ack | push), index,
              abi::packet_verdict_no_flow);
        drops("SYN and ACK", to(index).tcp(5004, 80, syn | ack), index, abi::packet_verdict_no_flow);
        EXPECT_EQ(live(), 0u);
        enters("the right one", syn_to(index));
        chunks_of(*programs, "client_flows").clear();
        chunks_of(*programs, "endpoint_flows").clear();
    }
}

// What a SYN may bring along: the answer has none of it, but what came before TCP.
TEST_P(Cookie, AnswersAreBare) {
    const Bytes options{2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7};
    const std::string data(1000, 'd');
    const Frame four = eth().ipv4(client, "10.0.0.1"), six = eth().ipv6(client6, "2001:db8:a::1");
    const struct {
        const char* row;
        Frame frame;
        size_t size;
    } rows[] = {
        {"options", Frame(four).tcp(5000, 80, syn).tcp_options(options).payload(""), 54},
        {"data", Frame(four).tcp(5000, 80, syn).payload(data), 54},
        {"options and data", Frame(four).tcp(5000, 80, syn).tcp_options(options).payload(data), 54},
        {"padding", Frame(four).tcp(5000, 80, syn).payload("").padding(6), 54},
        {"a tag", Frame(four).vlan(7).tcp(5000, 80, syn).tcp_options(options).payload(""), 58},
        {"two tags", Frame(four).vlan(7).vlan(8).tcp(5000, 80, syn).payload(data), 62},
        {"IP options", Frame(four).ip_options({1, 1, 1, 1}).tcp(5000, 80, syn).tcp_options(options), 58},
        {"IPv6, options and data", Frame(six).tcp(5000, 80, syn).tcp_options(options).payload(data), 74},
        {"IPv6, destination options", Frame(six).extension(60, {1, 4, 0, 0, 0, 0}).tcp(5000, 80, syn), 82},
        {"ECN", Frame(four).tcp(5000, 80, syn | 0x40 | 0x80).payload(""), 54},
        {"hop limit", Frame(four).ttl(2).tcp(5000, 80, syn).payload(""), 54},
    };
    for (const auto& [row, frame, size] : rows) {
        asks(row, frame);
        EXPECT_EQ(answer_.size(), size) << row;
        const auto answer = dissect(answer_);
        ASSERT_TRUE(answer) << row;
        EXPECT_EQ(answer_[answer->hop_limit_at()], 64) << row;
        EXPECT_EQ(answer_[answer->transport + 13], syn | ack) << row;
        EXPECT_EQ(answer->network_end, answer_.size()) << row;
    }
    EXPECT_EQ(live(), 0u);
    drops("the first part of one", Frame(four).fragment(0x2000).tcp(5000, 80, syn), nat_tcp,
          abi::packet_verdict_fragment);
}

TEST_P(Cookie, OnlyUnderPressure) {
    set_backlog(nat_tcp, 2);
    enters("first", syn_to(nat_tcp, isn, 5000));
    enters("second", syn_to(nat_tcp, isn, 5001));
    EXPECT_EQ(half_open(nat_tcp), 2u);
    asks("third", syn_to(nat_tcp, isn, 5002));
    enters("the second again", syn_to(nat_tcp, isn, 5001));
    EXPECT_EQ(half_open(nat_tcp), 2u);
    run(eth().ipv4("10.1.0.1", source).tcp(8080, 5000, syn | ack), "back");
    EXPECT_EQ(half_open(nat_tcp), 2u) << "an endpoint answers whoever may not be there";
    asks("third, still", syn_to(nat_tcp, isn, 5002));
    enters("the first answers", to(nat_tcp).tcp(5000, 80, ack));
    EXPECT_EQ(half_open(nat_tcp), 1u);
    enters("third", syn_to(nat_tcp, isn, 5002));
    asks("fourth", syn_to(nat_tcp, isn, 5003));
    enters("the first goes on", to(nat_tcp).tcp(5000, 80, ack));
    set_backlog(nat_tcp, 100);
    enters("fourth, as a reload has it", syn_to(nat_tcp, isn, 5003));
    set_backlog(nat_tcp, 0);
    asks("a fifth, after another", syn_to(nat_tcp, isn, 5004));
    enters("UDP knows nothing of it", eth().ipv4(client, "10.0.0.1").udp(5000, 80));
}

// Whatever becomes of it, what was half open is so no more.
TEST_P(Cookie, HalfOpenFlowsAreCountedBackToNone) {
    for (const uint32_t index : tcp_services) {
        SCOPED_TRACE(index);
        set_backlog(index, 100);
        const char* endpoint = places[index].endpoint;
        const bool nat = places[index].forwarding == abi::forwarding_nat;
        const Frame back =
            is_v6(index) ? eth().ipv6(endpoint, nat ? source6 : client6) : eth().ipv4(endpoint, nat ? source : client);
        enters("answered", syn_to(index, isn, 5000));
        EXPECT_EQ(half_open(index), 1u);
        run(Frame(back).tcp(8080, 5000, syn | ack), "back");
        run(Frame(back).tcp(8080, 5000, syn | ack), "back");
        EXPECT_EQ(half_open(index), 1u);
        enters("established", to(index).tcp(5000, 80, ack));
        enters("and goes on", to(index).tcp(5000, 80, ack));
        EXPECT_EQ(half_open(index), 0u);

        enters("refused", syn_to(index, isn, 5001));
        run(Frame(back).tcp(8080, 5001, rst | ack), "back");
        EXPECT_EQ(half_open(index), 0u);
        enters("tried again", syn_to(index, isn, 5001));
        EXPECT_EQ(half_open(index), 1u);
        enters("and given up, if it was the client", rst_to(index, isn + 1, 5001));
        EXPECT_EQ(half_open(index), 1u);
        run(Frame(back).tcp(8080, 5001, rst | ack), "back");
        EXPECT_EQ(half_open(index), 0u);

        enters("never answered", syn_to(index, isn, 5002));
        enters("answered, and never again", syn_to(index, isn, 5003));
        run(Frame(back).tcp(8080, 5003, syn | ack), "back");
        EXPECT_EQ(half_open(index), 2u);
        EXPECT_EQ(abi::admission_live(admission(index).live), 4u);
        age(100);
        EXPECT_EQ(live(), 0u);
        EXPECT_EQ(admission(index).live, 0u);
    }
}

// Another node's flows may all come at once, when it fails.
TEST_P(Cookie, AFlowThatIsTakenUpIsNotHalfOpen) {
    set_backlog(dnat_tcp, 100);
    enters("data of a flow of another node", to(dnat_tcp).tcp(5000, 80, ack));
    EXPECT_EQ(half_open(dnat_tcp), 0u);
    run(eth().ipv4("10.1.0.2", client).tcp(8080, 5000, ack), "back");
    EXPECT_EQ(half_open(dnat_tcp), 0u);
    enters("RST", rst_to(dnat_tcp, isn));
    enters("and anew, from here", syn_to(dnat_tcp));
    EXPECT_EQ(half_open(dnat_tcp), 1u);
    age(100);
    EXPECT_EQ(live(), 0u);
    EXPECT_EQ(admission(dnat_tcp).live, 0u);
}

// What was let in once, and is kept already: its RST would be its flow's, and proves nothing.
TEST_P(Cookie, WhoBeginsAnewIsNotAsked) {
    for (const uint32_t index : tcp_services) {
        SCOPED_TRACE(index);
        const char* endpoint = places[index].endpoint;
        const bool nat = places[index].forwarding == abi::forwarding_nat;
        const Frame back =
            is_v6(index) ? eth().ipv6(endpoint, nat ? source6 : client6) : eth().ipv4(endpoint, nat ? source : client);
        drops("RST", rst_to(index, asks("SYN", syn_to(index))), index, abi::packet_verdict_no_flow);
        enters("proven", syn_to(index));
        run(Frame(back).tcp(8080, 5000, rst | ack), "back");
        EXPECT_EQ(half_open(index), 0u);
        enters("on the ports of what is over", syn_to(index, isn + 9));
        EXPECT_EQ(half_open(index), 1u);
        asks("from another port", syn_to(index, isn, 5001));
        chunks_of(*programs, "client_flows").clear();
        chunks_of(*programs, "endpoint_flows").clear();
    }
}

TEST_P(Cookie, AFloodBeginsNoMoreThanTheBacklog) {
    constexpr uint32_t backlog = 50;
    for (const uint32_t index : {nat_tcp, dnat_tcp6}) {
        SCOPED_TRACE(index);
        set_backlog(index, backlog);
        Bytes frame = syn_to(index);
        const auto d = dissect(frame);
        uint32_t least = UINT32_MAX, most = 0;
        const size_t client_at = d->addresses_at() + (is_v6(index) ? 12 : 0);  // what tells sources apart
        for (uint32_t i = 0; i < 100'000; ++i) {
            put16(frame, client_at + 2, i & 0xffff);
            frame[client_at + 1] = static_cast<uint8_t>(i >> 16);
            write_checksums(frame);
            const Bytes out = run_alone(frame).frame;
            const auto answer = dissect(out);
            ASSERT_TRUE(answer);
            if (out[answer->transport + 13] == syn) continue;  // sent on
            const uint32_t behind = isn + 1 - get32(out, answer->transport + 8);
            least = std::min(least, behind);
            most = std::max(most, behind);
        }
        EXPECT_GE(least, 1u);
        EXPECT_LE(most, window);
        EXPECT_GT(most - least, window - 1000) << "all of it is used";
        EXPECT_EQ(half_open(index), backlog);
        EXPECT_EQ(live(), backlog);
        const uint32_t number = asks("who is there", syn_to(index, isn, 6000));
        drops("proves it", rst_to(index, number, 6000), index, abi::packet_verdict_no_flow);
        enters("and comes in", syn_to(index, isn, 6000));
        chunks_of(*programs, "client_flows").clear();
        chunks_of(*programs, "endpoint_flows").clear();
    }
}

// Packets that are nearly right, from a seed: what is answered had lengths that agree, and the answer's checksums are
// right, but for the network header's, which stays as wrong as it was.
TEST_P(Cookie, MutationsAreAnsweredSoundlyOrNotAtAll) {
    std::mt19937_64 random(20'241);
    const auto upto = [&random](size_t limit) { return static_cast<size_t>(random() % limit); };
    const Bytes samples[] = {
        to(nat_tcp).tcp(5000, 80, syn).tcp_options({2, 4, 5, 180}), to(dnat_tcp).tcp(5000, 80, syn).payload(""),
        to(nat_tcp).vlan(7).tcp(5000, 80, syn).ip_options(Bytes(12, 1)), to(nat_tcp6).tcp(5000, 80, syn),
        to(dnat_tcp6).extension(60, Bytes(14)).tcp(5000, 80, syn).tcp_options(Bytes(12, 1))};
    int answered = 0;
    for (int i = 0; i < 20'000 && !HasFatalFailure(); ++i) {
        Bytes in = samples[upto(std::size(samples))];
        for (size_t changes = 1 + upto(3); changes > 0; --changes)
            in[12 + upto(std::min<size_t>(in.size(), 90) - 12)] = static_cast<uint8_t>(upto(3) ? upto(16) : random());
        if (upto(2)) in.resize(in.size() + upto(20) - std::min<size_t>(10, in.size() - 60));
        if (upto(2)) write_checksums(in);
        if (GetParam() == Hook::tc && in.size() < 54) continue;
        const Outcome out = run(in);
        if (out.went == Went::passed) {
            ASSERT_EQ(hex(out.frame), hex(in));
        }
        if (out.went == Went::dropped) {
            ASSERT_EQ(out.refusals.size(), 1u) << hex(in);
        }
        if (out.went == Went::passed || out.went == Went::dropped || !out.refusals.empty()) continue;
        const auto asked = dissect(in), answer = dissect(out.frame);
        ASSERT_TRUE(asked) << hex(in);
        // The dsr services' own are not here; what is for one, and no SYN, goes on in a tunnel.
        if (asked->protocol != tcp_protocol || (in[asked->transport + 13] & (syn | ack | rst)) != syn) continue;
        ASSERT_TRUE(answer) << hex(in);
        ASSERT_EQ(out.frame[answer->transport + 13], syn | ack) << hex(in);
        ASSERT_EQ(transport_residue(out.frame, *answer), 0u) << hex(in);
        ASSERT_EQ(network_residue(out.frame, *answer), network_residue(in, *asked)) << hex(in);
        ++answered;
    }
    EXPECT_GT(answered, 2000) << "too few to tell";
    EXPECT_EQ(live(), 0u);
}

// Limits of connections come before the question, rates after it: what nobody proved takes nothing from them.
TEST_P(Cookie, WhatIsNotProvenUsesUpNoRate) {
    abi::packet_service limited = service(nat_tcp);
    limited.flags = abi::service_limits_flows;
    limited.new_flow_step = 3'600'000'000;
    expect(programs->set_service(nat_tcp, limited));
    for (int i = 0; i < 5; ++i)
        asks("SYN", syn_to(nat_tcp));
    drops("RST", rst_to(nat_tcp, asks("SYN", syn_to(nat_tcp))), nat_tcp, abi::packet_verdict_no_flow);
    enters("proven", syn_to(nat_tcp));
    limited.connections = 1;
    expect(programs->set_service(nat_tcp, limited));
    drops("no place for anybody", syn_to(nat_tcp, isn, 5001), nat_tcp, abi::packet_verdict_connection_limit);
}

}  // namespace
}  // namespace marchproxy::packet
