// What the stream plane tells about itself: plain values, taken at one moment, for the admin API and the metrics.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "telemetry/status.h"

namespace marchproxy::stream {

struct WorkerStatus {
    unsigned index = 0;
    uint64_t active_connections = 0;
    uint64_t loops = 0, events = 0;  // how well the loop batches
    uint64_t bulk_directions = 0;    // directions that splice at the moment
    uint64_t user_memory_bytes = 0;  // connection slabs, buffers, spilled bytes
};

struct Status {
    std::vector<telemetry::ServiceStatus> services;
    std::vector<WorkerStatus> workers;
    uint64_t descriptors_used = 0, descriptors_limit = 0;
    bool accepting = true;
    std::vector<std::string> notes;  // what cannot work here, in words: "splice: pipe limit reached, copying"
};

}  // namespace marchproxy::stream
