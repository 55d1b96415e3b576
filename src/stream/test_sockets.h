// Connected sockets on loopback for tests.
#pragma once

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <random>
#include <stdexcept>
#include <string>

#include "model/socket_name.h"

namespace marchproxy::stream::testing {

inline SocketAddress loopback(uint16_t port) {
    return {IpAddress::v4(0x7f000001), port};
}

inline SocketAddress local_address(int descriptor) {
    return address_of(descriptor, getsockname).value_or(SocketAddress{});
}

// A descriptor closed at the end of the scope.
struct Fd {
    int value = -1;
    Fd() = default;
    explicit Fd(int descriptor) : value(descriptor) {}
    Fd(Fd&& other) noexcept : value(std::exchange(other.value, -1)) {}
    Fd& operator=(Fd&& other) noexcept {
        std::swap(value, other.value);
        return *this;
    }
    ~Fd() { reset(); }
    void reset() {
        if (value >= 0) close(value);
        value = -1;
    }
    operator int() const { return value; }
};

inline Fd bound_socket(int type, int flags = 0) {
    Fd descriptor(socket(AF_INET, type | flags | SOCK_CLOEXEC, 0));
    sockaddr_storage storage;
    const socklen_t size = loopback(0).to(storage);
    if (bind(descriptor, reinterpret_cast<sockaddr*>(&storage), size) != 0) throw std::runtime_error("bind");
    if (type == SOCK_STREAM && listen(descriptor, 64) != 0) throw std::runtime_error("listen");
    return descriptor;
}

inline Fd connect_to(const SocketAddress& address, int type = SOCK_STREAM) {
    Fd descriptor(socket(AF_INET, type | SOCK_CLOEXEC, 0));
    sockaddr_storage storage;
    const socklen_t size = address.to(storage);
    if (connect(descriptor, reinterpret_cast<sockaddr*>(&storage), size) != 0) throw std::runtime_error("connect");
    return descriptor;
}

// A TCP connection: `outer` is the test's end, blocking; `inner` the proxy's, non-blocking.
struct TcpPair {
    Fd outer, inner;
    TcpPair() {
        Fd listener = bound_socket(SOCK_STREAM);
        outer = connect_to(local_address(listener));
        inner = Fd(accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    }
};

inline bool wait_readable(int descriptor, int milliseconds = 5000) {
    pollfd entry{descriptor, POLLIN, 0};
    return poll(&entry, 1, milliseconds) > 0;
}

// Reads exactly `size` bytes, or what came before the end, an error or five quiet seconds.
inline std::string read_bytes(int descriptor, size_t size) {
    std::string bytes(size, '\0');
    size_t got = 0;
    while (got < size && wait_readable(descriptor)) {
        const ssize_t count = recv(descriptor, bytes.data() + got, size - got, 0);
        if (count <= 0) break;
        got += static_cast<size_t>(count);
    }
    bytes.resize(got);
    return bytes;
}

inline bool write_bytes(int descriptor, const std::string& bytes) {
    size_t sent = 0;
    while (sent < bytes.size()) {
        const ssize_t count = send(descriptor, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
        if (count <= 0) return false;
        sent += static_cast<size_t>(count);
    }
    return true;
}

inline std::string random_bytes(size_t size, unsigned seed = 1) {
    std::mt19937_64 random(seed);
    std::string bytes(size, '\0');
    for (char& byte : bytes)
        byte = static_cast<char>(random());
    return bytes;
}

}  // namespace marchproxy::stream::testing
