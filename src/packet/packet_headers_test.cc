// What may stand before, between and behind the headers that are rewritten.
#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

class Headers : public Plane {};
INSTANTIATE_HOOKS(Headers);

Frame up4(const Frame& f) {
    return f.ipv4(client, "10.0.0.1");
}
Frame up6(const Frame& f) {
    return f.ipv6(client6, "2001:db8:a::1");
}
Frame out4(const Frame& f) {
    return f.ipv4(source, "10.1.0.1").ttl(63);
}
Frame out6(const Frame& f) {
    return f.ipv6(source6, "2001:db8:e::1").ttl(63);
}

TEST_P(Headers, Ipv4OptionsStay) {
    const Bytes router_alert{0x94, 4, 0, 0}, most(40, 1);
    for (const Bytes& options : {router_alert, most}) {
        goes_up("UDP", up4(eth()).ip_options(options).udp(5000, 80), out4(eth()).ip_options(options).udp(5000, 8080));
        goes_up("TCP", up4(eth()).ip_options(options).tcp(5000, 80, syn),
                out4(eth()).ip_options(options).tcp(5000, 8080, syn));
    }
}

TEST_P(Headers, Ipv6ExtensionHeadersStay) {
    const Bytes brief{1, 4, 0, 0, 0, 0}, large(14 + 8 * 10, 0), arrived{0, 0, 0, 0, 0, 0};
    struct Row {
        const char* name;
        std::vector<std::pair<uint8_t, Bytes>> headers;
    };
    const Row rows[] = {{"hop by hop", {{0, brief}}},
                        {"destination options", {{60, large}}},
                        {"routing, at its end", {{43, arrived}}},
                        {"all that RFC 8200 has", {{0, brief}, {60, brief}, {43, arrived}, {60, large}}}};
    for (const Row& row : rows) {
        Frame in = up6(eth()), out = out6(eth());
        for (const auto& [type, body] : row.headers)
            in = in.extension(type, body), out = out.extension(type, body);
        goes_up(row.name, in.udp(5000, 80), out.udp(5000, 8080));
        goes_up(row.name, in.tcp(5000, 80, syn), out.tcp(5000, 8080, syn));
    }
    passes("authenticated: nobody may change it", up6(eth()).extension(51, Bytes(14, 0)).udp(5000, 80));
    // The checksum is for the last destination, which the header before us is not yet (RFC 8200, 8.1).
    Bytes on_the_way(22, 0);
    on_the_way[1] = 1;
    passes("routing, not at its end", up6(eth()).extension(43, on_the_way).udp(5000, 80));
}

TEST_P(Headers, UdpWithoutChecksumStaysWithout) {
    goes_up("IPv4", up4(eth()).udp(5000, 80).without_checksum(), out4(eth()).udp(5000, 8080).without_checksum());
    goes_up("IPv6", up6(eth()).udp(5000, 80).without_checksum(), out6(eth()).udp(5000, 8080).without_checksum());
}

// Every sum that a payload's last word can lead to, among them those that have two forms.
TEST_P(Headers, EveryChecksumComesOutRight) {
    std::string payload = "....";
    for (unsigned word = 0; word < 0x10000; word += word % 256 == 3 ? 250 : 1) {
        payload[2] = static_cast<char>(word >> 8);
        payload[3] = static_cast<char>(word);
        const Outcome udp = run_alone(up4(eth()).udp(5000, 80).payload(payload));
        ASSERT_TRUE(is_sound(udp.frame)) << word;
        ASSERT_FALSE(without_checksum(udp.frame, *dissect(udp.frame))) << word;
    }
    // The one payload for which the checksum that goes out sums up to 0.
    for (const bool v6 : {false, true}) {
        const Frame out = (v6 ? out6(eth()) : out4(eth())).from(back_mac, back_gateway);
        const Bytes zeros = out.udp(5000, 8080).payload(std::string(4, '\0'));
        const unsigned sum = get16(zeros, dissect(zeros)->checksum_at());
        payload = {static_cast<char>(sum >> 8), static_cast<char>(sum), 0, 0};
        const Outcome zero = run((v6 ? up6(eth()) : up4(eth())).udp(5000, 80).payload(payload));
        EXPECT_EQ(zero.frame, out.udp(5000, 8080).payload(payload).bytes());
        EXPECT_EQ(get16(zero.frame, dissect(zero.frame)->checksum_at()), 0xffffu);
    }
}

// Whoever gets it is to see that it is broken.
TEST_P(Headers, WrongChecksumsStayWrong) {
    for (const bool v6 : {false, true}) {
        Bytes frame = (v6 ? up6(eth()) : up4(eth())).udp(5000, 80);
        const auto d = dissect(frame);
        frame[d->checksum_at()] ^= 0x10;
        const unsigned wrong = transport_residue(frame, *d);
        const Outcome outcome = run(frame);
        ASSERT_EQ(outcome.went, Went::sent);
        EXPECT_EQ(transport_residue(outcome.frame, *dissect(outcome.frame)), wrong);
    }
    Bytes frame = up4(eth()).udp(5000, 80);
    frame[24] ^= 0x10;
    EXPECT_FALSE(is_sound(run(frame).frame));
}

TEST_P(Headers, WhatIsNotOursPasses) {
    passes("another address", eth().ipv4(client, "10.0.0.9").udp(5000, 80));
    passes("another port", up4(eth()).udp(5000, 81));
    passes("another address, IPv6", eth().ipv6(client6, "2001:db8:a::9").tcp(5000, 80, syn));
    passes("TTL 1, not ours", eth().ipv4(client, "10.0.0.9").ttl(1).udp(5000, 80));
    passes("ICMP", up4(eth()).protocol(1));
    passes("ICMPv6", up6(eth()).protocol(58));
    passes("SCTP", up4(eth()).protocol(132));
    passes("a protocol that the directory has for addresses alone", up4(eth()).protocol(0));
    Bytes arp = eth().bytes();
    arp[12] = 8, arp[13] = 6;
    passes("ARP", arp);
    goes_up("may not be fragmented", up4(eth()).fragment(0x4000).udp(5000, 80),
            out4(eth()).fragment(0x4000).udp(5000, 8080));
    // On the wire they stand for nothing (RFC 4291, 2.5.5.2); taken for IPv4 they would pass by access lists.
    passes("IPv4 written as IPv6", eth().ipv6("::ffff:11.0.0.1", "::ffff:10.0.0.1").udp(5000, 80));
    passes("an IPv4 client written as IPv6", eth().ipv6("::ffff:11.0.0.1", "2001:db8:a::1").udp(5000, 80));
}

}  // namespace
}  // namespace marchproxy::packet
