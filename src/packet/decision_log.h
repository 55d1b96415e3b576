// The last decisions of a service and since when each holds: the kernel chooses for a flow, and when that ends it is
// only known when it began.
//
// One thread at a time.
#pragma once

#include <algorithm>
#include <deque>
#include <utility>

#include "model/decision.h"
#include "model/units.h"

namespace marchproxy::packet {

class DecisionLog {
  public:
    static constexpr size_t most = 128;  // some 100 KB; twenty minutes where each ten seconds have another

    void add(WallTime since, DecisionPointer decision) {
        if (!log_.empty() && log_.back().second == decision) return;
        log_.emplace_back(since, std::move(decision));
        if (log_.size() > most) log_.pop_front();
    }

    // Null: it is not known any more, or there was none.
    DecisionPointer at(WallTime time) const {
        const auto next = std::upper_bound(log_.begin(), log_.end(), time,
                                           [](WallTime asked, const auto& entry) { return asked < entry.first; });
        return next == log_.begin() ? nullptr : std::prev(next)->second;
    }

  private:
    std::deque<std::pair<WallTime, DecisionPointer>> log_;
};

}  // namespace marchproxy::packet
