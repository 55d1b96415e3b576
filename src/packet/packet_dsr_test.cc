// dsr: the packet goes to the endpoint as it came, inside another.
#include <bit>
#include <random>
#include <set>

#include "packet/tunnel_rows.h"
#include "routing/siphash.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

class Dsr : public Plane {
  protected:
    void goes_inside(const std::string& row, const Tunnel& t, const Bytes& frame, const Frame& inner,
                     bool summed = true) {
        const Outcome outcome = run(frame);
        EXPECT_STREQ(name_of(outcome.went), "sent") << t.name << ", " << row;
        EXPECT_EQ(hex(outcome.frame), hex(around(t, inner, outcome.frame, summed))) << t.name << ", " << row;
        EXPECT_TRUE(outcome.refusals.empty()) << t.name << ", " << row;
    }
    abi::flow_state state(uint32_t service, uint16_t port) const {
        return chunks_of(*programs, "client_flows")
            .find(uint64_t{0x0b000001} << 30 | uint64_t{port} << 14 | service)
            ->state();
    }
};
INSTANTIATE_HOOKS(Dsr);

TEST_P(Dsr, GoesInsideAnother) {
    for (const Tunnel& t : tunnels) {
        const Frame sent = t.from_client();
        for (const size_t size : {0, 1, 2, 63, 1300}) {
            const std::string data(size, 'x');
            goes_inside("UDP", t, sent.udp(5000, 80).payload(data), sent.ttl(63).udp(5000, 80).payload(data));
            goes_inside("TCP", t, sent.tcp(5000, 80, syn).payload(data), sent.ttl(63).tcp(5000, 80, syn).payload(data));
        }
        goes_inside("padding", t, sent.udp(5000, 80).padding(9), sent.ttl(63).udp(5000, 80).padding(9));
        goes_inside("no checksum", t, sent.udp(5000, 80).without_checksum(),
                    sent.ttl(63).udp(5000, 80).without_checksum(), false);
    }
    const Frame options = eth().ipv4(client, "10.0.0.3").ip_options({1, 1, 1, 0});
    goes_inside("IP options", tunnels[0], options.udp(5000, 80), options.ttl(63).udp(5000, 80));
    const Frame extended = eth().ipv6(client6, "2001:db8:a::4").extension(60, Bytes(6));
    goes_inside("extension headers", tunnels[3], extended.udp(5000, 80), extended.ttl(63).udp(5000, 80), false);
}

// Also around a tag and behind one.
TEST_P(Dsr, TagsAreThoseOfTheWayToTheEndpoint) {
    for (const bool tagged : {false, true}) {
        if (tagged) stands_for("back", "back_peer", 200);
        for (const Tunnel& t : tunnels)
            for (const Frame& from : {t.from_client(), t.from_client().vlan(7), t.from_client().vlan(7).vlan(8)}) {
                const Frame to = tagged ? into(t.from_client(), 200) : t.from_client();
                goes_inside("UDP", t, from.udp(5000, 80), to.ttl(63).udp(5000, 80));
                goes_inside("TCP", t, from.tcp(5000, 80, syn), to.ttl(63).tcp(5000, 80, syn));
            }
    }
}

TEST_P(Dsr, MarksGoOn) {
    for (const Tunnel& t : tunnels) {
        Bytes frame = t.from_client().udp(5000, 80);
        if (t.v6)
            put16(frame, ethernet, 0x6000 | 0xba << 4);
        else
            frame[ethernet + 1] = 0xba;
        write_checksums(frame);
        const Outcome outcome = run_alone(frame);
        ASSERT_EQ(outcome.went, Went::sent) << t.name;
        EXPECT_EQ(t.v6 ? get16(outcome.frame, ethernet) >> 4 & 0xff : outcome.frame[ethernet + 1], 0xbau) << t.name;
    }
}

