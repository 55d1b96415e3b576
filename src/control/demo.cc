#include "control/demo.h"

#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>

#include "control/http_head.h"
#include "model/socket_name.h"

namespace marchproxy::control {

namespace {

constexpr uint64_t largest_answer = 100'000'000'000;  // bytes, of /bytes/N
constexpr uint64_t longest_delay = 10'000;            // milliseconds, of /delay/MS
constexpr size_t chunk = 1 << 20;                     // bytes handed to the kernel at once
constexpr size_t fair_share = 8 * chunk;              // bytes a connection moves before others get their turn
constexpr Duration accept_pause = std::chrono::milliseconds(100);

struct Connection {
    int descriptor = -1;
    size_t cloud = 0;
    std::string input;   // of a head that is not complete, or what came behind it
    std::string output;  // not sent yet: a head with a small body, or echoed bytes
    size_t output_sent = 0;
    uint64_t generate = 0;   // bytes of /bytes/N still to send
    uint64_t generated = 0;  // and sent
    uint64_t body = 0;       // bytes of the request's body still to come
    uint64_t body_size = 0;
    bool echo = false;  // send the body back, else count it
    bool keep_alive = true;
    bool delayed = false;
    bool unfinished = false;  // stands in the list of that name
    bool closed = false;
};

// What advancing a connection by one step came to.
enum class Step { moved, blocked, closed };

std::string_view reason(int status) {
    switch (status) {
        case 200:
            return "OK";
        case 404:
            return "Not Found";
        case 405:
            return "Method Not Allowed";
        case 411:
            return "Length Required";
        case 431:
            return "Request Header Fields Too Large";
        case 505:
            return "HTTP Version Not Supported";
        default:
            return "Bad Request";
    }
}

std::optional<uint64_t> number_after(std::string_view path, std::string_view prefix, uint64_t most) {
    if (!path.starts_with(prefix)) return std::nullopt;
    path.remove_prefix(prefix.size());
    uint64_t number = 0;
    const auto [end, error] = std::from_chars(path.data(), path.data() + path.size(), number);
    if (error != std::errc{} || end != path.data() + path.size() || number > most) return std::nullopt;
    return number;
}

// What /bytes/N repeats: letters in lines, harmless on a terminal, the same in every process.
std::string pattern() {
    std::string text(chunk, '\n');
    uint32_t state = 0x9e3779b9;
    for (size_t i = 0; i < text.size(); ++i) {
        state = state * 1664525 + 1013904223;  // Numerical Recipes' generator: any even spread of letters will do
        if (i % 64 != 63) text[i] = static_cast<char>('a' + (state >> 24) % 26);
    }
    return text;
}

class Server final : public Demo {
  public:
    ~Server() override {
        if (thread_.joinable()) {
            const uint64_t one = 1;
            [[maybe_unused]] const ssize_t written = ::write(stop_, &one, sizeof one);
            thread_.join();
        }
        for (const auto& [descriptor, connection] : connections_)
            ::close(descriptor);
        for (const int listener : listeners_)
            if (listener >= 0) ::close(listener);
        for (const int descriptor : {epoll_, stop_})
            if (descriptor >= 0) ::close(descriptor);
    }

    Result<void> open() {
        epoll_ = ::epoll_create1(EPOLL_CLOEXEC);
        stop_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (epoll_ < 0 || stop_ < 0) return failure("making an epoll and an event descriptor");
        watch(stop_, EPOLLIN);
        for (size_t cloud = 0; cloud < demo_clouds.size(); ++cloud)
            if (auto opened = listen(cloud); !opened.ok()) return opened;
        thread_ = std::thread([this] { run(); });
        return {};
    }

    std::array<SocketAddress, demo_clouds.size()> addresses() const override { return addresses_; }

  private:
    static Error failure(std::string_view doing) {
        return Error{
            fmt::format("the demo's upstreams on 127.0.0.1 did not start: {}: {}", doing, std::strerror(errno))};
    }

