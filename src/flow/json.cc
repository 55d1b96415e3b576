#include "flow/json.h"

#include <fmt/format.h>

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
    return fmt::format("{}: {}{}, {}", policy, origin.endpoint, over, tries);
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
    };
    if (record.state == State::closed) json["end_reason"] = name_of(record.end_reason);
    return json;
}

}  // namespace marchproxy::flow
