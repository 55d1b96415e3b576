#include "control/limits.h"

#include <fmt/format.h>
#include <sys/resource.h>

namespace marchproxy::control {

std::string note_on(uint64_t descriptors) {
    if (descriptors >= comfortable_descriptors) return {};
    return fmt::format(
        "descriptors: the process may open {}, which is about {} connections (two each); raise it with LimitNOFILE= in "
        "the systemd unit, docker's --ulimit nofile, or `ulimit -Hn`",
        descriptors, descriptors / 2);
}

DescriptorLimit raise_descriptor_limit() {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return {};
    const rlimit raised{limit.rlim_max, limit.rlim_max};
    if (limit.rlim_cur < limit.rlim_max && ::setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
    return {limit.rlim_cur, note_on(limit.rlim_cur)};
}

}  // namespace marchproxy::control
