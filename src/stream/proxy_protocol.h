// The PROXY protocol, versions 1 and 2 (HAProxy, doc/proxy-protocol.txt): the first bytes of a connection, or of a
// datagram, that say whose it is when a proxy before this one opened it.
//
// Pure: bytes in, values out. Input is hostile: nothing is read past the given bytes, and bytes that cannot become a
// header are invalid as soon as they show it, not only when the header should have been whole.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "model/address.h"
#include "model/names.h"

namespace marchproxy::stream {

// No valid header is longer; whoever buffers one needs no more.
constexpr size_t longest_proxy_header = 16 + 65535;
constexpr size_t longest_proxy_header_v1 = 107;

struct ProxyHeader {
    enum class State : uint8_t {
        incomplete,  // so far it could be one: ask again with more bytes
        invalid,     // `problem` says why
        complete,
    };
    State state = State::incomplete;
    size_t size = 0;         // complete: bytes of the header; payload follows
    bool addressed = false;  // complete: false for LOCAL, UNKNOWN and unix: use the connection's own addresses
    Protocol protocol = Protocol::tcp;  // addressed: what the client spoke
    SocketAddress source, destination;  // addressed: of the client's connection to the first proxy; ports may be 0
    std::string_view problem;           // invalid: in words, for the log
};

// Either version, told by the first byte. TLVs are skipped, their lengths checked; a CRC32c among them is verified.
ProxyHeader parse_proxy_header(std::span<const std::byte> input);

struct EncodedProxyHeader {
    std::array<std::byte, longest_proxy_header_v1> bytes{};
    size_t size = 0;
    std::span<const std::byte> view() const { return {bytes.data(), size}; }
};

// Addresses of different families are both written as IPv6, IPv4 mapped. Version 1 knows TCP only: UDP becomes UNKNOWN.
// `version` is v1 or v2.
EncodedProxyHeader encode_proxy_header(ProxyProtocol version, Protocol protocol, const SocketAddress& source,
                                       const SocketAddress& destination);

}  // namespace marchproxy::stream
