// What a simulation has shown: as text, as JSON and as a plot. `baseline`: the same scenario by round robin, to say
// what the policy saves and what is paid for that.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "simulation/simulate.h"

namespace marchproxy::simulation {

std::string report(const Scenario& scenario, const Results& results, const Results& baseline);
nlohmann::json report_json(const Scenario& scenario, const Results& results, const Results& baseline);

// SVG: above, the new connections of each path over time, outages shaded; below, the mean time to an answer.
std::string plot(const Scenario& scenario, const Results& results, const Results& baseline);

}  // namespace marchproxy::simulation
