#include <sys/epoll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "modes.h"
#include "sockets.h"

namespace marchproxy::bench {
namespace {

inline constexpr size_t batch_size = 64;
inline constexpr uint64_t given_up_after = 20'000'000;  // nanoseconds without a reply: what is under way is lost

struct Client {
    Descriptor socket;
    unsigned under_way = 0;
    uint64_t last_reply = 0;
};

// Buffers and headers for one recvmmsg or sendmmsg on a connected socket.
class Batch {
  public:
    Batch() {
        for (size_t i = 0; i < batch_size; ++i) {
            vectors_[i] = {.iov_base = payloads_[i].data(), .iov_len = message_size};
            headers_[i].msg_hdr.msg_iov = &vectors_[i];
            headers_[i].msg_hdr.msg_iovlen = 1;
        }
    }
    void stamp(uint32_t client) {
        for (auto& payload : payloads_)
            std::memcpy(payload.data(), &client, sizeof client);
    }
    uint32_t stamp_of(size_t index) const {
        uint32_t client = 0;
        std::memcpy(&client, payloads_[index].data(), sizeof client);
        return client;
    }
    unsigned length_of(size_t index) const { return headers_[index].msg_len; }
    int send(int descriptor, unsigned count) { return ::sendmmsg(descriptor, headers_.data(), count, MSG_DONTWAIT); }
    int receive(int descriptor) { return ::recvmmsg(descriptor, headers_.data(), batch_size, MSG_DONTWAIT, nullptr); }

  private:
    std::array<std::array<char, message_size>, batch_size> payloads_{};
    std::array<iovec, batch_size> vectors_{};
    std::array<mmsghdr, batch_size> headers_{};
};

class UdpRun {
  public:
    explicit UdpRun(const Udp& options)
        : options_(options),
          window_(options.window == 0 ? 0 : std::max(1u, options.window / options.clients)),
          epoll_(make_epoll()),
          clients_(options.clients) {
        for (uint32_t i = 0; i < clients_.size(); ++i)
            open(i);
    }

    nlohmann::json run() {
        const uint64_t start = now_nanoseconds();
        const uint64_t counted_from = start + static_cast<uint64_t>(options_.timing.warmup * 1e9);
        const uint64_t end = counted_from + static_cast<uint64_t>(options_.timing.seconds * 1e9);
        for (Client& client : clients_)
            client.last_reply = start;
        work_until(counted_from);
        const Totals before = totals_;
        work_until(end);
        const Totals counted = totals_ - before;
        while (receive_ready(100) > 0) {
        }
        if (totals_.received == 0) throw Failure("no datagram has come back");
        const auto replies = static_cast<double>(counted.received);
        return {{"packets_per_second", replies / options_.timing.seconds},
                {"sent_per_second", static_cast<double>(counted.sent) / options_.timing.seconds},
                {"loss", 1 - static_cast<double>(totals_.received) / static_cast<double>(totals_.sent)},
                {"wrong", totals_.wrong}};
    }

  private:
    struct Totals {
        uint64_t sent = 0, received = 0;
        uint64_t wrong = 0;  // of another client, or of another size
        Totals operator-(const Totals& other) const {
            return {sent - other.sent, received - other.received, wrong - other.wrong};
        }
    };

    void open(uint32_t index) {
        Client& client = clients_[index];
        client.socket = Descriptor(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        const int descriptor = client.socket.get();
        if (descriptor < 0) fail("socket");
        set_option(descriptor, SOL_SOCKET, SO_RCVBUF, 4 << 20);
        const auto* target = reinterpret_cast<const sockaddr*>(&options_.target);
        if (::connect(descriptor, target, sizeof options_.target) < 0) fail("connect");
        watch(epoll_.get(), descriptor, EPOLLIN, index);
    }

    void work_until(uint64_t end) {
        uint64_t checked = 0;
        for (uint64_t now = now_nanoseconds(); now < end; now = now_nanoseconds()) {
            if (now - checked >= given_up_after / 4) {
                checked = now;
                give_up_on_lost(now);
                for (uint32_t i = 0; i < clients_.size(); ++i)
                    fill(i);
            }
            if (window_ == 0) {
                for (uint32_t i = 0; i < clients_.size(); ++i)
                    fill(i);
            }
            receive_ready(window_ == 0 ? 0 : 5);
        }
    }

    void give_up_on_lost(uint64_t now) {
        for (Client& client : clients_) {
            if (client.last_reply + given_up_after < now) client.under_way = 0;
        }
    }

    void fill(uint32_t index) {
        Client& client = clients_[index];
        unsigned room = window_ == 0 ? batch_size : window_ - std::min(window_, client.under_way);
        if (room == 0) return;
        outgoing_.stamp(index);
        while (room > 0) {
            const int sent = outgoing_.send(client.socket.get(), std::min<unsigned>(room, batch_size));
            if (sent < 0 && (errno == EAGAIN || errno == ECONNREFUSED || errno == ENOBUFS)) return;
            if (sent < 0) fail("sendmmsg");
            room -= static_cast<unsigned>(sent);
            client.under_way += static_cast<unsigned>(sent);
            totals_.sent += static_cast<uint64_t>(sent);
        }
    }

    int receive_ready(int milliseconds) {
        epoll_event events[64];
        const int ready = ::epoll_wait(epoll_.get(), events, std::size(events), milliseconds);
        if (ready < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < ready; ++i) {
            const auto index = static_cast<uint32_t>(events[i].data.u64);
            receive(index);
            if (window_ != 0 && milliseconds < 100) fill(index);
        }
        return ready;
    }

    void receive(uint32_t index) {
        Client& client = clients_[index];
        const int got = incoming_.receive(client.socket.get());
        if (got < 0 && (errno == EAGAIN || errno == ECONNREFUSED)) return;
        if (got < 0) fail("recvmmsg");
        client.last_reply = now_nanoseconds();
        client.under_way -= std::min(client.under_way, static_cast<unsigned>(got));
        for (int i = 0; i < got; ++i) {
            const bool ours = incoming_.length_of(i) == message_size && incoming_.stamp_of(i) == index;
            ++(ours ? totals_.received : totals_.wrong);
        }
    }

    const Udp options_;
    const unsigned window_;  // a client's; 0: flood
    Descriptor epoll_;
    std::vector<Client> clients_;
    Batch outgoing_, incoming_;
    Totals totals_;
};

}  // namespace

nlohmann::json run_udp(const Udp& options) {
    return UdpRun(options).run();
}

}  // namespace marchproxy::bench
