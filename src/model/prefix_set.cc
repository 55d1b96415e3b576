#include "model/prefix_set.h"

#include <algorithm>

namespace marchproxy {

PrefixSet::Number PrefixSet::number_of(const IpAddress& address) {
    Number number = 0;
    for (const uint8_t byte : address.bytes)
        number = number << 8 | byte;
    return number;
}

PrefixSet::PrefixSet(std::span<const Prefix> prefixes) {
    const Number first_v4 = number_of(IpAddress::v4(0)), last_v4 = number_of(IpAddress::v4(UINT32_MAX));
    std::vector<Range> ranges;
    for (const Prefix& prefix : prefixes) {
        const Number first = number_of(prefix.ip);
        const Number last = prefix.length == 0 ? ~Number{0} : first | ((Number{1} << (128 - prefix.length)) - 1);
        if (first < first_v4 && last_v4 <= last) {  // IPv6, around the block in which IPv4 is held
            ranges.push_back({first, first_v4 - 1});
            if (last_v4 < last) ranges.push_back({last_v4 + 1, last});
        } else {
            ranges.push_back({first, last});
        }
    }
    std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) { return a.first < b.first; });
    for (const Range& range : ranges) {
        const bool touches = !ranges_.empty() && (range.first == 0 || range.first - 1 <= ranges_.back().last);
        if (touches) {
            ranges_.back().last = std::max(ranges_.back().last, range.last);
        } else {
            ranges_.push_back(range);
        }
    }
}

bool PrefixSet::contains(const IpAddress& address) const {
    if (ranges_.empty()) return false;
    const Number number = number_of(address);
    const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), number,
                                        [](Number value, const Range& range) { return value < range.first; });
    return after != ranges_.begin() && number <= std::prev(after)->last;
}

AccessList::AccessList(const Access& access) : allow_(access.allow), deny_(access.deny) {}

}  // namespace marchproxy
