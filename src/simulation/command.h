// `marchproxy-l3l4 simulate`: reads a scenario, plays it and says what it has shown.
#pragma once

#include <iosfwd>
#include <optional>
#include <string>

namespace marchproxy::simulation {

struct Command {
    std::string scenario;  // file
    std::string plot;      // file for the SVG; empty: none
    bool json = false;
    std::optional<uint64_t> seed;  // instead of the scenario's
};

// The exit status: 0 fine, 1 the plot could not be written, 2 the scenario is wrong.
int run(const Command& command, std::ostream& out, std::ostream& error);

}  // namespace marchproxy::simulation
