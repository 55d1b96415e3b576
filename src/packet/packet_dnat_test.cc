// dnat: the endpoint sees the client, and answers by way of us. And what both forwardings count and keep of a flow.
#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

class Dnat : public Plane {};
INSTANTIATE_HOOKS(Dnat);

TEST_P(Dnat, GoesThereAndBack) {
    goes_up("UDP", eth().ipv4(client, "10.0.0.2").udp(5000, 80),
            eth().ipv4(client, "10.1.0.2").ttl(63).udp(5000, 8080));
    goes_down("UDP back", eth().ipv4("10.1.0.2", client).udp(8080, 5000),
              eth().ipv4("10.0.0.2", client).ttl(63).udp(80, 5000));
    goes_up("TCP", eth().ipv4(client, "10.0.0.2").tcp(5000, 80, syn),
            eth().ipv4(client, "10.1.0.2").ttl(63).tcp(5000, 8080, syn));
    goes_down("TCP back", eth().ipv4("10.1.0.2", client).tcp(8080, 5000, syn | ack),
              eth().ipv4("10.0.0.2", client).ttl(63).tcp(80, 5000, syn | ack));
    goes_up("UDP, IPv6", eth().ipv6(client6, "2001:db8:a::2").udp(5000, 80),
            eth().ipv6(client6, "2001:db8:e::2").ttl(63).udp(5000, 8080));
    goes_down("UDP back, IPv6", eth().ipv6("2001:db8:e::2", client6).udp(8080, 5000),
              eth().ipv6("2001:db8:a::2", client6).ttl(63).udp(80, 5000));
    goes_up("TCP, IPv6", eth().ipv6(client6, "2001:db8:a::2").tcp(5000, 80, syn),
            eth().ipv6(client6, "2001:db8:e::2").ttl(63).tcp(5000, 8080, syn));
    goes_down("TCP back, IPv6", eth().ipv6("2001:db8:e::2", client6).tcp(8080, 5000, syn | ack),
              eth().ipv6("2001:db8:a::2", client6).ttl(63).tcp(80, 5000, syn | ack));
}

TEST_P(Dnat, TcpGoesOnWithoutAFlow) {
    goes_up("begun elsewhere", eth().ipv4(client, "10.0.0.2").tcp(5000, 80, ack),
            eth().ipv4(client, "10.1.0.2").ttl(63).tcp(5000, 8080, ack));
    drops("but not by RST", eth().ipv4(client, "10.0.0.2").tcp(5001, 80, rst), dnat_tcp, abi::packet_verdict_no_flow);
    drops("nor RST and ACK", eth().ipv6(client6, "2001:db8:a::2").tcp(5001, 80, rst | ack), dnat_tcp6,
          abi::packet_verdict_no_flow);
}

TEST_P(Dnat, AnswersThatNobodyAskedForPass) {
    passes("no flow", eth().ipv4("10.1.0.2", client).udp(8080, 5000), "back");
    passes("no flow, IPv6", eth().ipv6("2001:db8:e::2", client6).udp(8080, 5000), "back");
    goes_up("a flow", eth().ipv4(client, "10.0.0.2").udp(5000, 80),
            eth().ipv4(client, "10.1.0.2").ttl(63).udp(5000, 8080));
    passes("another client", eth().ipv4("10.1.0.2", "11.0.0.2").udp(8080, 5000), "back");
    passes("another port", eth().ipv4("10.1.0.2", client).udp(8080, 5001), "back");
    passes("from another port", eth().ipv4("10.1.0.2", client).udp(8081, 5000), "back");
}

