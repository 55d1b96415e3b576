// The sweep: which flows end, when and why, and what is reported of them.
#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

class Sweep : public Plane {
  protected:
    void SetUp() override {
        Plane::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        for (uint32_t i = 1; i < place_count; ++i)
            set_patience(i, 60, 30);
        take();
    }
    void set_patience(uint32_t index, uint32_t idle, uint32_t opening) {
        abi::packet_service changed = service(index);
        changed.idle_seconds = idle;
        changed.opening_seconds = opening;
        expect(programs->set_service(index, changed));
    }
    static void age(uint32_t seconds) {
        chunks_of(*programs, "client_flows").age(seconds);
        chunks_of(*programs, "endpoint_flows").age(seconds);
    }
    abi::sweep sweep(uint32_t list_service = 0, uint32_t limit = 0) {
        const auto run = programs->sweep(0, programs->flow_buckets(), list_service, limit);
        EXPECT_TRUE(run.ok());
        return run.ok() ? *run : abi::sweep{};
    }
    static std::vector<abi::flow_report> take() {
        std::vector<abi::flow_report> reports;
        EXPECT_TRUE(programs->take_reports([&](const abi::flow_report& one) { reports.push_back(one); }).ok());
        return reports;
    }
    // Nothing ends before `seconds` of silence, and exactly one flow does then, for this reason.
    void ends_after(uint32_t seconds, abi::packet_verdict why) {
        age(seconds - 2);  // the second may turn meanwhile
        EXPECT_EQ(sweep().ended, 0u);
        age(2);
        EXPECT_EQ(sweep().ended, 1u);
        const auto reports = take();
        ASSERT_EQ(reports.size(), 1u);
        EXPECT_EQ(reports[0].why, why);
    }

    // As many other directions carry as there is room for.
    static std::vector<uint64_t> fill_carries() {
        struct {
            uint64_t packets, bytes;
        } const carried{};
        std::vector<uint64_t> keys(abi::carry_slots);
        for (size_t i = 0; i < keys.size(); ++i)
            keys[i] = ~i;
        const std::vector values(keys.size(), carried);
        auto count = static_cast<uint32_t>(keys.size());
        EXPECT_EQ(bpf_map_update_batch(programs->map("carries"), keys.data(), values.data(), &count, nullptr), 0);
        return keys;
    }
    static void empty_carries(const std::vector<uint64_t>& keys) {
        auto count = static_cast<uint32_t>(keys.size());
        EXPECT_EQ(bpf_map_delete_batch(programs->map("carries"), keys.data(), &count, nullptr), 0);
    }

    static Frame up() { return eth().ipv4(client, "10.0.0.1"); }
    static Frame down() { return eth().ipv4("10.1.0.1", source); }
};
INSTANTIATE_HOOKS(Sweep);

TEST_P(Sweep, CountsAndListsWhatLives) {
    for (const uint16_t port : std::initializer_list<uint16_t>{5000, 5001, 5002})
        run(up().udp(port, 80));
    run(up().tcp(5000, 80, syn));
    EXPECT_EQ(sweep(nat_udp, 2).live, 4u);
    const auto listed = take();
    ASSERT_EQ(listed.size(), 2u);
    for (const abi::flow_report& one : listed) {
        EXPECT_EQ(one.ended, 0);
        EXPECT_EQ(one.service, nat_udp);
        EXPECT_EQ(to_string(from_abi(one.client)), client);
        EXPECT_EQ(one.packets[0], 1u);
    }
}

TEST_P(Sweep, WhatBeganAndDidNotEndLives) {
    expect(programs->clear_service(nat_udp));
    expect(programs->clear_endpoint(nat_udp));
    for (const uint16_t port : std::initializer_list<uint16_t>{5000, 5001, 5002})
        run(up().udp(port, 80));
    age(20);
    run(up().udp(5001, 80));
    age(20);
    EXPECT_EQ(sweep().ended, 2u);
    take();
    const auto of_service = programs->service_counters(nat_udp);
    EXPECT_EQ(of_service->flows, 3u);
    EXPECT_EQ(of_service->ended, 2u);
    const auto of_endpoint = programs->endpoint_counters(nat_udp);
    EXPECT_EQ(of_endpoint->flows, 3u);
    EXPECT_EQ(of_endpoint->ended, 2u);
}

