#include <arpa/inet.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <vector>

#include "modes.h"
#include "sockets.h"

namespace marchproxy::bench {
namespace {

struct Attempt {
    Descriptor socket;
    uint64_t since = 0;
    size_t missing = 0;
    bool sent = false;
};

class FreshRun {
  public:
    explicit FreshRun(const Fresh& options) : options_(options), epoll_(make_epoll()), attempts_(options.concurrency) {}

    nlohmann::json run() {
        const uint64_t start = now_nanoseconds();
        counted_from_ = start + static_cast<uint64_t>(options_.timing.warmup * 1e9);
        end_ = counted_from_ + static_cast<uint64_t>(options_.timing.seconds * 1e9);
        for (size_t i = 0; i < attempts_.size(); ++i)
            open(i);
        last_progress_ = start;
        while (now_nanoseconds() < end_)
            collect();
        nlohmann::json result = latency_json(latencies_);
        result["connections_per_second"] = static_cast<double>(latencies_.count()) / options_.timing.seconds;
        result["errors"] = errors_;
        return result;
    }

  private:
    void open(size_t index) {
        Attempt& attempt = attempts_[index];
        attempt.since = now_nanoseconds();
        attempt.missing = message_size;
        attempt.sent = false;
        attempt.socket = Descriptor(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        const int descriptor = attempt.socket.get();
        if (descriptor < 0) fail("socket");
        bind_source(descriptor);
        const auto* target = reinterpret_cast<const sockaddr*>(&options_.target);
        if (::connect(descriptor, target, sizeof options_.target) < 0 && errno != EINPROGRESS) fail("connect");
        send_request(attempt);  // over loopback the handshake is mostly done when connect returns
        watch(epoll_.get(), descriptor, EPOLLIN | EPOLLET | (attempt.sent ? 0u : EPOLLOUT), index);
    }

    void bind_source(int descriptor) {
        if (options_.sources < 2) return;
        sockaddr_in source{};
        source.sin_family = AF_INET;
        source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (next_source_++ % options_.sources));
        set_option(descriptor, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
        if (::bind(descriptor, reinterpret_cast<const sockaddr*>(&source), sizeof source) < 0) fail("bind");
    }

    void send_request(Attempt& attempt) {
        static const char request[message_size] = {};
        const ssize_t sent = ::send(attempt.socket.get(), request, sizeof request, MSG_NOSIGNAL);
        if (sent == static_cast<ssize_t>(sizeof request)) {
            attempt.sent = true;
        } else if (sent >= 0 || (errno != EAGAIN && errno != ECONNREFUSED && errno != ECONNRESET && errno != EPIPE)) {
            fail("send");  // the refused and the reset show as an event and are counted there
        }
    }

    void collect() {
        epoll_event events[64];
        const int ready = ::epoll_wait(epoll_.get(), events, std::size(events), 100);
        if (ready < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < ready; ++i)
            advance(events[i].data.u64);
        if (ready > 0) {
            last_progress_ = now_nanoseconds();
        } else if (now_nanoseconds() - last_progress_ > 5'000'000'000) {
            throw Failure("no connection has moved for 5 s");
        }
    }

    void advance(size_t index) {
        Attempt& attempt = attempts_[index];
        if (!attempt.sent) {
            send_request(attempt);
            if (attempt.sent) return;
        }
        char reply[2 * message_size];
        const ssize_t got = ::recv(attempt.socket.get(), reply, sizeof reply, 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got > 0 && static_cast<size_t>(got) < attempt.missing) {
            attempt.missing -= static_cast<size_t>(got);
            return;
        }
        attempt.socket.reset();
        finish(attempt, got == static_cast<ssize_t>(attempt.missing));
        open(index);
    }

    void finish(const Attempt& attempt, bool good) {
        const uint64_t now = now_nanoseconds();
        if (!good) {
            ++errors_;
            if (errors_ > 1000 && latencies_.count() == 0) throw Failure("every connection is refused or reset");
        } else if (now >= counted_from_ && now < end_) {
            latencies_.record(now - attempt.since);
        }
    }

    const Fresh options_;
    Descriptor epoll_;
    std::vector<Attempt> attempts_;
    Histogram latencies_;
    uint64_t counted_from_ = 0, end_ = 0, last_progress_ = 0;
    uint64_t errors_ = 0;
    unsigned next_source_ = 0;
};

}  // namespace

nlohmann::json run_fresh(const Fresh& options) {
    return FreshRun(options).run();
}

}  // namespace marchproxy::bench
