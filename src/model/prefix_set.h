// Many address ranges asked as one question.
//
// Immutable after construction: any number of threads may ask at once.
#pragma once

#include <span>
#include <vector>

#include "model/address.h"
#include "model/snapshot.h"

namespace marchproxy {

// The union of prefixes, as sorted disjoint ranges: a look-up is one binary search, however many prefixes there are.
// As with Prefix::contains, an IPv6 prefix holds no IPv4 address.
class PrefixSet {
  public:
    PrefixSet() = default;
    explicit PrefixSet(std::span<const Prefix> prefixes);

    bool contains(const IpAddress& address) const;
    bool empty() const { return ranges_.empty(); }

  private:
    __extension__ using Number = unsigned __int128;  // an address as a number, so that ranges compare
    struct Range {
        Number first, last;  // both inside
    };
    static Number number_of(const IpAddress& address);

    std::vector<Range> ranges_;
};

// A service's access list: what is denied is refused, and where anything is allowed, everything else is.
class AccessList {
  public:
    AccessList() = default;  // admits everybody
    explicit AccessList(const Access& access);

    bool admits(const IpAddress& address) const {
        return !deny_.contains(address) && (allow_.empty() || allow_.contains(address));
    }

  private:
    PrefixSet allow_, deny_;
};

}  // namespace marchproxy
