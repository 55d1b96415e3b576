#include "flow/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "model/rfc3339.h"

namespace marchproxy::flow {

namespace {

bool reached(const Record& record) {
    return record.endpoint.port != 0;
}

std::string endpoint_of(const Record& record) {
    return reached(record) ? to_string(record.endpoint) : record.origin->endpoint;
}

const Decision::Candidate* winner_of(const Record& record) {
    if (!record.decision) return nullptr;
    const auto& candidates = record.decision->candidates;
    const auto found = std::find_if(candidates.begin(), candidates.end(), [&](const Decision::Candidate& candidate) {
        return *candidate.endpoint == record.origin->endpoint && *candidate.path == record.origin->path;
    });
    return found == candidates.end() ? nullptr : &*found;
}

nlohmann::json known(float value) {
    if (std::isnan(value)) return nullptr;
    // As many digits as a float has, so that 0.09 does not become 0.09000000357627869.
    return std::stod(fmt::format("{}", value));
}

nlohmann::json candidates_of(const Decision* decision) {
    nlohmann::json all = nlohmann::json::array();
    if (!decision) return all;
    for (const Decision::Candidate& candidate : decision->candidates)
        all.push_back({{"path", *candidate.path},
                       {"endpoint", *candidate.endpoint},
                       {"up", candidate.up},
                       {"rtt_seconds", known(candidate.round_trip)},
                       {"cost_per_gb", known(candidate.cost_per_gb)},
                       {"score", known(candidate.score)},
                       {"share", known(candidate.share)},
                       {"reason", *candidate.reason}});
    return all;
}

}  // namespace

std::string_view name_of(State state) {
    switch (state) {
        case State::connecting:
            return "connecting";
        case State::active:
            return "active";
        case State::closed:
            return "closed";
    }
    return "?";
}

std::string decision_of(const Record& record) {
    const Origin& origin = *record.origin;
    if (record.attempts == 0) return "refused before an endpoint was chosen";
    const std::string policy(name_of(origin.policy));
    const std::string tries = record.attempts == 1 ? "1 attempt" : fmt::format("{} attempts", record.attempts);
    if (record.state == State::connecting) return fmt::format("{}: connecting, {}", policy, tries);
    if (!reached(record)) return fmt::format("{}: no endpoint reached, {}", policy, tries);
    const std::string over = origin.path.empty() ? "" : fmt::format(" over {}", origin.path);
    const Decision::Candidate* winner = winner_of(record);
    return fmt::format("{}: {}{}, {}{}", policy, origin.endpoint, over, tries,
                       winner ? ": it " + *winner->reason : std::string());
}

nlohmann::json to_json(const Record& record) {
    const Origin& origin = *record.origin;
    nlohmann::json json = {
        {"service", origin.service},
        {"plane", record.origin->plane},
        {"protocol", name_of(origin.protocol)},
        {"client", to_string(record.client)},
        {"endpoint", endpoint_of(record)},
        {"path", origin.path},
        {"received_bytes", record.received_bytes},
        {"sent_bytes", record.sent_bytes},
        {"start", rfc3339(record.start)},
        {"duration_seconds", std::chrono::duration<double>(record.duration).count()},
        {"state", name_of(record.state)},
        {"end_reason", nullptr},
        {"priority", name_of(origin.priority)},
        {"decision", decision_of(record)},
        {"candidates", candidates_of(record.decision.get())},
        {"other_candidates", record.decision ? record.decision->others : 0},
    };
    if (record.state == State::closed) json["end_reason"] = name_of(record.end_reason);
    return json;
}

}  // namespace marchproxy::flow
