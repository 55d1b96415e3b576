// qos at the hooks: marks, and rates above which packets are dropped.
#include <time.h>

#include "bpf/lib/shared_bucket.h"
#include "model/dscp.h"
#include "packet/qos_records.h"
#include "packet/tunnel_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

constexpr uint8_t ef = 46, af41 = 34, cs1 = 8;

constexpr uint8_t with(uint8_t dscp, uint8_t ecn = 0) {
    return static_cast<uint8_t>(dscp << 2 | ecn);
}
constexpr size_t p0 = 0, p1 = 1, p3 = 3;

class Qos : public Plane {
  protected:
    void configure(uint32_t index, const ServiceQos& qos, unsigned cpus = 1) {
        marchproxy::Service configured;
        configured.qos = qos;
        configured.protocol = Protocol::udp;  // of TCP nothing is dropped
        QosSettings settings;
        settings.enabled = true;
        expect(programs->set_qos(index, packet_qos_of(configured, settings, cpus)));
        abi::packet_service record = service(index);
        record.flags |= abi::service_has_qos;
        expect(programs->set_service(index, record));
    }
    void mark(uint32_t index, uint8_t dscp) {
        ServiceQos qos;
        qos.dscp = dscp;
        configure(index, qos);
    }
    void goes_inside(const char* row, const Tunnel& t, const Frame& frame, const Frame& inner) {
        const Outcome outcome = run(frame);
        EXPECT_STREQ(name_of(outcome.went), "sent") << t.name << ", " << row;
        EXPECT_EQ(hex(outcome.frame), hex(around(t, inner, outcome.frame, true))) << t.name << ", " << row;
    }
    // How many of `count` frames are sent, one after the other.
    int sent_of(int count, const Frame& frame) {
        int sent = 0;
        for (int i = 0; i < count; ++i)
            sent += run_alone(frame).went == Went::sent;
        return sent;
    }
    static abi::qos_counters counted(uint32_t index) {
        const auto counters = programs->qos_counters(index);
        EXPECT_TRUE(counters.ok());
        return counters.ok() ? *counters : abi::qos_counters{};
    }
    // Its buckets, that a change of rates leaves empty.
    static void fill(uint32_t index) {
        timespec now{};
        clock_gettime(CLOCK_MONOTONIC, &now);
        const uint64_t time = uint64_t(now.tv_sec) * 1'000'000'000 + uint64_t(now.tv_nsec);
        abi::packet_qos record{};
        ASSERT_EQ(bpf_map_lookup_elem(programs->map("qos"), &index, &record), 0);
        abi::qos_buckets buckets{};
        for (const int i : {0, 1})
            buckets.word[i] = abi::bits_carried(record.rate[i].bits_per_second, time) - record.rate[i].burst * 8UL;
        ASSERT_EQ(bpf_map_update_elem(programs->map("qos_buckets"), &index, &buckets, BPF_ANY), 0);
    }
    // Packets of 1,000 bytes from clients: the second overdraws a bucket in which a kbit/s brings nothing.
    void let_two_pass(uint32_t index) {
        ServiceQos qos;
        qos.burst = marchproxy::Bytes{1500};
        qos.rate.up = Rate{1000};
        configure(index, qos);
        fill(index);
    }
    static void forget(uint32_t index) { expect(programs->clear_service(index)); }

    static Frame udp(uint8_t traffic_class) {
        return eth().ipv4(client, "10.0.0.1").traffic_class(traffic_class).udp(5000, 80);
    }
};
INSTANTIATE_HOOKS(Qos);

TEST_P(Qos, MarksBothWaysAndLeavesEcnAlone) {
    mark(nat_udp, ef);
    mark(nat_tcp, af41);
    for (const uint8_t ecn : Bytes{0, 1, 2, 3})
        for (const uint8_t came : Bytes{0, 8, 46, 63}) {
            const auto as = [&](const Frame& f, uint8_t dscp) { return f.traffic_class(with(dscp, ecn)); };
            const Frame there = eth().ipv4(client, "10.0.0.1"), on = eth().ipv4(source, "10.1.0.1").ttl(63);
            goes_up("UDP", as(there, came).udp(5000, 80), as(on, ef).udp(5000, 8080));
            goes_up("TCP", as(there, came).tcp(5000, 80, syn), as(on, af41).tcp(5000, 8080, syn));
            const Frame back = eth().ipv4("10.1.0.1", source), home = eth().ipv4("10.0.0.1", client).ttl(63);
            goes_down("UDP back", as(back, came).udp(8080, 5000), as(home, ef).udp(80, 5000));
            goes_down("TCP back", as(back, came).tcp(8080, 5000, ack), as(home, af41).tcp(80, 5000, ack));
        }
}

