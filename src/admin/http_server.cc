#include "admin/http_server.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <system_error>

#include "model/socket_name.h"

namespace marchproxy::admin {

namespace {

constexpr int kernel_backlog = 128;
constexpr int pause_milliseconds = 100;  // after accept has failed for want of descriptors or memory

std::string text_of(int number) {
    return std::generic_category().message(number);
}

std::string advice_for(int number, const SocketAddress& address) {
    switch (number) {
        case EADDRINUSE:
            return fmt::format(
                "another process has that port (`ss -ltnp sport = :{}` names it); stop it or set admin.port",
                address.port);
        case EADDRNOTAVAIL:
            return "this machine does not have that address; set admin.address to one it has";
        case EACCES:
            return "ports below 1024 need CAP_NET_BIND_SERVICE; set admin.port to a higher one";
        case EMFILE:
            return "the process has no file descriptor left; raise its limit (ulimit -n, LimitNOFILE=)";
        default:
            return "set admin.address and admin.port to where it can listen";
    }
}

void fill_empty_error(const httplib::Request&, httplib::Response& response) {
    if (!response.body.empty()) return;
    const nlohmann::json error = {
        {"error", fmt::format("the request cannot be answered (HTTP status {})", response.status)}};
    response.set_content(error.dump() + '\n', "application/json");
}

void answer_exception(const httplib::Request&, httplib::Response& response, std::exception_ptr thrown) {
    std::string message = "an unexpected error";
    try {
        std::rethrow_exception(std::move(thrown));
    } catch (const std::exception& exception) {
        message = exception.what();
    } catch (...) {
    }
    response.status = 500;
    const nlohmann::json error = {{"error", message}};
    response.set_content(error.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + '\n',
                         "application/json");
}

std::string too_large_answer(const HttpLimits& limits) {
    const nlohmann::json error = {{"error", fmt::format("a request's head may hold {} bytes and {} lines",
                                                        limits.head_bytes, limits.head_lines)}};
    const std::string body = error.dump() + '\n';
    return fmt::format(
        "HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/json\r\nConnection: close\r\n"
        "Content-Length: {}\r\n\r\n{}",
        body.size(), body);
}

}  // namespace

HttpServer::HttpServer(unsigned threads, HttpLimits limits, std::string endless_path, Handler handler,
                       telemetry::Log& log)
    : thread_count_(threads), limits_(limits), endless_path_(std::move(endless_path)), log_(log) {
    set_pre_routing_handler(
        [handler = std::move(handler)](const httplib::Request& request, httplib::Response& response) {
            handler(request, response);
            return HandlerResponse::Handled;
        });
    set_error_handler(httplib::Server::Handler(fill_empty_error));
    set_exception_handler(answer_exception);
}

HttpServer::~HttpServer() {
    stop();
}

Result<int> HttpServer::listen_at(const SocketAddress& address) const {
    sockaddr_storage storage{};
    const socklen_t length = address.to(storage);
    const int socket = ::socket(storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    // Not SO_REUSEPORT: two processes would share the port, and each would answer some of the requests.
    const int yes = 1;
    if (socket >= 0 && setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
        bind(socket, reinterpret_cast<const sockaddr*>(&storage), length) == 0 && ::listen(socket, kernel_backlog) == 0)
        return socket;
    const int number = errno;
    if (socket >= 0) close(socket);
    return Error{fmt::format("admin: cannot listen on {}: {}; {}", to_string(address), text_of(number),
                             advice_for(number, address))};
}

Result<void> HttpServer::start(const SocketAddress& address) {
    const Result<int> listener = listen_at(address);
    if (!listener) return Error{listener.error()};
    stop_event_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (stop_event_ < 0) {
        const int number = errno;
        close(*listener);
        return Error{fmt::format("admin: cannot create an event descriptor: {}; {}", text_of(number),
                                 advice_for(number, address))};
    }
    listener_ = *listener;
    stopping_ = false;
    svr_sock_ = listener_;  // the library takes an invalid one as the sign to end event streams
    threads_.emplace_back([this] { accept_connections(); });
    for (unsigned i = 0; i < thread_count_; ++i)
        threads_.emplace_back([this] { serve(); });
    return {};
}

uint16_t HttpServer::port() const {
    return address_of(listener_, getsockname).value_or(SocketAddress{}).port;
}

void HttpServer::stop() {
    if (listener_ < 0) return;
    {
        std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    svr_sock_ = INVALID_SOCKET;
    eventfd_write(stop_event_, 1);
    changed_.notify_all();
    for (std::thread& thread : threads_)
        thread.join();
    threads_.clear();
    for (int socket : waiting_)
        close(socket);
    waiting_.clear();
    close(std::exchange(listener_, -1));
    close(std::exchange(stop_event_, -1));
}

void HttpServer::accept_connections() {
    pollfd watched[] = {{listener_, POLLIN, 0}, {stop_event_, POLLIN, 0}};
    while (!stopping()) {
        if (poll(watched, 2, -1) < 0 || watched[1].revents != 0 || watched[0].revents == 0) continue;
        accept_one();
    }
}

void HttpServer::accept_one() {
    const int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (socket >= 0) {
        enqueue(socket);
        return;
    }
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return;
    log_.limited(LogLevel::warn, "admin accept", "the admin server cannot accept a connection",
                 {{"error", text_of(errno)}});
    pollfd watched{stop_event_, POLLIN, 0};
    poll(&watched, 1, pause_milliseconds);
}

void HttpServer::enqueue(int socket) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return stopping() || waiting_.size() < most_waiting; });
    waiting_.push_back(socket);
    lock.unlock();
    changed_.notify_all();
}

void HttpServer::serve() {
    for (int socket = next_connection(); socket >= 0; socket = next_connection())
        answer(socket);
}

int HttpServer::next_connection() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return stopping() || !waiting_.empty(); });
    if (stopping()) return -1;
    const int socket = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    changed_.notify_all();
    return socket;
}

void HttpServer::answer(int socket) {
    HttpConnection connection(socket, stop_event_, limits_, [this] {
        std::lock_guard lock(mutex_);
        return !waiting_.empty();
    });
    switch (connection.read_head()) {
        case HttpConnection::Head::absent:
            return;
        case HttpConnection::Head::too_large: {
            const std::string refusal = too_large_answer(limits_);
            connection.write(refusal.data(), refusal.size());
            return;
        }
        case HttpConnection::Head::complete:
            break;
    }
    bool closed = false;
    process_request(connection, true, closed, [&](httplib::Request& request) {
        request.headers.erase("Accept-Encoding");  // answers stay on this machine; compressing costs the proxy's CPU
        if (request.path == endless_path_) connection.stream_without_end();
    });
}

}  // namespace marchproxy::admin
