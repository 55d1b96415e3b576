#include "sockets.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <ctime>
#include <utility>

namespace marchproxy::bench {

void fail(const std::string& what) {
    throw Failure(what + ": " + std::strerror(errno));
}

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
    if (this != &other) {
        reset();
        value_ = other.release();
    }
    return *this;
}

int Descriptor::release() {
    return std::exchange(value_, -1);
}

void Descriptor::reset() {
    if (value_ >= 0) ::close(release());
}

uint64_t now_nanoseconds() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

sockaddr_in parse_endpoint(const std::string& text) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    const auto colon = text.rfind(':');
    uint16_t port = 0;
    if (colon != std::string::npos) {
        std::from_chars(text.data() + colon + 1, text.data() + text.size(), port);
    }
    if (port == 0 || inet_pton(AF_INET, text.substr(0, colon).c_str(), &address.sin_addr) != 1) {
        throw Failure("'" + text + "' is no IPv4 address and port, as in 127.0.0.1:8080");
    }
    address.sin_port = htons(port);
    return address;
}

Descriptor connect_blocking(const sockaddr_in& target) {
    Descriptor connection(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (connection.get() < 0) fail("socket");
    set_option(connection.get(), IPPROTO_TCP, TCP_NODELAY, 1);
    const timeval patience{.tv_sec = 5, .tv_usec = 0};
    for (const int name : {SO_RCVTIMEO, SO_SNDTIMEO}) {
        if (::setsockopt(connection.get(), SOL_SOCKET, name, &patience, sizeof patience) < 0) fail("setsockopt");
    }
    if (::connect(connection.get(), reinterpret_cast<const sockaddr*>(&target), sizeof target) < 0) fail("connect");
    return connection;
}

void exchange(int descriptor) {
    char buffer[message_size] = {};
    if (::send(descriptor, buffer, sizeof buffer, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof buffer)) fail("send");
    const ssize_t got = ::recv(descriptor, buffer, sizeof buffer, MSG_WAITALL);
    if (got < 0) fail("waiting for a reply");
    if (got != static_cast<ssize_t>(sizeof buffer)) throw Failure("the connection was closed instead of a reply");
}

void set_nonblocking(int descriptor) {
    if (::fcntl(descriptor, F_SETFL, ::fcntl(descriptor, F_GETFL) | O_NONBLOCK) < 0) fail("fcntl");
}

void set_option(int descriptor, int level, int name, int value) {
    if (::setsockopt(descriptor, level, name, &value, sizeof value) < 0) fail("setsockopt");
}

Descriptor make_epoll() {
    Descriptor epoll(::epoll_create1(EPOLL_CLOEXEC));
    if (epoll.get() < 0) fail("epoll_create1");
    return epoll;
}

void watch(int epoll, int descriptor, uint32_t events, uint64_t data) {
    epoll_event event{.events = events, .data = {.u64 = data}};
    if (::epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event) < 0) fail("epoll_ctl");
}

}  // namespace marchproxy::bench