// The index is somebody else's now: counters of all CPUs, and what limits are measured by.
TEST_P(Sweep, AnIndexIsClearedForTheNext) {
    run(up().udp(5000, 80));
    const uint32_t index = nat_udp;
    const Descriptor admissions = map_of(*programs, "admissions");
    const abi::admission used{.due = ~uint64_t{0}, .live = 7};
    ASSERT_EQ(bpf_map_update_elem(admissions.get(), &index, &used, BPF_ANY), 0);
    expect(programs->clear_service(index));
    expect(programs->clear_endpoint(index));
    abi::admission admission{};
    ASSERT_EQ(bpf_map_lookup_elem(admissions.get(), &index, &admission), 0);
    EXPECT_EQ(admission.due, 0u);
    EXPECT_EQ(admission.live, 0u);
    const auto of_service = programs->service_counters(index);
    EXPECT_EQ(of_service->packets[0] + of_service->bytes[0] + of_service->flows, 0u);
    const auto of_endpoint = programs->endpoint_counters(index);
    EXPECT_EQ(of_endpoint->packets[0] + of_endpoint->bytes[0] + of_endpoint->flows, 0u);
}

// Each bucket once, whatever the pieces of a pass; and none past the table.
TEST_P(Sweep, GoesByBuckets) {
    for (uint16_t i = 0; i < 300; ++i)
        run_alone(up().udp(static_cast<uint16_t>(2000 + i), 80));
    const uint32_t flows = sweep().live;
    EXPECT_GE(flows, 300u);
    uint32_t live = 0;
    for (uint32_t first = 0; first < programs->flow_buckets(); first += 10) {
        const auto run = programs->sweep(first, 10);
        ASSERT_TRUE(run.ok());
        live += run->live;
    }
    EXPECT_EQ(live, flows);
    EXPECT_EQ(programs->sweep(programs->flow_buckets(), 10)->live, 0u);
}

TEST_P(Sweep, EndsAFlowOfWhichOnlyTheClientSpoke) {
    run(up().udp(5000, 80));
    ends_after(30, abi::packet_verdict_idle_timeout);
}

TEST_P(Sweep, ReportsBothDirectionsOfWhatEnds) {
    for (const bool v6 : {false, true}) {
        const Frame request = v6 ? eth().ipv6(client6, "2001:db8:a::1") : up();
        const Frame answer = v6 ? eth().ipv6("2001:db8:e::1", source6) : down();
        for (int i = 0; i < 3; ++i)
            run(Frame(request).udp(5000, 80).payload("question"));
        run(Frame(answer).udp(8080, 5000).payload("answer"), "back");
        age(58);
        EXPECT_EQ(sweep().ended, 0u);  // answered: 60 seconds
        age(2);
        EXPECT_EQ(sweep().ended, 1u);
        const auto reports = take();
        ASSERT_EQ(reports.size(), 1u);
        const abi::flow_report& one = reports[0];
        const uint64_t headers = v6 ? 48 : 28;
        EXPECT_EQ(one.ended, 1);
        EXPECT_EQ(one.service, v6 ? nat_udp6 : nat_udp);
        EXPECT_EQ(to_string(from_abi(one.client)), v6 ? client6 : client);
        EXPECT_EQ(ntohs(one.client_port_be), 5000);
        EXPECT_EQ(one.packets[0], 3u);
        EXPECT_EQ(one.bytes[0], 3u * (headers + 8));
        EXPECT_EQ(one.packets[1], 1u);
        EXPECT_EQ(one.bytes[1], headers + 6);
        EXPECT_GE(one.idle_seconds, 60u);
    }
}

TEST_P(Sweep, OneDirectionKeepsTheOther) {
    run(up().udp(5000, 80));
    run(down().udp(8080, 5000), "back");
    age(100);
    run(down().udp(8080, 5000), "back");
    EXPECT_EQ(sweep().ended, 0u);
    age(58);
    EXPECT_EQ(sweep().ended, 0u);
    age(2);
    EXPECT_EQ(sweep().ended, 1u);
    take();
}

TEST_P(Sweep, TcpEndsInSecondsWhenItIsOver) {
    const auto open = [&] {
        run(up().tcp(5000, 80, syn));
        run(down().tcp(8080, 5000, syn | ack), "back");
        run(up().tcp(5000, 80, ack));
    };
    open();
    ends_after(60, abi::packet_verdict_idle_timeout);
    open();
    run(up().tcp(5000, 80, ack | fin));
    run(down().tcp(8080, 5000, ack | fin), "back");
    ends_after(abi::closed_flow_seconds, abi::packet_verdict_finished);
    open();
    run(up().tcp(5000, 80, rst));
    ends_after(abi::reset_flow_seconds, abi::packet_verdict_client_reset);
    open();
    run(down().tcp(8080, 5000, rst), "back");
    ends_after(abi::reset_flow_seconds, abi::packet_verdict_endpoint_reset);
    open();
    run(up().tcp(5000, 80, ack | fin));  // half closed: as long as any other
    ends_after(60, abi::packet_verdict_idle_timeout);
}

