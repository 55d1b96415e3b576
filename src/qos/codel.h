// CoDel, controlled delay (RFC 8289): a queue may be long for a moment, but not stay long. Says of each packet that
// leaves a queue whether its sender is to be told, by a mark (RFC 3168) or, where that cannot be read, by losing it.
//
// State of one queue; time is passed in and does not go back.
#pragma once

#include <cmath>
#include <cstdint>

#include "model/units.h"

namespace marchproxy::qos {

struct CoDelSettings {
    Duration target = std::chrono::milliseconds(5);      // a standing queue longer than this is too long
    Duration interval = std::chrono::milliseconds(100);  // for so long it may be: about the longest round trip
};

class CoDel {
  public:
    // For the packet at the head, which waited for `sojourn`; `last`: no more than a full packet is left, which no
    // sender can do anything about. True: signal its sender. A caller that drops it then asks about the next one.
    bool signals(Duration sojourn, bool last, Duration now, const CoDelSettings& settings) {
        const bool overdue = stays_long(sojourn, last, now, settings);
        if (signalling_) {
            if (!overdue) signalling_ = false;
            if (!overdue || now < next_) return false;
            next_ += spacing(++count_, settings);
            return true;
        }
        if (!overdue) return false;
        signalling_ = true;
        // Where it had to be told not long ago, the rate that was found then is a better start than the slowest.
        const uint32_t grown = count_ - count_before_;
        count_ = grown > 1 && now - next_ < 16 * settings.interval ? grown : 1;
        count_before_ = count_;
        next_ = now + spacing(count_, settings);
        return true;
    }

    // It has nothing to remember but how often it had to signal: as good as new while delay stays short.
    bool idle() const { return above_until_ == Duration{0} && !signalling_; }

  private:
    static Duration spacing(uint32_t count, const CoDelSettings& settings) {
        const auto interval = static_cast<float>(settings.interval.count());
        return Duration(static_cast<int64_t>(interval / std::sqrt(static_cast<float>(count))));
    }

    bool stays_long(Duration sojourn, bool last, Duration now, const CoDelSettings& settings) {
        if (sojourn < settings.target || last) {
            above_until_ = Duration{0};
            return false;
        }
        if (above_until_ == Duration{0}) {
            above_until_ = now + settings.interval;
            return false;
        }
        return now >= above_until_;
    }

    Duration above_until_{0};  // when it will have been too long for an interval; 0: it is not
    Duration next_{0};         // when the next one is to be signalled
    uint32_t count_ = 0;       // signals since it began, and when it began last
    uint32_t count_before_ = 0;
    bool signalling_ = false;
};

}  // namespace marchproxy::qos
