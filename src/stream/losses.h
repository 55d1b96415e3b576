// What a TCP connection has sent, and what of that the kernel had to send again.
#pragma once

#include <cstdint>
#include <optional>

namespace marchproxy::stream {

struct Losses {
    uint32_t segments = 0;  // with data, and the SYN
    uint32_t retransmissions = 0;
};

// Nothing: it is no TCP socket, or no more.
std::optional<Losses> losses_of(int descriptor);

}  // namespace marchproxy::stream
