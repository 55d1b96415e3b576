// Which path leads to an address: the one with the longest prefix that holds it; and which has a name. Immutable once
// built.
//
// Sorted prefixes by length: a lookup is a binary search for each length in use, and a hundred thousand prefixes are
// built in milliseconds.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
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
    // Where among the paths the one of that name is.
    std::optional<size_t> index_of(std::string_view name) const;

  private:
    struct Entry {
        IpAddress network;
        uint32_t path;
    };
    std::map<uint8_t, std::vector<Entry>, std::greater<>> by_length_;
    std::vector<std::string> names_;
    std::vector<uint32_t> by_name_;  // what names_ has, in their order
};

}  // namespace marchproxy
