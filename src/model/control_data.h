// What a message says beside its bytes (cmsg(3)), for sending.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstddef>
#include <cstring>

#include "model/address.h"

namespace marchproxy {

// Behind what is there already; `msg_controllen` begins with 0, and `msg_control` has room and is aligned.
template <class T>
void add_control(msghdr& header, int level, int type, const T& value) {
    auto* entry = reinterpret_cast<cmsghdr*>(static_cast<std::byte*>(header.msg_control) + header.msg_controllen);
    entry->cmsg_level = level;
    entry->cmsg_type = type;
    entry->cmsg_len = CMSG_LEN(sizeof value);
    std::memcpy(CMSG_DATA(entry), &value, sizeof value);
    header.msg_controllen += CMSG_SPACE(sizeof value);
}

// The address that the message comes from (ip(7), ipv6(7)).
inline void add_source(msghdr& header, const IpAddress& source) {
    if (source.is_v4()) {
        in_pktinfo info{};
        std::memcpy(&info.ipi_spec_dst, source.bytes.data() + 12, 4);
        add_control(header, IPPROTO_IP, IP_PKTINFO, info);
    } else {
        in6_pktinfo info{};
        std::memcpy(&info.ipi6_addr, source.bytes.data(), 16);
        add_control(header, IPPROTO_IPV6, IPV6_PKTINFO, info);
    }
}

}  // namespace marchproxy
