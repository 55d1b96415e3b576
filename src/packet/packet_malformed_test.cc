// What is cut short, contradicts itself or was made up: never rewritten into something else.
#include <random>

#include "packet/plane_rows.h"

namespace marchproxy::packet {
namespace {

using namespace testing;  // NOLINT: the rows' vocabulary

struct Sample {
    const char* name;
    Frame frame;
    const char* interface = "front";
};

// One of each kind, by clients and endpoints.
std::vector<Sample> samples() {
    return {
        {"UDP", eth().ipv4(client, "10.0.0.1").udp(5000, 80)},
        {"UDP, dnat", eth().ipv4(client, "10.0.0.2").udp(5000, 80)},
        {"UDP, no checksum", eth().ipv4(client, "10.0.0.1").udp(5000, 80).without_checksum()},
        {"TCP", eth().ipv4(client, "10.0.0.1").tcp(5000, 80, syn).tcp_options({2, 4, 5, 180})},
        {"TCP, dnat", eth().ipv4(client, "10.0.0.2").tcp(5000, 80, ack)},
        {"tags", eth().vlan(7).vlan(8).ipv4(client, "10.0.0.1").udp(5000, 80)},
        {"IPv4 options", eth().ipv4(client, "10.0.0.1").ip_options(Bytes(12, 1)).udp(5000, 80)},
        {"UDP, IPv6", eth().ipv6(client6, "2001:db8:a::1").udp(5000, 80)},
        {"TCP, IPv6", eth().ipv6(client6, "2001:db8:a::2").tcp(5000, 80, syn).tcp_options(Bytes(12, 1))},
        {"extension headers",
         eth().ipv6(client6, "2001:db8:a::1").extension(0, {1, 4, 0, 0, 0, 0}).extension(60, Bytes(14)).udp(5000, 80)},
        {"from an endpoint", eth().ipv4("10.1.0.1", source).udp(8080, 5000), "back"},
        {"from an endpoint, dnat, IPv6", eth().ipv6("2001:db8:e::2", client6).tcp(8080, 5000, syn | ack), "back"},
        {"first part", eth().ipv4(client, "10.0.0.1").fragment(0x2000).udp(5000, 80)},
        {"later part", eth().ipv4(client, "10.0.0.1").fragment(0x0002).udp(5000, 80)},
        {"first part, IPv6", eth().ipv6(client6, "2001:db8:a::1").extension(44, {0, 1, 0, 0, 0, 7}).udp(5000, 80)},
        {"later part, IPv6", eth().ipv6(client6, "2001:db8:a::1").extension(44, {0, 16, 0, 0, 0, 7}).udp(5000, 80)},
        {"IPIP", eth().ipv4(client, "10.0.0.3").tcp(5000, 80, ack)},
        {"IPIP, IPv6", eth().ipv6(client6, "2001:db8:a::3").udp(5000, 80)},
        {"GUE", eth().ipv4(client, "10.0.0.4").udp(5000, 80)},
        {"GUE, IPv6", eth().ipv6(client6, "2001:db8:a::4").tcp(5000, 80, ack)},
        {"stranger", eth().ipv4(client, "10.9.9.9").udp(5000, 80)},
    };
}

class Malformed : public Plane {
  protected:
    void SetUp() override {
        Plane::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        for (const Sample& sample : samples())
            run_alone(sample.frame, sample.interface);
    }

    // The rule for every frame there is.
    void keeps_the_rule(const std::string& row, const Bytes& in, const char* interface) {
        // Less than a network header the kernel does not take for a test at TC.
        const unsigned type = get16(in, 12);
        if (GetParam() == Hook::tc && in.size() < (type == 0x0800 ? 34u : type == 0x86dd ? 54u : 14u)) return;
        const Outcome out = run(in, interface);
        const bool told = out.went == (GetParam() == Hook::xdp ? Went::bounced : Went::sent) &&
                          std::equal(in.begin(), in.begin() + 6, out.frame.begin() + 6);
        if (out.went == Went::dropped || told) {
            ASSERT_EQ(out.refusals.size(), 1u) << row << hex(in);
            return;
        }
        ASSERT_TRUE(out.refusals.empty()) << row << hex(in);
        if (out.went == Went::passed) {
            ASSERT_EQ(hex(out.frame), hex(in)) << row;
            return;
        }
        ++sent;
        const auto d = dissect(in);
        ASSERT_TRUE(d) << row << " was sent on though malformed:" << hex(in);
        Bytes untagged = in;
        untagged.erase(untagged.begin() + 12, untagged.begin() + static_cast<long>(d->network) - 2);
        sent_on(row, untagged, out.frame);
    }

