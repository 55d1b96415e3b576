// What this process uses, from /proc (man proc(5)).
#pragma once

#include <cstdint>

namespace marchproxy::telemetry {

struct ProcessUsage {
    double cpu_seconds = 0;  // user and system
    uint64_t resident_bytes = 0, virtual_bytes = 0;
    uint64_t open_descriptors = 0, most_descriptors = 0;
    double start_seconds = 0;  // since 1970
};

ProcessUsage process_usage();

}  // namespace marchproxy::telemetry
