// mss: what both sides of a connection tell each other of their largest segment.
#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

class Clamp : public Plane {
  protected:
    void limit(uint32_t index, uint16_t mss) {
        abi::packet_service limited = service(index);
        limited.mss = mss;
        expect(programs->set_service(index, limited));
    }
};
INSTANTIATE_HOOKS(Clamp);

struct Row {
    const char* name;
    Bytes options, expected;
};
const Row rows[] = {
    {"first", {2, 4, 0x05, 0xb4}, {2, 4, 0x05, 0x78}},
    {"behind others",
     {4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 0x22, 0x04},
     {4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 2, 4, 0x05, 0x78}},
    {"on an odd byte", {1, 2, 4, 0xff, 0xff, 1, 1, 1}, {1, 2, 4, 0x05, 0x78, 1, 1, 1}},
    {"behind two of one byte", {1, 1, 2, 4, 0x05, 0xb4, 1, 1}, {1, 1, 2, 4, 0x05, 0x78, 1, 1}},
    {"as large as may be", {2, 4, 0x05, 0x78}, {2, 4, 0x05, 0x78}},
    {"smaller", {2, 4, 0x02, 0x18}, {2, 4, 0x02, 0x18}},
    {"none", {}, {}},
    {"others only", {4, 2, 1, 1}, {4, 2, 1, 1}},
    {"behind the end", {0, 0, 0, 0, 2, 4, 0x05, 0xb4}, {0, 0, 0, 0, 2, 4, 0x05, 0xb4}},
    {"of no length", {8, 0, 2, 4, 0x05, 0xb4, 1, 1}, {8, 0, 2, 4, 0x05, 0xb4, 1, 1}},
    {"of another length", {2, 6, 0x05, 0xb4, 0, 0, 1, 1}, {2, 6, 0x05, 0xb4, 0, 0, 1, 1}},
    {"past the header", {1, 1, 2, 4}, {1, 1, 2, 4}},
    {"all there is room for",
     {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,    1,
      1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 0x05, 0xb4},
     {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,    1,
      1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 0x05, 0x78}},
};

TEST_P(Clamp, LowersWhatBothSidesTell) {
    for (const uint32_t index : {nat_tcp, dnat_tcp, nat_tcp6})
        limit(index, 1400);
    for (const Row& row : rows) {
        const auto sized = [&row](const Frame& frame) { return frame.tcp_options(row.options); };
        const auto lowered = [&row](const Frame& frame) { return frame.tcp_options(row.expected); };
        goes_up(row.name, sized(eth().ipv4(client, "10.0.0.1").tcp(5000, 80, syn)),
                lowered(eth().ipv4(source, "10.1.0.1").ttl(63).tcp(5000, 8080, syn)));
        goes_down(row.name, sized(eth().ipv4("10.1.0.1", source).tcp(8080, 5000, syn | ack)),
                  lowered(eth().ipv4("10.0.0.1", client).ttl(63).tcp(80, 5000, syn | ack)));
        goes_up(row.name, sized(eth().ipv4(client, "10.0.0.2").tcp(5000, 80, syn)),
                lowered(eth().ipv4(client, "10.1.0.2").ttl(63).tcp(5000, 8080, syn)));
        goes_up(row.name, sized(eth().ipv6(client6, "2001:db8:a::1").tcp(5000, 80, syn)),
                lowered(eth().ipv6(source6, "2001:db8:e::1").ttl(63).tcp(5000, 8080, syn)));
    }
}

TEST_P(Clamp, LeavesAllElseAlone) {
    const Bytes told{2, 4, 0x05, 0xb4};
    goes_up("a service that does not ask", eth().ipv4(client, "10.0.0.2").tcp(5000, 80, syn).tcp_options(told),
            eth().ipv4(client, "10.1.0.2").ttl(63).tcp(5000, 8080, syn).tcp_options(told));
    limit(dnat_tcp, 1400);
    goes_up("what is no SYN", eth().ipv4(client, "10.0.0.2").tcp(5000, 80, ack).tcp_options(told),
            eth().ipv4(client, "10.1.0.2").ttl(63).tcp(5000, 8080, ack).tcp_options(told));
}

TEST_P(Clamp, InsideATunnelToo) {
    limit(ipip_tcp, 1400);
    const Outcome outcome = run(eth().ipv4(client, "10.0.0.3").tcp(5000, 80, syn).tcp_options({2, 4, 0x05, 0xb4}));
    ASSERT_EQ(outcome.went, Went::sent);
    const Bytes inside(outcome.frame.begin() + 34, outcome.frame.end());
    const Bytes expected = eth().ipv4(client, "10.0.0.3").ttl(63).tcp(5000, 80, syn).tcp_options({2, 4, 0x05, 0x78});
    EXPECT_EQ(hex(inside), hex(Bytes(expected.begin() + 14, expected.end())));
}

}  // namespace
}  // namespace marchproxy::packet
