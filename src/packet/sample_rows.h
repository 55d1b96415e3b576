// For tests: a packet of each kind that is treated in a way of its own, services that treat them in each way, and
// packets that are nearly right.
#pragma once

#include <algorithm>
#include <random>

#include "packet/neighbour_rows.h"
#include "packet/plane_rows.h"

namespace marchproxy::packet::testing {

struct Sample {
    const char* name;
    Bytes frame;
    const char* interface = "front";
};

// What answers have to have in them: a second, its echo, and where the largest segment lies on an odd byte.
inline const Bytes told_at_odd_byte{8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 2, 4, 5, 180, 0};

inline std::vector<Sample> samples() {
    const auto echo = [](const Frame& frame, bool v6) {
        return icmp_message(frame.payload("are you there"), {v6, static_cast<uint8_t>(v6 ? 128 : 8), 0x12340007});
    };
    const Frame to_all = eth().from(asker_mac, broadcast), to_group = eth().from(asker_mac, solicited_node);
    const Bytes asker_option = link_layer(1, asker_mac);
    Bytes short_of_the_payload = eth().ipv6(client6, "2001:db8:a::4").udp(5000, 80);
    put16(short_of_the_payload, 58, 12);
    mend(short_of_the_payload);
    return {
        {"UDP", eth().ipv4(client, "10.0.0.1").udp(5000, 80)},
        {"UDP, no checksum", eth().ipv4(client, "10.0.0.1").udp(5000, 80).without_checksum()},
        {"UDP, dnat, by an access list", eth().ipv4(client, "10.0.0.2").udp(5000, 80)},
        {"UDP, dnat, against an access list", eth().ipv4("11.0.7.1", "10.0.0.2").udp(5000, 80)},
        {"TCP, lowered", eth().ipv4(client, "10.0.0.1").tcp(5000, 80, syn).tcp_options({2, 4, 5, 180})},
        {"TCP, lowered, odd", eth().ipv4(client, "10.0.0.1").tcp(5000, 80, syn).tcp_options(told_at_odd_byte)},
        {"TCP, an option of one byte that has a length",
         eth().ipv4(client, "10.0.0.1").tcp(5000, 80, syn).tcp_options({8, 1, 2, 4, 5, 180, 1, 1})},
        {"TCP, dnat", eth().ipv4(client, "10.0.0.2").tcp(5000, 80, ack)},
        {"TCP, dnat, lowered, IPv6",
         eth().ipv6(client6, "2001:db8:a::2").tcp(5000, 80, syn).tcp_options(told_at_odd_byte)},
        {"tags", eth().vlan(7).vlan(8).ipv4(client, "10.0.0.1").udp(5000, 80)},
        {"a tag, IPv6", eth().vlan(7).ipv6(client6, "2001:db8:a::1").tcp(5000, 80, syn)},
        {"IPv4 options", eth().ipv4(client, "10.0.0.1").ip_options(Bytes(12, 1)).udp(5000, 80)},
        {"UDP, by an access list, IPv6", eth().ipv6(client6, "2001:db8:a::1").udp(5000, 80)},
        {"UDP, against an access list, IPv6", eth().ipv6("2001:db8:c::bad", "2001:db8:a::1").udp(5000, 80)},
        {"TCP, IPv6", eth().ipv6(client6, "2001:db8:a::1").tcp(5000, 80, syn).tcp_options(Bytes(12, 1))},
        {"extension headers",
         eth().ipv6(client6, "2001:db8:a::2").extension(0, {1, 4, 0, 0, 0, 0}).extension(60, Bytes(14)).udp(5000, 80)},
        {"from an endpoint", eth().ipv4("10.1.0.1", source).udp(8080, 5000), "back"},
        {"from an endpoint, lowered",
         eth().ipv4("10.1.0.1", source).tcp(8080, 5000, syn | ack).tcp_options({1, 2, 4, 5, 180, 1, 1, 1}), "back"},
        {"from an endpoint, dnat, IPv6", eth().ipv6("2001:db8:e::2", client6).tcp(8080, 5000, syn | ack), "back"},
        {"from an endpoint, hop limit", eth().ipv4("10.1.0.2", client).ttl(1).udp(8080, 5000), "back"},
        {"first part", eth().ipv4(client, "10.0.0.1").fragment(0x2000).udp(5000, 80)},
        {"later part", eth().ipv4(client, "10.0.0.1").fragment(0x0002).udp(5000, 80)},
        {"first part, IPv6", eth().ipv6(client6, "2001:db8:a::1").extension(44, {0, 1, 0, 0, 0, 7}).udp(5000, 80)},
        {"later part, IPv6", eth().ipv6(client6, "2001:db8:a::1").extension(44, {0, 16, 0, 0, 0, 7}).udp(5000, 80)},
        {"IPIP, by an access list", eth().ipv4(client, "10.0.0.3").tcp(5000, 80, ack)},
        {"IPIP, lowered",
         eth().vlan(7).ipv4(client, "10.0.0.3").tcp(5000, 80, syn).tcp_options({1, 2, 4, 5, 180, 1, 1, 1})},
        {"IPIP, IPv6", eth().ipv6(client6, "2001:db8:a::3").udp(5000, 80)},
        {"GUE", eth().ipv4(client, "10.0.0.4").udp(5000, 80)},
        {"GUE, IPv6", eth().ipv6(client6, "2001:db8:a::4").tcp(5000, 80, ack)},
        {"GUE, lowered, IPv6", eth().ipv6(client6, "2001:db8:a::4").tcp(5000, 80, syn).tcp_options(told_at_odd_byte)},
        {"GUE, a length short of the payload, IPv6", short_of_the_payload},
        {"GUE, a tag and a first part", eth().vlan(7).ipv4(client, "10.0.0.4").fragment(0x2000).udp(5000, 80)},
        {"who has to prove its address",
         eth().ipv4(client, "10.0.0.4").tcp(5000, 80, syn).tcp_options({2, 4, 5, 180}).payload("")},
        {"who has to prove its address, IPv6",
         eth().vlan(7).ipv6(client6, "2001:db8:a::3").tcp(5000, 80, syn).tcp_options({2, 4, 5, 180})},
        {"hop limit", eth().ipv4(client, "10.0.0.1").ttl(1).udp(5000, 80)},
        {"hop limit, IPv6", eth().vlan(7).ipv6(client6, "2001:db8:a::2").ttl(1).tcp(5000, 80, ack)},
        {"too large", eth().ipv4(client, "10.0.0.1").udp(5000, 80).payload(std::string(1480, 'x'))},
        {"too large inside, IPv6", eth().ipv6(client6, "2001:db8:a::4").udp(5000, 80).payload(std::string(1410, 'x'))},
        {"echo request", echo(eth().ipv4(client, "10.0.0.1"), false)},
        {"echo request, tagged, with options",
         echo(eth().vlan(7).ipv4(client, "10.0.0.3").ip_options({1, 1, 1, 1}), false)},
        {"echo request, IPv6", echo(eth().ipv6(client6, "2001:db8:a::1"), true)},
        {"ARP", arp(to_all, {})},
        {"ARP, tagged", arp(to_all.vlan(7), {})},
        {"neighbour solicitation", solicitation(to_group, asker6, solicited_node6, asker_option)},
        {"neighbour solicitation to us", solicitation(eth().vlan(7).from(asker_mac, own), asker6, vip6, {})},
        {"whether the address is free", solicitation(to_group, "::", solicited_node6, {})},
        {"stranger", eth().ipv4(client, "10.9.9.9").udp(5000, 80)},
    };
}

// The tests' world with what a service may have beside endpoints: some have one, some another.
class Sampled : public Plane {
  protected:
    static constexpr uint16_t largest_segment = 1300;
    static bool lowers(uint32_t index) {
        return index == nat_tcp || index == dnat_tcp6 || index == ipip_tcp || index == gue_tcp6;
    }
    static bool has_list(uint32_t index) { return index == dnat_udp || index == nat_udp6 || index == ipip_tcp; }
    static bool asks_for_proof(uint32_t index) { return index == gue_tcp || index == ipip_tcp6; }

