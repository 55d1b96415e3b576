// Which path leads to an address: the one with the longest prefix that holds it. Immutable once built.
//
// Sorted prefixes by length: a lookup is a binary search for each length in use, and a hundred thousand prefixes are
// built in milliseconds.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "model/address.h"

namespace marchproxy {

struct Path;

class PathTable {
  public:
    PathTable() = default;
    explicit PathTable(const std::vector<Path>& paths);

    // The name of the path; empty: none leads there.
    const std::string& path_to(const IpAddress& address) const;

  private:
    struct Entry {
        IpAddress network;
        uint32_t path;
    };
    std::map<uint8_t, std::vector<Entry>, std::greater<>> by_length_;
    std::vector<std::string> names_;
};

}  // namespace marchproxy
