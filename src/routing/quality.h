// What probes have shown of one way to one endpoint: how long an answer takes, how much that varies, how many get lost,
// and whether it is up.
//
// The round trip is smoothed as TCP's (RFC 6298, 1/8), its variation as RTP's jitter (RFC 3550, 6.4.1, 1/16), loss is
// that of the last `window` probes, or of those since it rose. What is typical is the median of the last `recent` round
// trips: a lone late answer is no reason to take another path. It falls when `fall` probes in a row were lost, and
// rises when `rise` in a row were answered. One that falls again and again has to prove itself longer: each fall within
// `memory` of the one before doubles what it takes to rise, up to 64 times.
//
// One thread; time is passed in.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <optional>

#include "model/units.h"

namespace marchproxy::routing {

struct Thresholds {
    uint32_t fall = 3, rise = 2;  // probes in a row
    bool operator==(const Thresholds&) const = default;
};

// What is known at one moment.
struct Reading {
    bool up = true;
    uint64_t probes = 0;                 // that came to an end
    std::optional<Duration> round_trip;  // smoothed; these three: none before the first answer
    std::optional<Duration> typical;     // median
    std::optional<Duration> least;       // of the last one to two minutes
    Duration jitter{};
    double loss_ratio = 0;
    std::optional<TimePoint> changed;  // when it last rose or fell; none: it never did
};

class Quality {
  public:
    static constexpr uint32_t recent = 25;   // round trips: five seconds of probes each 200 ms
    static constexpr uint32_t window = 128;  // probes
    static constexpr Duration memory = std::chrono::minutes(1);
    static constexpr uint32_t most_doublings = 6;

    // True: this made it up, or down.
    bool answered(Duration round_trip, const Thresholds& thresholds, TimePoint now) {
        remember(false);
        measure(std::max(round_trip, Duration(0)), now);
        lost_in_a_row_ = 0;
        if (answered_in_a_row_ < ~uint32_t{0}) ++answered_in_a_row_;
        if (up_ || answered_in_a_row_ < needed(thresholds)) return false;
        // What was lost while it was down says nothing about how it is now that it is back.
        lost_ = {};
        next_ = probes_ = 0;
        return change(now);
    }
    bool lost(const Thresholds& thresholds, TimePoint now) {
        remember(true);
        answered_in_a_row_ = 0;
        if (lost_in_a_row_ < ~uint32_t{0}) ++lost_in_a_row_;
        if (!up_ || lost_in_a_row_ < thresholds.fall) return false;
        const bool again = fell_ && now - *fell_ < memory;
        falls_ = again ? std::min(falls_ + 1, most_doublings) : 0;
        fell_ = now;
        return change(now);
    }

    // Until the first answer or the first fall it counts as up: new ways are used while they are found out about.
    bool up() const { return up_; }
    // Answers in a row that make it up again.
    uint32_t needed(const Thresholds& thresholds) const { return std::max(thresholds.rise, 1U) << falls_; }
    uint32_t answered_in_a_row() const { return answered_in_a_row_; }

    // None before the first answer.
    std::optional<Duration> round_trip() const { return measured_ ? std::optional(smoothed_) : std::nullopt; }
    // Of the last one to two minutes.
    Duration least_round_trip() const { return std::min(least_, least_before_); }
    Duration jitter() const { return jitter_; }
    double loss_ratio() const {
        int lost = 0;
        for (const uint64_t word : lost_)
            lost += std::popcount(word);
        return probes_ == 0 ? 0 : static_cast<double>(lost) / probes_;
    }
    Duration typical() const {
        std::array<Duration, recent> sorted = last_few_;
        const auto end = sorted.begin() + std::min<uint64_t>(answers_, recent);
        const auto middle = sorted.begin() + (end - sorted.begin()) / 2;
        std::nth_element(sorted.begin(), middle, end);
        return *middle;
    }
    Reading reading() const {
        Reading reading{.up = up_,
                        .probes = ended_,
                        .round_trip = round_trip(),
                        .typical = {},
                        .least = {},
                        .jitter = jitter_,
                        .loss_ratio = loss_ratio(),
                        .changed = changed_};
        if (measured_) {
            reading.typical = typical();
            reading.least = least_round_trip();
        }
        return reading;
    }

  private:
    void remember(bool lost) {
        uint64_t& word = lost_[next_ / 64];
        const uint64_t bit = uint64_t{1} << (next_ % 64);
        word = lost ? word | bit : word & ~bit;
        next_ = (next_ + 1) % window;
        probes_ = std::min(probes_ + 1, window);
        ++ended_;
    }

    void measure(Duration round_trip, TimePoint now) {
        last_few_[answers_++ % recent] = round_trip;
        if (!measured_) {
            measured_ = true;
            smoothed_ = last_ = least_ = least_before_ = round_trip;
            least_since_ = now;
            return;
        }
        smoothed_ += (round_trip - smoothed_) / 8;
        const Duration difference = round_trip > last_ ? round_trip - last_ : last_ - round_trip;
        jitter_ += (difference - jitter_) / 16;
        last_ = round_trip;
        if (now - least_since_ >= memory) {
            least_before_ = least_;
            least_ = round_trip;
            least_since_ = now;
        }
        least_ = std::min(least_, round_trip);
    }

    bool change(TimePoint now) {
        up_ = !up_;
        changed_ = now;
        return true;
    }

    Duration smoothed_{0}, jitter_{0}, last_{0}, least_{0}, least_before_{0};
    TimePoint least_since_{};
    std::optional<TimePoint> fell_, changed_;
    std::array<Duration, recent> last_few_{};
    uint64_t answers_ = 0, ended_ = 0;
    std::array<uint64_t, window / 64> lost_{};  // bit: that probe was
    uint32_t next_ = 0, probes_ = 0;
    uint32_t answered_in_a_row_ = 0, lost_in_a_row_ = 0;
    uint32_t falls_ = 0;  // one soon after the other
    bool up_ = true, measured_ = false;
};

}  // namespace marchproxy::routing
