// What a TCP connection has sent, what of that the kernel had to send again, and how long answers took.
#pragma once

#include <cstdint>
#include <optional>

namespace marchproxy::stream {

struct Losses {
    uint32_t segments = 0;  // with data, and the SYN
    uint32_t retransmissions = 0;
    uint32_t round_trip_us = 0;  // smoothed (RFC 6298)
};

// Nothing: it is no TCP socket, or no more.
std::optional<Losses> losses_of(int descriptor);

}  // namespace marchproxy::stream
