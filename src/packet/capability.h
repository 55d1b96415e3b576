// Whether this process, on this machine, can use the packet plane, and what is missing where it cannot: `doctor`,
// `status` and the choice of `plane: auto` all read the same list. Loads and removes tiny programs (bpf(2)); takes
// milliseconds. Thread: the control thread, at start.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace marchproxy::packet {

struct Capability {
    std::string what;  // "kernel 6.1", "CAP_BPF", "helper bpf_loop"
    bool available = false;
    bool needed = true;  // false: the packet plane works without it, less well
    std::string reason;  // what was found; never empty
    std::string advice;  // what to do; empty when available
};

std::vector<Capability> probe_capabilities();

// All that is needed is there.
bool usable(const std::vector<Capability>& capabilities);

// "CAP_BPF: ... ; ...": what is needed and missing, one sentence each; empty: nothing.
std::string missing(const std::vector<Capability>& capabilities);

// The judgements that need no kernel. `release`: of uname(2). `effective`: a bit for each capability(7).
Capability judge_kernel(std::string_view release);
std::vector<Capability> judge_privileges(uint64_t effective);

// The calling thread's effective capabilities, a bit each (capget(2)).
uint64_t effective_capabilities();

}  // namespace marchproxy::packet
