// For tests of packet programs: frames written as they are read, eth().vlan(7).ipv4("11.0.0.1", "10.0.0.1").udp(5000,
// 80), and an inspector that takes frames apart again. Both know the RFCs and nothing of the code under test: lengths
// and checksums are computed from the finished bytes.
#pragma once

#include <arpa/inet.h>
#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace marchproxy::packet::testing {

using Bytes = std::vector<uint8_t>;
using Mac = std::array<uint8_t, 6>;

inline void put16(Bytes& bytes, size_t at, unsigned value) {
    bytes[at] = static_cast<uint8_t>(value >> 8);
    bytes[at + 1] = static_cast<uint8_t>(value);
}
inline unsigned get16(std::span<const uint8_t> bytes, size_t at) {
    return static_cast<unsigned>(bytes[at] << 8 | bytes[at + 1]);
}

inline void put32(Bytes& bytes, size_t at, uint32_t value) {
    put16(bytes, at, value >> 16);
    put16(bytes, at + 2, value & 0xffff);
}
inline uint32_t get32(std::span<const uint8_t> bytes, size_t at) {
    return get16(bytes, at) << 16 | get16(bytes, at + 2);
}

inline std::string hex(const Bytes& bytes) {
    constexpr const char* digits = "0123456789abcdef";
    std::string text;
    for (size_t i = 0; i < bytes.size(); ++i) {
        if (i % 2 == 0) text += ' ';
        text += {digits[bytes[i] >> 4], digits[bytes[i] & 15]};
    }
    return text;
}

// RFC 1071: the ones' complement sum modulo 0xffff, an odd byte padded with zero.
inline unsigned ones_sum(std::span<const uint8_t> bytes, uint64_t sum = 0) {
    for (size_t i = 0; i < bytes.size(); ++i)
        sum += i % 2 ? bytes[i] : bytes[i] * 256u;
    return static_cast<unsigned>(sum % 0xffff);
}

// What is written where a checksum was 0 and all that it covers has this sum. Of data that are not all 0 it is 0xffff
// where it is 0 here.
inline unsigned checksum_of(unsigned sum) {
    return sum ? 0xffff - sum : 0;
}

enum Transport : uint8_t { icmp_protocol = 1, tcp_protocol = 6, udp_protocol = 17, icmp6_protocol = 58 };
enum Flags : uint8_t { fin = 1, syn = 2, rst = 4, push = 8, ack = 16 };

// A whole TCP or UDP packet whose lengths agree, as a strict receiver sees it.
struct Dissection {
    bool v6 = false;
    size_t network = 0, transport = 0, network_end = 0, transport_end = 0;
    uint8_t protocol = 0;
    bool first = false, later = false;  // a part of a datagram: with the transport's header, or without
    size_t identification_at = 0;       // of a part

    // `word`: as IPv4 has it. False: what a part cannot be (RFC 1858, RFC 3128).
    bool is_part(unsigned word) {
        later = word & 0x1fff;
        first = !later && word & 0x2000;
        return !later || protocol != tcp_protocol || (word & 0x1fff) * 8 >= 20;
    }
    size_t hop_limit_at() const { return network + (v6 ? 7 : 8); }
    size_t addresses_at() const { return network + (v6 ? 8 : 12); }
    size_t addresses_size() const { return v6 ? 32 : 8; }
    size_t checksum_at() const { return transport + (protocol == tcp_protocol ? 16 : 6); }
};

// The transport's offset behind IPv6 extension headers, and its protocol; false for what is cut short.
inline bool skip_extensions(std::span<const uint8_t> f, Dissection& d) {
    d.protocol = f[d.network + 6];
    d.transport = d.network + 40;
    const auto extends = [&d] { return d.protocol == 0 || d.protocol == 43 || d.protocol == 44 || d.protocol == 60; };
    for (int count = 0; count < 5 && !d.later && extends(); ++count) {
        if (d.transport + 2 > d.network_end) return false;
        if (d.protocol == 44) {
            if (d.transport + 8 > d.network_end || d.first) return false;
            const unsigned word = get16(f, d.transport + 2);
            d.identification_at = d.transport + 4;
            d.protocol = f[d.transport];
            d.transport += 8;
            if (!d.is_part(word >> 3 | (word & 1) << 13)) return false;
            continue;
        }
        if (d.protocol == 43 && (d.transport + 4 > d.network_end || f[d.transport + 3])) return false;  // not there yet
        d.protocol = f[d.transport];
        d.transport += 8 + f[d.transport + 1] * 8u;
    }
    return d.transport <= d.network_end;
}

