// What the choose step looks at of an endpoint while the proxy runs. Outlives snapshots; changing it rebuilds nothing.
//
// Threads: any thread may read and write any of it at any time.
#pragma once

#include <atomic>
#include <cstdint>

#include "routing/health.h"

namespace marchproxy::routing {

struct EndpointState {
    // Connections or sessions, over all workers. It changes with each of them, so it has a cache line of its own.
    alignas(64) std::atomic<uint64_t> active{0};
    alignas(64) std::atomic<bool> draining{false};
    Health health;
};

}  // namespace marchproxy::routing
