// Latencies with a bounded relative error, in the manner of Gil Tene's HdrHistogram: 256 linear steps an octave, so a
// quantile is at most 1/256 (0.4 %) above the true value, whatever its size. Nanoseconds; not thread-safe.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

namespace marchproxy::bench {

class Histogram {
  public:
    void record(uint64_t nanoseconds) {
        ++counts_[index_of(std::min(nanoseconds, highest))];
        ++total_;
        maximum_ = std::max(maximum_, nanoseconds);
    }

    uint64_t count() const { return total_; }
    uint64_t maximum() const { return maximum_; }

    // The smallest recorded value (rounded up to its bucket's end) that `fraction` of all values do not exceed.
    // 0 when nothing was recorded.
    uint64_t quantile(double fraction) const {
        const auto rank =
            std::max<uint64_t>(1, static_cast<uint64_t>(std::ceil(fraction * static_cast<double>(total_))));
        uint64_t seen = 0;
        for (size_t i = 0; i < counts_.size(); ++i) {
            seen += counts_[i];
            if (seen >= rank) return std::min(highest_of(i), maximum_);
        }
        return maximum_;
    }

  private:
    static constexpr unsigned step_bits = 8;  // 256 steps an octave
    static constexpr uint64_t steps = 1u << step_bits;
    static constexpr unsigned value_bits = 40;  // 18 minutes; longer ones count as that
    static constexpr uint64_t highest = (1ull << value_bits) - 1;

    // Values below 2 * steps have a bucket of their own; above, each octave has `steps` buckets.
    static size_t index_of(uint64_t value) {
        const int shift = std::max(0, static_cast<int>(std::bit_width(value)) - static_cast<int>(step_bits) - 1);
        return static_cast<size_t>(shift) * steps + (value >> shift);
    }
    static uint64_t highest_of(size_t index) {
        if (index < 2 * steps) return index;
        const uint64_t shift = index / steps - 1;
        return ((index - shift * steps + 1) << shift) - 1;
    }

    std::vector<uint64_t> counts_ = std::vector<uint64_t>((value_bits - step_bits + 1) * steps);
    uint64_t total_ = 0;
    uint64_t maximum_ = 0;
};

}  // namespace marchproxy::bench
