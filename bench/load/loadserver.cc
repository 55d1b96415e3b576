// loadserver: the far end of the benchmarks. One thread, one epoll: TCP echo on a run of ports, UDP echo on one.
// Prints {"ready": true} when it listens and ends with SIGTERM.
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <iostream>
#include <vector>

#include "sockets.h"

namespace marchproxy::bench {
namespace {

inline constexpr size_t batch_size = 64;
inline constexpr size_t datagram_size = 2048;

enum class Kind : uint32_t { listener, connection, datagrams };

uint64_t tag(Kind kind, int descriptor) {
    return static_cast<uint64_t>(kind) << 32 | static_cast<uint32_t>(descriptor);
}

Descriptor bound_socket(int type, const sockaddr_in& address) {
    Descriptor socket(::socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (socket.get() < 0) fail("socket");
    if (type == SOCK_STREAM) set_option(socket.get(), SOL_SOCKET, SO_REUSEADDR, 1);
    if (::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) {
        fail("bind to port " + std::to_string(ntohs(address.sin_port)));
    }
    return socket;
}

class DatagramEcho {
  public:
    DatagramEcho() {
        for (size_t i = 0; i < batch_size; ++i) {
            headers_[i].msg_hdr.msg_iov = &vectors_[i];
            headers_[i].msg_hdr.msg_iovlen = 1;
            headers_[i].msg_hdr.msg_name = &peers_[i];
        }
    }

    void serve(int descriptor) {
        for (size_t i = 0; i < batch_size; ++i) {
            vectors_[i] = {.iov_base = payloads_[i].data(), .iov_len = datagram_size};
            headers_[i].msg_hdr.msg_namelen = sizeof peers_[i];
        }
        const int got = ::recvmmsg(descriptor, headers_.data(), batch_size, MSG_DONTWAIT, nullptr);
        for (int i = 0; i < got; ++i)
            vectors_[i].iov_len = headers_[i].msg_len;
        for (int sent = 0; sent < got;) {
            const int more = ::sendmmsg(descriptor, &headers_[sent], static_cast<unsigned>(got - sent), 0);
            sent += more > 0 ? more : 1;  // one that cannot be sent is lost, as datagrams are
        }
    }

  private:
    std::array<std::array<char, datagram_size>, batch_size> payloads_{};
    std::array<iovec, batch_size> vectors_{};
    std::array<sockaddr_in, batch_size> peers_{};
    std::array<mmsghdr, batch_size> headers_{};
};

class Server {
  public:
    Server() : epoll_(make_epoll()) {}

    void listen_tcp(const sockaddr_in& address) {
        Descriptor listener = bound_socket(SOCK_STREAM, address);
        set_option(listener.get(), IPPROTO_TCP, TCP_NODELAY, 1);  // inherited by what it accepts
        if (::listen(listener.get(), 4096) < 0) fail("listen");
        watch(epoll_.get(), listener.get(), EPOLLIN, tag(Kind::listener, listener.get()));
        sockets_.push_back(std::move(listener));
    }

    void listen_udp(const sockaddr_in& address) {
        Descriptor socket = bound_socket(SOCK_DGRAM, address);
        set_option(socket.get(), SOL_SOCKET, SO_RCVBUF, 4 << 20);
        watch(epoll_.get(), socket.get(), EPOLLIN, tag(Kind::datagrams, socket.get()));
        sockets_.push_back(std::move(socket));
    }

    [[noreturn]] void serve() {
        epoll_event events[256];
        for (;;) {
            const int ready = ::epoll_wait(epoll_.get(), events, std::size(events), -1);
            if (ready < 0 && errno != EINTR) fail("epoll_wait");
            for (int i = 0; i < ready; ++i) {
                const auto kind = static_cast<Kind>(events[i].data.u64 >> 32);
                const int descriptor = static_cast<int>(events[i].data.u64 & 0xffffffff);
                if (kind == Kind::listener) accept_from(descriptor);
                if (kind == Kind::connection) echo(descriptor, events[i].events);
                if (kind == Kind::datagrams) datagrams_.serve(descriptor);
            }
        }
    }

  private:
    void accept_from(int listener) {
        const int connection = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (connection < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR) return;
            fail("accept4");  // EMFILE among them: the measurement would only show our own limit
        }
        watch(epoll_.get(), connection, EPOLLIN | EPOLLRDHUP | EPOLLET, tag(Kind::connection, connection));
    }

    // Replies are far smaller than a socket's buffer, so a send is whole or the peer is gone.
    void echo(int descriptor, uint32_t events) {
        char buffer[16 * 1024];
        for (;;) {
            const ssize_t got = ::recv(descriptor, buffer, sizeof buffer, 0);
            if (got < 0 && errno == EAGAIN) return;
            if (got <= 0 || ::send(descriptor, buffer, static_cast<size_t>(got), MSG_NOSIGNAL) != got) {
                ::close(descriptor);
                return;
            }
            const bool drained = static_cast<size_t>(got) < sizeof buffer;
            if (drained && (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) == 0) return;
        }
    }

    Descriptor epoll_;
    std::vector<Descriptor> sockets_;
    DatagramEcho datagrams_;
};

void run(int argc, char** argv, CLI::App& app) {
    std::string tcp, udp;
    uint16_t ports = 1;
    app.add_option("--tcp", tcp, "address:port of the first TCP echo");
    app.add_option("--ports", ports, "TCP echoes on this many ports from there")->check(CLI::Range(1, 1000));
    app.add_option("--udp", udp, "address:port of the UDP echo");
    app.parse(argc, argv);

    Server server;
    if (!tcp.empty()) {
        const sockaddr_in first = parse_endpoint(tcp);
        for (uint16_t i = 0; i < ports; ++i) {
            sockaddr_in address = first;
            address.sin_port = htons(static_cast<uint16_t>(ntohs(first.sin_port) + i));
            server.listen_tcp(address);
        }
    }
    if (!udp.empty()) server.listen_udp(parse_endpoint(udp));
    std::cout << R"({"ready": true})" << std::endl;
    server.serve();
}

}  // namespace
}  // namespace marchproxy::bench

int main(int argc, char** argv) {
    CLI::App app("Far end of the benchmarks: TCP and UDP echo");
    try {
        marchproxy::bench::run(argc, argv, app);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    } catch (const std::exception& error) {
        std::cerr << "loadserver: " << error.what() << '\n';
        return 1;
    }
}
