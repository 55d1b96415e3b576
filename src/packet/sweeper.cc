#include "packet/sweeper.h"

#include <algorithm>

namespace marchproxy::packet {

Result<void> Sweeper::turn(Programs& programs, TimePoint now, const Take& take) {
    if (now < due_) return {};
    const uint32_t buckets = programs.flow_buckets(), piece = abi::sweep_buckets;
    const TimePoint begin = Clock::now();
    const auto swept = programs.sweep(next_, std::min(piece, buckets - next_));
    const auto taken = programs.take_reports(take);
    spent_ += Clock::now() - begin;
    next_ += piece;
    if (next_ >= buckets) {
        pass_ = std::max<Duration>(shortest_pass, spent_ * most_share);
        next_ = 0;
        spent_ = {};
    }
    const uint32_t pieces = (buckets + piece - 1) / piece;
    due_ = now + pass_ / std::max(pieces, 1u);
    if (!swept.ok()) return Error{swept.error()};
    if (!taken.ok()) return Error{taken.error()};
    return {};
}

Result<void> Sweeper::list(Programs& programs, uint32_t service, uint32_t limit, const Take& take,
                           const std::function<bool()>& between) {
    const uint32_t buckets = programs.flow_buckets();
    for (uint32_t first = 0; first < buckets && limit > 0; first += abi::sweep_buckets) {
        const auto swept =
            programs.sweep(first, std::min<uint32_t>(abi::sweep_buckets, buckets - first), service, limit);
        if (!swept.ok()) return Error{swept.error()};
        limit -= std::min<uint32_t>(limit, swept->listed);
        if (const auto taken = programs.take_reports(take); !taken.ok()) return Error{taken.error()};
        if (!between()) break;
    }
    return {};
}

}  // namespace marchproxy::packet
