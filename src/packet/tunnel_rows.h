// For tests of dsr: what is around a packet on its way to the endpoint.
#pragma once

#include "packet/plane_rows.h"

namespace marchproxy::packet::testing {

// By how a packet comes to an endpoint; who is who is the same for each.
struct Tunnel {
    const char* name;
    bool v6, gue;
    const char *client, *service, *endpoint, *source;
    uint32_t udp;  // the service
    size_t header() const { return (v6 ? 40u : 20u) + (gue ? 8u : 0u); }
    Frame from_client() const { return v6 ? eth().ipv6(client, service) : eth().ipv4(client, service); }
};
inline const Tunnel tunnels[] = {
    {"IPIP", false, false, client, "10.0.0.3", "10.1.0.3", source, ipip_udp},
    {"IPIP, IPv6", true, false, client6, "2001:db8:a::3", "2001:db8:e::3", source6, ipip_udp6},
    {"GUE", false, true, client, "10.0.0.4", "10.1.0.4", source, gue_udp},
    {"GUE, IPv6", true, true, client6, "2001:db8:a::4", "2001:db8:e::4", source6, gue_udp6},
};
inline constexpr size_t ethernet = 14;

// What tells flows apart in an outer header: GUE's source port, IPv6's flow label.
struct Spread {
    unsigned port = 0, label = 0;
    bool operator==(const Spread&) const = default;
};
inline Spread spread_in(const Tunnel& t, const Bytes& frame, size_t network = ethernet) {
    Spread spread;
    if (frame.size() < network + t.header()) return spread;
    if (t.gue) spread.port = get16(frame, network + t.header() - 8);
    if (t.v6) spread.label = (frame[network + 1] & 15u) << 16 | get16(frame, network + 2);
    return spread;
}

// What only tells flows apart is taken from `actual`; whether GUE has a checksum over IPv6 is `summed`.
inline Bytes around(const Tunnel& t, const Bytes& inner, const Bytes& actual, bool summed = true) {
    const size_t network = dissect(inner)->network, length = dissect(inner)->network_end - network;
    const Spread spread = spread_in(t, actual, network);
    Bytes outer(t.header());
    const std::span<uint8_t> ip(outer);
    const uint8_t protocol = t.gue ? udp_protocol : t.v6 ? 41 : 4;
    if (t.v6) {
        const unsigned traffic_class = (inner[network] & 15u) << 4 | inner[network + 1] >> 4;
        outer[0] = static_cast<uint8_t>(0x60 | traffic_class >> 4);
        outer[1] = static_cast<uint8_t>((traffic_class & 15) << 4 | spread.label >> 16);
        put16(outer, 2, spread.label & 0xffff);
        put16(outer, 4, static_cast<unsigned>(length + (t.gue ? 8 : 0)));
        outer[6] = protocol;
        outer[7] = 64;
        inet_pton(AF_INET6, t.source, &outer[8]);
        inet_pton(AF_INET6, t.endpoint, &outer[24]);
    } else {
        outer[0] = 0x45;
        outer[1] = inner[network + 1];
        put16(outer, 2, static_cast<unsigned>(length + t.header()));
        put16(outer, 6, 0x4000);
        outer[8] = 64;
        outer[9] = protocol;
        inet_pton(AF_INET, t.source, &outer[12]);
        inet_pton(AF_INET, t.endpoint, &outer[16]);
        put16(outer, 10, checksum_of(ones_sum(ip.subspan(0, 20))));
    }
    if (t.gue) {
        const size_t udp = t.header() - 8;
        put16(outer, udp, spread.port);
        put16(outer, udp + 2, 6080);
        put16(outer, udp + 4, static_cast<unsigned>(length + 8));
    }
    Bytes frame(inner.begin(), inner.begin() + static_cast<long>(network));
    frame.insert(frame.end(), outer.begin(), outer.end());
    frame.insert(frame.end(), inner.begin() + static_cast<long>(network), inner.end());
    if (t.gue && t.v6 && summed) {
        const std::span<const uint8_t> all(frame);
        const uint64_t pseudo = ones_sum(all.subspan(network + 8, 32)) + udp_protocol + length + 8;
        const unsigned sum = ones_sum(all.subspan(network + 40, length + 8), pseudo);
        put16(frame, network + 46, 0xffff - sum);
    }
    return frame;
}
inline Bytes around(const Tunnel& t, const Frame& inner, const Bytes& actual, bool summed = true) {
    return around(t, inner.from(back_mac, back_gateway).bytes(), actual, summed);
}

}  // namespace marchproxy::packet::testing
