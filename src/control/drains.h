// What is drained by hand, by name, for as long as nobody says otherwise: over reloads, names that resolve anew and hot
// upgrades.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "admin/view.h"
#include "model/snapshot.h"

namespace marchproxy::control {

class Drains {
  public:
    using Entry = std::pair<admin::Drainable, std::string>;

    void add(admin::Drainable what, const std::string& name) { entries_.emplace(what, name); }
    void remove(admin::Drainable what, const std::string& name) { entries_.erase({what, name}); }

    bool has(admin::Drainable what, const std::string& name) const { return entries_.contains({what, name}); }
    // It, its provider or its region.
    bool cover(const Path& path) const;
    // As it is configured, or as it resolves to.
    bool cover(const std::string& endpoint, const SocketAddress& address) const;

    // For a process that takes over; lines that mean nothing are left out when read.
    std::string to_text() const;
    static Drains from_text(std::string_view text);

    bool operator==(const Drains&) const = default;

  private:
    std::set<Entry> entries_;
};

}  // namespace marchproxy::control