TEST_P(Qos, MarksIpv6BesideItsFlowLabel) {
    mark(nat_udp6, ef);
    for (const uint8_t came : Bytes{0x00, 0x02, 0x21, 0xff})
        for (const uint32_t label : {0x0U, 0xfffffU, 0x12345U}) {
            const uint8_t marked = with(ef, came & 3);
            goes_up(
                "there", eth().ipv6(client6, "2001:db8:a::1").traffic_class(came).flow_label(label).udp(5000, 80),
                eth().ipv6(source6, "2001:db8:e::1").ttl(63).traffic_class(marked).flow_label(label).udp(5000, 8080));
            goes_down(
                "back", eth().ipv6("2001:db8:e::1", source6).traffic_class(came).flow_label(label).udp(8080, 5000),
                eth().ipv6("2001:db8:a::1", client6).ttl(63).traffic_class(marked).flow_label(label).udp(80, 5000));
        }
}

TEST_P(Qos, MarksWithOptionsTagsAndDnat) {
    mark(nat_udp, ef);
    mark(dnat_udp, af41);
    goes_up("options and a tag", eth().vlan(7).ipv4(client, "10.0.0.1").ip_options({1, 1, 1, 0}).udp(5000, 80),
            eth().ipv4(source, "10.1.0.1").ttl(63).traffic_class(with(ef)).ip_options({1, 1, 1, 0}).udp(5000, 8080));
    goes_up("dnat", eth().ipv4(client, "10.0.0.2").udp(5000, 80),
            eth().ipv4(client, "10.1.0.2").ttl(63).traffic_class(with(af41)).udp(5000, 8080));
    goes_down("dnat back", eth().ipv4("10.1.0.2", client).udp(8080, 5000),
              eth().ipv4("10.0.0.2", client).ttl(63).traffic_class(with(af41)).udp(80, 5000));
}

// RFC 2983's uniform model: inside and outside alike.
TEST_P(Qos, MarksInsideATunnelAndAround) {
    for (const Tunnel& t : tunnels) {
        mark(t.udp, ef);
        const Frame sent = t.from_client().traffic_class(2);
        goes_inside("UDP", t, sent.udp(5000, 80), sent.ttl(63).traffic_class(with(ef, 2)).udp(5000, 80));
    }
}

TEST_P(Qos, PartsAreMarkedAsTheirFirst) {
    mark(nat_udp, ef);
    const Frame whole = eth().ipv4(client, "10.0.0.1").udp(5000, 80).payload(std::string(1000, 'x'));
    for (const Bytes& part : parts(whole, {600})) {
        const Outcome outcome = run(part);
        EXPECT_STREQ(name_of(outcome.went), "sent");
        EXPECT_EQ(outcome.frame.at(15), with(ef));
        EXPECT_EQ(ones_sum(std::span(outcome.frame).subspan(14, 20)), 0u);
    }
}

TEST_P(Qos, TrustKeepsTheMarkAndCountsByIt) {
    ServiceQos qos;
    qos.dscp = cs1;
    qos.trust = true;
    configure(nat_udp, qos);
    forget(nat_udp);
    goes_up("EF", udp(with(ef, 1)), eth().ipv4(source, "10.1.0.1").ttl(63).traffic_class(with(ef, 1)).udp(5000, 8080));
    goes_up("AF41", udp(with(af41)), eth().ipv4(source, "10.1.0.1").ttl(63).traffic_class(with(af41)).udp(5000, 8080));
    const abi::qos_counters counts = counted(nat_udp);
    EXPECT_EQ(counts.bytes[abi::direction_up][p0], 7u) << "payload";
    EXPECT_EQ(counts.bytes[abi::direction_up][p1], 7u);
    EXPECT_EQ(counts.bytes[abi::direction_up][p3], 0u);
}

TEST_P(Qos, RulesSayWhatMarksStandFor) {
    ServiceQos qos;
    qos.priority = Priority::p2;
    qos.rules = {{.arrived = af41, .priority = Priority::p0, .dscp = {}}, {.arrived = cs1, .priority = {}, .dscp = 1}};
    configure(nat_udp, qos);
    forget(nat_udp);
    const auto leaves = [&](const char* row, uint8_t came, uint8_t leaves_with) {
        goes_up(row, udp(with(came, 2)),
                eth().ipv4(source, "10.1.0.1").ttl(63).traffic_class(with(leaves_with, 2)).udp(5000, 8080));
    };
    leaves("its priority's mark", af41, ef);
    leaves("a mark", cs1, 1);
    leaves("no rule's", 0, 18);
    const abi::qos_counters counts = counted(nat_udp);
    EXPECT_EQ(counts.bytes[abi::direction_up][p0], 7u);
    EXPECT_EQ(counts.bytes[abi::direction_up][2], 14u);
}

