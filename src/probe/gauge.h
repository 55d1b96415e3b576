// What is known of a target, for whoever asks. Written by the prober's thread, read by any.
#pragma once

#include <mutex>
#include <string>

#include "routing/quality.h"

namespace marchproxy::probe {

class Gauge {
  public:
    void write(const routing::Reading& reading, const std::string& problem) {
        std::lock_guard lock(mutex_);
        reading_ = reading;
        problem_ = problem;
    }
    routing::Reading reading() const {
        std::lock_guard lock(mutex_);
        return reading_;
    }
    // What was wrong with the last probe, in words; empty: nothing.
    std::string problem() const {
        std::lock_guard lock(mutex_);
        return problem_;
    }

  private:
    mutable std::mutex mutex_;
    routing::Reading reading_;
    std::string problem_;
};

}  // namespace marchproxy::probe
