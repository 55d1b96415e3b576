// IP addresses, sockets and prefixes, IPv4 and IPv6 in one form: IPv4 is held as its mapped IPv6 address (RFC 4291
// 2.5.5.2), so that no code after this header needs two cases.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "model/result.h"

namespace marchproxy {

struct IpAddress {
    std::array<uint8_t, 16> bytes{};  // network order; ::ffff:a.b.c.d for IPv4

    static IpAddress v4(uint32_t host_order);
    static IpAddress any_v4() { return v4(0); }
    static Result<IpAddress> parse(std::string_view text);  // "10.0.0.1", "2001:db8::1"; no names, no scopes

    bool is_v4() const;
    bool is_unspecified() const;  // 0.0.0.0 or ::
    bool is_loopback() const;     // 127.0.0.0/8 or ::1
    auto operator<=>(const IpAddress&) const = default;
};

struct SocketAddress {
    IpAddress ip;
    uint16_t port = 0;  // host order

    static Result<SocketAddress> parse(std::string_view text);   // "10.0.0.1:80", "[::1]:80"
    static SocketAddress from(const sockaddr_storage& storage);  // AF_INET or AF_INET6 only
    // Fills `storage` and returns its length. IPv4 becomes AF_INET.
    socklen_t to(sockaddr_storage& storage) const;
    auto operator<=>(const SocketAddress&) const = default;
};

// An endpoint as users write it: an address or a name, and a port.
struct HostPort {
    std::string host;
    uint16_t port = 0;

    static Result<HostPort> parse(std::string_view text);  // "10.0.0.1:80", "[::1]:80", "db.example:5432"
    bool is_literal() const { return IpAddress::parse(host).ok(); }
    auto operator<=>(const HostPort&) const = default;
};

struct Prefix {
    IpAddress ip;          // host bits are zero
    uint8_t length = 128;  // of the 128-bit form: an IPv4 /8 is 104

    static Result<Prefix> parse(
        std::string_view text);                     // "10.0.0.0/8", "10.0.0.1", "2001:db8::/32"; host bits set: refused
    bool contains(const IpAddress& address) const;  // "::/0" holds every IPv6 address and no IPv4 one
    auto operator<=>(const Prefix&) const = default;
};

std::string to_string(const IpAddress& address);
std::string to_string(const SocketAddress& address);
std::string to_string(const HostPort& address);
std::string to_string(const Prefix& prefix);

}  // namespace marchproxy

template <>
struct std::hash<marchproxy::IpAddress> {
    size_t operator()(const marchproxy::IpAddress& address) const noexcept {
        return std::hash<std::string_view>{}({reinterpret_cast<const char*>(address.bytes.data()), 16});
    }
};
template <>
struct std::hash<marchproxy::SocketAddress> {
    size_t operator()(const marchproxy::SocketAddress& address) const noexcept {
        return std::hash<marchproxy::IpAddress>{}(address.ip) * 31 + address.port;
    }
};
