#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <vector>

#include "modes.h"
#include "sockets.h"

namespace marchproxy::bench {
namespace {

struct Connection {
    Descriptor socket;
    size_t missing = 0;  // bytes of the reply under way; 0: free
    uint64_t since = 0;  // when the request under way was due (paced) or sent (closed loop)
    uint64_t owed = 0;   // paced: requests that fell due while the connection was busy
};

class PingPongRun {
  public:
    explicit PingPongRun(const PingPong& options)
        : options_(options), interval_(options.rate > 0 ? 1e9 / options.rate : 0), epoll_(make_epoll()) {
        for (unsigned i = 0; i < options.connections; ++i) {
            Connection connection{.socket = connect_blocking(options.target)};
            exchange(connection.socket.get());  // the way is open to the far end before anything counts
            set_nonblocking(connection.socket.get());
            watch(epoll_.get(), connection.socket.get(), EPOLLIN | EPOLLET, i);
            connections_.push_back(std::move(connection));
        }
    }

    nlohmann::json run() {
        start_ = now_nanoseconds();
        counted_from_ = start_ + static_cast<uint64_t>(options_.timing.warmup * 1e9);
        end_ = counted_from_ + static_cast<uint64_t>(options_.timing.seconds * 1e9);
        if (!paced()) {
            for (Connection& connection : connections_)
                send_request(connection, start_);
        }
        for (uint64_t now = start_; now < end_; now = now_nanoseconds()) {
            if (paced()) send_due(now);
            collect(paced() ? due(next_) : end_);
        }
        collect_rest();
        nlohmann::json result = latency_json(latencies_);
        result["requests_per_second"] = static_cast<double>(latencies_.count()) / options_.timing.seconds;
        result["unanswered"] = unanswered();
        return result;
    }

  private:
    bool paced() const { return interval_ > 0; }
    uint64_t due(uint64_t request) const {
        return start_ + static_cast<uint64_t>(static_cast<double>(request) * interval_);
    }

    // Request k belongs to connection k mod n, so a slow connection delays its own requests and no others.
    void send_due(uint64_t now) {
        for (; due(next_) <= now && due(next_) < end_; ++next_) {
            Connection& connection = connections_[next_ % connections_.size()];
            if (connection.missing > 0) {
                ++connection.owed;
            } else {
                send_request(connection, due(next_));
            }
        }
    }

    void send_request(Connection& connection, uint64_t since) {
        static const char request[message_size] = {};
        if (::send(connection.socket.get(), request, sizeof request, MSG_NOSIGNAL) != sizeof request) fail("send");
        connection.missing = message_size;
        connection.since = since;
    }

    void collect(uint64_t until) {
        epoll_event events[64];
        const uint64_t now = now_nanoseconds();
        const uint64_t wait = until > now ? until - now : 0;
        const timespec timeout{.tv_sec = static_cast<time_t>(wait / 1'000'000'000),
                               .tv_nsec = static_cast<long>(wait % 1'000'000'000)};
        const int ready = ::epoll_pwait2(epoll_.get(), events, std::size(events), &timeout, nullptr);
        if (ready < 0 && errno != EINTR) fail("epoll_pwait2");
        for (int i = 0; i < ready; ++i)
            receive(connections_[events[i].data.u64]);
    }

    void receive(Connection& connection) {
        char reply[2 * message_size];
        const ssize_t got = ::recv(connection.socket.get(), reply, sizeof reply, 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got < 0) fail("recv");
        if (got == 0) throw Failure("a kept connection was closed");
        if (static_cast<size_t>(got) > connection.missing) throw Failure("more bytes came back than were sent");
        connection.missing -= static_cast<size_t>(got);
        if (connection.missing > 0) return;

        const uint64_t now = now_nanoseconds();
        if (connection.since >= counted_from_ && connection.since < end_) latencies_.record(now - connection.since);
        if (paced() && connection.owed > 0) {
            --connection.owed;
            const double step = interval_ * static_cast<double>(connections_.size());
            send_request(connection, connection.since + static_cast<uint64_t>(step));
        } else if (!paced() && now < end_) {
            send_request(connection, now);
        }
    }

    // What was due before the end counts even if its reply comes after it, or a stall would look like a short test.
    void collect_rest() {
        const uint64_t patience = now_nanoseconds() + 1'000'000'000;
        while (unanswered() > 0 && now_nanoseconds() < patience)
            collect(patience);
    }

    uint64_t unanswered() const {
        uint64_t count = 0;
        for (const Connection& connection : connections_)
            count += connection.owed + (connection.missing > 0 ? 1 : 0);
        return count;
    }

    const PingPong options_;
    const double interval_;  // nanoseconds between two requests; 0: closed loop
    Descriptor epoll_;
    std::vector<Connection> connections_;
    Histogram latencies_;
    uint64_t start_ = 0, counted_from_ = 0, end_ = 0;
    uint64_t next_ = 0;  // paced: the number of the request to send next
};

}  // namespace

nlohmann::json run_pingpong(const PingPong& options) {
    return PingPongRun(options).run();
}

}  // namespace marchproxy::bench
