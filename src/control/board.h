// What the control thread tells the admin threads about the process: one value under one lock.
// Threads: every function from any thread.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "admin/view.h"

namespace marchproxy::control {

class Board {
  public:
    Board();

    void set_state(admin::ProcessState state);
    void published(SnapshotPointer snapshot);
    void reload_succeeded();
    void reload_failed(std::string why);

    // Notes stay in `status` for as long as what they tell of lasts. They come under a topic: a later list of the same
    // topic replaces the earlier one, an empty one ends it.
    void note(const std::string& topic, std::vector<std::string> notes);

    SnapshotPointer snapshot() const;
    admin::ProcessStatus status() const;

  private:
    mutable std::mutex mutex_;
    admin::ProcessStatus status_;
    std::map<std::string, std::vector<std::string>> notes_;
    SnapshotPointer snapshot_;
    const TimePoint started_ = Clock::now();
};

}  // namespace marchproxy::control
