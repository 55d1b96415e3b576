// What the packet plane tells about itself: plain values, taken at one moment, for the admin API and the metrics.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "abi/verdicts.h"
#include "telemetry/status.h"

namespace marchproxy::packet {

struct InterfaceStatus {
    std::string name;
    std::string way;      // as in title_of(); empty: not attached
    std::string problem;  // why not
    std::string queues;   // how packets get to where they wait for their turn; empty: none does
    uint32_t program_id = 0;
    bool adopted = false;              // an earlier process had attached it
    std::vector<std::string> refused;  // the better ways, and why each was not taken
};

struct Status {
    bool running = false;
    std::string reason;  // why it runs, or why not
    std::vector<InterfaceStatus> interfaces;
    bool took_over = false;      // the flows of an earlier process
    uint64_t flow_capacity = 0;  // flows at one time
    uint64_t memory_bytes = 0;   // the kernel's, for the flow tables
    std::vector<telemetry::ServiceStatus> services;
    std::array<uint64_t, verdict_count> dropped{};  // packets of which it was not known yet whose they are
    std::vector<std::string> notes;                 // what is not as asked for, in words
};

}  // namespace marchproxy::packet
