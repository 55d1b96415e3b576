// Who sends a socket that many targets share far more than it was asked for is not heard for a while: the kernel drops
// it by a filter of classic BPF (socket(7), SO_ATTACH_FILTER), before it takes the room of the others' answers.
//
// One thread.
#pragma once

#include <map>
#include <optional>
#include <unordered_map>

#include "model/address.h"
#include "model/units.h"

namespace marchproxy::probe {

class FloodGuard {
  public:
    // Of answers that come late, or twice, there are fewer: one for each probe.
    static constexpr unsigned most_a_second = 1000;
    static constexpr Duration time_out = std::chrono::seconds(10);
    static constexpr size_t most_shut_out = 64;

    // The socket is of one family, and outlives this.
    FloodGuard(int descriptor, bool v4) : descriptor_(descriptor), v4_(v4) {}

    // Something of `from` answered nothing. 0: `from` is not heard from now on; errno: it was to be, but the kernel
    // takes no filter, and everybody is heard.
    std::optional<int> unasked(const IpAddress& from, TimePoint now);
    // Hears those again whose time is over.
    void let_in(TimePoint now);
    bool shuts_out(const IpAddress& from) const { return shut_out_.contains(from); }

  private:
    int filter();

    int descriptor_;
    bool v4_;
    TimePoint since_{};                             // what is counted
    std::unordered_map<IpAddress, unsigned> sent_;  // of those that nobody asked, in that second
    std::map<IpAddress, TimePoint> shut_out_;       // until when
};

}  // namespace marchproxy::probe
