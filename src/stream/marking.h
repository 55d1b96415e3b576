// DSCP on sockets: what they send with, and what came in. ECN's two bits are the kernel's (TCP) or go with each
// datagram (stream/datagrams.h).
#pragma once

#include <cstdint>
#include <optional>

namespace marchproxy::stream {

// Everything the socket sends from now on; of a listener, also its answers and the sockets that it accepts.
void mark(int descriptor, bool is_v4, uint8_t dscp);

// Has a UDP socket report with each datagram what it was sent with, and those that a TCP listener accepts remember it.
void report_marks(int descriptor, bool is_v4, bool wanted);

// Of the packet that completed an accepted connection's handshake; none: it was not remembered.
std::optional<uint8_t> arrived_mark(int descriptor, bool is_v4);

}  // namespace marchproxy::stream
