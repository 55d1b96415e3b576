#include "stream/proxy_protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace marchproxy::stream {
namespace {

using State = ProxyHeader::State;
using namespace std::string_literals;

// From a heap block of exactly that size, so that the sanitizer sees any byte read past the end.
ProxyHeader parse(std::string_view bytes) {
    const auto* begin = reinterpret_cast<const std::byte*>(bytes.data());
    const std::vector<std::byte> exact(begin, begin + bytes.size());
    return parse_proxy_header(exact);
}

SocketAddress at(std::string_view text) {
    return *SocketAddress::parse(text);
}

const std::string signature = "\r\n\r\n\0\r\nQUIT\n"s;

std::string v2(uint8_t command, uint8_t family, std::string_view block) {
    return signature +
           std::string{static_cast<char>(command), static_cast<char>(family), static_cast<char>(block.size() >> 8),
                       static_cast<char>(block.size() & 0xff)} +
           std::string(block);
}

const std::string block_v4 = "\xc0\x00\x02\x01\xc6\x33\x64\x02\xdc\x04\x01\xbb"s;  // 192.0.2.1:56324 198.51.100.2:443
const std::string block_v6 =
    "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\xdc\x04\x01\xbb"s;

void expect_incomplete_until_whole(const std::string& header) {
    for (size_t length = 0; length < header.size(); ++length)
        EXPECT_EQ(parse(header.substr(0, length)).state, State::incomplete) << length << " of " << header;
    const ProxyHeader whole = parse(header + "payload");
    EXPECT_EQ(whole.state, State::complete) << header << ": " << whole.problem;
    EXPECT_EQ(whole.size, header.size());
}

TEST(ProxyProtocol, VersionOneSaysWhoTheClientIs) {
    const ProxyHeader four = parse("PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\nGET /");
    ASSERT_EQ(four.state, State::complete) << four.problem;
    EXPECT_EQ(four.size, 45U);
    EXPECT_TRUE(four.addressed);
    EXPECT_EQ(four.protocol, Protocol::tcp);
    EXPECT_EQ(four.source, at("192.0.2.1:56324"));
    EXPECT_EQ(four.destination, at("198.51.100.2:443"));

    const ProxyHeader six = parse("PROXY TCP6 2001:DB8::1 ::ffff:10.0.0.1 65535 0\r\n");
    ASSERT_EQ(six.state, State::complete) << six.problem;
    EXPECT_EQ(six.source, at("[2001:db8::1]:65535"));
    EXPECT_EQ(six.destination.ip, *IpAddress::parse("10.0.0.1"));
    EXPECT_EQ(six.destination.port, 0);
}

TEST(ProxyProtocol, VersionOneMayArriveByteByByte) {
    for (const std::string header :
         {"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "PROXY TCP4 0.0.0.0 10.0.0.1 0 1\r\n",
          "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
          "PROXY TCP6 :: ::1 1 2\r\n", "PROXY UNKNOWN\r\n", "PROXY UNKNOWN what ever \r it \n says\r\n"})
        expect_incomplete_until_whole(header);
}

TEST(ProxyProtocol, VersionOneUnknownMeansTheConnectionsOwnAddresses) {
    EXPECT_FALSE(parse("PROXY UNKNOWN\r\n").addressed);
    EXPECT_FALSE(parse("PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n").addressed);
    const std::string longest = "PROXY UNKNOWN " + std::string(91, 'x') + "\r\n";
    ASSERT_EQ(longest.size(), longest_proxy_header_v1);
    EXPECT_EQ(parse(longest).state, State::complete);
    EXPECT_EQ(parse("PROXY UNKNOWN " + std::string(92, 'x') + "\r\n").state, State::invalid);
    EXPECT_EQ(parse("PROXY UNKNOWN " + std::string(92, 'x')).state, State::incomplete);
    EXPECT_EQ(parse("PROXY UNKNOWN " + std::string(93, 'x')).state, State::invalid);
}

// Each row ends with its first wrong byte: what stands before it could still become a header.
TEST(ProxyProtocol, VersionOneIsRefusedAtTheFirstWrongByte) {
    for (const std::string_view text : {"G",
                                        "p",
                                        " ",
                                        "PX",
                                        "PROXY\t",
                                        "PROXY  ",
                                        "PROXY TCP5",
                                        "PROXY t",
                                        "PROXY UD",
                                        "PROXY TCP44",
                                        "PROXY TCP4\r",
                                        "PROXY UNKNOWNX",
                                        "PROXY UNX",
                                        "PROXY UNKNOWN\rX",
                                        "PROXY TCP4 256",
                                        "PROXY TCP4 01",
                                        "PROXY TCP4 1..",
                                        "PROXY TCP4 -",
                                        "PROXY TCP4  ",
                                        "PROXY TCP4 1.2.3 ",
                                        "PROXY TCP4 1.2.3.4.",
                                        "PROXY TCP4 1.2.3.4  ",
                                        "PROXY TCP4 a",
                                        "PROXY TCP4 1.2.3.4 5.6.7.8 65536",
                                        "PROXY TCP4 1.2.3.4 5.6.7.8 00",
                                        "PROXY TCP4 1.2.3.4 5.6.7.8 +",
                                        "PROXY TCP4 1.2.3.4 5.6.7.8 \r",
                                        "PROXY TCP4 1.2.3.4 5.6.7.8 1\r",
                                        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
                                        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 ",
                                        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rX",
                                        "PROXY TCP6 g",
                                        "PROXY TCP6 12345",
                                        "PROXY TCP6 [",
                                        "PROXY TCP6 1.2.3.4 ",
                                        "PROXY TCP6 1: ",
                                        "PROXY TCP6 1::2::3 ",
                                        "PROXY TCP6 fe80::1%",
                                        "PROXY TCP6  "}) {
        EXPECT_EQ(parse(text).state, State::invalid) << text;
        EXPECT_FALSE(parse(text).problem.empty()) << text;
        EXPECT_EQ(parse(text.substr(0, text.size() - 1)).state, State::incomplete) << text;
    }
}

TEST(ProxyProtocol, VersionTwoSaysWhoTheClientIs) {
    const ProxyHeader four = parse(v2(0x21, 0x11, block_v4) + "payload");
    ASSERT_EQ(four.state, State::complete) << four.problem;
    EXPECT_EQ(four.size, 28U);
    EXPECT_EQ(four.protocol, Protocol::tcp);
    EXPECT_EQ(four.source, at("192.0.2.1:56324"));
    EXPECT_EQ(four.destination, at("198.51.100.2:443"));

    const ProxyHeader six = parse(v2(0x21, 0x22, block_v6));
    ASSERT_EQ(six.state, State::complete) << six.problem;
    EXPECT_EQ(six.protocol, Protocol::udp);
    EXPECT_EQ(six.source, at("[2001:db8::1]:56324"));
    EXPECT_EQ(six.destination, at("[2001:db8::2]:443"));
}

TEST(ProxyProtocol, VersionTwoWithoutAddressesMeansTheConnectionsOwn) {
    for (const std::string& header :
         {v2(0x20, 0x00, ""), v2(0x20, 0x11, block_v4), v2(0x20, 0x77, "anything"), v2(0x21, 0x00, ""),
          v2(0x21, 0x00, "anything"), v2(0x21, 0x31, std::string(216, 'u')), v2(0x21, 0x32, std::string(216, 'u'))}) {
        const ProxyHeader parsed = parse(header);
        EXPECT_EQ(parsed.state, State::complete) << parsed.problem;
        EXPECT_FALSE(parsed.addressed);
        EXPECT_EQ(parsed.size, header.size());
    }
}

TEST(ProxyProtocol, VersionTwoMayArriveByteByByte) {
    for (const std::string& header :
         {v2(0x21, 0x11, block_v4), v2(0x21, 0x12, block_v4), v2(0x21, 0x21, block_v6), v2(0x20, 0x00, "rest"),
          v2(0x21, 0x11, block_v4 + "\x04\0\0\x01\0\x02h2"s), v2(0x21, 0x31, std::string(216, '\0') + "\x04\0\0"s)})
        expect_incomplete_until_whole(header);
}

TEST(ProxyProtocol, VersionTwoIsRefusedAtTheFirstWrongByte) {
    const std::string four = v2(0x21, 0x11, block_v4);
    for (size_t i = 1; i < signature.size(); ++i) {
        std::string broken = signature.substr(0, i + 1);
        broken[i] ^= 1;
        EXPECT_EQ(parse(broken).state, State::invalid) << i;
    }
    for (const int command : {0x00, 0x01, 0x11, 0x22, 0x2f, 0x31, 0xff})
        EXPECT_EQ(parse(v2(static_cast<uint8_t>(command), 0x11, block_v4).substr(0, 13)).state, State::invalid)
            << command;
    for (const int family : {0x01, 0x02, 0x10, 0x13, 0x20, 0x23, 0x30, 0x33, 0x41, 0xff})
        EXPECT_EQ(parse(v2(0x21, static_cast<uint8_t>(family), block_v6).substr(0, 14)).state, State::invalid)
            << family;
    EXPECT_EQ(parse(v2(0x21, 0x11, block_v4.substr(1)).substr(0, 16)).state, State::invalid);
    EXPECT_EQ(parse(v2(0x21, 0x21, block_v4).substr(0, 16)).state, State::invalid);
    EXPECT_EQ(parse(v2(0x21, 0x31, std::string(215, '\0')).substr(0, 16)).state, State::invalid);
}

TEST(ProxyProtocol, TlvsAreSkippedWithinTheirBounds) {
    EXPECT_EQ(parse(v2(0x21, 0x11,
                       block_v4 + "\x02\0\x03"
                                  "abc\x04\0\0"s))
                  .state,
              State::complete);
    // the second TLV's length, then its head, do not fit
    const std::string beyond = v2(0x21, 0x11, block_v4 + "\x04\0\0\x02\0\x02x"s);
    EXPECT_EQ(parse(beyond).state, State::invalid);
    EXPECT_EQ(parse(beyond.substr(0, beyond.size() - 1)).state, State::invalid);
    EXPECT_EQ(parse(v2(0x21, 0x11, block_v4 + "\x04\0"s)).state, State::invalid);
    EXPECT_EQ(parse(v2(0x21, 0x11, block_v4 + "\x04"s)).state, State::invalid);
    const std::string largest = v2(0x20, 0x00, std::string(65535, 'x'));
    ASSERT_EQ(largest.size(), longest_proxy_header);
    EXPECT_EQ(parse(largest).state, State::complete);
}

TEST(ProxyProtocol, AChecksumIsVerified) {
    // Computed by another implementation, which gives 0xe3069283 for "123456789".
    const std::string good = v2(0x21, 0x11, block_v4 + "\x01\0\x03h2\0\x03\0\x04"s + "\x5a\x52\x49\x12"s);
    ASSERT_EQ(parse(good).state, State::complete) << parse(good).problem;
    const size_t type_of_the_checksum = 34;  // without it there is none to verify
    for (size_t i = 16; i < good.size(); ++i) {
        if (i == type_of_the_checksum) continue;
        std::string broken = good;
        broken[i] ^= 0x40;
        EXPECT_NE(parse(broken).state, State::complete) << i;
    }
    EXPECT_EQ(parse(v2(0x21, 0x11,
                       block_v4 + "\x03\0\x03"
                                  "abc"s))
                  .state,
              State::invalid);
    expect_incomplete_until_whole(good);
}

TEST(ProxyProtocol, WhatIsEncodedIsReadBack) {
    struct Row {
        std::string_view source, destination, v1, source_read;
    };
    for (const Row& row : std::initializer_list<Row>{
             {"192.0.2.1:1", "198.51.100.2:65535", "PROXY TCP4 192.0.2.1 198.51.100.2 1 65535\r\n", "192.0.2.1:1"},
             {"[2001:db8::1]:1", "[::1]:2", "PROXY TCP6 2001:db8::1 ::1 1 2\r\n", "[2001:db8::1]:1"},
             {"192.0.2.1:1", "[::1]:2", "PROXY TCP6 ::ffff:c000:201 ::1 1 2\r\n", "192.0.2.1:1"},
             {"[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
              "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 "
              "65535\r\n",
              "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
         }) {
        const auto text = encode_proxy_header(ProxyProtocol::v1, Protocol::tcp, at(row.source), at(row.destination));
        EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(text.bytes.data()), text.size), row.v1);
        for (const ProxyProtocol version : {ProxyProtocol::v1, ProxyProtocol::v2}) {
            const auto encoded = encode_proxy_header(version, Protocol::tcp, at(row.source), at(row.destination));
            const ProxyHeader parsed = parse_proxy_header(encoded.view());
            ASSERT_EQ(parsed.state, State::complete) << parsed.problem;
            EXPECT_EQ(parsed.size, encoded.size);
            EXPECT_EQ(parsed.source, at(row.source_read));
            EXPECT_EQ(parsed.destination, at(row.destination));
        }
    }
}

TEST(ProxyProtocol, DatagramsAreMarkedInVersionTwoAndUnknownInVersionOne) {
    const auto two =
        encode_proxy_header(ProxyProtocol::v2, Protocol::udp, at("192.0.2.1:56324"), at("198.51.100.2:443"));
    EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(two.bytes.data()), two.size), v2(0x21, 0x12, block_v4));
    const auto one = encode_proxy_header(ProxyProtocol::v1, Protocol::udp, at("192.0.2.1:1"), at("198.51.100.2:2"));
    EXPECT_FALSE(parse_proxy_header(one.view()).addressed);
    EXPECT_EQ(parse_proxy_header(one.view()).size, one.size);
}

}  // namespace
}  // namespace marchproxy::stream
