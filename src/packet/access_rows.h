// For tests: access lists, and what they say of an address as they read.
#pragma once

#include <algorithm>

#include "model/snapshot.h"

namespace marchproxy::packet::testing {

inline bool admits(const Access& access, const IpAddress& address) {
    const auto holds = [&](const Prefix& listed) { return listed.contains(address); };
    if (std::any_of(access.deny.begin(), access.deny.end(), holds)) return false;
    return access.allow.empty() || std::any_of(access.allow.begin(), access.allow.end(), holds);
}

inline Prefix prefix(std::string_view text) {
    return *Prefix::parse(text);
}

}  // namespace marchproxy::packet::testing
