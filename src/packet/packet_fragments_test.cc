// Datagrams in parts: all of them go where the first went.
#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

class Fragments : public Plane {
  protected:
    void SetUp() override {
        Plane::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        expect(programs->set_directory(**build_directory(entries(true))));
    }

    // Lets all that is remembered of first parts have been so for so much longer.
    static void age_fragments(uint32_t seconds) {
        const int map = programs->map("fragments");
        std::array<uint8_t, 40> key{};
        bpf_map_info info{};
        uint32_t size = sizeof info;
        ASSERT_EQ(bpf_obj_get_info_by_fd(map, &info, &size), 0);
        std::vector<uint32_t> way(info.value_size / 4);  // the second is the last word
        int entries = 0;
        for (void* before = nullptr; bpf_map_get_next_key(map, before, key.data()) == 0;
             before = key.data(), ++entries) {
            ASSERT_EQ(bpf_map_lookup_elem(map, key.data(), way.data()), 0);
            way.back() -= seconds;
            ASSERT_EQ(bpf_map_update_elem(map, key.data(), way.data(), BPF_EXIST), 0);
        }
        ASSERT_GT(entries, 0);
    }
    void all_go(const std::string& row, const Bytes& whole, const char* interface, const Bytes& expected,
                const std::vector<size_t>& cuts, const std::vector<size_t>& order) {
        const auto in = parts(whole, cuts), out = parts(expected, cuts);
        for (const size_t part : order)
            goes(fmt::format("{}, part {}", row, part).c_str(), in[part], interface, out[part]);
    }
    static Bytes up4() { return eth().ipv4(client, "10.0.0.1").udp(5000, 80).payload(text); }
    static Bytes up4_onward() {
        return eth().from(back_mac, back_gateway).ipv4(source, "10.1.0.1").ttl(63).udp(5000, 8080).payload(text);
    }

    static inline const std::string text = std::string(100, 'a') + std::string(101, 'b');
};
INSTANTIATE_HOOKS(Fragments);

TEST_P(Fragments, GoWhereTheFirstWent) {
    struct Row {
        const char *name, *client, *address, *endpoint, *ours;
        uint32_t udp;
    };
    const Row rows[] = {{"nat", client, "10.0.0.1", "10.1.0.1", source, nat_udp},
                        {"nat, IPv6", client6, "2001:db8:a::1", "2001:db8:e::1", source6, nat_udp6},
                        {"dnat", client, "10.0.0.2", "10.1.0.2", client, dnat_udp},
                        {"dnat, IPv6", client6, "2001:db8:a::2", "2001:db8:e::2", client6, dnat_udp6}};
    for (const Row& row : rows)
        for (const bool tcp : {false, true}) {
            const auto frame = [&](const char* from, const char* to, uint16_t source_port, uint16_t port,
                                   uint8_t flags) {
                const Frame ip = std::strchr(from, ':') ? eth().ipv6(from, to) : eth().ipv4(from, to);
                return (tcp ? ip.tcp(source_port, port, flags) : ip.udp(source_port, port)).payload(text);
            };
            const std::string name = std::string(row.name) + (tcp ? ", TCP" : ", UDP");
            run_alone(frame(row.client, row.address, 5000, 80, syn));
            const auto before = *programs->service_counters(row.udp + tcp);
            const Bytes up = frame(row.client, row.address, 5000, 80, ack);
            const Bytes up_onward = frame(row.ours, row.endpoint, 5000, 8080, ack).ttl(63).from(back_mac, back_gateway);
            const Bytes down = frame(row.endpoint, row.ours, 8080, 5000, ack);
            const Bytes down_onward =
                frame(row.address, row.client, 80, 5000, ack).ttl(63).from(front_mac, front_gateway);
            all_go(name, up, "front", up_onward, {24, 96}, {0, 1, 2});
            all_go(name + " back", down, "back", down_onward, {24, 96}, {0, 2, 1, 1});
            all_go(name + ", anew", up, "front", up_onward, {64}, {0, 0, 1});
            const auto now = *programs->service_counters(row.udp + tcp);
            EXPECT_EQ(now.packets[0] - before.packets[0], 6u) << name;
            EXPECT_EQ(now.packets[1] - before.packets[1], 4u) << name;
        }
}

TEST_P(Fragments, CountInTheirFlow) {
    for (const Bytes& part : parts(up4(), {24, 96}))
        run_alone(part);
    const auto cell = chunks_of(*programs, "client_flows").find(uint64_t{0x0b000001} << 30 | 5000 << 14 | nat_udp);
    ASSERT_TRUE(cell);
    EXPECT_EQ(cell->packets(), 3u);
    EXPECT_EQ(cell->bytes(), 3 * 20 + 8 + text.size());
}

