#include "admin/http_connection.h"

#include <poll.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "model/socket_name.h"

namespace marchproxy::admin {

namespace {

constexpr std::string_view line_end = "\r\n";
constexpr std::string_view head_end = "\r\n\r\n";
constexpr Duration slice = std::chrono::milliseconds(100);  // how often a waiting client looks whether it must yield
constexpr Duration linger_time = std::chrono::milliseconds(500);  // for a client to take the last bytes
constexpr size_t linger_bytes = 256 << 10;

int milliseconds_until(TimePoint until) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
    return static_cast<int>(std::clamp<int64_t>(left, 0, 60'000));
}

bool is_range_line(std::string_view line) {
    constexpr std::string_view name = "range:";
    return line.size() >= name.size() && strncasecmp(line.data(), name.data(), name.size()) == 0;
}

// The head without Range lines: nothing here is large enough to be worth a part of it.
std::string without_ranges(std::string_view head) {
    std::string result;
    result.reserve(head.size());
    while (!head.empty()) {
        const size_t end = std::min(head.find(line_end), head.size() - line_end.size()) + line_end.size();
        if (!is_range_line(head.substr(0, end))) result += head.substr(0, end);
        head.remove_prefix(end);
    }
    return result;
}

size_t count_lines(std::string_view text) {
    return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
}

}  // namespace

HttpConnection::HttpConnection(int socket, int stop, HttpLimits limits, std::function<bool()> crowded)
    : socket_(socket), stop_(stop), limits_(limits), crowded_(std::move(crowded)) {}

HttpConnection::~HttpConnection() {
    if (answered_) linger();
    close(socket_);
}

// Closing with unread bytes makes the kernel send a reset that can overtake the response, so those are read first.
void HttpConnection::linger() {
    shutdown(socket_, SHUT_WR);
    const TimePoint until = Clock::now() + linger_time;
    char discarded[4096];
    for (size_t count = 0; count < linger_bytes;) {
        const ssize_t received = receive(discarded, sizeof discarded, until);
        if (received <= 0) return;
        count += static_cast<size_t>(received);
    }
}

HttpConnection::Head HttpConnection::read_head() {
    char chunk[4096];
    for (;;) {
        const TimePoint until = std::min(accepted_ + limits_.request, Clock::now() + slice);
        const ssize_t received = receive(chunk, sizeof chunk, until);
        if (received == 0 || (received < 0 && errno != ETIMEDOUT)) return Head::absent;
        if (received < 0) {
            const Duration waited = Clock::now() - accepted_;
            if (waited >= limits_.request) return Head::absent;
            if (waited >= limits_.yield && buffer_.empty() && crowded_()) return Head::absent;
            continue;
        }
        buffer_.append(chunk, static_cast<size_t>(received));
        const size_t end = buffer_.find(head_end);
        const std::string_view head = std::string_view(buffer_).substr(0, std::min(end, buffer_.size()));
        if (head.size() > limits_.head_bytes || count_lines(head) > limits_.head_lines) return Head::too_large;
        if (end == std::string::npos) continue;
        buffer_ = without_ranges(std::string_view(buffer_).substr(0, end + head_end.size())) +
                  buffer_.substr(end + head_end.size());
        answering_since_ = Clock::now();
        return Head::complete;
    }
}

// False when the time is over, or the server stops and nothing is ready.
bool HttpConnection::wait_for(short events, TimePoint until) const {
    pollfd watched[] = {{socket_, events, 0}, {stop_, POLLIN, 0}};
    for (;;) {
        const int ready = poll(watched, 2, milliseconds_until(until));
        if (ready < 0 && errno == EINTR) continue;
        if (ready > 0 && watched[0].revents != 0) return true;
        errno = ready == 0 ? ETIMEDOUT : ECANCELED;
        return false;
    }
}

ssize_t HttpConnection::receive(char* target, size_t size, TimePoint until) {
    for (;;) {
        const ssize_t received = recv(socket_, target, size, MSG_DONTWAIT);
        if (received >= 0 || (errno != EAGAIN && errno != EINTR)) return received;
        if (!wait_for(POLLIN, until)) return -1;
    }
}

bool HttpConnection::is_readable() const {
    return read_ < buffer_.size() || wait_for(POLLIN, Clock::now());
}

// Who reads an event stream never closes only its half: without this its place would be held for two more events.
bool HttpConnection::peer_left() const {
    char byte = 0;
    return recv(socket_, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

bool HttpConnection::is_writable() const {
    return !(endless_ && peer_left()) && wait_for(POLLOUT, Clock::now());
}

ssize_t HttpConnection::read(char* target, size_t size) {
    if (read_ == buffer_.size()) return receive(target, size, accepted_ + limits_.request);
    const size_t count = std::min(size, buffer_.size() - read_);
    buffer_.copy(target, count, read_);
    read_ += count;
    return static_cast<ssize_t>(count);
}

// A server that stops lets a client take what is being answered, for a moment.
bool HttpConnection::wait_writable() const {
    const TimePoint stalled = Clock::now() + limits_.stalled;
    if (wait_for(POLLOUT, endless_ ? stalled : std::min(stalled, answering_since_ + limits_.response))) return true;
    if (errno != ECANCELED || endless_) return false;
    pollfd watched{socket_, POLLOUT, 0};
    return poll(&watched, 1, milliseconds_until(Clock::now() + linger_time)) > 0;
}

ssize_t HttpConnection::write(const char* data, size_t size) {
    for (;;) {
        const ssize_t sent = send(socket_, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        answered_ = answered_ || sent > 0;
        if (sent >= 0 || (errno != EAGAIN && errno != EINTR)) return sent;
        if (!wait_writable()) return -1;
    }
}

void HttpConnection::get_remote_ip_and_port(std::string& ip, int& port) const {
    const SocketAddress address = address_of(socket_, getpeername).value_or(SocketAddress{});
    ip = to_string(address.ip);
    port = address.port;
}

void HttpConnection::get_local_ip_and_port(std::string& ip, int& port) const {
    const SocketAddress address = address_of(socket_, getsockname).value_or(SocketAddress{});
    ip = to_string(address.ip);
    port = address.port;
}

socket_t HttpConnection::socket() const {
    return socket_;
}

}  // namespace marchproxy::admin