// The port that a flow had is free again, and its answers find nobody.
TEST_P(Sweep, WhatEndedLeavesNothingBehind) {
    run(up().udp(5000, 80));
    age(40);
    EXPECT_EQ(sweep().ended, 1u);
    take();
    passes("answer to nobody", down().udp(8080, 5000), "back");
    const Bytes other = eth().ipv4("11.0.0.2", "10.0.0.1").udp(5000, 80);
    goes_up("another client on the port", other, eth().ipv4(source, "10.1.0.1").ttl(63).udp(5000, 8080));
}

TEST_P(Sweep, EndsFlowsOfWhatIsGone) {
    run(up().udp(5000, 80));
    run(eth().ipv4(client, "10.0.0.2").udp(5000, 80));
    set_endpoint(nat_udp, 0);
    EXPECT_EQ(sweep().ended, 1u);
    abi::packet_service resting = service(dnat_udp);  // as a plan keeps it for as long as flows carry its number
    resting.ring = 0;
    resting.idle_seconds = resting.opening_seconds = 0;
    expect(programs->set_service(dnat_udp, resting));
    EXPECT_EQ(sweep().ended, 1u);
    for (const abi::flow_report& one : take())
        EXPECT_EQ(one.why, abi::packet_verdict_service_removed);
}

// What a traffic word cannot hold is carried. While there is no room for that, it stays at its most.
TEST_P(Sweep, CountsOnWhereATrafficWordIsFull) {
    const Frame packet = up().udp(5000, 80).payload("question");
    constexpr uint64_t length = 36;
    const auto expect_counted = [&](const char* row, uint64_t packets, uint64_t bytes) {
        sweep(nat_udp, 1);
        const auto listed = take();
        ASSERT_EQ(listed.size(), 1u) << row;
        EXPECT_EQ(listed[0].packets[0], packets) << row;
        EXPECT_EQ(listed[0].bytes[0], bytes) << row;
        EXPECT_LE(listed[0].idle_seconds, 1u) << row;
    };
    run(packet);
    Chunks clients = chunks_of(*programs, "client_flows");
    const std::vector<uint64_t> others = fill_carries();

    clients.carry(traffic_most_bytes - 1, 5);
    clients.age(20);
    run(packet);
    expect_counted("no room, by bytes", 6, traffic_most_bytes);
    clients.carry(1000, traffic_most_packets);
    run(packet);
    expect_counted("no room, by packets", traffic_most_packets, 1000 + length);

    empty_carries(others);
    run(packet);
    expect_counted("room again", traffic_most_packets + 1, 1000 + 2 * length);
    run(packet);
    expect_counted("carried", traffic_most_packets + 2, 1000 + 3 * length);
    clients.carry(traffic_most_bytes, 7);
    run(packet);
    expect_counted("carried twice", traffic_most_packets + 1 + 8, 1000 + 2 * length + traffic_most_bytes + length);
    age(40);
    EXPECT_EQ(sweep().ended, 1u);
    take();
}

// More flows end at once than the reports have room for: the others wait, none is lost.
TEST_P(Sweep, DoesNotLoseReports) {
    for (uint32_t i = 0; i < 700; ++i)
        run_alone(up().udp(static_cast<uint16_t>(2000 + i), 80));
    const uint32_t flows = sweep().live;
    EXPECT_GT(flows, 690u);  // the smallest table, half full
    uint32_t reported = 0;
    age(40);
    EXPECT_GT(sweep().kept_back, 0u);
    reported += static_cast<uint32_t>(take().size());
    for (int pass = 0; pass < 20 && reported < flows; ++pass) {
        const abi::sweep swept = sweep();
        const size_t taken = take().size();
        EXPECT_EQ(taken, swept.ended);
        reported += static_cast<uint32_t>(taken);
    }
    EXPECT_EQ(reported, flows);
    EXPECT_EQ(sweep().live, 0u);
}

}  // namespace
}  // namespace marchproxy::packet
