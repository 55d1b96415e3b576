#include "stream/losses.h"

// The kernel's own header: the C library's tcp_info ends before these counters.
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstddef>

namespace marchproxy::stream {

std::optional<Losses> losses_of(int descriptor) {
    tcp_info info{};
    socklen_t size = sizeof info;
    if (getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return std::nullopt;
    if (size < offsetof(tcp_info, tcpi_data_segs_out) + sizeof info.tcpi_data_segs_out) return std::nullopt;
    return Losses{.segments = info.tcpi_data_segs_out + 1,
                  .retransmissions = info.tcpi_total_retrans,
                  .round_trip_us = info.tcpi_rtt};
}

}  // namespace marchproxy::stream