TEST_P(Fragments, WithoutTheFirstTheyAreDroppedWhereTheyAreSurelyOurs) {
    const auto part = parts(up4(), {24, 96});
    drops("before the first", part[1], nat_udp, abi::packet_verdict_fragment);
    run_alone(part[0]);
    drops("of another datagram", parts(up4(), {24, 96}, 0x1235)[1], nat_udp, abi::packet_verdict_fragment);
    drops("of another client", parts(eth().ipv4("11.0.0.2", "10.0.0.1").udp(5000, 80).payload(text), {24})[1], nat_udp,
          abi::packet_verdict_fragment);
    drops("of another protocol", parts(eth().ipv4(client, "10.0.0.1").tcp(5000, 80, ack).payload(text), {24})[1],
          nat_udp, abi::packet_verdict_fragment);
    drops("IPv6", parts(eth().ipv6(client6, "2001:db8:a::1").udp(5000, 80).payload(text), {24})[1], nat_udp6,
          abi::packet_verdict_fragment);
    EXPECT_EQ(run(part[1]).went, Went::sent);
    age_fragments(29);
    EXPECT_EQ(run(part[1]).went, Went::sent);
    age_fragments(3);
    drops("half a minute later", part[1], nat_udp, abi::packet_verdict_fragment);
    passes("of an endpoint", parts(eth().ipv4("10.1.0.1", source).udp(8080, 5000).payload(text), {24})[1], "back");
    passes("of a stranger", parts(eth().ipv4(client, "10.0.0.9").udp(5000, 80).payload(text), {24})[1]);
    passes("of a stranger's first", parts(eth().ipv4(client, "10.0.0.9").udp(5000, 80).payload(text), {24})[0]);
    expect(programs->set_directory(**build_directory(entries(false))));
    passes("for an address of the machine's own", part[1]);
}

TEST_P(Fragments, FollowNoOtherFlow) {
    const auto part = parts(up4(), {24}), onward = parts(up4_onward(), {24});
    run_alone(part[0]);
    chunks_of(*programs, "client_flows").clear();
    chunks_of(*programs, "endpoint_flows").clear();
    goes("the flow has ended", part[1], "front", onward[1]);
    abi::packet_service other = service(nat_udp);
    other.ring = uint64_t{dnat_udp} << 32 | 1;  // another endpoint
    expect(programs->set_service(nat_udp, other));
    goes("nor is one begun by it", part[1], "front", onward[1]);
    run_alone(eth().ipv4(client, "10.0.0.1").udp(5000, 80));
    drops("another has begun elsewhere", part[1], nat_udp, abi::packet_verdict_fragment);
}

// The last first counts: whoever overwrites a datagram's begin has its other parts go where that went.
TEST_P(Fragments, AFirstOneAgainIsRememberedAnew) {
    const auto part = parts(up4(), {24});
    run_alone(part[0]);
    const Bytes other = eth().ipv4(client, "10.0.0.1").udp(5001, 80).payload(text);
    run_alone(parts(other, {24})[0]);
    run_alone(part[1]);
    const auto cell = chunks_of(*programs, "client_flows").find(uint64_t{0x0b000001} << 30 | 5001 << 14 | nat_udp);
    ASSERT_TRUE(cell);
    EXPECT_EQ(cell->packets(), 2u);
}

TEST_P(Fragments, TooSmallOnesAreMalformed) {
    const Bytes tcp = eth().ipv4(client, "10.0.0.1").tcp(5000, 80, syn).payload(text);
    const Bytes tcp6 = eth().ipv6(client6, "2001:db8:a::1").tcp(5000, 80, syn).payload(text);
    const Bytes options = eth().ipv4(client, "10.0.0.1").tcp(5000, 80, syn).tcp_options(Bytes(12, 1)).payload(text);
    const auto first = [](Bytes frame, size_t cut) { return frame = parts(frame, {cut})[0], frame.resize(60), frame; };
    for (const size_t cut : {8, 16}) {
        drops("TCP's header in two", first(tcp, cut), 0, abi::packet_verdict_malformed);
        drops("TCP's header in two, IPv6", parts(tcp6, {cut})[0], 0, abi::packet_verdict_malformed);
        drops("over TCP's header", parts(tcp, {cut})[1], 0, abi::packet_verdict_malformed);
        drops("over TCP's header, IPv6", parts(tcp6, {cut})[1], 0, abi::packet_verdict_malformed);
    }
    drops("TCP's options in two", parts(options, {24})[0], 0, abi::packet_verdict_malformed);
    Bytes udp = parts(up4(), {8})[0];
    put16(udp, 16, 24);
    drops("half of UDP's", udp, 0, abi::packet_verdict_malformed);
}

TEST_P(Fragments, OthersThanOfFlows) {
    const Frame atomic = eth().ipv6(client6, "2001:db8:a::1").extension(44, {0, 0, 0, 0, 0, 7}).udp(5000, 80);
    goes_up("a part that is all (RFC 6946)", atomic,
            eth().ipv6(source6, "2001:db8:e::1").ttl(63).extension(44, {0, 0, 0, 0, 0, 7}).udp(5000, 8080));
    passes("two fragment headers", eth()
                                       .ipv6(client6, "2001:db8:a::1")
                                       .extension(44, {0, 1, 0, 0, 0, 7})
                                       .extension(44, {0, 1, 0, 0, 0, 7})
                                       .udp(5000, 80));
    const Bytes echo = icmp_message(eth().ipv4(client, "10.0.0.1").fragment(0x2000), {.v6 = false, .type = 8});
    passes("the first of an echo request", echo);
    run_alone(parts(up4(), {24})[0]);
    Bytes last_hop = parts(up4(), {24})[1];
    last_hop[22] = 1;
    drops("hop limit", last_hop, nat_udp, abi::packet_verdict_hop_limit);
}

}  // namespace
}  // namespace marchproxy::packet
