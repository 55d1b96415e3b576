// Why connections of a moment went where they went: who could have had them, as it looked then. Made once for all of
// them and shared by their flow records; its texts are shared with the decisions before it.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace marchproxy {

struct Decision {
    using Text = std::shared_ptr<const std::string>;  // never null
    static constexpr float unknown = std::numeric_limits<float>::quiet_NaN();
    static constexpr size_t most_candidates = 8;  // that are told of

    struct Candidate {
        Text path, endpoint;  // as configured
        Text reason;          // for or against it
        float round_trip = unknown, cost_per_gb = unknown, score = unknown;
        float share = 0;  // of new connections
        bool up = true;
    };
    std::vector<Candidate> candidates;  // the best first
    uint32_t others = 0;                // that are not told of
};

using DecisionPointer = std::shared_ptr<const Decision>;  // null: nothing steers the service
using DecisionsByService = std::map<std::string, DecisionPointer>;

}  // namespace marchproxy
