#include "probe/pinger.h"

#include <fmt/format.h>
#include <linux/icmp.h>
#include <netinet/icmp6.h>
#include <netinet/ip.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "model/control_data.h"
#include "probe/probe_socket.h"

namespace marchproxy::probe {

namespace {

constexpr int most_a_turn = 64;

// The two protocols' echo messages are alike but for the type and who computes the checksum.
struct Echo {
    uint8_t type, code;
    uint16_t checksum;
    uint16_t identifier, sequence;
    uint64_t token;
} __attribute__((packed));

// RFC 1071.
uint16_t checksum_of(const Echo& echo) {
    std::array<uint16_t, sizeof(Echo) / 2> words;
    std::memcpy(words.data(), &echo, sizeof echo);
    uint32_t sum = 0;
    for (const uint16_t word : words)
        sum += word;
    sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<uint16_t>(~(sum + (sum >> 16)));
}

// A raw socket hears every ICMP message of the machine: only echo replies are to wake it.
void hear_replies_only(int descriptor, bool v4) {
    if (v4) {
        icmp_filter filter{.data = ~(1U << ICMP_ECHOREPLY)};
        setsockopt(descriptor, SOL_RAW, ICMP_FILTER, &filter, sizeof filter);
        return;
    }
    icmp6_filter filter;
    ICMP6_FILTER_SETBLOCKALL(&filter);
    ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
    setsockopt(descriptor, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof filter);
}

}  // namespace

Result<Pinger> Pinger::open(bool v4) {
    const int family = v4 ? AF_INET : AF_INET6;
    const int protocol = v4 ? static_cast<int>(IPPROTO_ICMP) : static_cast<int>(IPPROTO_ICMPV6);
    int descriptor = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
    const bool raw = descriptor < 0;
    if (raw) {
        const int error = errno;
        descriptor = socket(family, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
        if (descriptor < 0)
            return Error{
                fmt::format("probes of kind icmp cannot be sent: {}; let this process's group into "
                            "net.ipv4.ping_group_range, or give it CAP_NET_RAW",
                            strerror(error))};
        hear_replies_only(descriptor, v4);
    }
    const int one = 1, buffer = 1 << 20;
    setsockopt(descriptor, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
    setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    return Pinger(descriptor, v4, raw, static_cast<uint16_t>(getpid()));
}

Pinger::Pinger(Pinger&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)),
      v4_(other.v4_),
      raw_(other.raw_),
      identifier_(other.identifier_),
      sequence_(other.sequence_),
      guard_(std::move(other.guard_)) {}

Pinger::~Pinger() {
    if (descriptor_ >= 0) close(descriptor_);
}

int Pinger::send(const IpAddress& to, const Egress& egress, uint64_t token, TimePoint now) {
    guard_.let_in(now);
    if (!egress.is_possible()) return ENETUNREACH;
    Echo echo{.type = static_cast<uint8_t>(v4_ ? ICMP_ECHO : ICMP6_ECHO_REQUEST),
              .code = 0,
              .checksum = 0,
              .identifier = htons(identifier_),
              .sequence = htons(++sequence_),
              .token = token};
    if (v4_) echo.checksum = checksum_of(echo);
    sockaddr_storage address;
    const socklen_t size = SocketAddress{to, 0}.to(address);
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(in6_pktinfo)) + CMSG_SPACE(sizeof egress.mark)> control{};
    iovec piece{&echo, sizeof echo};
    msghdr message{.msg_name = &address,
                   .msg_namelen = size,
                   .msg_iov = &piece,
                   .msg_iovlen = 1,
                   .msg_control = control.data(),
                   .msg_controllen = 0,
                   .msg_flags = 0};
    // The same as leave_by() for this message alone (socket(7)).
    if (egress.mark != 0) add_control(message, SOL_SOCKET, SO_MARK, egress.mark);
    if (egress.source) add_source(message, *egress.source);
    return sendmsg(descriptor_, &message, 0) < 0 ? errno : 0;
}

std::vector<Pinger::Flooder> Pinger::receive(const Answered& answered, TimePoint now) {
    struct Slot {
        std::array<char, 128> bytes;
        sockaddr_storage from;
        alignas(cmsghdr) std::array<char, timestamp_space> control;
        iovec piece;
    };
    std::array<Slot, most_a_turn> slots;
    std::array<mmsghdr, most_a_turn> messages;
    for (size_t i = 0; i < slots.size(); ++i) {
        Slot& slot = slots[i];
        slot.piece = {slot.bytes.data(), slot.bytes.size()};
        messages[i].msg_hdr = {.msg_name = &slot.from,
                               .msg_namelen = sizeof slot.from,
                               .msg_iov = &slot.piece,
                               .msg_iovlen = 1,
                               .msg_control = slot.control.data(),
                               .msg_controllen = slot.control.size(),
                               .msg_flags = 0};
    }
    std::vector<Flooder> flooders;
    const int got = recvmmsg(descriptor_, messages.data(), most_a_turn, 0, nullptr);
    for (int i = 0; i < got; ++i) {
        const mmsghdr& message = messages[static_cast<size_t>(i)];
        const Slot& slot = slots[static_cast<size_t>(i)];
        // A raw socket of IPv4 hears the IP header too (raw(7)).
        const size_t start = raw_ && v4_ ? (static_cast<uint8_t>(slot.bytes[0]) & 15) * 4U : 0;
        Echo echo{};
        const size_t there = std::min<size_t>(message.msg_len, slot.bytes.size());
        if (there > start) std::memcpy(&echo, slot.bytes.data() + start, std::min(there - start, sizeof echo));
        // What a raw socket hears of another process' pings.
        if (raw_ && echo.identifier != htons(identifier_)) continue;
        const bool whole =
            message.msg_len == start + sizeof echo && echo.type == (v4_ ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY);
        const IpAddress from = SocketAddress::from(slot.from).ip;
        if (whole && answered(from, echo.token, came_at(message.msg_hdr))) continue;
        if (const auto told = guard_.unasked(from, now)) flooders.push_back({from, *told});
    }
    return flooders;
}

}  // namespace marchproxy::probe
