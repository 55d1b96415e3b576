// The process's own limits. Thread: the control thread, before anything else runs.
#pragma once

#include <cstdint>
#include <string>

namespace marchproxy::control {

// Below this the number of connections a proxy usually sees comes close to the limit.
inline constexpr uint64_t comfortable_descriptors = 65'536;

struct DescriptorLimit {
    uint64_t descriptors = 0;
    std::string note;  // what to do when it is low; empty: it is not
};

// Raises the soft limit of open files to the hard one (setrlimit(2), RLIMIT_NOFILE).
DescriptorLimit raise_descriptor_limit();

// What the note says about a limit. Pure.
std::string note_on(uint64_t descriptors);

}  // namespace marchproxy::control
