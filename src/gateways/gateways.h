// Leaving by a path's gateway, whatever the machine's routes say: of each gateway the kernel has a routing table with a
// default route by it, and a rule that leads there what carries its mark (ip-rule(8), SO_MARK in socket(7)). While the
// gateway cannot be reached nothing leaves by another way: the table says that everything is unreachable.
//
// Tables and marks are 0x4d500001 to 0x4d5000ff, rules and routes have protocol 77. What a killed process has left is
// used again by the next; end() takes away what this one has used. Needs CAP_NET_ADMIN.
//
// Threads: notes() on any, the others on one.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "model/address.h"
#include "model/result.h"
#include "model/units.h"

namespace marchproxy::gateways {

class Gateways {
  public:
    static constexpr Duration interval = std::chrono::seconds(2);
    static constexpr uint32_t first_mark = 0x4d500001, last_mark = 0x4d5000ff;

    // Returns the marks of those that the kernel leads by; notes() says what is wrong with the others. Gateways that
    // are not wanted any more stay until the end: connections may still leave by them.
    std::map<IpAddress, uint32_t> follow(const std::set<IpAddress>& wanted);

    // Puts right what others have changed, as a link that went down and came up again. At `due()`.
    void turn(TimePoint now);
    TimePoint due() const { return marks_.empty() ? TimePoint::max() : turned_ + interval; }

    // Takes away the rules and tables of this process; not where another has taken over.
    void end();

    std::vector<std::string> notes() const;  // what does not work, and what to do

  private:
    struct Way {
        uint32_t mark = 0;
        bool leads = false;   // what carries the mark is led into the table
        std::string problem;  // empty: none
    };
    uint32_t free_mark(const std::map<IpAddress, uint32_t>& left) const;
    void establish(const IpAddress& gateway, Way& way);

    mutable std::mutex mutex_;  // over this
    std::map<IpAddress, Way> marks_;
    TimePoint turned_{};
};

// Takes away all that processes have left, as `detach` does. Returns how many tables there were.
Result<size_t> remove_all();

}  // namespace marchproxy::gateways
