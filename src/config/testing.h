// What the room's tests share.
#pragma once

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "config/load.h"
#include "repository.h"

namespace marchproxy::config {

inline std::string contents(const std::filesystem::path& file) {
    std::ostringstream text;
    text << std::ifstream(file).rdbuf();
    return text.str();
}

// All problems, one a line.
inline std::string listed(const Loaded& loaded) {
    std::string all;
    for (const Problem& problem : loaded.problems)
        all += to_string(problem) + "\n";
    return all;
}

}  // namespace marchproxy::config
