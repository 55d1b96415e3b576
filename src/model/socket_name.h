// A socket's ends: what it says of them, and where it is to speak from.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <optional>

#include "model/egress.h"

namespace marchproxy {

// `ask`: getsockname or getpeername. Nothing: there is no such end (any more); errno says why.
inline std::optional<SocketAddress> address_of(int descriptor, decltype(getsockname)* ask) {
    sockaddr_storage storage{};
    socklen_t size = sizeof storage;
    if (ask(descriptor, reinterpret_cast<sockaddr*>(&storage), &size) != 0) return std::nullopt;
    return SocketAddress::from(storage);
}

// Binds a socket that is to connect. The port is chosen when it does, so that as many fit as there are pairs of ports
// and destinations (ip(7)). False: errno says why.
inline bool speak_from(int descriptor, const IpAddress& source) {
    const int one = 1;
    setsockopt(descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    sockaddr_storage address;
    const socklen_t size = SocketAddress{source, 0}.to(address);
    return bind(descriptor, reinterpret_cast<const sockaddr*>(&address), size) == 0;
}

// The same for all of how it is to leave.
inline bool leave_by(int descriptor, const Egress& egress) {
    if (!egress.is_possible()) {
        errno = ENETUNREACH;
        return false;
    }
    if (egress.mark != 0 && setsockopt(descriptor, SOL_SOCKET, SO_MARK, &egress.mark, sizeof egress.mark) != 0)
        return false;
    return !egress.source || speak_from(descriptor, *egress.source);
}

}  // namespace marchproxy
