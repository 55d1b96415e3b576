// What a socket says of its ends.
#pragma once

#include <sys/socket.h>

#include <optional>

#include "model/address.h"

namespace marchproxy {

// `ask`: getsockname or getpeername. Nothing: there is no such end (any more); errno says why.
inline std::optional<SocketAddress> address_of(int descriptor, decltype(getsockname)* ask) {
    sockaddr_storage storage{};
    socklen_t size = sizeof storage;
    if (ask(descriptor, reinterpret_cast<sockaddr*>(&storage), &size) != 0) return std::nullopt;
    return SocketAddress::from(storage);
}

}  // namespace marchproxy
