#include "stream/receive_buffer.h"

#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <limits>

namespace marchproxy::stream {

namespace {

// As <netinet/tcp.h> and <linux/tcp.h> do not go together; the kernel's numbers.
constexpr int window_clamp = 10, information = 11;
constexpr int buffer_lock = 72;  // SO_BUF_LOCK, since Linux 5.15

bool set(int descriptor, int level, int name, int value) {
    return setsockopt(descriptor, level, name, &value, sizeof value) == 0;
}

}  // namespace

std::optional<qos::StandingQueue::Buffer> receive_buffer(int descriptor) {
    std::array<uint32_t, SK_MEMINFO_VARS> memory{};
    socklen_t size = sizeof memory;
    if (getsockopt(descriptor, SOL_SOCKET, SO_MEMINFO, memory.data(), &size) != 0) return std::nullopt;
    tcp_info connection{};
    size = sizeof connection;
    if (getsockopt(descriptor, IPPROTO_TCP, information, &connection, &size) != 0) return std::nullopt;
    // The least round trip is all ones before the first sample.
    const uint32_t round_trip = connection.tcpi_min_rtt == ~uint32_t{0} ? connection.tcpi_rtt : connection.tcpi_min_rtt;
    return qos::StandingQueue::Buffer{.size = memory[SK_MEMINFO_RCVBUF],
                                      .used = memory[SK_MEMINFO_RMEM_ALLOC],
                                      .round_trip = std::chrono::microseconds(round_trip),
                                      .segment = connection.tcpi_advmss};
}

void set_receive_buffer(int descriptor, uint64_t size) {
    // The kernel doubles what it is asked for, and takes less where that is too much. With privileges it is not.
    const auto asked = static_cast<int>(std::min<uint64_t>(size / 2, std::numeric_limits<int>::max() / 2));
    if (asked > 0 && !set(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, asked)) set(descriptor, SOL_SOCKET, SO_RCVBUF, asked);
    int got = 0;
    socklen_t length = sizeof got;
    getsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &got, &length);
    if (asked == 0 || got / 2 < asked) {
        set(descriptor, SOL_SOCKET, buffer_lock, 0);
        return;
    }
    set(descriptor, IPPROTO_TCP, window_clamp, got);  // else the window stays what the first size allowed
}

}  // namespace marchproxy::stream
