#include "model/address.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <cassert>
#include <charconv>
#include <cstring>
#include <optional>

#include "model/quote.h"

namespace marchproxy {
namespace {

constexpr std::array<uint8_t, 12> mapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
constexpr uint8_t mapped_bits = 96;

std::optional<uint32_t> parse_decimal(std::string_view text, uint32_t largest) {
    uint32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    const bool whole = error == std::errc{} && end == text.data() + text.size();
    const bool padded = text.size() > 1 && text.front() == '0';
    if (!whole || padded || value > largest) return std::nullopt;
    return value;
}

struct HostAndPort {
    std::string_view host;
    bool bracketed;
    uint16_t port;
};

Result<HostAndPort> split_port(std::string_view text, std::string_view example) {
    const size_t colon = text.rfind(':');
    if (colon == std::string_view::npos || colon + 1 == text.size() || text.back() == ']')
        return Error{fmt::format("{} has no port: write it like \"{}\"", quoted(text), example)};
    std::string_view host = text.substr(0, colon);
    const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
    if (bracketed) host = host.substr(1, host.size() - 2);
    if (!bracketed && host.find(':') != std::string_view::npos)
        return Error{fmt::format("{} is ambiguous: put an IPv6 address in brackets, like \"[::1]:80\"", quoted(text))};
    if (host.empty()) return Error{fmt::format("{} has no host: write it like \"{}\"", quoted(text), example)};
    const std::optional<uint32_t> port = parse_decimal(text.substr(colon + 1), 65535);
    if (!port || *port == 0)
        return Error{fmt::format("{} has the port {}: ports are 1 to 65535, as in \"{}\"", quoted(text),
                                 quoted(text.substr(colon + 1)), example)};
    return HostAndPort{host, bracketed, static_cast<uint16_t>(*port)};
}

bool is_letter_or_digit(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

// RFC 1123 2.1, and '_', which container platforms put into names.
bool is_label(std::string_view label) {
    if (label.empty() || label.size() > 63 || label.front() == '-' || label.back() == '-') return false;
    return std::all_of(label.begin(), label.end(),
                       [](char c) { return is_letter_or_digit(c) || c == '-' || c == '_'; });
}

// A name whose last label is a number is a mistyped IPv4 address: no top-level domain is one (RFC 1123 2.1).
bool is_host_name(std::string_view name) {
    if (!name.empty() && name.back() == '.') name.remove_suffix(1);
    if (name.empty() || name.size() > 253) return false;
    std::string_view label;
    for (size_t at = 0; at <= name.size(); at += label.size() + 1) {
        label = name.substr(at, name.find('.', at) - at);
        if (!is_label(label)) return false;
    }
    return !std::all_of(label.begin(), label.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool same_bits(const IpAddress& a, const IpAddress& b, uint8_t bits) {
    const size_t whole = bits / 8U;
    if (std::memcmp(a.bytes.data(), b.bytes.data(), whole) != 0) return false;
    const unsigned rest = bits % 8U;
    return rest == 0 || ((a.bytes[whole] ^ b.bytes[whole]) >> (8 - rest)) == 0;
}

IpAddress clear_host_bits(IpAddress address, uint8_t bits) {
    for (size_t i = 0; i < address.bytes.size(); ++i) {
        const int kept = std::clamp(static_cast<int>(bits) - static_cast<int>(i) * 8, 0, 8);
        address.bytes[i] = static_cast<uint8_t>(address.bytes[i] & (0xff00U >> kept));
    }
    return address;
}

}  // namespace

IpAddress IpAddress::v4(uint32_t host_order) {
    IpAddress address;
    std::copy(mapped.begin(), mapped.end(), address.bytes.begin());
    for (size_t i = 0; i < 4; ++i)
        address.bytes[12 + i] = static_cast<uint8_t>(host_order >> (24 - 8 * i));
    return address;
}

Result<IpAddress> IpAddress::parse(std::string_view text) {
    // inet_pton wants a terminated string and would stop at a NUL inside.
    std::array<char, INET6_ADDRSTRLEN> terminated{};
    if (text.size() < terminated.size() && text.find('\0') == std::string_view::npos) {
        std::copy(text.begin(), text.end(), terminated.begin());
        in_addr four{};
        if (inet_pton(AF_INET, terminated.data(), &four) == 1) return v4(ntohl(four.s_addr));
        IpAddress six;
        if (inet_pton(AF_INET6, terminated.data(), six.bytes.data()) == 1) return six;
    }
    return Error{fmt::format("{} is not an IP address: write it like \"10.0.0.1\" or \"2001:db8::1\"", quoted(text))};
}

bool IpAddress::is_v4() const {
    return std::equal(mapped.begin(), mapped.end(), bytes.begin());
}

bool IpAddress::is_unspecified() const {
    return *this == IpAddress{} || *this == any_v4();
}

bool IpAddress::is_loopback() const {
    IpAddress six;
    six.bytes[15] = 1;
    return *this == six || (is_v4() && bytes[12] == 127);
}

Result<SocketAddress> SocketAddress::parse(std::string_view text) {
    const Result<HostAndPort> parts = split_port(text, "10.0.0.1:80");
    if (!parts) return Error{parts.error()};
    const Result<IpAddress> ip = IpAddress::parse(parts->host);
    const bool six = parts->host.find(':') != std::string_view::npos;
    if (!ip || parts->bracketed != six)
        return Error{fmt::format("{} is not an address and port: write it like \"10.0.0.1:80\" or \"[2001:db8::1]:80\"",
                                 quoted(text))};
    return SocketAddress{*ip, parts->port};
}

SocketAddress SocketAddress::from(const sockaddr_storage& storage) {
    if (storage.ss_family == AF_INET) {
        sockaddr_in four{};
        std::memcpy(&four, &storage, sizeof four);
        return {IpAddress::v4(ntohl(four.sin_addr.s_addr)), ntohs(four.sin_port)};
    }
    assert(storage.ss_family == AF_INET6);
    sockaddr_in6 six{};
    std::memcpy(&six, &storage, sizeof six);
    SocketAddress address;
    std::memcpy(address.ip.bytes.data(), &six.sin6_addr, address.ip.bytes.size());
    address.port = ntohs(six.sin6_port);
    return address;
}

socklen_t SocketAddress::to(sockaddr_storage& storage) const {
    storage = {};
    if (ip.is_v4()) {
        sockaddr_in four{};
        four.sin_family = AF_INET;
        four.sin_port = htons(port);
        std::memcpy(&four.sin_addr, ip.bytes.data() + 12, 4);
        std::memcpy(&storage, &four, sizeof four);
        return sizeof four;
    }
    sockaddr_in6 six{};
    six.sin6_family = AF_INET6;
    six.sin6_port = htons(port);
    std::memcpy(&six.sin6_addr, ip.bytes.data(), ip.bytes.size());
    std::memcpy(&storage, &six, sizeof six);
    return sizeof six;
}

Result<HostPort> HostPort::parse(std::string_view text) {
    const Result<HostAndPort> parts = split_port(text, "db.example:5432");
    if (!parts) return Error{parts.error()};
    const bool six = parts->host.find(':') != std::string_view::npos;
    const bool literal = IpAddress::parse(parts->host).ok();
    if (parts->bracketed != six || (!literal && !is_host_name(parts->host)))
        return Error{
            fmt::format("{} is neither an address nor a host name with a port: write it like \"10.0.0.1:80\", "
                        "\"[2001:db8::1]:80\" or \"db.example:5432\"",
                        quoted(text))};
    return HostPort{std::string(parts->host), parts->port};
}

Result<Prefix> Prefix::parse(std::string_view text) {
    const size_t slash = text.find('/');
    const std::string_view address_text = text.substr(0, slash);
    const Result<IpAddress> ip = IpAddress::parse(address_text);
    if (!ip)
        return Error{
            fmt::format("{} is not an address range: write it like \"10.0.0.0/8\" or \"2001:db8::/32\"", quoted(text))};
    if (slash == std::string_view::npos) return Prefix{*ip, 128};

    // "::ffff:10.0.0.0/104" counts all 128 bits, as written.
    const uint8_t implied = address_text.find(':') == std::string_view::npos ? mapped_bits : 0;
    const std::optional<uint32_t> length = parse_decimal(text.substr(slash + 1), 128U - implied);
    if (!length) return Error{fmt::format("{} has a prefix length outside 0 to {}", quoted(text), 128 - implied)};
    const Prefix prefix{*ip, static_cast<uint8_t>(*length + implied)};
    const IpAddress network = clear_host_bits(prefix.ip, prefix.length);
    if (network != prefix.ip)
        return Error{fmt::format("{} has bits set after its prefix: {} is the range it lies in", quoted(text),
                                 quoted(to_string(Prefix{network, prefix.length})))};
    return prefix;
}

bool Prefix::contains(const IpAddress& address) const {
    if (address.is_v4() && length < mapped_bits) return false;
    return same_bits(ip, address, length);
}

std::string to_string(const IpAddress& address) {
    std::array<char, INET6_ADDRSTRLEN> text{};
    const bool four = address.is_v4();
    inet_ntop(four ? AF_INET : AF_INET6, address.bytes.data() + (four ? 12 : 0), text.data(), text.size());
    return text.data();
}

std::string to_string(const SocketAddress& address) {
    return to_string(HostPort{to_string(address.ip), address.port});
}

std::string to_string(const HostPort& address) {
    const bool six = address.host.find(':') != std::string::npos;
    return six ? fmt::format("[{}]:{}", address.host, address.port) : fmt::format("{}:{}", address.host, address.port);
}

std::string to_string(const Prefix& prefix) {
    const bool four = prefix.ip.is_v4() && prefix.length >= mapped_bits;
    return fmt::format("{}/{}", to_string(prefix.ip), prefix.length - (four ? mapped_bits : 0));
}

}  // namespace marchproxy
