// Every configuration key, in one table (options.def). The parser, the check for unknown keys, the command line, the
// environment, the effective configuration and the reference page are all made from it: a new key is one row there.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "model/snapshot.h"

namespace marchproxy::config {

enum class Reload : uint8_t {
    live,             // reaches running connections too
    new_connections,  // running ones keep what they began with
    restart,          // takes a new process: SIGUSR2 or a restart
};

struct Option {
    std::string key;               // "stream.workers", "services[].endpoints[].weight"
    std::string_view flag;         // "-p,--listen-port"; empty: none
    std::string_view environment;  // "LISTEN_PORT"; several: comma separated, the first that is set wins
    std::string type;              // what a user writes: "duration", "true | false", "tcp | udp"
    std::string default_text;      // as written in YAML
    std::string range;             // "1..65535"; empty: all of the type
    std::string_view documentation;
    Reload reload;
    std::string_view feature;  // named where this version may lack it; empty: always there
    bool required = false;     // within its list element
    bool secret = false;       // never printed
    bool boolean = false;      // a flag that needs no argument
    bool list = false;         // of scalars: comma separated in variables
    bool elements = false;     // a list of maps, whose keys are rows of their own
};

// In the order of the table, which is that of the reference page.
std::vector<Option> options();

// The MARCHPROXY_ variable of a key: "stream.idle_timeout" -> "MARCHPROXY_STREAM__IDLE_TIMEOUT". List elements are
// numbered from 0: "MARCHPROXY_SERVICES__0__LISTEN", shown here as "MARCHPROXY_SERVICES__N__LISTEN".
std::string environment_name(std::string_view key);

// docs/reference/configuration.md.
std::string reference_markdown();

// The keys of reload rule `restart` whose values differ: what a reload into `next` leaves as it is until a restart.
std::vector<std::string> restart_needed(const Snapshot& running, const Snapshot& next);

}  // namespace marchproxy::config
