// What is told to whoever sent a packet that could not be sent on.
#include <chrono>

#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

class Tell : public Plane {
  protected:
    void tells(const char* row, const Bytes& frame, const char* interface, uint32_t service, abi::packet_verdict why,
               const Bytes& answer) {
        const Outcome outcome = run(frame, interface);
        ASSERT_EQ(outcome.refusals.size(), 1u) << row;
        EXPECT_EQ(outcome.refusals[0], std::pair(service, why)) << row;
        EXPECT_EQ(outcome.went, back()) << row << ": " << name_of(outcome.went);
        EXPECT_EQ(hex(outcome.frame), hex(answer)) << row;
    }
    void tells_nobody(const char* row, const Bytes& frame, uint32_t service, abi::packet_verdict why) {
        drops(row, frame, service, why);
    }
    static Frame ip(const char* from, const char* to) {
        return std::strchr(from, ':') ? eth().ipv6(from, to) : eth().ipv4(from, to);
    }
    // To whoever sent eth()'s frames.
    static Frame answer(const char* from, const char* to) {
        return ip(from, to).from({2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 1});
    }
    static Went back() { return GetParam() == Hook::xdp ? Went::bounced : Went::sent; }
    static constexpr size_t most(bool v6) { return v6 ? 1280 - 48 : 576 - 28; }
};
INSTANTIATE_HOOKS(Tell);

struct Row {
    const char *name, *from, *to;
    uint16_t source_port, port;
    const char *interface, *teller;
    uint32_t udp;  // the service
};
const Row rows[] = {
    {"up", client, "10.0.0.1", 5000, 80, "front", "10.0.0.1", nat_udp},
    {"up, IPv6", client6, "2001:db8:a::1", 5000, 80, "front", "2001:db8:a::1", nat_udp6},
    {"up, dnat", client, "10.0.0.2", 5000, 80, "front", "10.0.0.2", dnat_udp},
    {"down", "10.1.0.1", source, 8080, 5000, "back", source, nat_udp},
    {"down, IPv6", "2001:db8:e::1", source6, 8080, 5000, "back", source6, nat_udp6},
    {"down, dnat", "10.1.0.2", client, 8080, 5000, "back", "10.0.0.2", dnat_udp},
    {"down, dnat, IPv6", "2001:db8:e::2", client6, 8080, 5000, "back", "2001:db8:a::2", dnat_udp6},
};

void begin_flows(const auto& run) {
    for (const char* address : {"10.0.0.1", "10.0.0.2"}) {
        run(eth().ipv4(client, address).udp(5000, 80));
        run(eth().ipv4(client, address).tcp(5000, 80, syn));
    }
    for (const char* address : {"2001:db8:a::1", "2001:db8:a::2"}) {
        run(eth().ipv6(client6, address).udp(5000, 80));
        run(eth().ipv6(client6, address).tcp(5000, 80, syn));
    }
}

TEST_P(Tell, ThatTheHopLimitWasOver) {
    begin_flows([this](const Frame& frame) { run_alone(frame); });
    for (const Row& row : rows)
        for (const bool tcp : {false, true})
            for (const size_t payload : {0, 1, 63, 1400}) {
                forget_tells();
                const bool v6 = std::strchr(row.from, ':');
                const Frame ends = ip(row.from, row.to).ttl(1).payload(std::string(payload, 'x')).padding(5);
                const Bytes frame =
                    tcp ? ends.tcp(row.source_port, row.port, ack) : ends.udp(row.source_port, row.port);
                tells(row.name, frame, row.interface, row.udp + tcp, abi::packet_verdict_hop_limit,
                      told(answer(row.teller, row.from), {v6, static_cast<uint8_t>(v6 ? 3 : 11)},
                           quote(frame, most(v6))));
            }
    const Bytes tagged = eth().vlan(7).ipv4(client, "10.0.0.1").ttl(0).udp(5000, 80);
    tells("a tag", tagged, "front", nat_udp, abi::packet_verdict_hop_limit,
          told(answer("10.0.0.1", client).vlan(7), {false, 11}, quote(tagged)));
    const Bytes first =
        parts(eth().ipv4(client, "10.0.0.1").ttl(1).udp(5000, 80).payload(std::string(99, 'x')), {64})[0];
    tells("a first part", first, "front", nat_udp, abi::packet_verdict_hop_limit,
          told(answer("10.0.0.1", client), {false, 11}, quote(first)));
}

TEST_P(Tell, NobodyWhoIsNotOne) {
    constexpr auto over = abi::packet_verdict_hop_limit;
    tells_nobody("multicast", eth().ipv4("224.0.0.1", "10.0.0.1").ttl(1).udp(5000, 80), nat_udp, over);
    tells_nobody("broadcast", eth().ipv4("255.255.255.255", "10.0.0.1").ttl(1).udp(5000, 80), nat_udp, over);
    tells_nobody("no address", eth().ipv4("0.0.0.0", "10.0.0.1").ttl(1).udp(5000, 80), nat_udp, over);
    tells_nobody("multicast, IPv6", eth().ipv6("ff02::1", "2001:db8:a::1").ttl(1).udp(5000, 80), nat_udp6, over);
    tells_nobody("no address, IPv6", eth().ipv6("::", "2001:db8:a::1").ttl(1).udp(5000, 80), nat_udp6, over);
    tells_nobody(
        "sent to all on the link",
        eth().from({2, 0, 0, 0, 0, 1}, {255, 255, 255, 255, 255, 255}).ipv4(client, "10.0.0.1").ttl(1).udp(5000, 80),
        nat_udp, over);
    const auto part = parts(eth().ipv4(client, "10.0.0.1").udp(5000, 80).payload(std::string(99, 'x')), {64});
    run_alone(part[0]);
    Bytes later = part[1];
    later[22] = 1;
    tells_nobody("a later part", later, nat_udp, over);
}

