// When which part of the flow tables is swept: piece by piece, so that a pass is over in a few seconds and takes no
// more than a share of one core, however large the tables. One thread at a time.
#pragma once

#include <functional>

#include "model/units.h"
#include "packet/programs.h"

namespace marchproxy::packet {

class Sweeper {
  public:
    using Take = std::function<void(const abi::flow_report&)>;

    TimePoint due() const { return due_; }

    // Sweeps one piece, when it is due, and hands over what ended. Error: the kernel refused; the next turn tries
    // again.
    Result<void> turn(Programs& programs, TimePoint now, const Take& take);

    // Goes through the whole tables at once and hands over, beside what ended meanwhile, at most `limit` living flows
    // of the service, or with abi::list_all of any. `between` runs after each piece; false: the
    // programs may be gone, and the listing ends there.
    static Result<void> list(Programs& programs, uint32_t service, uint32_t limit, const Take& take,
                             const std::function<bool()>& between);

  private:
    // Closed flows go after 5 s, reset ones after 2 (abi/packet.h); records may come as much later.
    static constexpr Duration shortest_pass = std::chrono::seconds(2);
    static constexpr int most_share = 50;  // of a core, one part in so many

    uint32_t next_ = 0;  // bucket
    Duration spent_{};   // in this pass
    Duration pass_ = shortest_pass;
    TimePoint due_{};
};

}  // namespace marchproxy::packet
