// The signals that steer the process, as a descriptor to poll (signalfd(2)), so that no code runs in a handler.
// Thread: the main thread, before any other exists: threads inherit the mask.
#pragma once

#include <csignal>
#include <optional>

#include "model/descriptor.h"

namespace marchproxy::control {

class Signals {
  public:
    // Blocks SIGHUP, SIGTERM, SIGINT and SIGUSR2 and ignores SIGPIPE, until the process is gone: one that comes while
    // it ends must not end it with another status.
    Signals();
    Signals(const Signals&) = delete;
    Signals& operator=(const Signals&) = delete;

    int descriptor() const { return descriptor_.get(); }
    std::optional<int> next();                               // the number of one that came
    const sigset_t& mask_before() const { return before_; }  // for child processes

  private:
    sigset_t before_;
    Descriptor descriptor_;
};

}  // namespace marchproxy::control