// Behind Ethernet's header and up to two tags, which may be where the frame ends.
inline size_t network_at(std::span<const uint8_t> f) {
    size_t type = 12;
    for (int tag = 0; tag < 2; ++tag)
        if (f.size() >= type + 2 && (get16(f, type) == 0x8100 || get16(f, type) == 0x88a8)) type += 4;
    return type + 2;
}
inline unsigned type_of(std::span<const uint8_t> f) {
    const size_t network = network_at(f);
    return network > f.size() ? 0 : get16(f, network - 2);
}

// As far as the network's headers say, whatever is behind them.
inline std::optional<Dissection> locate(std::span<const uint8_t> f) {
    Dissection d;
    d.network = network_at(f);
    if (type_of(f) != 0x0800 && type_of(f) != 0x86dd) return {};
    d.v6 = type_of(f) == 0x86dd;
    if (f.size() < d.network + (d.v6 ? 40 : 20) || f[d.network] >> 4 != (d.v6 ? 6 : 4)) return {};
    if (d.v6) {
        d.network_end = d.network + 40 + get16(f, d.network + 4);
        if (d.network_end > f.size() || !skip_extensions(f, d)) return {};
    } else {
        const size_t header = (f[d.network] & 15) * 4u;
        d.network_end = d.network + get16(f, d.network + 2);
        d.transport = d.network + header;
        d.protocol = f[d.network + 9];
        if (header < 20 || d.transport > d.network_end || d.network_end > f.size()) return {};
        if (!d.is_part(get16(f, d.network + 6))) return {};
        d.identification_at = d.network + 4;
    }
    d.transport_end = d.network_end;
    return d;
}

inline std::optional<Dissection> dissect(std::span<const uint8_t> f) {
    std::optional<Dissection> found = locate(f);
    if (!found || found->later) return found;
    Dissection& d = *found;
    const size_t room = d.network_end - d.transport;
    if (d.protocol == udp_protocol) {
        if (room < 8 || get16(f, d.transport + 4) < 8) return {};
        if (!d.first && get16(f, d.transport + 4) > room) return {};
        if (!d.first) d.transport_end = d.transport + get16(f, d.transport + 4);
    } else if (d.protocol == tcp_protocol) {
        if (room < 20 || (f[d.transport + 12] >> 4) * 4u < 20 || (f[d.transport + 12] >> 4) * 4u > room) return {};
    } else {
        return {};
    }
    return found;
}

// 0 where the checksum is right (modulo 0xffff).
inline unsigned network_residue(std::span<const uint8_t> f, const Dissection& d) {
    return d.v6 ? 0 : ones_sum(f.subspan(d.network, (f[d.network] & 15) * 4u));
}
inline unsigned transport_residue(std::span<const uint8_t> f, const Dissection& d) {
    const uint64_t pseudo =
        ones_sum(f.subspan(d.addresses_at(), d.addresses_size())) + d.protocol + (d.transport_end - d.transport);
    return ones_sum(f.subspan(d.transport, d.transport_end - d.transport), pseudo);
}
inline bool without_checksum(std::span<const uint8_t> f, const Dissection& d) {
    return d.later || (d.protocol == udp_protocol && get16(f, d.checksum_at()) == 0);
}

// Whether a strict receiver would take it.
inline bool is_sound(std::span<const uint8_t> f) {
    const auto d = dissect(f);
    return d && network_residue(f, *d) == 0 && (d->first || without_checksum(f, *d) || transport_residue(f, *d) == 0);
}

inline void write_checksums(Bytes& f, bool transport = true) {
    const auto d = dissect(f);
    if (!d) return;
    const auto write = [&](size_t at, unsigned residue) {  // in UDP a zero means that there is none
        const bool udp = at == d->checksum_at() && d->protocol == udp_protocol;
        put16(f, at, udp ? 0xffff - residue : checksum_of(residue));
    };
    if (!d->v6) {
        put16(f, d->network + 10, 0);
        write(d->network + 10, network_residue(f, *d));
    }
    if (d->later) return;
    put16(f, d->checksum_at(), 0);
    if (transport) write(d->checksum_at(), transport_residue(f, *d));
}

