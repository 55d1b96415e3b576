// The read commands of the command line: status, services, flows, config and top ask a running proxy's admin API;
// doctor looks at this machine, at what a configuration wants of it, and at the proxy that runs.
#pragma once

#include <iosfwd>

namespace CLI {
class App;
}

namespace marchproxy::admin {

// Adds the commands to `app`. The one that is chosen runs when `app` parses; it writes to `out` and `error` and sets
// `exit_status`: 0 fine, 1 it failed, 2 the configuration is wrong. All references must outlive `app`.
void add_read_commands(CLI::App& app, std::ostream& out, std::ostream& error, int& exit_status);

}  // namespace marchproxy::admin
