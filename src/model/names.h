// Every enumeration of the model and the words users write for it, in one table each: the parser, the printer, the
// error message that lists what is allowed and the reference page are all made from it.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

namespace marchproxy {

enum class Protocol : uint8_t { tcp, udp };
enum class PlaneChoice : uint8_t { automatic, stream, packet };
enum class Forwarding : uint8_t { nat, dnat, dsr };
enum class Encapsulation : uint8_t { none, ipip, gue };
enum class Priority : uint8_t { p0, p1, p2, p3 };
enum class Policy : uint8_t {
    latency,
    cost,
    bandwidth,
    geo,
    weighted,
    round_robin,
    weighted_round_robin,
    least_connections,
    maglev
};
enum class Retry : uint8_t { none, connect, unanswered };
enum class OnDown : uint8_t { reset, keep };
enum class TlsMode : uint8_t { none, passthrough, terminate, mutual };
enum class ProxyProtocol : uint8_t { none, v1, v2 };
enum class ProbeKind : uint8_t { tcp, http, icmp, udp };
enum class PacketMode : uint8_t { automatic, native, generic, tc };
enum class LogLevel : uint8_t { trace, debug, info, warn, error };
enum class LogFormat : uint8_t { json, text };
enum class ForwardMethod : uint8_t { automatic, copy, splice };
enum class Billed : uint8_t { sent, received, both };  // which of a path's bytes its provider counts
enum class Period : uint8_t { day, month };
enum class AtLimit : uint8_t {
    warn,
    prefer_cheaper,
    stop_new
};  // what becomes of new connections once a budget is spent

template <class E>
struct Names;  // static constexpr std::array of {value, word}; a value's first word is the one printed

template <class E>
using NameTable = std::pair<E, std::string_view>;

#define MARCHPROXY_NAMES(E, count, ...)                                        \
    template <>                                                                \
    struct Names<E> {                                                          \
        static constexpr std::array<NameTable<E>, count> table{{__VA_ARGS__}}; \
    }

MARCHPROXY_NAMES(Protocol, 2, {Protocol::tcp, "tcp"}, {Protocol::udp, "udp"});
MARCHPROXY_NAMES(PlaneChoice, 3, {PlaneChoice::automatic, "auto"}, {PlaneChoice::stream, "stream"},
                 {PlaneChoice::packet, "packet"});
MARCHPROXY_NAMES(Forwarding, 3, {Forwarding::nat, "nat"}, {Forwarding::dnat, "dnat"}, {Forwarding::dsr, "dsr"});
MARCHPROXY_NAMES(Encapsulation, 3, {Encapsulation::none, "none"}, {Encapsulation::ipip, "ipip"},
                 {Encapsulation::gue, "gue"});
MARCHPROXY_NAMES(Priority, 4, {Priority::p0, "P0"}, {Priority::p1, "P1"}, {Priority::p2, "P2"}, {Priority::p3, "P3"});
MARCHPROXY_NAMES(Policy, 9, {Policy::latency, "latency"}, {Policy::cost, "cost"}, {Policy::bandwidth, "bandwidth"},
                 {Policy::geo, "geo"}, {Policy::weighted, "weighted"}, {Policy::round_robin, "round_robin"},
                 {Policy::weighted_round_robin, "weighted_round_robin"},
                 {Policy::least_connections, "least_connections"}, {Policy::maglev, "maglev"});
MARCHPROXY_NAMES(Retry, 3, {Retry::none, "none"}, {Retry::connect, "connect"}, {Retry::unanswered, "unanswered"});
MARCHPROXY_NAMES(OnDown, 2, {OnDown::reset, "reset"}, {OnDown::keep, "keep"});
MARCHPROXY_NAMES(TlsMode, 4, {TlsMode::none, "none"}, {TlsMode::passthrough, "passthrough"},
                 {TlsMode::terminate, "terminate"}, {TlsMode::mutual, "mutual"});
MARCHPROXY_NAMES(ProxyProtocol, 3, {ProxyProtocol::none, "none"}, {ProxyProtocol::v1, "v1"}, {ProxyProtocol::v2, "v2"});
MARCHPROXY_NAMES(ProbeKind, 4, {ProbeKind::tcp, "tcp"}, {ProbeKind::http, "http"}, {ProbeKind::icmp, "icmp"},
                 {ProbeKind::udp, "udp"});
MARCHPROXY_NAMES(PacketMode, 4, {PacketMode::automatic, "auto"}, {PacketMode::native, "native"},
                 {PacketMode::generic, "generic"}, {PacketMode::tc, "tc"});
MARCHPROXY_NAMES(LogLevel, 6, {LogLevel::trace, "TRACE"}, {LogLevel::debug, "DEBUG"}, {LogLevel::info, "INFO"},
                 {LogLevel::warn, "WARN"}, {LogLevel::warn, "WARNING"}, {LogLevel::error, "ERROR"});
MARCHPROXY_NAMES(LogFormat, 2, {LogFormat::json, "json"}, {LogFormat::text, "text"});
MARCHPROXY_NAMES(ForwardMethod, 3, {ForwardMethod::automatic, "auto"}, {ForwardMethod::copy, "copy"},
                 {ForwardMethod::splice, "splice"});
MARCHPROXY_NAMES(Billed, 3, {Billed::sent, "sent"}, {Billed::received, "received"}, {Billed::both, "both"});
MARCHPROXY_NAMES(Period, 2, {Period::day, "day"}, {Period::month, "month"});
MARCHPROXY_NAMES(AtLimit, 3, {AtLimit::warn, "warn"}, {AtLimit::prefer_cheaper, "prefer_cheaper"},
                 {AtLimit::stop_new, "stop_new"});
#undef MARCHPROXY_NAMES

template <class E>
constexpr std::string_view name_of(E value) {
    for (const auto& [candidate, word] : Names<E>::table)
        if (candidate == value) return word;
    return "?";
}

// Policies that look at what is known of paths.
constexpr bool is_measured(Policy policy) {
    return policy == Policy::latency || policy == Policy::cost || policy == Policy::bandwidth ||
           policy == Policy::geo || policy == Policy::weighted;
}

template <class E>
constexpr std::optional<E> from_name(std::string_view text) {
    for (const auto& [value, word] : Names<E>::table)
        if (word == text) return value;
    return std::nullopt;
}

}  // namespace marchproxy
