// For tests: who asks for an address and who says that it has it, by ARP and by neighbour discovery.
#pragma once

#include "packet/frame_rows.h"

namespace marchproxy::packet::testing {

inline constexpr const char *vip = "10.0.0.1", *vip6 = "2001:db8:a::1", *asker = "192.0.2.1", *asker6 = "2001:db8:f::1";
inline constexpr Mac own{2, 0, 0, 0, 0xf, 1}, broadcast{255, 255, 255, 255, 255, 255}, nobody{};
inline constexpr Mac solicited_node{0x33, 0x33, 0xff, 0, 0, 1}, all_nodes{0x33, 0x33, 0, 0, 0, 1};
inline constexpr Mac asker_mac{2, 0, 0, 0, 0, 0xaa};

// RFC 826.
struct Arp {
    uint8_t operation = 1;
    Mac sender = asker_mac;
    std::string sender_address = asker;
    Mac target = nobody;
    std::string target_address = vip;
};
inline Bytes arp(const Frame& ethernet, const Arp& arp) {
    Bytes frame = ethernet.ipv4("0.0.0.0", "0.0.0.0");
    frame.resize(dissect(frame)->network - 2);
    const auto append = [&frame](const auto& bytes) { frame.insert(frame.end(), bytes.begin(), bytes.end()); };
    const auto append_address = [&](const std::string& text) {
        Bytes address(4);
        inet_pton(AF_INET, text.c_str(), address.data());
        append(address);
    };
    append(Bytes{8, 6, 0, 1, 8, 0, 6, 4, 0, arp.operation});
    append(arp.sender);
    append_address(arp.sender_address);
    append(arp.target);
    append_address(arp.target_address);
    return frame;
}

// RFC 4861 4.3 and 4.4.
inline Bytes discovery(const Frame& frame, uint8_t type, uint32_t flags, const char* target, const Bytes& options) {
    std::string body(16, '\0');
    inet_pton(AF_INET6, target, body.data());
    body.append(options.begin(), options.end());
    return icmp_message(frame.payload(body), {.v6 = true, .type = type, .rest = flags});
}
inline Bytes link_layer(uint8_t type, const Mac& mac) {
    Bytes option{type, 1};
    option.insert(option.end(), mac.begin(), mac.end());
    return option;
}
inline constexpr uint8_t solicitation_type = 135, advertisement_type = 136;
inline constexpr uint32_t solicited = 1 << 30, overriding = 1 << 29;
inline constexpr const char* solicited_node6 = "ff02::1:ff00:1";

inline Bytes solicitation(const Frame& ethernet, const char* from, const char* to, const Bytes& options,
                          const char* target = vip6) {
    return discovery(ethernet.ipv6(from, to).ttl(255), solicitation_type, 0, target, options);
}
inline Bytes advertisement(const Frame& ethernet, const char* to, uint32_t flags) {
    return discovery(ethernet.ipv6(vip6, to).ttl(255), advertisement_type, flags, vip6, link_layer(2, own));
}

}  // namespace marchproxy::packet::testing