// One chunk is the whole table: what finds no room goes to the endpoint and back all the same, and no flow suffers.
TEST_P(Dnat, WithoutRoomForAFlowPacketsGoThereAndBack) {
    const auto from = [](uint16_t port) { return eth().ipv4(client, "10.0.0.2").udp(port, 80); };
    const auto answer = [](uint16_t port) { return eth().ipv4("10.1.0.2", client).udp(8080, port); };
    const auto without_flow = [] { return programs->service_counters(dnat_udp)->stateless; };
    const uint64_t before = without_flow();
    std::vector<uint16_t> with, without;
    for (uint16_t port = 2000; port < 30'000 && without.size() < 20; ++port) {
        const uint64_t until_now = without_flow();
        ASSERT_EQ(run_alone(from(port)).went, Went::sent);
        (without_flow() > until_now ? without : with).push_back(port);
    }
    ASSERT_EQ(without.size(), 20u);
    EXPECT_EQ(without_flow(), before + 20);
    for (const std::vector<uint16_t>& ports : {without, with})
        for (const uint16_t port : ports) {
            const Outcome up = run_alone(from(port)), down = run_alone(answer(port), "back");
            ASSERT_EQ(hex(up.frame),
                      hex(eth().ipv4(client, "10.1.0.2").ttl(63).udp(port, 8080).from(back_mac, back_gateway)));
            ASSERT_EQ(hex(down.frame),
                      hex(eth().ipv4("10.0.0.2", client).ttl(63).udp(80, port).from(front_mac, front_gateway)));
        }
    expect(programs->set_ring(dnat_udp, std::array<uint32_t, 1>{dnat_tcp}));
    passes("of another than Maglev's choice", answer(without[0]), "back");
    goes_down("a flow's goes on", answer(with[0]), eth().ipv4("10.0.0.2", client).ttl(63).udp(80, with[0]));
}

// --- what is kept of a flow ----------------------------------------------------------------------------------------

uint64_t identity(uint32_t address, uint16_t port, uint32_t service) {
    return uint64_t{address} << 30 | uint64_t{port} << 14 | service;
}

TEST_P(Dnat, TcpFlowsHaveStates) {
    struct Step {
        bool up;
        uint8_t flags;
        abi::flow_state after;
        uint32_t number = 2;  // what the client acknowledges; the endpoint began with 1
        const char* data = "";
    };
    constexpr uint32_t wrong = 3;
    struct Life {
        const char* name;
        std::vector<Step> steps;
    };
    const std::vector<Step> open = {{true, syn, abi::flow_opening},
                                    {true, syn, abi::flow_opening},
                                    {false, syn | ack, abi::flow_answered},
                                    {true, ack, abi::flow_established},
                                    {false, ack | push, abi::flow_established},
                                    {true, syn, abi::flow_established}};
    const auto after_open = [&](std::vector<Step> more) {
        more.insert(more.begin(), open.begin(), open.end());
        return more;
    };
    const Life lives[] = {
        {"the client closes first", after_open({{true, fin | ack, abi::flow_client_closed},
                                                {false, ack, abi::flow_client_closed},
                                                {true, fin | ack, abi::flow_client_closed},
                                                {false, fin | ack, abi::flow_closed},
                                                {true, ack, abi::flow_closed},
                                                {true, syn, abi::flow_opening},
                                                {false, syn | ack, abi::flow_answered}})},
        {"the endpoint closes first", after_open({{false, fin | ack, abi::flow_endpoint_closed},
                                                  {true, ack, abi::flow_endpoint_closed},
                                                  {true, fin | ack, abi::flow_closed}})},
        {"the client resets", after_open({{true, rst, abi::flow_client_reset}, {true, syn, abi::flow_opening}})},
        {"the endpoint resets",
         after_open({{false, rst | ack, abi::flow_endpoint_reset}, {false, fin, abi::flow_endpoint_reset}})},
        {"refused", {{true, syn, abi::flow_opening}, {false, rst | ack, abi::flow_endpoint_reset}}},
        {"what anybody could have written",
         {{true, syn, abi::flow_opening},
          {true, rst, abi::flow_opening},
          {true, fin, abi::flow_opening},
          {true, ack, abi::flow_opening},
          {false, ack, abi::flow_opening},
          {false, syn | ack, abi::flow_answered},
          {true, rst, abi::flow_answered},
          {true, rst | ack, abi::flow_answered},
          {true, fin, abi::flow_answered},
          {true, ack, abi::flow_answered, wrong},
          {true, fin | ack, abi::flow_answered, wrong},
          {true, syn, abi::flow_answered},
          {false, ack, abi::flow_answered},
          {true, ack, abi::flow_established}}},
        {"closed at once",
         {{true, syn, abi::flow_opening},
          {false, syn | ack, abi::flow_answered},
          {true, fin | ack, abi::flow_client_closed}}},
        {"the endpoint has data for it",
         {{true, syn, abi::flow_opening},
          {false, syn | ack, abi::flow_answered},
          {false, ack, abi::flow_established, 2, "hi"}}},
        {"the endpoint closes at once",
         {{true, syn, abi::flow_opening}, {false, fin | ack, abi::flow_endpoint_closed}}},
        {"another node's",
         {{true, ack, abi::flow_opening}, {true, ack, abi::flow_opening}, {false, ack, abi::flow_established}}},
    };
    uint16_t port = 7000;
    for (const Life& life : lives) {
        ++port;
        for (const Step& step : life.steps) {
            const Frame up =
                eth().ipv4(client, "10.0.0.2").tcp(port, 80, step.flags).acknowledges(step.number).payload(step.data);
            const Frame down = eth().ipv4("10.1.0.2", client).tcp(8080, port, step.flags).payload(step.data);
            ASSERT_EQ(run_alone(step.up ? up : down, step.up ? "front" : "back").went, Went::sent) << life.name;
            const auto cell = chunks_of(*programs, "client_flows").find(identity(0x0b000001, port, dnat_tcp));
            ASSERT_TRUE(cell) << life.name;
            EXPECT_EQ(cell->state(), step.after) << life.name << ", flags " << int{step.flags};
        }
    }
}

