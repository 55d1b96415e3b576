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
    std::string what;  // "kernel 6.1", "CAP_BPF", "helper bpf_loop at XDP"
    bool available = false;
    std::string reason;  // what was found; never empty
    std::string advice;  // what to do; empty when available
};

std::vector<Capability> probe_capabilities();

// All of it is there.
bool usable(const std::vector<Capability>& capabilities);

// "CAP_BPF: ...; ...": what is missing, one sentence each; empty: nothing.
std::string missing(const std::vector<Capability>& capabilities);

// The judgements that need no kernel. `release`: of uname(2). `effective`: a bit for each capability(7).
Capability judge_kernel(std::string_view release);
std::vector<Capability> judge_privileges(uint64_t effective);
// `answer` of a probe: 1 there, 0 not, below 0 the errno of asking.
Capability judge_probe(std::string what, int answer, std::string_view use);

// Whether programs of this type (enum bpf_prog_type) may call a helper (enum bpf_func_id): 1 or 0. Where nothing may be
// loaded the answer says nothing.
int ask_for_helper(uint32_t type, uint32_t helper);

// The calling thread's effective capabilities, a bit each (capget(2)).
uint64_t effective_capabilities();

}  // namespace marchproxy::packet
