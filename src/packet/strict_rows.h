// For tests: what a strict receiver objects to in a frame, whoever sent it. It knows the RFCs and nothing of the code
// under test, and looks into what is inside another packet and into what an error quotes.
#pragma once

#include "packet/frame_rows.h"

namespace marchproxy::packet::testing {

// Each returns an empty text where there is nothing wrong. `p`: from its header on, with whatever is behind it.
inline std::string objection_to_ipv4(std::span<const uint8_t> p);
inline std::string objection_to_ipv6(std::span<const uint8_t> p);

// A quoted packet may be cut off anywhere.
inline std::string objection_to_quote(std::span<const uint8_t> p, bool v6) {
    const size_t header = p.empty() || v6 ? 40 : (p[0] & 15) * 4u;
    if (p.empty() || p[0] >> 4 != (v6 ? 6 : 4)) return "quotes no packet";
    if (v6 || p.size() < header) return "";
    return ones_sum(p.first(header)) ? "quotes a header whose checksum is wrong" : "";
}

// `pseudo`: the sum of the addresses.
inline std::string objection_to_udp(std::span<const uint8_t> t, uint64_t pseudo) {
    constexpr unsigned gue = 6080;
    if (t.size() < 8) return "no whole UDP header";
    const unsigned length = get16(t, 4);
    if (length < 8 || length > t.size()) return "UDP length";
    if (get16(t, 6) && ones_sum(t.first(length), pseudo + udp_protocol + length)) return "UDP checksum";
    if (get16(t, 2) != gue || length < 9) return "";
    return t[8] >> 4 == 6 ? objection_to_ipv6(t.subspan(8, length - 8)) : objection_to_ipv4(t.subspan(8, length - 8));
}
inline std::string objection_to_tcp(std::span<const uint8_t> t, uint64_t pseudo) {
    if (t.size() < 20 || (t[12] >> 4) < 5 || (t[12] >> 4) * 4u > t.size()) return "no whole TCP header";
    return ones_sum(t, pseudo + tcp_protocol + t.size()) ? "TCP checksum" : "";
}
inline std::string objection_to_icmp(std::span<const uint8_t> t, bool v6, uint64_t pseudo) {
    if (t.size() < 8) return "no whole ICMP header";
    if (ones_sum(t, v6 ? pseudo + icmp6_protocol + t.size() : 0)) return "ICMP checksum";
    const bool error = v6 ? t[0] >= 1 && t[0] <= 4 : t[0] == 3 || t[0] == 11 || t[0] == 12;
    return error ? objection_to_quote(t.subspan(8), v6) : "";
}
inline std::string objection_to_transport(std::span<const uint8_t> t, uint8_t protocol, bool v6, uint64_t pseudo) {
    if (protocol == udp_protocol) return objection_to_udp(t, pseudo);
    if (protocol == tcp_protocol) return objection_to_tcp(t, pseudo);
    if (protocol == (v6 ? icmp6_protocol : icmp_protocol)) return objection_to_icmp(t, v6, pseudo);
    if (protocol == 4) return objection_to_ipv4(t);
    return protocol == 41 ? objection_to_ipv6(t) : "";
}

inline std::string objection_to_ipv4(std::span<const uint8_t> p) {
    if (p.size() < 20 || p[0] >> 4 != 4) return "no whole IPv4 header";
    const size_t header = (p[0] & 15) * 4u, total = get16(p, 2);
    if (header < 20 || total < header || total > p.size()) return "IPv4 lengths";
    if (ones_sum(p.first(header))) return "IPv4 checksum";
    if (get16(p, 6) & 0x3fff) return "";  // a part, whose checksum is that of the whole
    return objection_to_transport(p.subspan(header, total - header), p[9], false, ones_sum(p.subspan(12, 8)));
}
inline std::string objection_to_ipv6(std::span<const uint8_t> p) {
    if (p.size() < 40 || p[0] >> 4 != 6) return "no whole IPv6 header";
    if (get16(p, 4) > p.size() - 40u) return "IPv6 length";
    std::span<const uint8_t> rest = p.subspan(40, get16(p, 4));
    uint8_t next = p[6];
    while (next == 0 || next == 43 || next == 44 || next == 60) {
        const size_t size = next == 44 || rest.size() < 2 ? 8 : 8 + rest[1] * 8u;
        if (size > rest.size()) return "IPv6 extension header";
        if (next == 44 && get16(rest, 2) & 0xfff9) return "";  // a part
        next = rest[0];
        rest = rest.subspan(size);
    }
    return objection_to_transport(rest, next, true, ones_sum(p.subspan(8, 32)));
}

inline std::string objection(std::span<const uint8_t> f) {
    if (f.size() < 14) return "no whole Ethernet header";
    if (f[6] & 1) return "sent by a group";
    if (network_at(f) > f.size()) return "no whole tag";
    const std::span<const uint8_t> rest = f.subspan(network_at(f));
    switch (type_of(f)) {
        case 0x0800:
            return objection_to_ipv4(rest);
        case 0x86dd:
            return objection_to_ipv6(rest);
        case 0x0806:
            return rest.size() < 28 || get32(rest, 0) != 0x10800 || get16(rest, 4) != 0x604 ? "ARP" : "";
        default:
            return "";
    }
}

}  // namespace marchproxy::packet::testing
