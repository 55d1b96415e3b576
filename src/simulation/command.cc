#include "simulation/command.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <ostream>

#include "simulation/report.h"

namespace marchproxy::simulation {

int run(const Command& command, std::ostream& out, std::ostream& error) {
    Read read = read_scenario(command.scenario);
    for (const config::Problem& problem : read.problems)
        error << config::to_string(problem) << '\n';
    if (!read.ok()) return 2;
    Scenario& scenario = read.scenario;
    if (command.seed) scenario.seed = *command.seed;
    if (scenario.name.empty()) scenario.name = command.scenario;
    const Results results = simulate(scenario);
    const Results baseline = simulate(scenario, Policy::round_robin);
    out << (command.json ? report_json(scenario, results, baseline).dump() + '\n' : report(scenario, results, baseline))
        << std::flush;
    if (command.plot.empty()) return 0;
    std::ofstream file(command.plot);
    file << plot(scenario, results, baseline) << std::flush;
    if (file) return 0;
    error << "marchproxy-l3l4 simulate: " << command.plot << " cannot be written: " << std::strerror(errno) << '\n';
    return 1;
}

}  // namespace marchproxy::simulation