// ICMP's, modulo 0xffff, over all that the network's header says.
inline unsigned message_residue(std::span<const uint8_t> f, const Dissection& d) {
    const size_t size = d.network_end - d.transport;
    const uint64_t pseudo =
        d.v6 ? ones_sum(f.subspan(d.addresses_at(), d.addresses_size())) + d.protocol + size : uint64_t{0};
    return ones_sum(f.subspan(d.transport, size), pseudo);
}
inline bool is_message(const Dissection& d) {
    return d.protocol == (d.v6 ? icmp6_protocol : icmp_protocol) && !d.first && !d.later &&
           d.network_end >= d.transport + 8;
}

// The same for what is neither TCP nor UDP, as far as it is known, and for a header that an error quotes.
inline void mend(Bytes& f) {
    write_checksums(f);
    const auto d = locate(f);
    if (!d || dissect(f)) return;
    const auto write = [&f](size_t at, const auto& residue) {
        put16(f, at, 0);
        put16(f, at, checksum_of(residue()));
    };
    if (!d->v6) write(d->network + 10, [&] { return network_residue(f, *d); });
    if (!is_message(*d)) return;
    const size_t quoted = d->transport + 8, header = quoted < d->network_end ? (f[quoted] & 15) * 4u : 0;
    if (!d->v6 && header >= 20 && quoted + header <= d->network_end)
        write(quoted + 10, [&] { return ones_sum(std::span(f).subspan(quoted, header)); });
    write(d->transport + 2, [&] { return message_residue(f, *d); });
}

// A frame to be written.
class Frame {
  public:
    Frame from(const Mac& source, const Mac& destination) const {
        return with(&Frame::source_, source).with(&Frame::destination_, destination);
    }
    Frame vlan(uint16_t id) const {
        Frame next = *this;
        next.tags_.push_back(id);
        return next;
    }
    Frame ipv4(std::string_view source, std::string_view destination) const {
        return addresses(false, source, destination);
    }
    Frame ipv6(std::string_view source, std::string_view destination) const {
        return addresses(true, source, destination);
    }
    Frame ttl(uint8_t value) const { return with(&Frame::ttl_, value); }
    Frame traffic_class(uint8_t value) const { return with(&Frame::traffic_class_, value); }  // DSCP and ECN
    Frame flow_label(uint32_t value) const { return with(&Frame::flow_label_, value); }       // IPv6
    Frame ip_options(Bytes options) const { return with(&Frame::options_, std::move(options)); }
    Frame fragment(uint16_t word) const { return with(&Frame::fragment_, word); }
    // An IPv6 extension header of this type; its first two bytes are written for it, the rest are `body`.
    Frame extension(uint8_t type, Bytes body) const {
        Frame next = *this;
        next.extensions_.emplace_back(type, std::move(body));
        return next;
    }
    Frame udp(uint16_t source, uint16_t destination) const { return ports(udp_protocol, source, destination); }
    Frame tcp(uint16_t source, uint16_t destination, uint8_t flags) const {
        return ports(tcp_protocol, source, destination).with(&Frame::flags_, flags);
    }
    Frame sequence(uint32_t number) const { return with(&Frame::sequence_, number); }
    Frame acknowledges(uint32_t number) const { return with(&Frame::acknowledged_, number); }
    Frame window(uint16_t bytes) const { return with(&Frame::window_, bytes); }
    Frame tcp_options(Bytes options) const { return with(&Frame::tcp_options_, std::move(options)); }
    Frame protocol(uint8_t number) const { return with(&Frame::protocol_, number); }
    Frame payload(std::string text) const { return with(&Frame::payload_, std::move(text)); }
    Frame without_checksum() const { return with(&Frame::checksum_, false); }
    Frame padding(size_t bytes) const { return with(&Frame::padding_, bytes); }

    operator Bytes() const { return bytes(); }
    Bytes bytes() const;