TEST_P(Dnat, UdpIsEstablishedOnceAnswered) {
    const auto state = [this] {
        return chunks_of(*programs, "client_flows").find(identity(0x0b000001, 5000, nat_udp))->state();
    };
    run_alone(eth().ipv4(client, "10.0.0.1").udp(5000, 80));
    EXPECT_EQ(state(), abi::flow_opening);
    run_alone(eth().ipv4("10.1.0.1", source).udp(8080, 5000), "back");
    EXPECT_EQ(state(), abi::flow_established);
    run_alone(eth().ipv4(client, "10.0.0.1").udp(5000, 80));
    EXPECT_EQ(state(), abi::flow_established);
}

TEST_P(Dnat, FlowsServicesAndEndpointsCountPacketsAndBytes) {
    struct Row {
        uint32_t service;
        Frame up, down;
        uint64_t header;  // of the network and transport
    };
    const Row rows[] = {
        {nat_udp, eth().ipv4(client, "10.0.0.1").udp(5000, 80), eth().ipv4("10.1.0.1", source).udp(8080, 5000), 28},
        {dnat_tcp, eth().ipv4(client, "10.0.0.2").tcp(5000, 80, syn),
         eth().ipv4("10.1.0.2", client).tcp(8080, 5000, ack), 40},
        {nat_tcp6, eth().ipv6(client6, "2001:db8:a::1").tcp(5000, 80, syn),
         eth().ipv6("2001:db8:e::1", source6).tcp(8080, 5000, ack), 60},
        {dnat_udp6, eth().ipv6(client6, "2001:db8:a::2").udp(5000, 80),
         eth().ipv6("2001:db8:e::2", client6).udp(8080, 5000), 48},
    };
    for (const Row& row : rows) {
        const auto service = *programs->service_counters(row.service);
        const auto endpoint = *programs->endpoint_counters(row.service);
        for (const size_t payload : {10, 20, 30})
            ASSERT_EQ(run_alone(row.up.payload(std::string(payload, 'u')).padding(9)).went, Went::sent) << row.service;
        for (const size_t payload : {100, 200})
            ASSERT_EQ(run_alone(row.down.vlan(7).payload(std::string(payload, 'd')), "back").went, Went::sent)
                << row.service;
        const auto service_now = *programs->service_counters(row.service);
        const auto endpoint_now = *programs->endpoint_counters(row.service);
        EXPECT_EQ(service_now.packets[0] - service.packets[0], 3u) << row.service;
        EXPECT_EQ(service_now.packets[1] - service.packets[1], 2u);
        EXPECT_EQ(service_now.bytes[0] - service.bytes[0], 60 + 3 * row.header);
        EXPECT_EQ(service_now.bytes[1] - service.bytes[1], 300 + 2 * row.header);
        EXPECT_EQ(service_now.flows - service.flows, 1u);
        EXPECT_EQ(endpoint_now.packets[0] - endpoint.packets[0], 3u);
        EXPECT_EQ(endpoint_now.packets[1] - endpoint.packets[1], 2u);
        EXPECT_EQ(endpoint_now.bytes[0] - endpoint.bytes[0], 60 + 3 * row.header);
        EXPECT_EQ(endpoint_now.bytes[1] - endpoint.bytes[1], 300 + 2 * row.header);
        EXPECT_EQ(endpoint_now.flows - endpoint.flows, 1u);
    }
    const auto cell = chunks_of(*programs, "client_flows").find(identity(0x0b000001, 5000, nat_udp));
    ASSERT_TRUE(cell);
    EXPECT_EQ(cell->packets(), 3u);
    EXPECT_EQ(cell->bytes(), 60u + 3 * 28);
}

}  // namespace
}  // namespace marchproxy::packet
