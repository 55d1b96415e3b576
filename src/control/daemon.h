// The process around the planes: builds the parts and hands them over, and then does what signals and the admin API
// ask.
//
//   SIGHUP            reload; wrong input leaves the running configuration in place
//   SIGTERM, SIGINT   drain, then exit 0; the second one ends at once
//   SIGUSR2           replace this process by the binary now on disk, listening sockets handed over
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "config/load.h"

namespace marchproxy::control {

struct DaemonOptions {
    config::Sources sources;
    std::vector<std::string> arguments;  // of the process: a successor is started with the same
    // Called once, when it is ready, where the embedded default runs and no predecessor has told the user already.
    std::function<void(const Snapshot&)> welcome;
};

class Daemon {
  public:
    explicit Daemon(DaemonOptions options);

    // The process's life. Returns its exit status: 0 drained, 1 it could not start, 2 the configuration is wrong.
    // Call once, from the main thread, before any other thread exists: it blocks the signals above.
    int run();

  private:
    class Implementation;
    const DaemonOptions options_;
};

}  // namespace marchproxy::control
