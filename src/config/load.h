// From what the user wrote (a YAML file, environment variables, flags) to one validated Snapshot.
//
// Precedence: flags over environment over file over defaults. All problems are found in one go, each with its place.
// Input is hostile until proven otherwise: size, nesting and number of values are bounded, anchors, aliases, tags and
// second documents are refused, so that what a reader sees in the file is what is configured. Any thread; no state.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/snapshot.h"

namespace marchproxy::config {

struct Problem {
    std::string file;
    int line = 0, column = 0;  // from 1; 0: the whole file, or not from a file
    std::string key;           // "services[3].listen"; "environment LISTEN_PORT"; "flag --workers"
    std::string message;       // what is wrong and what would do
    bool operator==(const Problem&) const = default;
};

// "file:line:column: key: message", without the parts that are not known.
std::string to_string(const Problem& problem);

struct Sources {
    std::string file;                                // path; empty: none
    std::map<std::string, std::string> environment;  // all of environ; names that are not ours are passed over
    std::map<std::string, std::string> flags;        // key path -> text: "admin.port" -> "9000"
};

struct Loaded {
    Snapshot snapshot;  // usable only when ok(); version is 0: publishing counts it
    std::vector<Problem> problems;
    bool ok() const { return problems.empty(); }
};

Loaded load(const Sources& sources);

// The same with the file's text at hand, called `name` in problems. `sources.file` is not read.
Loaded load_text(std::string_view yaml, std::string_view name, const Sources& sources = {});

}  // namespace marchproxy::config