  private:
    template <class Value>
    Frame with(Value Frame::*member, Value value) const {
        Frame next = *this;
        next.*member = std::move(value);
        return next;
    }
    Frame addresses(bool v6, std::string_view source, std::string_view destination) const {
        Frame next = *this;
        next.v6_ = v6;
        next.addresses_.assign(v6 ? 32 : 8, 0);
        inet_pton(v6 ? AF_INET6 : AF_INET, std::string(source).c_str(), next.addresses_.data());
        inet_pton(v6 ? AF_INET6 : AF_INET, std::string(destination).c_str(), next.addresses_.data() + (v6 ? 16 : 4));
        return next;
    }
    Frame ports(uint8_t protocol, uint16_t source, uint16_t destination) const {
        return with(&Frame::protocol_, protocol)
            .with(&Frame::source_port_, source)
            .with(&Frame::destination_port_, destination);
    }
    Bytes transport() const;

    Mac source_{2, 0, 0, 0, 0, 1}, destination_{2, 0, 0, 0, 0, 2};
    std::vector<uint16_t> tags_;
    bool v6_ = false, checksum_ = true;
    Bytes addresses_, options_, tcp_options_;
    std::vector<std::pair<uint8_t, Bytes>> extensions_;
    uint16_t fragment_ = 0, source_port_ = 0, destination_port_ = 0;
    uint32_t sequence_ = 1, acknowledged_ = 2;  // as if the other side began with 1, too
    uint16_t window_ = 65'535;
    uint8_t ttl_ = 64, protocol_ = udp_protocol, flags_ = 0, traffic_class_ = 0;
    uint32_t flow_label_ = 0;
    std::string payload_ = "payload";
    size_t padding_ = 0;
};

inline Frame eth() {
    return {};
}

inline Bytes Frame::transport() const {
    Bytes out;
    if (protocol_ == tcp_protocol) {
        out.assign(20, 0);
        put32(out, 4, sequence_);
        put32(out, 8, acknowledged_);
        out[12] = static_cast<uint8_t>((20 + tcp_options_.size()) / 4 << 4);
        out[13] = flags_;
        put16(out, 14, window_);
        out.insert(out.end(), tcp_options_.begin(), tcp_options_.end());
    } else {
        out.assign(8, 0);
        put16(out, 4, static_cast<unsigned>(8 + payload_.size()));
    }
    put16(out, 0, source_port_);
    put16(out, 2, destination_port_);
    out.insert(out.end(), payload_.begin(), payload_.end());
    return out;
}

inline Bytes Frame::bytes() const {
    Bytes frame(destination_.begin(), destination_.end());
    const auto append = [&frame](const auto& bytes) { frame.insert(frame.end(), bytes.begin(), bytes.end()); };
    append(source_);
    for (size_t i = 0; i < tags_.size(); ++i)
        append(Bytes{static_cast<uint8_t>(i + 1 < tags_.size() ? 0x88 : 0x81),
                     static_cast<uint8_t>(i + 1 < tags_.size() ? 0xa8 : 0), static_cast<uint8_t>(tags_[i] >> 8),
                     static_cast<uint8_t>(tags_[i])});
    append(v6_ ? Bytes{0x86, 0xdd} : Bytes{8, 0});

    Bytes behind;
    for (size_t i = 0; i < extensions_.size(); ++i) {
        const Bytes& body = extensions_[i].second;
        behind.push_back(i + 1 < extensions_.size() ? extensions_[i + 1].first : protocol_);
        behind.push_back(static_cast<uint8_t>((body.size() + 2) / 8 - 1));
        behind.insert(behind.end(), body.begin(), body.end());
    }
    const Bytes last = transport();
    behind.insert(behind.end(), last.begin(), last.end());

    Bytes ip(v6_ ? 8 : 12);
    if (v6_) {
        put32(ip, 0, 6U << 28 | uint32_t{traffic_class_} << 20 | flow_label_);
        put16(ip, 4, static_cast<unsigned>(behind.size()));
        ip[6] = extensions_.empty() ? protocol_ : extensions_[0].first;
        ip[7] = ttl_;
    } else {
        ip[0] = static_cast<uint8_t>(0x40 | (20 + options_.size()) / 4);
        ip[1] = traffic_class_;
        put16(ip, 2, static_cast<unsigned>(20 + options_.size() + behind.size()));
        put16(ip, 4, 0x1234);
        put16(ip, 6, fragment_);
        ip[8] = ttl_;
        ip[9] = protocol_;
    }
    append(ip);
    append(addresses_);
    append(options_);
    append(behind);
    frame.resize(frame.size() + padding_);
    write_checksums(frame, checksum_);
    return frame;
}