TEST_P(Tell, AThousandASecond) {
    const Bytes frame = eth().ipv4(client, "10.0.0.1").ttl(1).udp(5000, 80);
    const auto now = [] { return std::chrono::steady_clock::now(); };
    const auto begin = now();
    int sent = 0;
    for (int i = 0; i < 400; ++i)
        sent += run_alone(frame).went == back();
    const auto passed = std::chrono::duration_cast<std::chrono::milliseconds>(now() - begin).count();
    EXPECT_GE(sent, 50);
    EXPECT_LE(sent, 51 + passed);
    ::usleep(20'000);
    EXPECT_EQ(run_alone(frame).went, back());
}

// The kernel computes it in the midst of what is quoted, when the answer leaves: then all has to be right.
TEST_P(Tell, WhatWaitsForItsChecksum) {
    if (GetParam() == Hook::xdp) return;
    begin_flows([this](const Frame& frame) { run_alone(frame); });
    for (const Row& row : rows)
        for (const bool tcp : {false, true})
            for (const size_t payload : {0, 1, 63, 1400}) {
                forget_tells();
                const Frame ends = ip(row.from, row.to).ttl(1).payload(std::string(payload, 'x'));
                Bytes frame = tcp ? ends.tcp(row.source_port, row.port, ack) : ends.udp(row.source_port, row.port);
                const Dissection d = *dissect(frame);
                const std::span<const uint8_t> all(frame);
                put16(
                    frame, d.checksum_at(),
                    ones_sum(all.subspan(d.addresses_at(), d.addresses_size()), d.protocol + all.size() - d.transport));
                Outcome outcome = run(frame, row.interface);
                ASSERT_EQ(outcome.went, back()) << row.name;
                const size_t header = d.v6 ? 48 : 28, at = d.transport + header;  // of the quoted packet's
                Bytes& answer = outcome.frame;
                put16(answer, d.checksum_at() + header, 0xffff - ones_sum(std::span(answer).subspan(at)));
                const size_t icmp = 14 + header - 8;
                const uint64_t pseudo =
                    d.v6 ? ones_sum(std::span(answer).subspan(22, 32)) + 58 + answer.size() - icmp : 0;
                EXPECT_EQ(ones_sum(std::span(answer).subspan(icmp), pseudo), 0u) << row.name << " " << payload;
                EXPECT_EQ(answer.size(), std::min(frame.size() + header, 14 + header + most(d.v6))) << row.name;
            }
}

TEST_P(Tell, ThatItWasTooLargeForTheNextLink) {
    ASSERT_EQ(std::system("ip route add 10.1.0.1/32 via 198.51.100.1 mtu lock 600;"
                          "ip route add 11.0.0.1/32 via 192.0.2.1 mtu lock 700;"
                          "ip -6 route add 2001:db8:e::1/128 via 2001:db8:b::1 dev back mtu lock 1300;"
                          "ip -6 route add 2001:db8:c::1/128 via 2001:db8:f::1 dev front mtu lock 1301;"),
              0);
    begin_flows([this](const Frame& frame) { run_alone(frame); });
    constexpr auto why = abi::packet_verdict_oversized;
    for (const Row& row : rows) {
        const bool v6 = std::strchr(row.from, ':'), up = row.port == service_port;
        const size_t mtu = v6 ? (up ? 1300 : 1301) : up ? 600 : 700, header = v6 ? 48 : 28;
        if (row.udp == dnat_udp && up) continue;                                   // has no such route
        for (const uint16_t flags : std::initializer_list<uint16_t>{0, 0x4000}) {  // may be cut; may not
            const Frame fits = ip(row.from, row.to)
                                   .fragment(v6 ? uint16_t{0} : flags)
                                   .udp(row.source_port, row.port)
                                   .payload(std::string(mtu - header, 'x'));
            EXPECT_EQ(run(fits, row.interface).went, Went::sent) << row.name;
            const Bytes larger = fits.payload(std::string(mtu - header + 1, 'x'));
            const Icmp icmp =
                v6 ? Icmp{true, 2, static_cast<uint32_t>(mtu)} : Icmp{false, 3, static_cast<uint32_t>(mtu), 4};
            tells(row.name, larger, row.interface, row.udp, why,
                  told(answer(row.teller, row.from), icmp, quote(larger, most(v6))));
            if (GetParam() == Hook::xdp) continue;
            gso_size = 500;
            EXPECT_EQ(run(larger, row.interface).went, Went::sent) << row.name << ", which the kernel cuts itself";
            gso_size = static_cast<uint32_t>(mtu - header + 1);
            tells("into parts that are too large", larger, row.interface, row.udp, why,
                  told(answer(row.teller, row.from), icmp, quote(larger, most(v6))));
            gso_size = 0;
        }
    }
}

}  // namespace
}  // namespace marchproxy::packet