    Result<void> listen(size_t cloud) {
        const int listener = listeners_[cloud] = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (listener < 0) return failure("opening a socket");
        sockaddr_storage storage{};
        const socklen_t length = SocketAddress{IpAddress::v4(INADDR_LOOPBACK), 0}.to(storage);
        if (::bind(listener, reinterpret_cast<sockaddr*>(&storage), length) != 0) return failure("binding a port");
        if (::listen(listener, 4096) != 0) return failure("listening");
        const auto address = address_of(listener, ::getsockname);
        if (!address) return failure("reading a port's number");
        addresses_[cloud] = *address;
        watch(listener, EPOLLIN | EPOLLET);
        return {};
    }

    void watch(int descriptor, uint32_t events) {
        epoll_event event{};
        event.events = events;
        event.data.fd = descriptor;
        ::epoll_ctl(epoll_, EPOLL_CTL_ADD, descriptor, &event);
    }

    void run() {
        std::array<epoll_event, 256> events{};
        for (;;) {
            const int count = ::epoll_wait(epoll_, events.data(), events.size(), milliseconds_to_wait());
            const auto unfinished = std::exchange(unfinished_, {});
            for (int i = 0; i < count; ++i) {
                if (events[i].data.fd == stop_) return;
                handle(events[i]);
            }
            for (Connection* connection : unfinished) {
                connection->unfinished = false;
                advance(*connection);
            }
            wake_delayed();
            if (accept_again_ <= Clock::now()) accept_all();
            bury();
        }
    }

