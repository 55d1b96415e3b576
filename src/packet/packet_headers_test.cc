// What may stand before, between and behind the headers that are rewritten.
#include <gmock/gmock.h>

#include <set>

#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary
using ::testing::AnyOf;

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

// Whatever number stands before it, towards a service's address and port: TCP, UDP and echo requests are ours where
// they are what they say, what only stands before them may be found wrong, and all else is the machine's.
TEST_P(Headers, EveryProtocolIsOursOrTheMachines) {
    expect(programs->set_directory(**build_directory(entries(true))));
    const auto flows = [] {
        uint64_t sum = 0;
        for (uint32_t index = 1; index < place_count; ++index)
            sum += programs->service_counters(index)->flows;
        return sum;
    };
    struct Body {
        const char* name;
        int number;  // of the protocol that it is; -1: of none
        Bytes frame, becomes;
    };
    for (const bool v6 : {false, true}) {
        const Frame in = v6 ? up6(eth()) : up4(eth());
        const Frame out = (v6 ? out6(eth()) : out4(eth())).from(back_mac, back_gateway);
        const Frame answer = (v6 ? eth().ipv6("2001:db8:a::1", client6) : eth().ipv4("10.0.0.1", client))
                                 .from({2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 1});
        const int icmp = v6 ? 58 : 1;
        const std::set<int> headers = v6 ? std::set{0, 43, 44, 58, 60} : std::set{1};
        const auto filled = [&](uint8_t byte) {
            Bytes frame = in.udp(5000, 80).payload(std::string(32, 'x'));
            std::fill(frame.end() - 40, frame.end(), byte);
            return frame;
        };
        const Body bodies[] = {
            {"UDP", udp_protocol, in.udp(5000, 80), out.udp(5000, 8080)},
            {"TCP", tcp_protocol, in.tcp(5000, 80, syn), out.tcp(5000, 8080, syn)},
            {"echo request", icmp, icmp_message(in, {.v6 = v6, .type = static_cast<uint8_t>(v6 ? 128 : 8), .rest = 7}),
             icmp_message(answer, {.v6 = v6, .type = static_cast<uint8_t>(v6 ? 129 : 0), .rest = 7})},
            {"zeros", -1, filled(0), {}},
            {"ones", -1, filled(0xff), {}},
        };
        const uint64_t before = flows();
        for (const Body& body : bodies)
            for (int number = 0; number < 256; ++number) {
                Bytes frame = body.frame;
                frame.at(v6 ? 20 : 23) = static_cast<uint8_t>(number);
                if (!v6) put16(frame, 24, 0);
                if (!v6) put16(frame, 24, checksum_of(ones_sum(std::span(frame).subspan(14, 20))));
                const std::string row = fmt::format("{} as {}, IPv{}{}", body.name, number, v6 ? 6 : 4, hex(frame));
                if (number != body.number && (number == tcp_protocol || number == udp_protocol)) {
                    drops(row.c_str(), frame, 0, abi::packet_verdict_malformed);
                } else if (number != body.number && !headers.contains(number)) {
                    passes(row.c_str(), frame);
                } else {
                    const Outcome outcome = run(frame);
                    if (outcome.went == Went::dropped && number != body.number) {
                        ASSERT_EQ(outcome.refusals.size(), 1u) << row;
                        EXPECT_THAT(outcome.refusals[0].second,
                                    AnyOf(abi::packet_verdict_malformed, abi::packet_verdict_fragment))
                            << row;
                        continue;
                    }
                    EXPECT_TRUE(outcome.refusals.empty()) << row;
                    EXPECT_EQ(outcome.went == Went::passed, number != body.number) << row;
                    EXPECT_EQ(hex(outcome.frame), hex(number == body.number ? body.becomes : frame)) << row;
                }
            }
        EXPECT_EQ(flows() - before, 2u) << "UDP's and TCP's";
    }
}

}  // namespace
}  // namespace marchproxy::packet