TEST_P(Dsr, TellsFlowsApartOnTheWay) {
    for (const Tunnel& t : tunnels) {
        if (!t.gue && !t.v6) continue;
        std::set<unsigned> ports, labels;
        for (uint16_t port = 1000; port < 1100; ++port) {
            const Bytes frame = t.from_client().udp(port, 80);
            const Spread spread = spread_in(t, run_alone(frame).frame);
            EXPECT_EQ(spread_in(t, run_alone(frame).frame), spread) << t.name;
            ports.insert(spread.port);
            labels.insert(spread.label);
            if (t.gue) {
                EXPECT_GE(spread.port, 49'152u);
            }
        }
        EXPECT_GT(t.gue ? ports.size() : labels.size(), 95u) << t.name;
    }
}

TEST_P(Dsr, TcpGoesOnWithoutAFlow) {
    for (const Tunnel& t : tunnels) {
        const Frame sent = t.from_client();
        goes_inside("begun elsewhere", t, sent.tcp(5002, 80, ack), sent.ttl(63).tcp(5002, 80, ack));
        drops("but not by RST", sent.tcp(5003, 80, rst), t.udp + 1, abi::packet_verdict_no_flow);
    }
}

TEST_P(Dsr, EndpointsPacketsAreTheirOwn) {
    for (const Tunnel& t : tunnels) {
        run_alone(t.from_client().udp(5000, 80));
        const Frame there = t.v6 ? eth().ipv6(t.endpoint, t.client) : eth().ipv4(t.endpoint, t.client);
        passes(t.name, there.udp(80, 5000), "back");
        const Frame back = t.v6 ? eth().ipv6(t.service, t.client) : eth().ipv4(t.service, t.client);
        passes(t.name, back.udp(80, 5000), "back");
    }
}

TEST_P(Dsr, PartsGoWhereTheirFirstWent) {
    for (const Tunnel& t : tunnels) {
        const auto cut = parts(t.from_client().udp(5000, 80).payload(std::string(200, 'x')), {64, 128});
        std::optional<Spread> first;
        for (const Bytes& part : cut) {
            const Outcome outcome = run(part);
            ASSERT_EQ(outcome.went, Went::sent) << t.name;
            const size_t inner = ethernet + t.header();
            ASSERT_EQ(outcome.frame.size(), part.size() + t.header()) << t.name;
            Bytes inside(outcome.frame.begin() + static_cast<long>(inner), outcome.frame.end());
            Bytes expected(part.begin() + ethernet, part.end());
            if (t.v6) {
                --expected[7];
            } else {
                --expected[8];
                put16(expected, 10, 0);
                put16(expected, 10, checksum_of(ones_sum(std::span(expected).subspan(0, 20))));
            }
            EXPECT_EQ(hex(inside), hex(expected)) << t.name;
            if (t.gue) {
                EXPECT_EQ(get16(outcome.frame, inner - 2), 0u) << t.name << ": a checksum that nobody knows";
            }
            const Spread spread = spread_in(t, outcome.frame);
            EXPECT_EQ(first.value_or(spread), spread) << t.name << ": parts on different ways are reordered";
            first = spread;
        }
    }
}

// A router between endpoint and client tells the service's address of an endpoint's packet.
TEST_P(Dsr, ErrorsAboutAnswersGoToTheEndpoint) {
    for (const Tunnel& t : tunnels) {
        run_alone(t.from_client().tcp(5000, 80, syn));
        const Frame router = t.v6 ? eth().ipv6("2001:db8:c::99", t.service) : eth().ipv4("11.0.0.99", t.service);
        const Icmp icmp = t.v6 ? Icmp{true, 2, 1280} : Icmp{false, 3, 1280, 4};
        for (const uint16_t port :
             std::initializer_list<uint16_t>{5000, 5555}) {  // of a flow; of one that another node has
            const Frame answer = t.v6 ? eth().ipv6(t.service, t.client) : eth().ipv4(t.service, t.client);
            const std::string quoted = quote(answer.ttl(3).tcp(80, port, ack).payload(std::string(900, 'x')), 400);
            const Bytes error = icmp_message(router.payload(quoted), icmp);
            const Outcome outcome = run(error);
            ASSERT_EQ(outcome.went, Went::sent) << t.name;
            ASSERT_EQ(outcome.frame.size(), error.size() + t.header()) << t.name;
            const Bytes expected = icmp_message(router.ttl(63).payload(quoted), icmp);
            const Bytes inside(outcome.frame.begin() + static_cast<long>(ethernet + t.header()), outcome.frame.end());
            EXPECT_EQ(hex(inside), hex(Bytes(expected.begin() + ethernet, expected.end()))) << t.name;
            EXPECT_EQ(outcome.frame[ethernet + (t.v6 ? 39 : 19)], t.gue ? 4 : 3) << t.name << ": the endpoint";
            if (t.gue && t.v6) {
                const std::span<const uint8_t> all(outcome.frame);
                const size_t udp = ethernet + 40;
                EXPECT_EQ(ones_sum(all.subspan(udp),
                                   ones_sum(all.subspan(ethernet + 8, 32)) + udp_protocol + all.size() - udp),
                          0u);
            }
        }
    }
}

// What a router on the way to the endpoint says of a packet that went inside another, whole or only its first bytes.
Bytes error_inside(const Tunnel& t, const Bytes& sent, const Icmp& icmp, size_t most = 500, const Frame& link = eth()) {
    const Frame router = t.v6 ? link.ipv6("2001:db8:e::99", t.source) : link.ipv4("10.1.0.99", t.source);
    const Bytes quoted(sent.begin() + ethernet,
                       sent.begin() + static_cast<long>(std::min(sent.size(), ethernet + most)));
    return icmp_message(router.payload({quoted.begin(), quoted.end()}), icmp);
}

TEST_P(Dsr, ErrorsAboutTheTunnelGoToTheClient) {
    for (const Tunnel& t : tunnels) {
        const Frame up = t.from_client().tcp(5000, 80, ack).payload(std::string(900, 'x'));
        const Bytes sent = run_alone(up).frame;
        const std::string inside = quote(up.ttl(63), 500 - t.header());
        const Frame down =
            (t.v6 ? eth().ipv6(t.service, t.client) : eth().ipv4(t.service, t.client)).from(front_mac, front_gateway);
        const auto mtu = static_cast<uint32_t>(1400 - t.header());
        struct Row {
            const char* name;
            Icmp said, told;
        };
        const Row rows4[] = {
            {"too large", {false, 3, 1400, 4}, {false, 3, mtu, 4}},
            {"too large by far", {false, 3, 0, 4}, {false, 3, 68, 4}},
            {"too far", {false, 11}, {false, 3, 0, 1}},
            {"the endpoint takes no such packets", {false, 3, 0, 3}, {false, 3, 0, 1}},
        };
        const Row rows6[] = {
            {"too large", {true, 2, 1400}, {true, 2, mtu}},
            {"too large by far", {true, 2, 5}, {true, 2, 1280}},
            {"too far", {true, 3}, {true, 1, 0, 3}},
            {"no route", {true, 1}, {true, 1, 0, 3}},
        };
        for (const Row& row : t.v6 ? std::span<const Row>(rows6) : std::span<const Row>(rows4)) {
            const Outcome outcome = run(error_inside(t, sent, row.said), "back");
            EXPECT_STREQ(name_of(outcome.went), "sent") << t.name << ", " << row.name;
            EXPECT_EQ(hex(outcome.frame), hex(told(down, row.told, inside))) << t.name << ", " << row.name;
        }
        const Icmp said = rows4[0].said, said6 = rows6[0].said;
        const Icmp& icmp = t.v6 ? said6 : said;
        passes("too little of it", error_inside(t, sent, icmp, t.header() + 8), "back");
        Bytes elsewhere = sent;
        elsewhere[ethernet + (t.v6 ? 39 : 19)] ^= 1;
        passes("sent to another endpoint", error_inside(t, elsewhere, icmp), "back");
        Bytes by_other = sent;
        by_other[ethernet + (t.v6 ? 23 : 15)] ^= 1;
        passes("sent by somebody else", error_inside(t, by_other, icmp), "back");
        const Tunnel& other = tunnels[(&t - tunnels) ^ 2];
        Bytes as_other = around(other, other.from_client().tcp(5000, 80, ack).payload(std::string(900, 'x')), {});
        as_other[ethernet + (t.v6 ? 39 : 19)] = sent[ethernet + (t.v6 ? 39 : 19)];
        passes("inside what this endpoint's packets are not inside", error_inside(t, as_other, icmp), "back");
    }
}

TEST_P(Dsr, ErrorsAboutTheTunnelGoIntoTheClientsVlan) {
    stands_for("front", "front_peer", 100);
    for (const Tunnel& t : tunnels) {
        const Frame up = t.from_client().tcp(5000, 80, ack).payload(std::string(900, 'x'));
        const Bytes sent = run_alone(up).frame;
        const Frame down = into(t.v6 ? eth().ipv6(t.service, t.client) : eth().ipv4(t.service, t.client), 100);
        const Icmp said = t.v6 ? Icmp{true, 1} : Icmp{false, 11},
                   is = t.v6 ? Icmp{true, 1, 0, 3} : Icmp{false, 3, 0, 1};
        const Bytes expected = told(down.from(front_mac, front_gateway), is, quote(up.ttl(63), 500 - t.header()));
        goes(t.name, error_inside(t, sent, said), "back", expected);
        // At TC the one tag that there is is beside the frame, which has none.
        if (GetParam() == Hook::xdp) goes(t.name, error_inside(t, sent, said, 500, eth().vlan(200)), "back", expected);
    }
}

TEST_P(Dsr, ErrorsAboutTheTunnelMayBeAnything) {
    std::mt19937_64 random(20'241);
    uint64_t sent = 0;
    for (int i = 0; i < 8'000; ++i) {
        const Tunnel& t = tunnels[i % 4];
        const Frame up = t.from_client().tcp(5000, 80, ack).payload(std::string(random() % 600, 'x'));
        Bytes error = error_inside(t, run_alone(up).frame, t.v6 ? Icmp{true, 2, 1400} : Icmp{false, 3, 1400, 4},
                                   t.header() + random() % 500);
        for (uint64_t changes = random() % 3; changes > 0; --changes)
            error[34 + random() % std::min<size_t>(error.size() - 34, 100)] = static_cast<uint8_t>(random());
        if (random() % 4 == 0) error.resize(std::max<size_t>(54, error.size() - random() % 30));
        const Outcome outcome = run(error, "back");
        if (outcome.went == Went::passed) {
            ASSERT_EQ(hex(outcome.frame), hex(error));
        } else if (outcome.went == Went::dropped) {
            ASSERT_EQ(outcome.refusals.size(), 1u) << hex(error);
        } else if (outcome.frame[ethernet + (t.v6 ? 6 : 9)] == (t.v6 ? 58 : 1)) {
            ++sent;
            const std::span<const uint8_t> all(outcome.frame);
            const size_t ip = t.v6 ? 40 : 20, length = get16(all, ethernet + (t.v6 ? 4 : 2)) + (t.v6 ? 40u : 0u);
            ASSERT_LE(ethernet + length, all.size()) << hex(error);
            const uint64_t pseudo = t.v6 ? ones_sum(all.subspan(22, 32)) + 58 + length - ip : 0;
            ASSERT_EQ(ones_sum(all.subspan(ethernet + ip, length - ip), pseudo), 0u) << hex(error);
        }
    }
    EXPECT_GT(sent, 1000u);
}

TEST_P(Dsr, SendersAreToldHowMuchFitsInside) {
    for (const Tunnel& t : tunnels)
        ASSERT_EQ(std::system(fmt::format("ip {} route add {} via {} dev back mtu lock 1400", t.v6 ? "-6" : "-4",
                                          t.endpoint, t.v6 ? "2001:db8:b::1" : "198.51.100.1")
                                  .c_str()),
                  0);
    for (const Tunnel& t : tunnels) {
        forget_tells();
        const size_t room = 1400 - t.header(), headers = t.v6 ? 48 : 28;
        const Frame sent = t.from_client().udp(5000, 80);
        goes_inside("fits", t, sent.payload(std::string(room - headers, 'x')),
                    sent.ttl(63).payload(std::string(room - headers, 'x')));
        const Outcome outcome = run(sent.payload(std::string(room - headers + 1, 'x')));
        EXPECT_EQ(outcome.went, GetParam() == Hook::xdp ? Went::bounced : Went::sent) << t.name;
        ASSERT_EQ(outcome.refusals.size(), 1u) << t.name;
        EXPECT_EQ(outcome.refusals[0], std::pair(t.udp, abi::packet_verdict_oversized)) << t.name;
        EXPECT_EQ(get16(outcome.frame, ethernet + (t.v6 ? 46 : 26)), room) << t.name;
    }
    drops("whose hop limit is over", eth().ipv4("224.0.0.1", "10.0.0.3").ttl(1).udp(5000, 80), ipip_udp,
          abi::packet_verdict_hop_limit);
}

// Nobody sees what the endpoint says.
TEST_P(Dsr, FlowsHaveTheStatesThatTheClientShows) {
    const Frame sent = eth().ipv4(client, "10.0.0.3");
    run_alone(sent.udp(5000, 80));
    EXPECT_EQ(state(ipip_udp, 5000), abi::flow_opening);
    run_alone(sent.udp(5000, 80));
    EXPECT_EQ(state(ipip_udp, 5000), abi::flow_established);
    const std::pair<uint8_t, abi::flow_state> steps[] = {
        {syn, abi::flow_opening},       {ack, abi::flow_opening},
        {ack, abi::flow_established},   {ack | push, abi::flow_established},
        {syn, abi::flow_established},   {fin | ack, abi::flow_client_closed},
        {ack, abi::flow_client_closed}, {syn, abi::flow_opening},
        {ack, abi::flow_established},   {rst, abi::flow_client_reset},
        {syn, abi::flow_opening},
    };
    for (const auto& [flags, after] : steps) {
        ASSERT_EQ(run_alone(sent.tcp(5001, 80, flags)).went, Went::sent);
        EXPECT_EQ(state(ipip_tcp, 5001), after) << "flags " << int{flags};
    }
    uint16_t port = 5002;
    for (const uint8_t second : {ack, rst, fin, syn}) {  // anybody's
        run_alone(sent.tcp(port, 80, syn));
        run_alone(sent.tcp(port, 80, second));
        EXPECT_EQ(state(ipip_tcp, port++), abi::flow_opening) << "flags " << int{second};
    }
}

// A table without room, and packets that find none in it.
class DsrFull : public Dsr {
  protected:
    // Beside its own: that of the other tunnel of its family, which is there anyway.
    static uint32_t other_endpoint(const Tunnel& t) { return t.udp + 4 < place_count ? t.udp + 4 : t.udp - 4; }
    void set_endpoints(uint32_t index, const std::vector<uint32_t>& endpoints) {
        constexpr uint32_t first = place_count;  // behind the rings of one endpoint
        expect(programs->set_ring(first, endpoints));
        abi::packet_service changed = service(index);
        changed.ring = uint64_t{first} << 32 | endpoints.size();
        changed.seed = seed;
        expect(programs->set_service(index, changed));
    }
    // What every node of this seed chooses: src/routing's hash of who the client is, in its bytes.
    static uint32_t named_by_maglev(const Tunnel& t, uint16_t port, const std::vector<uint32_t>& endpoints) {
        constexpr uint64_t use = 4;
        const abi::address from = address_of(t.client);
        const auto bytes =
            std::bit_cast<std::array<uint8_t, 24>>(std::array<uint64_t, 3>{from.word[0], from.word[1], htons(port)});
        return endpoints[routing::siphash13(seed, use, bytes) % endpoints.size()];
    }
    static Tunnel to(const Tunnel& t, uint32_t endpoint) {
        Tunnel there = t;
        there.endpoint = places[endpoint].endpoint;
        return there;
    }
    static uint64_t stateless(uint32_t index) { return programs->service_counters(index)->stateless; }

    // By UDP, from port 2000 on, until this many found no room.
    struct Filled {
        std::vector<uint16_t> held, without_room;
    };
    Filled fill(const Tunnel& t, size_t beyond) {
        Filled filled;
        for (uint16_t port = 2000; filled.without_room.size() < beyond && port < 30'000 && !HasFailure(); ++port) {
            const uint64_t before = stateless(t.udp);
            EXPECT_EQ(run_alone(t.from_client().udp(port, 80)).went, Went::sent) << t.name << port;
            (stateless(t.udp) == before ? filled.held : filled.without_room).push_back(port);
        }
        EXPECT_GT(filled.held.size(), programs->flow_cells() * 97 / 100) << t.name;
        EXPECT_EQ(filled.without_room.size(), beyond) << t.name;
        return filled;
    }
    static void empty() {
        chunks_of(*programs, "client_flows").clear();
        chunks_of(*programs, "endpoint_flows").clear();
    }

    static constexpr uint64_t seed = 0x5eed'0000'0000'0006;
};
INSTANTIATE_HOOKS(DsrFull);

TEST_P(DsrFull, SendsWhatFindsNoRoomToWhomMaglevNames) {
    for (const Tunnel& t : tunnels) {
        const std::vector<uint32_t> both{t.udp, other_endpoint(t)}, other{other_endpoint(t)};
        const auto named = [&](uint16_t port) { return named_by_maglev(t, port, both); };
        const auto go = [&](const char* row, const std::vector<uint16_t>& ports, const auto& endpoint_of) {
            for (const uint16_t port : ports)
                if (!HasFailure())
                    goes_inside(row, to(t, endpoint_of(port)), t.from_client().udp(port, 80),
                                t.from_client().ttl(63).udp(port, 80));
        };
        set_endpoints(t.udp, both);
        const Filled filled = fill(t, 200);
        uint64_t counted = stateless(t.udp);
        const uint64_t flows = programs->service_counters(t.udp)->flows;
        go("no room", filled.without_room, named);
        EXPECT_EQ(stateless(t.udp), counted += filled.without_room.size()) << t.name;
        go("of a flow", filled.held, named);
        EXPECT_EQ(stateless(t.udp), counted) << t.name << ": flows have their room";

        set_endpoints(t.udp, other);
        go("no room, another ring", filled.without_room, [&](uint16_t) { return other[0]; });
        go("of a flow, another ring", filled.held, named);
        EXPECT_EQ(stateless(t.udp), counted += filled.without_room.size()) << t.name;
        EXPECT_EQ(programs->service_counters(t.udp)->flows, flows) << t.name << ": none began";

        empty();
        set_endpoints(t.udp, both);
        go("where there is room", filled.without_room, named);
        EXPECT_EQ(stateless(t.udp), counted) << t.name;
        EXPECT_EQ(programs->service_counters(t.udp)->flows, flows + filled.without_room.size()) << t.name;
        empty();
    }
}

TEST_P(DsrFull, TcpGoesOnFromItsFirstPacketToItsLast) {
    for (const Tunnel& t : tunnels) {
        const uint32_t tcp = t.udp + 1;
        const std::vector<uint32_t> both{tcp, other_endpoint(t) + 1};
        set_endpoints(tcp, both);
        fill(t, 500);  // so that hardly a cell is free
        uint16_t beyond = 0;
        for (uint16_t port = 5000; port < 5100 && !HasFailure(); ++port) {
            const Tunnel there = to(t, named_by_maglev(t, port, both));
            const Frame sent = t.from_client(), inner = t.from_client().ttl(63);
            const uint64_t before = stateless(tcp);
            goes_inside("SYN", there, sent.tcp(port, 80, syn), inner.tcp(port, 80, syn));
            if (stateless(tcp) == before) continue;
            ++beyond;
            goes_inside("ACK", there, sent.tcp(port, 80, ack), inner.tcp(port, 80, ack));
            goes_inside("FIN", there, sent.tcp(port, 80, fin | ack), inner.tcp(port, 80, fin | ack));
            EXPECT_EQ(stateless(tcp), before + 3) << t.name;
            drops("RST, of which nobody knows whose it is", sent.tcp(port, 80, rst), tcp, abi::packet_verdict_no_flow);
        }
        EXPECT_GT(beyond, 90u) << t.name;
        empty();
    }
}

class DsrBacklog : public Dsr {
  protected:
    void set_backlog(uint32_t index, uint32_t backlog) {
        abi::packet_limits limits{};
        limits.proven_from = backlog + 1;
        expect(programs->set_limits(index, limits));
        abi::packet_service limited = service(index);
        limited.flags = abi::service_limits_flows;
        limited.opening_seconds = limited.idle_seconds = 60;
        expect(programs->set_service(index, limited));
    }
    static uint32_t half_open() { return abi::admission_half_open(admission(ipip_tcp).live); }
    static uint32_t live() { return abi::admission_live(admission(ipip_tcp).live); }
};
INSTANTIATE_HOOKS(DsrBacklog);

// Who has not spoken a third time may not be there.
TEST_P(DsrBacklog, CountsWhoMayNotBeThere) {
    const Frame sent = eth().ipv4(client, "10.0.0.3");
    set_backlog(ipip_tcp, 100);
    run_alone(sent.tcp(5000, 80, syn));
    run_alone(sent.tcp(5000, 80, ack));
    EXPECT_EQ(half_open(), 1u);
    run_alone(sent.tcp(5000, 80, ack | push));
    EXPECT_EQ(half_open(), 0u);
    EXPECT_EQ(live(), 1u);
}

// What another node began goes where that node would send it, kept or not: its flows may all come at once.
TEST_P(DsrBacklog, WhatOthersBeganGoesOnUnderPressure) {
    const Tunnel& t = tunnels[0];
    const Frame sent = t.from_client(), inner = t.from_client().ttl(63);
    set_backlog(ipip_tcp, 100);
    goes_inside("taken up", t, sent.tcp(5000, 80, ack), inner.tcp(5000, 80, ack));
    EXPECT_EQ(half_open(), 0u);
    EXPECT_EQ(live(), 1u);
    set_backlog(ipip_tcp, 0);
    const auto before = *programs->service_counters(ipip_tcp);
    goes_inside("passed by", t, sent.tcp(5001, 80, ack | push), inner.tcp(5001, 80, ack | push));
    EXPECT_EQ(programs->service_counters(ipip_tcp)->stateless, before.stateless + 1);
    EXPECT_EQ(live(), 1u);
    run(sent.tcp(5002, 80, syn));
    EXPECT_EQ(programs->service_counters(ipip_tcp)->cookies, before.cookies + 1) << "who begins is asked";
}

// A client that begins anew where its last flow's endpoint takes no new ones.
TEST_P(Dsr, WhatBeginsAnewLeavesAnEndpointThatDrains) {
    Tunnel other = tunnels[0];
    other.endpoint = places[gue_tcp].endpoint;
    const Frame sent = tunnels[0].from_client(), inner = tunnels[0].from_client().ttl(63);
    for (const uint8_t flags : {syn, ack, ack})
        run_alone(sent.tcp(5000, 80, flags));
    const uint32_t ring[] = {gue_tcp};
    expect(programs->set_ring(ipip_tcp, ring));
    set_endpoint(ipip_tcp, abi::endpoint_in_use);
    goes_inside("what lives stays", tunnels[0], sent.tcp(5000, 80, ack), inner.tcp(5000, 80, ack));
    run_alone(sent.tcp(5000, 80, fin | ack));
    goes_inside("begins anew", other, sent.tcp(5000, 80, syn), inner.tcp(5000, 80, syn));
    goes_inside("goes on", other, sent.tcp(5000, 80, ack), inner.tcp(5000, 80, ack));
}

}  // namespace
}  // namespace marchproxy::packet
