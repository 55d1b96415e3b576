#include "probe/attempt.h"

#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "model/socket_name.h"
#include "probe/http_answer.h"

namespace marchproxy::probe {

namespace {

void set(int descriptor, int level, int name, int value) {
    setsockopt(descriptor, level, name, &value, sizeof value);
}

// The time from SYN to its answer as the kernel took it, which no delay of this thread is in.
Duration round_trip_of(int descriptor, Duration otherwise) {
    tcp_info info{};
    socklen_t size = sizeof info;
    if (getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, &info, &size) != 0 || info.tcpi_rtt == 0) return otherwise;
    return std::min<Duration>(std::chrono::microseconds(info.tcpi_rtt), otherwise);
}

// --- TCP and HTTP --------------------------------------------------------------------------------------------------

class TcpAttempt : public Attempt {
  public:
    TcpAttempt(int descriptor, TimePoint began, const Target& target) : Attempt(descriptor, began), target_(target) {}
    uint32_t events() const override { return EPOLLOUT; }
    Outcome on_event(TimePoint now) override {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(descriptor_, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error == ECONNREFUSED && target_.refusal_answers) return Outcome::answered(now - began_);
        if (error != 0) return outcome_of(error);
        return connected(round_trip_of(descriptor_, now - began_));
    }

  protected:
    virtual Outcome connected(Duration round_trip) { return Outcome::answered(round_trip); }
    const Target& target_;
};

class HttpAttempt final : public TcpAttempt {
  public:
    using TcpAttempt::TcpAttempt;
    uint32_t events() const override { return connected_ ? EPOLLIN : EPOLLOUT; }
    Outcome on_event(TimePoint now) override { return connected_ ? receive() : TcpAttempt::on_event(now); }

