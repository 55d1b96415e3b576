// How fast something comes and goes, from counters that are looked at now and then. One thread at a time.
#pragma once

#include <algorithm>
#include <cstdint>

#include "model/units.h"

namespace marchproxy::telemetry {

class Meter {
  public:
    // Bytes up to now; `elapsed` since the last look. What is offered is delivered, waits or is dropped.
    void look(uint64_t offered, uint64_t delivered, Duration elapsed) {
        const double seconds = std::chrono::duration<double>(elapsed).count();
        offered_ = static_cast<double>(offered - std::min(offered, offered_bytes_)) * 8 / seconds;
        delivered_ = static_cast<double>(delivered - std::min(delivered, delivered_bytes_)) * 8 / seconds;
        offered_bytes_ = offered;
        delivered_bytes_ = delivered;
    }

    // Bits a second, between the last two looks.
    double offered() const { return offered_; }
    double delivered() const { return delivered_; }

  private:
    uint64_t offered_bytes_ = 0, delivered_bytes_ = 0;
    double offered_ = 0, delivered_ = 0;
};

}  // namespace marchproxy::telemetry
