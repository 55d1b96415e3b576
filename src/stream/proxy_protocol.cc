#include "stream/proxy_protocol.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <optional>

namespace marchproxy::stream {
namespace {

using State = ProxyHeader::State;

constexpr std::string_view signature_v2("\r\n\r\n\0\r\nQUIT\n", 12);
constexpr size_t fixed_v2 = 16;  // signature, command, family, length
constexpr uint8_t crc_type = 0x03;
constexpr size_t tlv_head = 3;

ProxyHeader invalid(std::string_view problem) {
    ProxyHeader header;
    header.state = State::invalid;
    header.problem = problem;
    return header;
}

// --- version 1: a line of text --------------------------------------------------------------------------------------

// Reads a line that may not all be there yet. The first step that finds the end of the input, or a byte that cannot be,
// decides the outcome; all later steps do nothing.
class LineCursor {
  public:
    explicit LineCursor(std::string_view input) : rest_(input) {}

    State state() const { return state_; }
    std::string_view problem() const { return problem_; }
    std::string_view rest() const { return rest_; }
    bool going() const { return state_ == State::complete; }

    void fail(std::string_view problem) {
        if (!going()) return;
        state_ = State::invalid;
        problem_ = problem;
    }
    void starve() {
        if (going()) state_ = State::incomplete;
    }

    void expect(std::string_view word, std::string_view problem) {
        if (!going()) return;
        const size_t have = std::min(word.size(), rest_.size());
        if (rest_.substr(0, have) != word.substr(0, have)) return fail(problem);
        if (have < word.size()) return starve();
        rest_.remove_prefix(have);
    }

    // The next byte, without taking it; 0 where there is none or reading has ended.
    char peek() {
        if (going() && rest_.empty()) starve();
        return going() ? rest_.front() : '\0';
    }
    char take() {
        const char c = peek();
        if (going()) rest_.remove_prefix(1);
        return c;
    }