  private:
    Outcome connected(Duration round_trip) override {
        connected_ = true;
        round_trip_ = round_trip;
        const std::string request = fmt::format(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: marchproxy-l3l4 probe\r\nAccept: */*\r\nConnection: close\r\n"
            "\r\n",
            target_.settings.path, target_.host);
        // A new connection's buffer has room for it.
        const ssize_t sent = send(descriptor_, request.data(), request.size(), MSG_NOSIGNAL);
        if (sent != static_cast<ssize_t>(request.size()))
            return sent < 0 ? outcome_of(errno) : Outcome::unable("the request does not fit into the socket's buffer");
        return {};
    }

    Outcome receive() {
        std::array<char, 4096> buffer;
        const ssize_t got = recv(descriptor_, buffer.data(), buffer.size(), 0);
        if (got < 0) return errno == EAGAIN ? Outcome{} : outcome_of(errno);
        answer_.append({buffer.data(), static_cast<size_t>(got)});
        const auto judged = judge(answer_, got == 0, target_.settings);
        if (!judged) return {};
        return judged->empty() ? Outcome::answered(round_trip_) : Outcome::failed(*judged);
    }

    bool connected_ = false;
    Duration round_trip_{};
    std::string answer_;
};

// --- UDP -----------------------------------------------------------------------------------------------------------

class UdpAttempt final : public Attempt {
  public:
    UdpAttempt(int descriptor, TimePoint began, uint64_t token) : Attempt(descriptor, began), token_(token) {
        set(descriptor, SOL_SOCKET, SO_TIMESTAMPNS, 1);
    }
    uint32_t events() const override { return EPOLLIN; }
    Outcome on_event(TimePoint) override {
        for (int i = 0; i < most_a_turn; ++i) {
            uint64_t echo = 0;
            alignas(cmsghdr) std::array<char, timestamp_space> control;
            iovec piece{&echo, sizeof echo};
            msghdr message{.msg_name = nullptr,
                           .msg_namelen = 0,
                           .msg_iov = &piece,
                           .msg_iovlen = 1,
                           .msg_control = control.data(),
                           .msg_controllen = control.size(),
                           .msg_flags = 0};
            const ssize_t got = recvmsg(descriptor_, &message, MSG_TRUNC);
            if (got < 0) return errno == EAGAIN ? Outcome{} : outcome_of(errno);
            if (got == sizeof echo && echo == token_) return Outcome::answered(came_at(message) - sent_at_);
            if (++foreign_ > most_foreign)
                return Outcome::failed("it floods: datagrams came that are no echo of the probe's");
        }
        return {};
    }

  private:
    static constexpr int most_a_turn = 8, most_foreign = 64;
    const uint64_t token_;
    const WallTime sent_at_ = std::chrono::system_clock::now();
    int foreign_ = 0;
};

// --- beginning -----------------------------------------------------------------------------------------------------

Begun failed_with(int error) {
    return {nullptr, outcome_of(error)};
}

std::string why_not_by(const Egress& egress, int error) {
    if (!egress.is_possible()) return fmt::format("the gateway {} cannot be used", to_string(*egress.gateway));
    return egress.source ? fmt::format("cannot speak from {}: {}", to_string(*egress.source), strerror(error))
                         : fmt::format("cannot leave by {}: {}", to_string(*egress.gateway), strerror(error));
}

}  // namespace

WallTime came_at(const msghdr& message) {
    for (cmsghdr* header = CMSG_FIRSTHDR(&message); header;
         header = CMSG_NXTHDR(const_cast<msghdr*>(&message), header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SO_TIMESTAMPNS) continue;
        timespec time;
        std::memcpy(&time, CMSG_DATA(header), sizeof time);
        return WallTime(std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec));
    }
    return std::chrono::system_clock::now();
}

Outcome outcome_of(int error) {
    switch (error) {
        case EMFILE:
        case ENFILE:
        case ENOBUFS:
        case ENOMEM:
        case EADDRNOTAVAIL:
        case EAFNOSUPPORT:
            return Outcome::unable(strerror(error));
        default:
            return Outcome::failed(strerror(error));
    }
}

Attempt::~Attempt() {
    close(descriptor_);
}

Begun begin_attempt(const Target& target, uint64_t token, TimePoint now) {
    const bool tcp = target.settings.kind != ProbeKind::udp;
    sockaddr_storage address;
    const socklen_t size = target.address.to(address);
    const int descriptor =
        socket(address.ss_family, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return failed_with(errno);
    std::unique_ptr<Attempt> attempt;
    if (target.settings.kind == ProbeKind::udp)
        attempt = std::make_unique<UdpAttempt>(descriptor, now, token);
    else if (target.settings.kind == ProbeKind::http)
        attempt = std::make_unique<HttpAttempt>(descriptor, now, target);
    else
        attempt = std::make_unique<TcpAttempt>(descriptor, now, target);
    if (!leave_by(descriptor, target.egress)) return {nullptr, Outcome::failed(why_not_by(target.egress, errno))};
    if (tcp) {
        // Closed by a reset: thousands of probes a second are not to leave as many ports in TIME_WAIT.
        const linger abort{.l_onoff = 1, .l_linger = 0};
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
        // That it would take the connection the port says with SYN and ACK. Where that is all that is asked, the reset
        // comes in place of the last ACK, which the kernel would hold back for data: nobody has a connection to accept
        // and to log.
        const int off = 0;
        if (target.settings.kind == ProbeKind::tcp) setsockopt(descriptor, IPPROTO_TCP, TCP_QUICKACK, &off, sizeof off);
    }
    if (connect(descriptor, reinterpret_cast<const sockaddr*>(&address), size) != 0 && errno != EINPROGRESS) {
        if (errno == ECONNREFUSED && target.refusal_answers) return {nullptr, Outcome::answered(Duration(1))};
        // Of TCP the same is said when every local port towards the target is in use.
        return failed_with(errno);
    }
    if (!tcp && send(descriptor, &token, sizeof token, MSG_NOSIGNAL) < 0) return failed_with(errno);
    return {std::move(attempt), {}};
}

}  // namespace marchproxy::probe
