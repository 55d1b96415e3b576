#include "netlink/netlink.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

namespace marchproxy::netlink {

namespace {

constexpr size_t largest_datagram = 65'536;  // the kernel's own are at most 32 KiB (NLMSG_GOODSIZE of a dump)
constexpr auto patience = std::chrono::seconds(2);

// The sender of a datagram must be the kernel: any process may send to a netlink socket whose number it guesses.
ssize_t receive_from_kernel(int socket, std::span<std::byte> buffer) {
    while (true) {
        sockaddr_nl sender{};
        socklen_t size = sizeof sender;
        const ssize_t count =
            ::recvfrom(socket, buffer.data(), buffer.size(), 0, reinterpret_cast<sockaddr*>(&sender), &size);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0 || sender.nl_pid == 0) return count;
    }
}

// Whether `message` ends the answer; fills in what it says of an error.
bool ends(const Message& message, Answer& answer) {
    if (message.type != NLMSG_ERROR && message.type != NLMSG_DONE) return false;
    if (const auto error = front<int>(message.payload)) answer.error = -*error;
    if (message.type == NLMSG_DONE || (message.flags & NLM_F_ACK_TLVS) == 0) return true;
    const auto report = front<nlmsgerr>(message.payload);
    if (!report) return true;
    // The refused request is repeated before the attributes unless the kernel was told to leave it out.
    const bool left_out = (message.flags & NLM_F_CAPPED) != 0;
    Attributes attributes(after(message.payload, sizeof(int) + (left_out ? sizeof(nlmsghdr) : report->msg.nlmsg_len)));
    while (const auto attribute = attributes.next())
        if (attribute->type == NLMSGERR_ATTR_MSG) answer.message = text_of(attribute->payload);
    return true;
}

}  // namespace

std::optional<Message> Messages::next() {
    const auto header = front<nlmsghdr>(rest_);
    if (!header || header->nlmsg_len < sizeof(nlmsghdr) || header->nlmsg_len > rest_.size()) return std::nullopt;
    const Bytes payload = rest_.subspan(sizeof(nlmsghdr), header->nlmsg_len - sizeof(nlmsghdr));
    rest_ = after(rest_, header->nlmsg_len);
    return Message{header->nlmsg_type, header->nlmsg_flags, payload};
}

std::optional<Attribute> Attributes::next() {
    const auto header = front<nlattr>(rest_);
    if (!header || header->nla_len < sizeof(nlattr) || header->nla_len > rest_.size()) return std::nullopt;
    const Bytes payload = rest_.subspan(sizeof(nlattr), header->nla_len - sizeof(nlattr));
    rest_ = after(rest_, header->nla_len);
    return Attribute{static_cast<uint16_t>(header->nla_type & NLA_TYPE_MASK), payload};
}

std::string text_of(Bytes payload) {
    const auto* text = reinterpret_cast<const char*>(payload.data());
    return {text, std::find(text, text + payload.size(), '\0')};
}

Request::Request(uint16_t type, uint16_t flags) {
    nlmsghdr header{};
    header.nlmsg_type = type;
    header.nlmsg_flags = flags | NLM_F_REQUEST;
    // Two bits, of which NLM_F_EXCL shares one.
    if ((flags & NLM_F_DUMP) != NLM_F_DUMP) header.nlmsg_flags |= NLM_F_ACK;
    append(header);
}

Request& Request::append(Bytes bytes) {
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    bytes_.resize((bytes_.size() + NLMSG_ALIGNTO - 1) / NLMSG_ALIGNTO * NLMSG_ALIGNTO);
    return *this;
}

Request& Request::attribute(uint16_t type, Bytes payload) {
    append(nlattr{static_cast<uint16_t>(sizeof(nlattr) + payload.size()), type});
    return append(payload);
}

size_t Request::open_nested(uint16_t type) {
    const size_t start = bytes_.size();
    append(nlattr{0, static_cast<uint16_t>(type | NLA_F_NESTED)});
    return start;
}

void Request::close_nested(size_t start) {
    const auto length = static_cast<uint16_t>(bytes_.size() - start);
    std::memcpy(bytes_.data() + start + offsetof(nlattr, nla_len), &length, sizeof length);
}

Bytes Request::bytes() {
    const auto length = static_cast<uint32_t>(bytes_.size());
    std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_len), &length, sizeof length);
    return bytes_;
}

Answer ask(Request& request) {
    const Descriptor socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
    if (!socket) return {errno, {}, {}};
    const int on = 1;
    ::setsockopt(socket.get(), SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof on);
    ::setsockopt(socket.get(), SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof on);
    const timeval wait{.tv_sec = patience.count(), .tv_usec = 0};
    ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);

    const Bytes bytes = request.bytes();
    sockaddr_nl kernel{};
    kernel.nl_family = AF_NETLINK;
    if (::sendto(socket.get(), bytes.data(), bytes.size(), 0, reinterpret_cast<const sockaddr*>(&kernel),
                 sizeof kernel) < 0)
        return {errno, {}, {}};

    Answer answer;
    std::vector<std::byte> buffer(largest_datagram);
    while (true) {
        const ssize_t count = receive_from_kernel(socket.get(), buffer);
        if (count < 0) return {errno == EAGAIN ? ETIMEDOUT : errno, {}, {}};
        const Bytes datagram = Bytes(buffer).first(static_cast<size_t>(count));
        // Before its end is looked for: a dump's last messages and its end may share a datagram.
        answer.replies.insert(answer.replies.end(), datagram.begin(), datagram.end());
        Messages messages(datagram);
        while (const auto message = messages.next())
            if (ends(*message, answer)) return answer;
    }
}

Result<Descriptor> subscribe(std::span<const unsigned> groups) {
    Descriptor socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
    sockaddr_nl own{};
    own.nl_family = AF_NETLINK;
    bool taken = socket && ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&own), sizeof own) == 0;
    for (const unsigned group : groups)
        taken = taken && ::setsockopt(socket.get(), SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) == 0;
    if (!taken)
        return Error{fmt::format(
            "no routing socket (NETLINK_ROUTE) to hear of changed routes, neighbours and interfaces: {}; a sandbox "
            "must allow the address family AF_NETLINK (systemd: RestrictAddressFamilies)",
            std::strerror(errno))};
    return socket;
}

}  // namespace marchproxy::netlink
