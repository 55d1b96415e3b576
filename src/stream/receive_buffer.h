// The kernel's receive buffer of a TCP socket, where its size is not left to the kernel.
#pragma once

#include <optional>

#include "qos/standing_queue.h"

namespace marchproxy::stream {

// None: the kernel does not say.
std::optional<qos::StandingQueue::Buffer> receive_buffer(int descriptor);

// Gives it this size, by the kernel's count. Where that is more than the system allows (net.core.rmem_max), or 0, the
// size is the kernel's business again.
void set_receive_buffer(int descriptor, uint64_t size);

}  // namespace marchproxy::stream
