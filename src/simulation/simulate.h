// Plays a scenario with the proxy's own routing code (routing/course.h, selector.h, quality.h, health.h) on a clock of
// its own: days in seconds, and the same each time for the same seed.
//
// What is simulated around it: probes as the prober sends them; new connections in Poisson's time, their sizes
// exponential; connects into a path that is dark wait until probes find it dead, or connect_timeout, and go on
// elsewhere.
#pragma once

#include <string>
#include <vector>

#include "simulation/scenario.h"
#include "simulation/weather.h"

namespace marchproxy::simulation {

inline constexpr size_t buckets = 288;  // of the timeline: five minutes of a day

struct PathResult {
    std::string path;
    uint64_t flows = 0, bytes = 0;
    double dollars = 0;
    uint64_t falls = 0;    // times that probes found it down
    uint64_t ejected = 0;  // times that it was left alone for what connections showed
};

struct Failover {
    std::string path;
    Duration at{};          // when the outage began
    Duration left_after{};  // the last new connection went there so long after; 0: none did
    uint64_t flows = 0;     // that went there in vain
};

struct Bucket {
    std::vector<uint64_t> flows;  // by path
    double answer_sum = 0;        // seconds
    uint64_t answered = 0;
};

struct Results {
    Policy policy{};
    std::vector<PathResult> paths;
    std::vector<Failover> failovers;  // an entry an outage
    std::vector<Bucket> timeline;
    uint64_t flows = 0;
    uint64_t failed = 0;   // found no endpoint that took them
    uint64_t retried = 0;  // had to be tried elsewhere, unseen
    uint64_t moves = 0;    // times that other paths than before were preferred
    double dollars = 0;
    // Seconds to the first answer of a short exchange, waiting and losses with it.
    double mean_answer = 0, median_answer = 0, p99_answer = 0;
};

// `policy`: instead of the service's own, to compare with.
Results simulate(const Scenario& scenario, std::optional<Policy> policy = std::nullopt);

}  // namespace marchproxy::simulation