TEST_P(Qos, EveryMarkHasThePriorityThatTheStreamPlaneGivesIt) {
    marchproxy::Service configured;
    configured.qos.trust = true;
    QosSettings settings;
    settings.enabled = true;
    const abi::packet_qos record = packet_qos_of(configured, settings, 1);
    for (uint8_t dscp = 0; dscp < 64; ++dscp)
        EXPECT_EQ(qos_priority(&record, dscp), static_cast<uint32_t>(priority_of(dscp))) << int{dscp};
}

// A bucket that eight packets overdraw, and in which a kbit/s brings nothing while a test runs.
TEST_P(Qos, DropsAboveTheRateOfItsDirection) {
    const Frame up = eth().ipv4(client, "10.0.0.1").udp(5000, 80).payload(std::string(1000, 'x'));
    const Frame down = eth().ipv4("10.1.0.1", source).udp(8080, 5000).payload(std::string(1000, 'x'));
    ServiceQos qos;
    qos.burst = marchproxy::Bytes{7500};
    qos.rate.up = Rate{1000};
    configure(nat_udp, qos);
    forget(nat_udp);
    fill(nat_udp);
    EXPECT_EQ(sent_of(20, up), 8);
    drops("and no more", up, nat_udp, abi::packet_verdict_over_rate);
    for (int i = 0; i < 20; ++i)
        EXPECT_STREQ(name_of(run(down, "back").went), "sent") << "the other direction has no rate";
    const abi::qos_counters counts = counted(nat_udp);
    EXPECT_EQ(counts.bytes[abi::direction_up][p3], 8000u);
    EXPECT_EQ(counts.dropped[abi::direction_up][p3], 13u);
    EXPECT_EQ(counts.dropped_bytes[abi::direction_up][p3], 13'000u);
    EXPECT_EQ(counts.bytes[abi::direction_down][p3], 20'000u);
    EXPECT_EQ(counts.dropped[abi::direction_down][p3], 0u);

    qos.rate.up.reset();
    qos.rate.down = Rate{1000};
    configure(nat_udp, qos);
    fill(nat_udp);
    EXPECT_EQ(sent_of(20, up), 20) << "a reload takes the rate away at once";
    int sent = 0;
    for (int i = 0; i < 20; ++i)
        sent += run(down, "back").went == Went::sent;
    EXPECT_EQ(sent, 8);
}

// What is dropped begins no flow, and is none's traffic.
TEST_P(Qos, DroppedPacketsAreNotCountedInFlows) {
    let_two_pass(nat_udp);
    const Frame one = eth().ipv4(client, "10.0.0.1").udp(5000, 80).payload(std::string(1000, 'x'));
    EXPECT_EQ(sent_of(5, one), 2);
    const uint64_t identity = uint64_t{0x0b000001} << 30 | uint64_t{5000} << 14 | nat_udp;
    EXPECT_EQ(chunks_of(*programs, "client_flows").find(identity)->packets(), 2u);
    const auto before = programs->service_counters(nat_udp);
    drops("another client", eth().ipv4("11.0.0.2", "10.0.0.1").udp(5000, 80).payload(std::string(1000, 'x')), nat_udp,
          abi::packet_verdict_over_rate);
    EXPECT_EQ(programs->service_counters(nat_udp)->flows, before->flows);
}

// TCP without payload costs nothing: what is limited is what is carried.
TEST_P(Qos, PayloadCounts) {
    let_two_pass(nat_tcp);
    const Frame bare = eth().ipv4(client, "10.0.0.1").tcp(5000, 80, syn).payload("");
    EXPECT_EQ(sent_of(10, bare), 10);
    EXPECT_EQ(sent_of(10, eth().ipv4(client, "10.0.0.1").tcp(5000, 80, ack).payload(std::string(1000, 'x'))), 2);
}

// A CPU takes a share at once, and has no more than the burst either.
TEST_P(Qos, SharesAreTakenOutOfTheBurst) {
    ServiceQos qos;
    qos.burst = marchproxy::Bytes{64'000};
    qos.rate.up = Rate{1000};
    configure(nat_udp, qos, 2);
    forget(nat_udp);
    fill(nat_udp);
    const Frame one = eth().ipv4(client, "10.0.0.1").udp(5000, 80).payload(std::string(1000, 'x'));
    const int sent = sent_of(100, one);
    EXPECT_LE(sent, 64);
    EXPECT_GE(sent, 48);
}

TEST_P(Qos, OffIsAsIfItHadNeverBeen) {
    ServiceQos qos;
    qos.burst = marchproxy::Bytes{1500};
    qos.dscp = ef;
    qos.rate.up = Rate{1000};
    configure(nat_udp, qos);
    expect(programs->set_service(nat_udp, service(nat_udp)));
    expect(programs->set_qos(nat_udp, {}));
    for (int i = 0; i < 10; ++i)
        goes_up("as it came", udp(with(af41, 2)),
                eth().ipv4(source, "10.1.0.1").ttl(63).traffic_class(with(af41, 2)).udp(5000, 8080));
}

}  // namespace
}  // namespace marchproxy::packet