    // By each of those lists.
    static constexpr const char *allowed[] = {"11.0.0.0/16", "2001:db8:c::/64"},
                                *denied[] = {"11.0.7.0/24", "2001:db8:c::bad"};
    static bool is_let_in(const IpAddress& from) {
        const auto holds = [&from](const char* prefix) { return Prefix::parse(prefix)->contains(from); };
        return std::ranges::any_of(allowed, holds) && std::ranges::none_of(denied, holds);
    }

    void SetUp() override {
        Plane::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        expect(programs->set_directory(**build_directory(entries(true))));
        expect(programs->set_interface(::if_nametoindex("front"), front_mac));
        // Made-up clients are behind `front` too.
        ASSERT_EQ(std::system("ip route add default via 192.0.2.1 && ip -6 route add default via 2001:db8:f::1"), 0);
        Access listed;
        for (const char* prefix : allowed)
            listed.allow.push_back(*Prefix::parse(prefix));
        for (const char* prefix : denied)
            listed.deny.push_back(*Prefix::parse(prefix));
        AccessTrees lists;
        for (uint32_t index = 1; index < place_count; ++index)
            if (has_list(index)) lists.emplace(index, access_tree(listed));
        expect(programs->set_access(lists));
        for (uint32_t index = 1; index < place_count; ++index) {
            abi::packet_service made = service(index);
            if (lowers(index)) made.mss = largest_segment;
            if (has_list(index)) made.flags |= abi::service_has_access;
            if (asks_for_proof(index)) {
                made.flags |= abi::service_limits_flows;
                expect(programs->set_limits(index, {.proven_from = 1}));
            }
            expect(programs->set_service(index, made));
        }
    }
};

// Nearly what it was: a few bytes or bits are others, or some are missing or too many, and half the time nobody can
// tell by the checksums.
inline Bytes mutated(Bytes frame, std::mt19937_64& random) {
    const auto upto = [&random](size_t limit) { return static_cast<size_t>(random() % limit); };
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
                frame.resize(std::max<size_t>(16, frame.size() - std::min(upto(20), frame.size())));
                break;
            case 4:
                frame.resize(frame.size() + upto(20), static_cast<uint8_t>(random()));
                break;
        }
    }
    if (upto(2)) mend(frame);
    return frame;
}

}  // namespace marchproxy::packet::testing
