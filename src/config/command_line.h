// The flags of `run` and of what reads the same configuration, made from the options table.
#pragma once

#include <map>
#include <string>

#include "config/load.h"

namespace CLI {
class App;
}

namespace marchproxy::config {

// Filled while CLI11 parses; must outlive the App.
struct FlagValues {
    std::string file;                          // -c, --config
    std::map<std::string, std::string> flags;  // those given: key path -> text, not checked yet
};

void add_run_flags(CLI::App& command, FlagValues& values);
void add_file_flag(CLI::App& command, FlagValues& values);  // -c, --config alone

// All of environ, and the flags; the file is that of --config, else that of MARCHPROXY_CONFIG.
Sources sources_of(const FlagValues& values);

}  // namespace marchproxy::config
