// What is asked whether it is there.
#pragma once

#include <optional>
#include <string>

#include "model/snapshot.h"

namespace marchproxy::probe {

struct Target {
    SocketAddress address;   // where the probe goes, by its own port where the settings have one
    ProbeSettings settings;  // kind, times and what is expected; its port is in `address`
    Egress egress;           // of probes
    std::string host;        // whom http asks for
    // A port that refuses is an answer of its host too: an endpoint of UDP that is asked by TCP.
    bool refusal_answers = false;
    std::string path;  // name of a Path, for logs; empty: none
    bool operator==(const Target&) const = default;
};

}  // namespace marchproxy::probe