// An ICMP message in the place of a frame's datagram, its payload behind; checksums computed from nothing.
struct Icmp {
    bool v6;
    uint8_t type;
    uint32_t rest = 0;  // of the header
    uint8_t code = 0;
};
inline Bytes icmp_message(const Frame& frame, const Icmp& icmp) {
    Bytes bytes = frame.udp(0, 0);
    const auto d = dissect(bytes);
    const uint8_t number = icmp.v6 ? 58 : 1;
    const size_t at = d->transport, size = d->network_end - at;
    size_t named = d->network + (icmp.v6 ? 6 : 9);  // where the last header before it says what it is
    if (icmp.v6)
        for (size_t next = d->network + 40; next < at; next += 8 + bytes[next + 1] * 8u)
            named = next;
    bytes[named] = number;
    bytes[at] = icmp.type;
    bytes[at + 1] = icmp.code;
    put16(bytes, at + 2, 0);
    put16(bytes, at + 4, icmp.rest >> 16);
    put16(bytes, at + 6, icmp.rest);
    const std::span<const uint8_t> all(bytes);
    const uint64_t pseudo =
        icmp.v6 ? ones_sum(all.subspan(d->addresses_at(), d->addresses_size())) + number + size : uint64_t{0};
    put16(bytes, at + 2, checksum_of(ones_sum(all.subspan(at, size), pseudo)));
    if (icmp.v6) return bytes;
    put16(bytes, d->network + 10, 0);
    put16(bytes, d->network + 10, checksum_of(network_residue(bytes, *d)));
    return bytes;
}

// As a router writes it: precedence 6, and not to be cut, so that it needs no identification.
inline Bytes told(const Frame& frame, const Icmp& icmp, const std::string& quoted) {
    Bytes bytes = icmp_message(frame.ttl(64).payload(quoted), icmp);
    if (icmp.v6) return bytes;
    const size_t ip = get16(bytes, 12) == 0x8100 ? 18 : 14;
    bytes[ip + 1] = 0xc0;
    put16(bytes, ip + 4, 0);
    put16(bytes, ip + 6, 0x4000);
    put16(bytes, ip + 10, 0);
    put16(bytes, ip + 10, checksum_of(ones_sum(std::span(bytes).subspan(ip, 20))));
    return bytes;
}

// What a router quotes of a frame, the first bytes from the network header on, as a payload.
inline std::string quote(const Bytes& frame, size_t size = 2000) {
    const auto d = dissect(frame);
    const auto begin = frame.begin() + static_cast<long>(d->network);
    return {begin, begin + static_cast<long>(std::min(size, d->network_end - d->network))};
}

// A datagram in parts: its data cut at these places, multiples of 8. Checksums are those of the whole.
inline std::vector<Bytes> parts(const Bytes& whole, std::vector<size_t> cuts, uint32_t identification = 0x1234) {
    const auto d = *dissect(whole);
    const auto from = [&whole](size_t at) { return whole.begin() + static_cast<long>(at); };
    cuts.insert(cuts.begin(), 0);
    cuts.push_back(d.network_end - d.transport);
    std::vector<Bytes> out;
    for (size_t i = 0; i + 1 < cuts.size(); ++i) {
        const size_t size = cuts[i + 1] - cuts[i];
        const unsigned more = i + 2 < cuts.size();
        Bytes part(whole.begin(), from(d.transport));
        if (d.v6) {
            part[d.network + 6] = 44;
            put16(part, d.network + 4, static_cast<unsigned>(8 + d.transport - d.network - 40 + size));
            const size_t at = part.size();
            part.resize(at + 8);
            part[at] = d.protocol;
            put16(part, at + 2, static_cast<unsigned>(cuts[i] | more));
            put16(part, at + 4, identification >> 16);
            put16(part, at + 6, identification);
        } else {
            put16(part, d.network + 2, static_cast<unsigned>(d.transport - d.network + size));
            put16(part, d.network + 4, identification);
            put16(part, d.network + 6, static_cast<unsigned>(cuts[i] / 8 | more << 13));
            put16(part, d.network + 10, 0);
            put16(part, d.network + 10, checksum_of(ones_sum(std::span(part).subspan(d.network))));
        }
        part.insert(part.end(), from(d.transport + cuts[i]), from(d.transport + cuts[i + 1]));
        out.push_back(std::move(part));
    }
    return out;
}

}  // namespace marchproxy::packet::testing
