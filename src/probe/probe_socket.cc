#include "probe/probe_socket.h"

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

// --- TCP and HTTP --------------------------------------------------------------------------------------------------

class TcpSocket : public ProbeSocket {
  public:
    explicit TcpSocket(int descriptor) : ProbeSocket(descriptor) {
        // Left by a reset: thousands of probes a second are not to leave as many ports in TIME_WAIT.
        const linger abort{.l_onoff = 1, .l_linger = 0};
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
    }
    uint32_t events() const override { return EPOLLOUT; }

    Outcome ask(const Target& target, uint64_t, TimePoint now) override {
        target_ = &target;
        began_ = now;
        const int error = connect_to(target.address);
        if (error == ECONNREFUSED && target.refusal_answers) return Outcome::answered(Duration(1));
        // EADDRNOTAVAIL: also when every local port towards the target is in use.
        return error != 0 ? outcome_of(error) : Outcome{};
    }

    Outcome on_event(TimePoint now) override {
        tcp_info info{};
        socklen_t size = sizeof info;
        if (getsockopt(descriptor_, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return outcome_of(errno);
        if (info.tcpi_state == TCP_SYN_SENT) return {};
        if (info.tcpi_state != TCP_CLOSE) return connected(round_trip_of(info, now - began_));
        int error = 0;
        size = sizeof error;
        getsockopt(descriptor_, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error == ECONNREFUSED && target_->refusal_answers) return Outcome::answered(now - began_);
        return outcome_of(error != 0 ? error : ECONNRESET);
    }

  protected:
    virtual Outcome connected(Duration round_trip) { return Outcome::answered(round_trip); }

    const Target* target_ = nullptr;

  private:
    // The time from SYN to its answer as the kernel took it, which no delay of this thread is in.
    static Duration round_trip_of(const tcp_info& info, Duration otherwise) {
        if (info.tcpi_rtt == 0) return otherwise;
        return std::min<Duration>(std::chrono::microseconds(info.tcpi_rtt), otherwise);
    }

    TimePoint began_{};
};

// That it would take the connection the port says with SYN and ACK. Where that is all that is asked, the reset comes in
// place of the last ACK, which the kernel of one who waits for data holds back (tcp(7), TCP_DEFER_ACCEPT, here of the
// side that connects): nobody has a connection to accept and to log.
class HandshakeSocket final : public TcpSocket {
  public:
    explicit HandshakeSocket(int descriptor) : TcpSocket(descriptor) {
        set(descriptor, IPPROTO_TCP, TCP_DEFER_ACCEPT, 1);
    }
};

class HttpSocket final : public TcpSocket {
  public:
    using TcpSocket::TcpSocket;
    uint32_t events() const override { return EPOLLIN | EPOLLOUT; }

    Outcome ask(const Target& target, uint64_t token, TimePoint now) override {
        connected_ = false;
        answer_.clear();
        return TcpSocket::ask(target, token, now);
    }
    Outcome on_event(TimePoint now) override { return connected_ ? receive() : TcpSocket::on_event(now); }

  private:
    Outcome connected(Duration round_trip) override {
        connected_ = true;
        round_trip_ = round_trip;
        const std::string request = fmt::format(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: marchproxy-l3l4 probe\r\nAccept: */*\r\nConnection: close\r\n"
            "\r\n",
            target_->settings.path, target_->host);
        // A new connection's buffer has room for it.
        const ssize_t sent = send(descriptor_, request.data(), request.size(), MSG_NOSIGNAL);
        if (sent != static_cast<ssize_t>(request.size()))
            return sent < 0 ? outcome_of(errno) : Outcome::unable("the request does not fit into the socket's buffer");
        // Of what is there already no other event may come.
        return receive();
    }

    // All that is there: judge() ends it by the length of the answer at the latest.
    Outcome receive() {
        for (;;) {
            std::array<char, 4096> buffer;
            const ssize_t got = recv(descriptor_, buffer.data(), buffer.size(), 0);
            if (got < 0) return errno == EAGAIN ? Outcome{} : outcome_of(errno);
            answer_.append({buffer.data(), static_cast<size_t>(got)});
            const auto judged = judge(answer_, got == 0, target_->settings);
            if (judged) return judged->empty() ? Outcome::answered(round_trip_) : Outcome::failed(*judged);
        }
    }

    bool connected_ = false;
    Duration round_trip_{};
    std::string answer_;
};

// --- UDP -----------------------------------------------------------------------------------------------------------

class UdpSocket final : public ProbeSocket {
  public:
    explicit UdpSocket(int descriptor) : ProbeSocket(descriptor) { set(descriptor, SOL_SOCKET, SO_TIMESTAMPNS, 1); }
    uint32_t events() const override { return EPOLLIN; }

    Outcome ask(const Target& target, uint64_t token, TimePoint) override {
        if (const int error = connect_to(target.address); error != 0) return outcome_of(error);
        token_ = token;
        foreign_ = 0;
        sent_at_ = std::chrono::system_clock::now();
        return send(descriptor_, &token, sizeof token, MSG_NOSIGNAL) < 0 ? outcome_of(errno) : Outcome{};
    }

    Outcome on_event(TimePoint) override {
        for (;;) {
            const int got = receive();
            if (got < 0) return errno == EAGAIN ? Outcome{} : outcome_of(errno);
            read_all_ = got < a_turn;
            for (unsigned i = 0; i < static_cast<unsigned>(got); ++i) {
                if (messages_[i].msg_len == sizeof token_ && slots_[i].echo == token_)
                    return Outcome::answered(came_at(messages_[i].msg_hdr) - sent_at_);
                if (++foreign_ > most_foreign)
                    return Outcome::failed("it floods: datagrams came that are no echo of the probe's");
            }
            if (read_all_) return {};
        }
    }

    // More may have come than the answer, and would be the next target's.
    bool rest() override { return read_all_ && ProbeSocket::rest(); }

  private:
    static constexpr int a_turn = 2, most_foreign = 64;
    struct Slot {
        uint64_t echo;
        iovec piece;
        alignas(cmsghdr) std::array<char, timestamp_space> control;
    };

    int receive() {
        for (unsigned i = 0; i < a_turn; ++i) {
            slots_[i].piece = {&slots_[i].echo, sizeof slots_[i].echo};
            messages_[i].msg_hdr = {.msg_name = nullptr,
                                    .msg_namelen = 0,
                                    .msg_iov = &slots_[i].piece,
                                    .msg_iovlen = 1,
                                    .msg_control = slots_[i].control.data(),
                                    .msg_controllen = slots_[i].control.size(),
                                    .msg_flags = 0};
        }
        return recvmmsg(descriptor_, messages_.data(), a_turn, MSG_TRUNC, nullptr);
    }

    uint64_t token_ = 0;
    WallTime sent_at_{};
    int foreign_ = 0;
    bool read_all_ = false;
    std::array<Slot, a_turn> slots_{};
    std::array<mmsghdr, a_turn> messages_{};
};

// --- opening -------------------------------------------------------------------------------------------------------

std::string why_not_by(const Egress& egress, int error) {
    if (!egress.is_possible()) return fmt::format("the gateway {} cannot be used", to_string(*egress.gateway));
    return egress.source ? fmt::format("cannot speak from {}: {}", to_string(*egress.source), strerror(error))
                         : fmt::format("cannot leave by {}: {}", to_string(*egress.gateway), strerror(error));
}

std::unique_ptr<ProbeSocket> socket_for(ProbeKind kind, int descriptor) {
    if (kind == ProbeKind::udp) return std::make_unique<UdpSocket>(descriptor);
    if (kind == ProbeKind::http) return std::make_unique<HttpSocket>(descriptor);
    return std::make_unique<HandshakeSocket>(descriptor);
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

ProbeSocket::~ProbeSocket() {
    close(descriptor_);
}

int ProbeSocket::connect_to(const SocketAddress& address) const {
    sockaddr_storage storage;
    const socklen_t size = address.to(storage);
    if (connect(descriptor_, reinterpret_cast<const sockaddr*>(&storage), size) == 0) return 0;
    return errno == EINPROGRESS ? 0 : errno;
}

// Without a peer, and without a port of its own, until it is connected anew (connect(2), AF_UNSPEC). A connection of
// TCP is broken by a reset.
bool ProbeSocket::rest() {
    const sockaddr nobody{.sa_family = AF_UNSPEC, .sa_data = {}};
    return connect(descriptor_, &nobody, sizeof nobody) == 0;
}

ProbeSocket::Opened ProbeSocket::open(const Target& target) {
    const int type = target.settings.kind == ProbeKind::udp ? SOCK_DGRAM : SOCK_STREAM;
    const int descriptor =
        socket(target.address.ip.is_v4() ? AF_INET : AF_INET6, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return {nullptr, outcome_of(errno)};
    std::unique_ptr<ProbeSocket> opened = socket_for(target.settings.kind, descriptor);
    if (!leave_by(descriptor, target.egress)) return {nullptr, Outcome::failed(why_not_by(target.egress, errno))};
    return {std::move(opened), {}};
}

}  // namespace marchproxy::probe
