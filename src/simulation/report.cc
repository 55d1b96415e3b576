#include "simulation/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "admin/table.h"

namespace marchproxy::simulation {

namespace {

using admin::human_bytes;
using admin::Table;
using Json = nlohmann::json;

double seconds(Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

double percent(double part, double whole) {
    return whole > 0 ? 100 * part / whole : 0;
}

std::string milliseconds(double value) {
    return fmt::format("{:.1f} ms", 1000 * value);
}

// "38% less" or "5% more" than the baseline.
std::string compared(double value, double baseline) {
    if (baseline <= 0) return value > 0 ? "more" : "the same";
    const double change = percent(value - baseline, baseline);
    return change == 0 ? "the same" : fmt::format("{:.1f}% {}", std::abs(change), change < 0 ? "less" : "more");
}

std::string paths_table(const Results& results) {
    Table table({{"PATH"},
                 {"FLOWS", Table::Align::right},
                 {"SHARE", Table::Align::right},
                 {"TRAFFIC", Table::Align::right},
                 {"DOLLARS", Table::Align::right},
                 {"FELL", Table::Align::right},
                 {"LEFT ALONE", Table::Align::right}});
    for (const PathResult& path : results.paths)
        table.add({path.path, std::to_string(path.flows),
                   fmt::format("{:.1f}%", percent(static_cast<double>(path.flows), static_cast<double>(results.flows))),
                   human_bytes(static_cast<double>(path.bytes)), fmt::format("{:.2f}", path.dollars),
                   std::to_string(path.falls), std::to_string(path.ejected)});
    return table.text();
}

std::string failovers_text(const Results& results) {
    if (results.failovers.empty()) return "no outage\n";
    std::vector<double> times;
    uint64_t in_vain = 0;
    for (const Failover& failover : results.failovers) {
        times.push_back(seconds(failover.left_after));
        in_vain += failover.flows;
    }
    std::sort(times.begin(), times.end());
    return fmt::format(
        "{} outages; the last new connection there {} after the beginning, {} at most; {} connections went there in "
        "vain\n",
        times.size(), milliseconds(times[times.size() / 2]), milliseconds(times.back()), in_vain);
}

Json results_json(const Results& results) {
    Json paths = Json::array(), failovers = Json::array();
    for (const PathResult& path : results.paths)
        paths.push_back({{"path", path.path},
                         {"flows", path.flows},
                         {"bytes", path.bytes},
                         {"dollars", path.dollars},
                         {"falls", path.falls},
                         {"ejected", path.ejected}});
    for (const Failover& failover : results.failovers)
        failovers.push_back({{"path", failover.path},
                             {"at_seconds", seconds(failover.at)},
                             {"left_after_seconds", seconds(failover.left_after)},
                             {"flows", failover.flows}});
    return {{"policy", name_of(results.policy)},
            {"flows", results.flows},
            {"failed", results.failed},
            {"retried", results.retried},
            {"moves", results.moves},
            {"dollars", results.dollars},
            {"mean_answer_seconds", results.mean_answer},
            {"median_answer_seconds", results.median_answer},
            {"p99_answer_seconds", results.p99_answer},
            {"paths", std::move(paths)},
            {"failovers", std::move(failovers)}};
}

}  // namespace

std::string report(const Scenario& scenario, const Results& results, const Results& baseline) {
    std::string text = fmt::format("{}: {} simulated, {} new connections by policy {}, seed {}\n", scenario.name,
                                   to_string(scenario.duration), results.flows, name_of(results.policy), scenario.seed);
    if (!scenario.about.empty()) text += scenario.about + '\n';
    text += '\n' + paths_table(results) + '\n' + failovers_text(results);
    text += fmt::format(
        "{} connections found nobody, {} were tried elsewhere unseen; {} times other paths were preferred\n",
        results.failed, results.retried, results.moves);
    text += fmt::format("an answer took {} on average, {} in the median, {} at the 99th percentile\n",
                        milliseconds(results.mean_answer), milliseconds(results.median_answer),
                        milliseconds(results.p99_answer));
    text +=
        fmt::format("round robin: ${:.2f}, {} on average; {} costs ${:.2f}, {}, and takes {}\n", baseline.dollars,
                    milliseconds(baseline.mean_answer), name_of(results.policy), results.dollars,
                    compared(results.dollars, baseline.dollars), compared(results.mean_answer, baseline.mean_answer));
    return text;
}

Json report_json(const Scenario& scenario, const Results& results, const Results& baseline) {
    return {{"scenario", scenario.name},
            {"duration_seconds", seconds(scenario.duration)},
            {"seed", scenario.seed},
            {"results", results_json(results)},
            {"round_robin", results_json(baseline)}};
}

}  // namespace marchproxy::simulation
