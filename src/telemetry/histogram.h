// Latency histogram, one writer (a worker), any readers: buckets at 1, 2.5 and 5 times each power of ten from 1 us to
// 100 s, relaxed single-writer atomics, so that observing costs a few nanoseconds and no locked instruction.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

#include "model/units.h"

namespace marchproxy::telemetry {

// Upper bounds in nanoseconds; the last bucket, beyond them, is +Inf.
inline constexpr std::array<uint64_t, 25> histogram_bounds = {
    1'000,          2'500,          5'000,          10'000,         25'000,        50'000,        100'000,
    250'000,        500'000,        1'000'000,      2'500'000,      5'000'000,     10'000'000,    25'000'000,
    50'000'000,     100'000'000,    250'000'000,    500'000'000,    1'000'000'000, 2'500'000'000, 5'000'000'000,
    10'000'000'000, 25'000'000'000, 50'000'000'000, 100'000'000'000};

struct HistogramValues {
    std::array<uint64_t, histogram_bounds.size() + 1> counts{};  // not cumulative
    uint64_t sum_nanoseconds = 0;

    HistogramValues& operator+=(const HistogramValues& other) {
        for (size_t i = 0; i < counts.size(); ++i)
            counts[i] += other.counts[i];
        sum_nanoseconds += other.sum_nanoseconds;
        return *this;
    }
};

// A counter with one writer: a plain add in the writer, untorn for readers.
class Counter {
  public:
    void add(uint64_t amount = 1) {
        value_.store(value_.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
    }
    uint64_t get() const { return value_.load(std::memory_order_relaxed); }

  private:
    std::atomic<uint64_t> value_{0};
};

class Histogram {
  public:
    void observe(Duration duration) {
        const uint64_t ns = duration.count() < 0 ? 0 : static_cast<uint64_t>(duration.count());
        size_t bucket = 0;
        while (bucket < histogram_bounds.size() && ns > histogram_bounds[bucket])
            ++bucket;
        counts_[bucket].add();
        sum_.add(ns);
    }
    HistogramValues values() const {
        HistogramValues result;
        for (size_t i = 0; i < counts_.size(); ++i)
            result.counts[i] = counts_[i].get();
        result.sum_nanoseconds = sum_.get();
        return result;
    }

  private:
    std::array<Counter, histogram_bounds.size() + 1> counts_;
    Counter sum_;
};

}  // namespace marchproxy::telemetry
