// A clock that does not go back, made of one that may: threads read theirs at slightly different times, and a machine
// that was moved or suspended may set its clock back.
#pragma once

#include "model/units.h"

namespace marchproxy::qos {

class Monotonic {
  public:
    explicit Monotonic(TimePoint start) : last_(start) {}

    // Time since the start. Stands still while `now` lies a little behind what it was given before; further back is a
    // step of the clock, from where it goes on at once.
    Duration advance(TimePoint now) {
        if (now >= last_) {
            elapsed_ += now - last_;
            last_ = now;
        } else if (last_ - now > plausible_lag) {
            last_ = now;
        }
        return elapsed_;
    }

    Duration elapsed() const { return elapsed_; }

    // When the caller's clock will show this.
    TimePoint at(Duration elapsed) const {
        const Duration ahead = elapsed - elapsed_;
        return ahead > TimePoint::max() - last_ ? TimePoint::max() : last_ + ahead;
    }

  private:
    static constexpr Duration plausible_lag = std::chrono::seconds(1);

    TimePoint last_;
    Duration elapsed_{0};
};

}  // namespace marchproxy::qos
