#include "stream/marking.h"

#include <netinet/in.h>

#include <array>
#include <cstring>

#include "stream/sockets.h"

// ipv6(7) names it, netinet/in.h does not: what a connected TCP socket's peer sent with last (RFC 2292).
#ifndef IPV6_2292PKTOPTIONS
#define IPV6_2292PKTOPTIONS 6
#endif

namespace marchproxy::stream {

void mark(int descriptor, bool is_v4, uint8_t dscp) {
    if (is_v4)
        set_option(descriptor, IPPROTO_IP, IP_TOS, dscp << 2);
    else
        set_option(descriptor, IPPROTO_IPV6, IPV6_TCLASS, dscp << 2);
}

void report_marks(int descriptor, bool is_v4, bool wanted) {
    if (is_v4)
        set_option(descriptor, IPPROTO_IP, IP_RECVTOS, wanted);
    else
        set_option(descriptor, IPPROTO_IPV6, IPV6_RECVTCLASS, wanted);
}

std::optional<uint8_t> arrived_mark(int descriptor, bool is_v4) {
    alignas(cmsghdr) std::array<std::byte, 256> control{};
    auto size = static_cast<socklen_t>(control.size());
    const int level = is_v4 ? IPPROTO_IP : IPPROTO_IPV6;
    if (getsockopt(descriptor, level, is_v4 ? IP_PKTOPTIONS : IPV6_2292PKTOPTIONS, control.data(), &size) != 0)
        return std::nullopt;
    msghdr header{};
    header.msg_control = control.data();
    header.msg_controllen = size;
    for (cmsghdr* entry = CMSG_FIRSTHDR(&header); entry; entry = CMSG_NXTHDR(&header, entry)) {
        if (entry->cmsg_level != level || entry->cmsg_type != (is_v4 ? IP_TOS : IPV6_TCLASS)) continue;
        int traffic_class = 0;
        std::memcpy(&traffic_class, CMSG_DATA(entry), sizeof traffic_class);
        return static_cast<uint8_t>((traffic_class & 0xff) >> 2);
    }
    return std::nullopt;
}

}  // namespace marchproxy::stream