    uint64_t sent = 0;

  private:
    // `in`: without its tags, which the link that it goes by has not.
    static void sent_on(const std::string& row, const Bytes& in, const Bytes& out) {
        const auto d = dissect(in);
        if (out.size() > in.size()) return keeps_the_rule_inside(row, in, out, *d);
        ASSERT_EQ(hex(out), hex(with_what_may_change(in, out, *d))) << row << " of" << hex(in);
        ASSERT_EQ(out[d->hop_limit_at()] + 1, in[d->hop_limit_at()]) << row;
        ASSERT_EQ(network_residue(out, *d), network_residue(in, *d)) << row << hex(in);
        ASSERT_EQ(without_checksum(out, *d), without_checksum(in, *d)) << row << hex(in);
        if (!without_checksum(in, *d)) {
            ASSERT_EQ(transport_residue(out, *d), transport_residue(in, *d)) << row << hex(in);
        }
    }
    // Inside another packet, whose own checksums are right wherever its are.
    static void keeps_the_rule_inside(const std::string& row, const Bytes& in, const Bytes& out, const Dissection& d) {
        const size_t outer = out.size() - in.size(), ip = d.v6 ? 40 : 20;
        ASSERT_TRUE(outer == ip || outer == ip + 8) << row;
        const std::span<const uint8_t> all(out);
        const auto at = [&d](size_t offset) { return static_cast<long>(d.network + offset); };
        Bytes inside(in.begin(), in.begin() + at(0));
        inside.insert(inside.end(), out.begin() + at(outer), out.end());
        ASSERT_EQ(hex(Bytes(inside.begin() + 12, inside.end())), hex(behind_one_hop(in, inside, d))) << row;
        ASSERT_EQ(network_residue(inside, d), network_residue(in, d)) << row << hex(in);
        if (!d.v6) {
            ASSERT_EQ(ones_sum(all.subspan(d.network, 20)), 0u) << row << hex(out);
        }
        const size_t length = d.network_end - d.network + 8;
        if (!d.v6 || outer == ip || get16(out, d.network + 46) == 0 || transport_residue(in, d)) return;
        const uint64_t pseudo = ones_sum(all.subspan(d.network + 8, 32)) + udp_protocol + length;
        ASSERT_EQ(ones_sum(all.subspan(d.network + 40, length), pseudo), 0u) << row << hex(out);
    }
    static Bytes behind_one_hop(Bytes in, const Bytes& out, const Dissection& d) {
        --in[d.hop_limit_at()];
        if (!d.v6)
            std::copy_n(out.begin() + static_cast<long>(d.network + 10), 2,
                        in.begin() + static_cast<long>(d.network + 10));
        return {in.begin() + 12, in.end()};
    }
    // MACs, hop limit, addresses, ports and checksums; nothing else.
    static Bytes with_what_may_change(Bytes in, const Bytes& out, const Dissection& d) {
        if (in.size() != out.size()) return {};
        const auto copy = [&](size_t at, size_t size) {
            std::copy_n(out.begin() + static_cast<long>(at), size, in.begin() + static_cast<long>(at));
        };
        copy(0, 12);
        copy(d.hop_limit_at(), 1);
        copy(d.addresses_at(), d.addresses_size());
        if (!d.v6) copy(d.network + 10, 2);
        if (d.later) return in;
        copy(d.transport, 4);
        copy(d.checksum_at(), 2);
        return in;
    }
};
INSTANTIATE_HOOKS(Malformed);

TEST_P(Malformed, EveryPrefixOfAPacketIsDroppedOrPasses) {
    for (const Sample& sample : samples()) {
        const Bytes whole = sample.frame;
        for (size_t size = 14; size < whole.size(); ++size) {
            const Bytes cut(whole.begin(), whole.begin() + static_cast<long>(size));
            ASSERT_FALSE(dissect(cut)) << sample.name;
            keeps_the_rule(fmt::format("{}, {} of {} bytes", sample.name, size, whole.size()), cut, sample.interface);
        }
        EXPECT_EQ(sent, 0u) << sample.name;
    }
}

TEST_P(Malformed, ContradictionsAreDroppedByName) {
    const Frame udp = eth().ipv4(client, "10.0.0.1").udp(5000, 80).padding(40);
    const Frame tcp = eth().ipv4(client, "10.0.0.1").tcp(5000, 80, syn).padding(40);
    const Frame udp6 = eth().ipv6(client6, "2001:db8:a::1").udp(5000, 80).padding(40);
    const Frame tcp6 = eth().ipv6(client6, "2001:db8:a::1").tcp(5000, 80, syn).padding(40);
    constexpr size_t ip = 14, behind4 = 34, behind6 = 54;
    struct Row {
        const char* name;
        Frame frame;
        size_t at;
        std::vector<uint8_t> bytes;
    };
    const Row rows[] = {
        {"total length below the header", udp, ip + 2, {0, 19}},
        {"total length 0", udp, ip + 2, {0, 0}},
        {"total length past the frame", udp, ip + 2, {0, 200}},
        {"total length ends in the UDP header", udp, ip + 2, {0, 27}},
        {"total length ends in the UDP data", udp, ip + 2, {0, 30}},
        {"total length ends in the TCP header", tcp, ip + 2, {0, 39}},
        {"header length 4 words", udp, ip, {0x44}},
        {"header length past the total length", udp, ip, {0x4f}},
        {"version 6 in IPv4", udp, ip, {0x65}},
        {"version 4 in IPv6", udp6, ip, {0x40}},
        {"payload length past the frame", udp6, ip + 4, {0, 200}},
        {"payload length ends in the UDP header", udp6, ip + 4, {0, 7}},
        {"payload length 0", udp6, ip + 4, {0, 0}},
        {"payload length ends in the TCP header", tcp6, ip + 4, {0, 19}},
        {"extension header past the payload", udp6, ip + 6, {60}},
        {"UDP length below its header", udp, behind4 + 4, {0, 7}},
        {"UDP length 0", udp, behind4 + 4, {0, 0}},
        {"UDP length past the datagram, within the frame", udp, behind4 + 4, {0, 16}},
        {"UDP length past the frame", udp, behind4 + 4, {1, 0}},
        {"UDP length past the datagram, IPv6", udp6, behind6 + 4, {0, 16}},
        {"TCP header of 4 words", tcp, behind4 + 12, {0x40}},
        {"TCP options past the segment, within the frame", tcp, behind4 + 12, {0x80}},
        {"TCP options past the segment, IPv6", tcp6, behind6 + 12, {0xf0}},
    };
    for (const Row& row : rows) {
        Bytes frame = row.frame;
        std::copy(row.bytes.begin(), row.bytes.end(), frame.begin() + static_cast<long>(row.at));
        ASSERT_FALSE(dissect(frame)) << row.name;
        drops(row.name, frame, 0, abi::packet_verdict_malformed);
    }
    Bytes shorter = udp;
    put16(shorter, behind4 + 4, 12);  // what follows the UDP length is nobody's
    write_checksums(shorter);
    EXPECT_EQ(run(shorter).went, Went::sent);
    keeps_the_rule("UDP length short of the datagram", shorter, "front");
}

// Packets that are nearly right, from a seed: failures can be repeated.
TEST_P(Malformed, MutationsKeepTheRule) {
    constexpr uint64_t seed = 20'240;
    constexpr int runs = 40'000;
    std::mt19937_64 random(seed);
    const auto kinds = samples();
    const auto upto = [&random](size_t limit) { return static_cast<size_t>(random() % limit); };
    for (int i = 0; i < runs && !HasFatalFailure(); ++i) {
        const Sample& sample = kinds[upto(kinds.size())];
        Bytes frame = sample.frame;
        for (size_t changes = upto(4); changes > 0; --changes) {
            const size_t headers = std::min<size_t>(frame.size(), 100);
            switch (upto(5)) {
                case 0:
                    frame[12 + upto(headers - 12)] ^= static_cast<uint8_t>(1 << upto(8));
                    break;
                case 1:
                    frame[12 + upto(headers - 12)] = static_cast<uint8_t>(random());
                    break;
                case 2:
                    put16(frame, 12 + upto(headers - 13), static_cast<unsigned>(upto(4) ? upto(256) : random()));
                    break;
                case 3:
                    frame.resize(std::max<size_t>(16, frame.size() - upto(20)));
                    break;
                case 4:
                    frame.resize(frame.size() + upto(20), static_cast<uint8_t>(random()));
                    break;
            }
        }
        if (upto(2)) write_checksums(frame);
        keeps_the_rule(fmt::format("seed {}, run {}, {}", seed, i, sample.name), frame, sample.interface);
    }
    EXPECT_GT(sent, runs / 10u) << "too few to tell";
}

}  // namespace
}  // namespace marchproxy::packet