    int milliseconds_to_wait() const {
        if (!unfinished_.empty()) return 0;
        TimePoint next = accept_again_;
        if (!delayed_.empty()) next = std::min(next, delayed_.begin()->first);
        if (next == TimePoint::max()) return -1;
        const auto wait = std::chrono::ceil<std::chrono::milliseconds>(next - Clock::now()).count();
        return static_cast<int>(std::clamp<int64_t>(wait, 0, 60'000));
    }

    void handle(const epoll_event& event) {
        for (size_t cloud = 0; cloud < listeners_.size(); ++cloud)
            if (event.data.fd == listeners_[cloud]) {
                accept(cloud);
                return;
            }
        const auto found = connections_.find(event.data.fd);
        if (found == connections_.end()) return;
        if ((event.events & (EPOLLERR | EPOLLHUP)) != 0)
            close(*found->second);
        else
            advance(*found->second);
    }

    void accept_all() {
        accept_again_ = TimePoint::max();
        for (size_t cloud = 0; cloud < listeners_.size(); ++cloud)
            accept(cloud);
    }

    void accept(size_t cloud) {
        for (;;) {
            const int descriptor = ::accept4(listeners_[cloud], nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (descriptor < 0) {
                if (errno == EINTR || errno == ECONNABORTED) continue;
                // No descriptor or memory left. The edge is gone, so that only the clock brings us back.
                if (errno != EAGAIN) accept_again_ = Clock::now() + accept_pause;
                return;
            }
            const int on = 1;
            ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            auto connection = std::make_unique<Connection>();
            connection->descriptor = descriptor;
            connection->cloud = cloud;
            connections_[descriptor] = std::move(connection);
            watch(descriptor, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
        }
    }

    void close(Connection& connection) {
        if (connection.closed) return;
        connection.closed = true;
        std::erase_if(delayed_, [&](const auto& entry) { return entry.second == &connection; });
        const auto found = connections_.find(connection.descriptor);
        ::close(connection.descriptor);
        buried_.push_back(std::move(found->second));
        connections_.erase(found);
    }

    // Only here do connections cease to exist: until then the lists of this turn may name them.
    void bury() {
        std::erase_if(unfinished_, [](const Connection* connection) { return connection->closed; });
        buried_.clear();
    }

    void wake_delayed() {
        while (!delayed_.empty() && delayed_.begin()->first <= Clock::now()) {
            Connection* connection = delayed_.extract(delayed_.begin()).value().second;
            connection->delayed = false;
            advance(*connection);
        }
    }

    void advance(Connection& connection) {
        if (connection.closed || connection.unfinished) return;
        moved_ = 0;
        while (moved_ < fair_share) {
            switch (step(connection)) {
                case Step::moved:
                    continue;
                case Step::blocked:
                    return;
                case Step::closed:
                    close(connection);
                    return;
            }
        }
        connection.unfinished = true;
        unfinished_.push_back(&connection);
    }

    // The order is what makes requests answered one after the other: what is owed first, then what comes in.
    Step step(Connection& connection) {
        if (connection.delayed) return Step::blocked;
        if (!connection.output.empty()) return flush(connection);
        if (connection.generate > 0) return generate(connection);
        if (connection.body > 0) return connection.input.empty() ? receive_body(connection) : take_body(connection);
        if (!connection.keep_alive) return Step::closed;
        if (const auto head = parse_head(connection.input)) {
            connection.input.erase(0, head->size);
            answer(connection, *head);
            return Step::moved;
        }
        return receive_head(connection);
    }

    Step after_system_call(ssize_t result) {
        if (result > 0) {
            moved_ += static_cast<size_t>(result);
            return Step::moved;
        }
        if (result == 0) return Step::closed;
        if (errno == EINTR) return Step::moved;
        return errno == EAGAIN ? Step::blocked : Step::closed;
    }

    Step flush(Connection& connection) {
        const std::string_view rest = std::string_view(connection.output).substr(connection.output_sent);
        const int more = connection.generate > 0 ? MSG_MORE : 0;
        const ssize_t sent = ::send(connection.descriptor, rest.data(), rest.size(), MSG_NOSIGNAL | more);
        if (sent > 0) connection.output_sent += static_cast<size_t>(sent);
        if (connection.output_sent == connection.output.size()) {
            connection.output.clear();
            connection.output_sent = 0;
        }
        return after_system_call(sent);
    }

    Step generate(Connection& connection) {
        const size_t offset = connection.generated % chunk;
        const size_t size = std::min<uint64_t>(chunk - offset, connection.generate);
        const ssize_t sent = ::send(connection.descriptor, pattern_.data() + offset, size, MSG_NOSIGNAL);
        if (sent > 0) {
            connection.generate -= static_cast<uint64_t>(sent);
            connection.generated += static_cast<uint64_t>(sent);
        }
        return after_system_call(sent);
    }

    Step receive_head(Connection& connection) {
        const size_t room = largest_head - connection.input.size();
        const ssize_t received = ::recv(connection.descriptor, scratch_.data(), room, 0);
        if (received > 0) connection.input.append(scratch_.data(), static_cast<size_t>(received));
        return after_system_call(received);
    }

    Step receive_body(Connection& connection) {
        const size_t size = std::min<uint64_t>(scratch_.size(), connection.body);
        const ssize_t received = ::recv(connection.descriptor, scratch_.data(), size, 0);
        if (received > 0) body_came(connection, {scratch_.data(), static_cast<size_t>(received)});
        return after_system_call(received);
    }

    Step take_body(Connection& connection) {
        const size_t size = std::min<uint64_t>(connection.input.size(), connection.body);
        body_came(connection, std::string_view(connection.input).substr(0, size));
        connection.input.erase(0, size);
        return Step::moved;
    }

    void body_came(Connection& connection, std::string_view bytes) {
        connection.body -= bytes.size();
        if (connection.echo)
            connection.output = bytes;
        else if (connection.body == 0)
            respond(connection, 200, fmt::format("received {} bytes\n", connection.body_size));
    }

    void respond(Connection& connection, int status, std::string_view text) {
        connection.output = head_of(connection, status, text.size());
        connection.output += text;
    }

    static std::string head_of(const Connection& connection, int status, uint64_t length) {
        return fmt::format(
            "HTTP/1.1 {} {}\r\nServer: {}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n",
            status, reason(status), demo_clouds[connection.cloud].path, length,
            connection.keep_alive ? "keep-alive" : "close");
    }

    void refuse(Connection& connection, int status) {
        connection.keep_alive = false;
        respond(connection, status, fmt::format("{} {}\n", status, reason(status)));
    }

    void answer(Connection& connection, const HttpHead& head) {
        if (head.refused != 0) {
            refuse(connection, head.refused);
            return;
        }
        connection.keep_alive = head.keep_alive;
        connection.body = connection.body_size = head.content_length;
        connection.echo = false;
        if (head.method == "POST" || head.method == "PUT")
            take_upload(connection, head);
        else if (head.content_length > 0 || (head.method != "GET" && head.method != "HEAD"))
            refuse(connection, head.content_length > 0 ? 400 : 405);
        else
            give(connection, head);
    }

    void take_upload(Connection& connection, const HttpHead& head) {
        if (head.path != "/echo" && head.path != "/upload") {
            connection.body = 0;
            refuse(connection, 404);
            return;
        }
        connection.echo = head.path == "/echo";
        if (head.expects_continue && head.content_length > 0) connection.output = "HTTP/1.1 100 Continue\r\n\r\n";
        if (connection.echo)
            connection.output += head_of(connection, 200, head.content_length);
        else if (head.content_length == 0)
            respond(connection, 200, "received 0 bytes\n");
    }

    void give(Connection& connection, const HttpHead& head) {
        if (head.path == "/") {
            respond(connection, 200, welcome(connection.cloud));
        } else if (const auto bytes = number_after(head.path, "/bytes/", largest_answer)) {
            connection.output = head_of(connection, 200, *bytes);
            connection.generate = head.method == "HEAD" ? 0 : *bytes;
            connection.generated = 0;
        } else if (const auto delay = number_after(head.path, "/delay/", longest_delay)) {
            respond(connection, 200,
                    fmt::format("{} answered after {} ms\n", demo_clouds[connection.cloud].path, *delay));
            connection.delayed = true;
            delayed_.emplace(Clock::now() + std::chrono::milliseconds(*delay), &connection);
        } else if (head.path == "/echo" || head.path == "/upload") {
            respond(connection, 405, fmt::format("{} takes a POST\n", head.path));
        } else {
            respond(connection, 404,
                    fmt::format("no such page; try / /bytes/N (at most {}) /delay/MS (at most {})\n", largest_answer,
                                longest_delay));
        }
        if (head.method == "HEAD") connection.output.resize(connection.output.find("\r\n\r\n") + 4);
    }

    static std::string welcome(size_t cloud) {
        const DemoCloud& here = demo_clouds[cloud];
        return fmt::format(
            "{} answered (provider {}, region {}).\n\n"
            "Try\n"
            "  /bytes/1000000000   a gigabyte\n"
            "  /delay/500          an answer after half a second\n"
            "  /echo               a POST's body back\n"
            "  /upload             a POST's size\n",
            here.path, here.provider, here.region);
    }

    int epoll_ = -1;
    int stop_ = -1;
    std::array<int, demo_clouds.size()> listeners_{-1, -1, -1, -1};
    std::array<SocketAddress, demo_clouds.size()> addresses_;
    const std::string pattern_ = pattern();
    std::vector<char> scratch_ = std::vector<char>(256 << 10);

    std::unordered_map<int, std::unique_ptr<Connection>> connections_;
    std::vector<std::unique_ptr<Connection>> buried_;
    std::vector<Connection*> unfinished_;  // had their fair share; no edge will come for them
    std::set<std::pair<TimePoint, Connection*>> delayed_;
    TimePoint accept_again_ = TimePoint::max();
    size_t moved_ = 0;  // bytes of the connection at hand, in this turn
    std::thread thread_;
};

}  // namespace

Result<std::unique_ptr<Demo>> Demo::start() {
    auto server = std::make_unique<Server>();
    if (const auto opened = server->open(); !opened.ok()) return Error{opened.error()};
    return std::unique_ptr<Demo>(std::move(server));
}

void Demo::add_to(Snapshot& snapshot) const {
    Service service;
    service.name = "default";
    service.listen = {snapshot.settings.listen_address, snapshot.settings.listen_port};
    MulticloudSettings& multicloud = snapshot.settings.multicloud;
    multicloud.cost_book.clear();                                        // these clouds send no bill
    if (multicloud.enabled) service.routing.policy = multicloud.policy;  // as of any service that names none
    const auto where = addresses();
    for (size_t i = 0; i < demo_clouds.size(); ++i) {
        const DemoCloud& cloud = demo_clouds[i];
        service.endpoints.push_back({{to_string(where[i].ip), where[i].port}, cloud.path, 100});
        const auto same_name = [&](const Path& path) { return path.name == cloud.path; };
        if (std::any_of(snapshot.paths.begin(), snapshot.paths.end(), same_name)) continue;
        Path path;
        path.name = cloud.path;
        path.provider = cloud.provider;
        path.region = cloud.region;
        path.cost_per_gb = Tariff::flat(cloud.cost_per_gb);
        path.location = cloud.location;
        snapshot.paths.push_back(std::move(path));
    }
    snapshot.services.push_back(std::move(service));
}

}  // namespace marchproxy::control
