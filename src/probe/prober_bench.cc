// What probing costs: 5,000 targets each 200 ms from one thread, as the share of a core that the thread uses. The
// targets are this host's own: what their side of the kernel does, it does in the prober's system calls, and is counted
// with it.
#include <benchmark/benchmark.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <stdexcept>
#include <thread>

#include "probe/prober.h"

namespace {

using namespace marchproxy;

// Whatever address of 127.0.0.0/8 is asked for: one listener that hangs up, one socket that echoes.
class Peer {
  public:
    Peer() {
        sockaddr_storage address;
        socklen_t size = SocketAddress{IpAddress::any_v4(), 0}.to(address);
        if (bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(listener_, 4096) != 0)
            throw std::runtime_error("bind");
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
        port_ = SocketAddress::from(address).port;
        if (bind(echo_, reinterpret_cast<sockaddr*>(&address), size) != 0) throw std::runtime_error("bind");
        threads_[0] = std::thread([this] {
            for (int connection; (connection = accept(listener_, nullptr, nullptr)) >= 0 || !over_;)
                close(connection);
        });
        threads_[1] = std::thread([this] {
            // Answers come from the address that was asked: the control data says which, and goes back as it came.
            const int one = 1;
            setsockopt(echo_, IPPROTO_IP, IP_PKTINFO, &one, sizeof one);
            // Not to be what loses probes.
            const int buffer = 16 << 20;
            setsockopt(echo_, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer);
            while (!over_) {
                char buffer[64], control[256];
                sockaddr_storage from;
                iovec piece{buffer, sizeof buffer};
                msghdr message{.msg_name = &from,
                               .msg_namelen = sizeof from,
                               .msg_iov = &piece,
                               .msg_iovlen = 1,
                               .msg_control = control,
                               .msg_controllen = sizeof control,
                               .msg_flags = 0};
                const ssize_t got = recvmsg(echo_, &message, 0);
                piece.iov_len = got > 0 ? static_cast<size_t>(got) : 0;
                if (got > 0) sendmsg(echo_, &message, 0);
            }
        });
    }
    ~Peer() {
        over_ = true;
        shutdown(listener_, SHUT_RDWR);
        shutdown(echo_, SHUT_RDWR);
        for (std::thread& thread : threads_)
            thread.join();
        close(listener_);
        close(echo_);
    }
    uint16_t port() const { return port_; }

  private:
    int listener_ = socket(AF_INET, SOCK_STREAM, 0), echo_ = socket(AF_INET, SOCK_DGRAM, 0);
    uint16_t port_ = 0;
    std::atomic<bool> over_{false};
    std::thread threads_[2];
};

void probe_all(benchmark::State& state, ProbeKind kind) {
    Peer peer;
    telemetry::Log log{LogLevel::error, LogFormat::text, [](std::string_view) {}};
    probe::Prober prober(log, [] {});
    std::vector<probe::Wanted> wanted;
    for (uint32_t i = 0; i < 5000; ++i) {
        probe::Target target{
            .address = {IpAddress::v4(0x7f010001 + i), kind == ProbeKind::icmp ? uint16_t{0} : peer.port()},
            .settings = {},
            .egress = {},
            .host = "a.example",
            .path = {}};
        target.settings.kind = kind;
        wanted.push_back({target, {std::make_shared<routing::EndpointState>()}});
    }
    prober.follow(wanted);
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    double cpu = 0, elapsed = 0, sent = 0, lost = 0;
    for (auto _ : state) {
        const probe::Status before = prober.status();
        const TimePoint began = Clock::now();
        std::this_thread::sleep_for(std::chrono::seconds(2));
        const probe::Status after = prober.status();
        elapsed += std::chrono::duration<double>(Clock::now() - began).count();
        cpu += std::chrono::duration<double>(after.cpu - before.cpu).count();
        sent += static_cast<double>(after.sent - before.sent);
        lost += static_cast<double>(after.lost - before.lost);
    }
    state.counters["core_share"] = cpu / elapsed;
    state.counters["probes_per_second"] = sent / elapsed;
    state.counters["microseconds_a_probe"] = 1e6 * cpu / sent;
    state.counters["lost"] = lost / sent;
}

// The system calls of a tcp probe and nothing else, one after the other. With a socket for each, and with one for all
// that is disconnected and connected again.
template <bool reused>
void handshake(benchmark::State& state) {
    Peer peer;
    const auto opened = [] {
        const int descriptor = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        const linger abort{.l_onoff = 1, .l_linger = 0};
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &abort, sizeof abort);
        return descriptor;
    };
    const sockaddr nobody{.sa_family = AF_UNSPEC, .sa_data = {}};
    const int kept = opened();
    uint32_t host = 0;
    for (auto _ : state) {
        sockaddr_storage address;
        const socklen_t size = SocketAddress{IpAddress::v4(0x7f010001 + host++ % 5000), peer.port()}.to(address);
        const int descriptor = reused ? kept : opened();
        benchmark::DoNotOptimize(connect(descriptor, reinterpret_cast<sockaddr*>(&address), size));
        if (reused)
            connect(descriptor, &nobody, sizeof nobody);
        else
            close(descriptor);
    }
    close(kept);
}
BENCHMARK(handshake<false>)->Iterations(50000)->Unit(benchmark::kMicrosecond);
BENCHMARK(handshake<true>)->Iterations(50000)->Unit(benchmark::kMicrosecond);

const bool registered = [] {
    for (const ProbeKind kind : {ProbeKind::tcp, ProbeKind::udp, ProbeKind::icmp})
        benchmark::RegisterBenchmark(("probe_5000/" + std::string(name_of(kind))).c_str(), probe_all, kind)
            ->Iterations(2)
            ->Unit(benchmark::kMillisecond);
    return true;
}();

}  // namespace
