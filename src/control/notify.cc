#include "control/notify.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <ctime>

namespace marchproxy::control {

namespace {

// A status text is one line; a line break in it would start another assignment.
std::string one_line(std::string_view text) {
    std::string line(text);
    for (char& c : line)
        if (c == '\n' || c == '\r') c = ' ';
    return line;
}

std::optional<uint64_t> number_in_environment(const char* name) {
    const char* text = std::getenv(name);
    if (text == nullptr) return std::nullopt;
    uint64_t number = 0;
    const auto [end, error] = std::from_chars(text, text + std::strlen(text), number);
    if (error != std::errc{} || *end != '\0') return std::nullopt;
    return number;
}

}  // namespace

Notifier::Notifier(std::string socket) : socket_(std::move(socket)) {
    if (!socket_.empty()) descriptor_ = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

Notifier::~Notifier() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

std::string Notifier::socket_from_environment() {
    const char* socket = std::getenv("NOTIFY_SOCKET");
    return socket == nullptr ? "" : socket;
}

std::optional<Duration> Notifier::watchdog_interval_from_environment() {
    const auto microseconds = number_in_environment("WATCHDOG_USEC");
    if (!microseconds || *microseconds == 0) return std::nullopt;
    const auto process = number_in_environment("WATCHDOG_PID");
    if (process && *process != static_cast<uint64_t>(::getpid())) return std::nullopt;
    return std::chrono::microseconds(*microseconds / 2);
}

Result<void> Notifier::ready(std::string_view status) {
    return send(fmt::format("READY=1\nSTATUS={}", one_line(status)));
}

Result<void> Notifier::reloading() {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return send(fmt::format("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1'000'000 + now.tv_nsec / 1'000));
}

Result<void> Notifier::stopping(std::string_view status) {
    return send(fmt::format("STOPPING=1\nSTATUS={}", one_line(status)));
}

Result<void> Notifier::status(std::string_view status) {
    return send(fmt::format("STATUS={}", one_line(status)));
}

Result<void> Notifier::main_process(pid_t process) {
    return send(fmt::format("MAINPID={}", process));
}

Result<void> Notifier::watchdog() {
    return send("WATCHDOG=1");
}

Result<void> Notifier::send(const std::string& message) {
    if (socket_.empty()) return {};
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if ((socket_[0] != '/' && socket_[0] != '@') || socket_.size() >= sizeof(address.sun_path))
        return Error{
            fmt::format("NOTIFY_SOCKET '{}' is neither an absolute path nor '@' and an abstract name of at most "
                        "{} characters: the service manager hears nothing from this process",
                        socket_, sizeof(address.sun_path) - 1)};
    std::memcpy(address.sun_path, socket_.data(), socket_.size());
    if (socket_[0] == '@') address.sun_path[0] = '\0';
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + socket_.size());
    if (::sendto(descriptor_, message.data(), message.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address),
                 length) < 0)
        return Error{fmt::format("the service manager's socket {} (NOTIFY_SOCKET) took no message: {}", socket_,
                                 std::strerror(errno))};
    return {};
}

}  // namespace marchproxy::control