  private:
    std::string_view rest_;
    State state_ = State::complete;
    std::string_view problem_;
};

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

bool is_hexadecimal(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

// A decimal without leading zeros, up to the byte after it.
uint32_t take_decimal(LineCursor& line, uint32_t largest, std::string_view problem) {
    uint32_t value = 0;
    for (int digits = 0;; ++digits) {
        const char c = line.peek();
        if (!line.going()) return 0;
        if (!is_digit(c) && digits > 0) return value;
        const bool padded = digits > 0 && value == 0;
        value = value * 10 + static_cast<uint32_t>(c - '0');
        if (!is_digit(c) || padded || value > largest) {
            line.fail(problem);
            return 0;
        }
        line.take();
    }
}

IpAddress take_v4(LineCursor& line) {
    constexpr std::string_view problem = "version 1: not an IPv4 address";
    uint32_t address = 0;
    for (int i = 0; i < 4; ++i) {
        if (i > 0) line.expect(".", problem);
        address = address << 8 | take_decimal(line, 255, problem);
    }
    return IpAddress::v4(address);
}

// Checks as it goes what a byte alone can break (its kind, a fifth digit); the rest when the whole word is there.
IpAddress take_v6(LineCursor& line) {
    constexpr std::string_view problem = "version 1: not an IPv6 address";
    constexpr size_t longest = 45;  // with a dotted IPv4 address at its end
    const std::string_view text = line.rest();
    size_t length = 0;
    for (size_t in_group = 0; line.peek() != ' ' && line.going(); ++length) {
        const char c = line.take();
        in_group = c == ':' || c == '.' ? 0 : in_group + 1;
        if ((in_group > 0 && !is_hexadecimal(c)) || in_group > 4 || length == longest) line.fail(problem);
    }
    if (!line.going()) return {};
    const Result<IpAddress> address = IpAddress::parse(text.substr(0, length));
    if (!address || text.substr(0, length).find(':') == std::string_view::npos) {
        line.fail(problem);
        return {};
    }
    return *address;
}

void take_addresses(LineCursor& line, ProxyHeader& header) {
    const bool six = line.peek() == '6';
    line.expect(six ? "6 " : "4 ", "version 1: the family is neither TCP4 nor TCP6 nor UNKNOWN");
    header.source.ip = six ? take_v6(line) : take_v4(line);
    line.expect(" ", "version 1: no space after an address");
    header.destination.ip = six ? take_v6(line) : take_v4(line);
    line.expect(" ", "version 1: no space after an address");
    header.source.port = static_cast<uint16_t>(take_decimal(line, 65535, "version 1: not a port"));
    line.expect(" ", "version 1: no space after a port");
    header.destination.port = static_cast<uint16_t>(take_decimal(line, 65535, "version 1: not a port"));
    header.addressed = true;
}

// The family of what the first proxy does not know is followed by anything at all, to the end of the line.
void skip_to_line_end(LineCursor& line) {
    const char c = line.peek();
    if (c == '\r') return;
    if (line.going() && c != ' ') line.fail("version 1: the family is neither TCP4 nor TCP6 nor UNKNOWN");
    while (line.going() && line.rest().substr(0, 2) != "\r\n" && line.rest() != "\r")
        line.take();
}

ProxyHeader parse_v1(std::string_view input) {
    const std::string_view window = input.substr(0, longest_proxy_header_v1);
    LineCursor line(window);
    ProxyHeader header;
    line.expect("PROXY ", "neither version of the PROXY protocol begins like this");
    if (line.peek() == 'U') {
        line.expect("UNKNOWN", "version 1: the family is neither TCP4 nor TCP6 nor UNKNOWN");
        skip_to_line_end(line);
    } else {
        line.expect("TCP", "version 1: the family is neither TCP4 nor TCP6 nor UNKNOWN");
        take_addresses(line, header);
    }
    line.expect("\r\n", "version 1: the line does not end after the second port");
    if (line.state() == State::incomplete && window.size() == longest_proxy_header_v1)
        return invalid("version 1: no end of line within 107 bytes");
    if (line.state() == State::invalid) return invalid(line.problem());
    if (line.state() == State::incomplete) return {};
    header.state = State::complete;
    header.size = window.size() - line.rest().size();
    return header;
}

// --- version 2: binary ----------------------------------------------------------------------------------------------

uint8_t byte_at(std::span<const std::byte> input, size_t at) {
    return std::to_integer<uint8_t>(input[at]);
}

uint16_t word_at(std::span<const std::byte> input, size_t at) {
    return static_cast<uint16_t>(byte_at(input, at) << 8 | byte_at(input, at + 1));
}

// CRC-32C (RFC 3720, appendix B.4), a bit at a time: it is rare and short.
class Crc32c {
  public:
    void add(std::byte byte) {
        value_ ^= std::to_integer<uint32_t>(byte);
        for (int i = 0; i < 8; ++i)
            value_ = value_ >> 1 ^ ((value_ & 1) != 0 ? 0x82f63b78U : 0U);
    }
    uint32_t value() const { return ~value_; }

  private:
    uint32_t value_ = ~0U;
};

// What the 14th byte says: the family's addresses and how long they are.
struct Family {
    bool addressed;
    Protocol protocol;
    size_t address_bytes;  // of one address
    size_t block;          // both addresses and ports
};

std::optional<Family> family_of(uint8_t code) {
    switch (code) {
        case 0x00:
            return Family{false, Protocol::tcp, 0, 0};
        case 0x11:
            return Family{true, Protocol::tcp, 4, 12};
        case 0x12:
            return Family{true, Protocol::udp, 4, 12};
        case 0x21:
            return Family{true, Protocol::tcp, 16, 36};
        case 0x22:
            return Family{true, Protocol::udp, 16, 36};
        case 0x31:
        case 0x32:
            return Family{false, Protocol::tcp, 108, 216};
        default:
            return std::nullopt;
    }
}

IpAddress ip_at(std::span<const std::byte> input, size_t at, size_t bytes) {
    if (bytes == 4) return IpAddress::v4(static_cast<uint32_t>(word_at(input, at)) << 16 | word_at(input, at + 2));
    IpAddress ip;
    std::memcpy(ip.bytes.data(), input.data() + at, ip.bytes.size());
    return ip;
}

bool checksum_holds(std::span<const std::byte> header, size_t at) {
    Crc32c crc;
    for (size_t i = 0; i < header.size(); ++i)
        crc.add(i >= at && i < at + 4 ? std::byte{0} : header[i]);
    const uint32_t sent = static_cast<uint32_t>(word_at(header, at)) << 16 | word_at(header, at + 2);
    return crc.value() == sent;
}

// Walks the TLVs between `at` and `size` as far as they are there; empty when nothing is wrong with them so far.
std::string_view problem_in_tlvs(std::span<const std::byte> input, size_t at, size_t size) {
    std::optional<size_t> checksum;
    while (at < size) {
        if (size - at < tlv_head) return "version 2: the header ends inside a TLV";
        if (input.size() < at + tlv_head) return {};
        const size_t length = word_at(input, at + 1);
        if (size - at - tlv_head < length) return "version 2: a TLV is longer than the header";
        if (byte_at(input, at) == crc_type) {
            if (length != 4 || checksum) return "version 2: a checksum of a wrong length, or a second one";
            checksum = at + tlv_head;
        }
        at += tlv_head + length;
    }
    if (checksum && input.size() >= size && !checksum_holds(input.first(size), *checksum))
        return "version 2: the checksum does not match";
    return {};
}

ProxyHeader parse_v2(std::span<const std::byte> input) {
    const size_t have = std::min(input.size(), signature_v2.size());
    if (std::memcmp(input.data(), signature_v2.data(), have) != 0)
        return invalid("neither version of the PROXY protocol begins like this");
    if (input.size() <= 12) return {};
    const uint8_t command = byte_at(input, 12);
    if (command != 0x20 && command != 0x21) return invalid("version 2: unknown version or command");
    const bool local = command == 0x20;
    if (input.size() <= 13) return {};
    const std::optional<Family> family = local ? Family{} : family_of(byte_at(input, 13));
    if (!family) return invalid("version 2: unknown family or protocol");
    if (input.size() < fixed_v2) return {};
    const size_t size = fixed_v2 + word_at(input, 14);
    if (size < fixed_v2 + family->block) return invalid("version 2: shorter than its addresses");

    // LOCAL and an unspecified family leave open what the block holds: it is skipped unread.
    if (family->block > 0) {
        const std::string_view problem = problem_in_tlvs(input, fixed_v2 + family->block, size);
        if (!problem.empty()) return invalid(problem);
    }
    if (input.size() < size) return {};

    ProxyHeader header;
    header.state = State::complete;
    header.size = size;
    if (!family->addressed) return header;
    const size_t bytes = family->address_bytes;
    header.addressed = true;
    header.protocol = family->protocol;
    header.source = {ip_at(input, fixed_v2, bytes), word_at(input, fixed_v2 + 2 * bytes)};
    header.destination = {ip_at(input, fixed_v2 + bytes, bytes), word_at(input, fixed_v2 + 2 * bytes + 2)};
    return header;
}

// --- encoding -------------------------------------------------------------------------------------------------------

void append(EncodedProxyHeader& header, const void* bytes, size_t count) {
    assert(header.size + count <= header.bytes.size());
    std::memcpy(header.bytes.data() + header.size, bytes, count);
    header.size += count;
}

// Version 1 spells IPv6 in hexadecimal groups only, mapped addresses too.
std::string spelled(const IpAddress& ip, bool six) {
    if (!six || !ip.is_v4()) return to_string(ip);
    return fmt::format("::ffff:{:x}:{:x}", ip.bytes[12] << 8 | ip.bytes[13], ip.bytes[14] << 8 | ip.bytes[15]);
}

void encode_v1(EncodedProxyHeader& out, Protocol protocol, const SocketAddress& source,
               const SocketAddress& destination, bool six) {
    const std::string line = protocol == Protocol::udp
                                 ? std::string("PROXY UNKNOWN\r\n")
                                 : fmt::format("PROXY TCP{} {} {} {} {}\r\n", six ? 6 : 4, spelled(source.ip, six),
                                               spelled(destination.ip, six), source.port, destination.port);
    append(out, line.data(), line.size());
}

void encode_v2(EncodedProxyHeader& out, Protocol protocol, const SocketAddress& source,
               const SocketAddress& destination, bool six) {
    const size_t skipped = six ? 0 : 12;  // of the mapped form
    const size_t length = 2 * (16 - skipped) + 4;
    const auto family = static_cast<uint8_t>((six ? 0x20 : 0x10) | (protocol == Protocol::udp ? 2 : 1));
    append(out, signature_v2.data(), signature_v2.size());
    const std::array<uint8_t, 4> fixed{0x21, family, 0, static_cast<uint8_t>(length)};
    append(out, fixed.data(), fixed.size());
    append(out, source.ip.bytes.data() + skipped, 16 - skipped);
    append(out, destination.ip.bytes.data() + skipped, 16 - skipped);
    for (const uint16_t port : {source.port, destination.port}) {
        const std::array<uint8_t, 2> bytes{static_cast<uint8_t>(port >> 8), static_cast<uint8_t>(port & 0xff)};
        append(out, bytes.data(), bytes.size());
    }
}

}  // namespace

ProxyHeader parse_proxy_header(std::span<const std::byte> input) {
    if (input.empty()) return {};
    if (input.front() == std::byte{'\r'}) return parse_v2(input);
    return parse_v1({reinterpret_cast<const char*>(input.data()), input.size()});
}

EncodedProxyHeader encode_proxy_header(ProxyProtocol version, Protocol protocol, const SocketAddress& source,
                                       const SocketAddress& destination) {
    assert(version != ProxyProtocol::none);
    const bool six = !source.ip.is_v4() || !destination.ip.is_v4();
    EncodedProxyHeader out;
    if (version == ProxyProtocol::v1) {
        encode_v1(out, protocol, source, destination, six);
    } else {
        encode_v2(out, protocol, source, destination, six);
    }
    return out;
}

}  // namespace marchproxy::stream
