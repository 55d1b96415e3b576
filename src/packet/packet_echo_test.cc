// ping: echo requests to a service's address.
#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

constexpr uint8_t request4 = 8, reply4 = 0, request6 = 128, reply6 = 129;

class Echo : public Plane {
  protected:
    void SetUp() override {
        Plane::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        const std::vector<abi::directory_entry> hosts{
            {address_of("10.0.0.1"), 0, 0, abi::directory_host, nat_udp},
            {address_of("2001:db8:a::1"), 0, 0, abi::directory_host, nat_udp6}};
        expect(programs->set_directory(**build_directory(hosts)));
    }

    static Bytes icmp(const Frame& frame, bool v6, uint8_t type) {
        return icmp_message(frame, {.v6 = v6, .type = type, .rest = 0x12340007});
    }
    static Frame between(bool v6, const char* from, const char* to) {
        return v6 ? eth().ipv6(from, to) : eth().ipv4(from, to);
    }
};
INSTANTIATE_HOOKS(Echo);

TEST_P(Echo, AServicesAddressAnswers) {
    for (const bool v6 : {false, true}) {
        const char* asker = v6 ? client6 : client;
        const char* host = v6 ? "2001:db8:a::1" : "10.0.0.1";
        for (const uint8_t ttl : std::initializer_list<uint8_t>{1, 63, 64, 255}) {
            const Frame question = between(v6, asker, host).ttl(ttl).payload("are you there");
            const Frame answer = between(v6, host, asker).from({2, 0, 0, 0, 0, 2}, {2, 0, 0, 0, 0, 1});
            const Outcome outcome = run(icmp(question, v6, v6 ? request6 : request4));
            EXPECT_EQ(outcome.went, GetParam() == Hook::xdp ? Went::bounced : Went::sent);
            EXPECT_EQ(hex(outcome.frame), hex(icmp(answer.payload("are you there"), v6, v6 ? reply6 : reply4)));
        }
    }
}

TEST_P(Echo, WhatIsNotAskedOfAServicePasses) {
    passes("another host", icmp(eth().ipv4(client, "10.0.0.9"), false, request4));
    passes("a reply", icmp(eth().ipv4(client, "10.0.0.1"), false, reply4));
    passes("unreachable", icmp(eth().ipv4(client, "10.0.0.1"), false, 3));
    passes("a reply, IPv6", icmp(eth().ipv6(client6, "2001:db8:a::1"), true, reply6));
    passes("neighbour solicitation", icmp(eth().ipv6(client6, "2001:db8:a::1"), true, 135));
    Bytes with_code = icmp(eth().ipv4(client, "10.0.0.1"), false, request4);
    with_code[dissect(Bytes(eth().ipv4(client, "10.0.0.1").udp(0, 0)))->transport + 1] = 1;
    passes("a code that there is not", with_code);
}

}  // namespace
}  // namespace marchproxy::packet
