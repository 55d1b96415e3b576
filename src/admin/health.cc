#include "admin/health.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

namespace marchproxy::admin {

namespace {

std::string why_unusable(const telemetry::EndpointStatus& endpoint) {
    if (endpoint.draining) return "draining";
    if (endpoint.weight == 0) return "weight 0";
    if (endpoint.resolved.empty())
        return endpoint.last_error.empty() ? "its name has not resolved" : endpoint.last_error;
    return endpoint.last_error.empty() ? "down" : endpoint.last_error;
}

std::string describe(const telemetry::ServiceStatus& service) {
    if (service.endpoints.empty()) return fmt::format("service {}: no endpoint is configured", service.name);
    const telemetry::EndpointStatus& first = service.endpoints.front();
    const std::string others =
        service.endpoints.size() > 1 ? fmt::format(", and {} more", service.endpoints.size() - 1) : "";
    return fmt::format("service {}: no usable endpoint ({}: {}{})", service.name, first.address, why_unusable(first),
                       others);
}

}  // namespace

bool usable(const telemetry::EndpointStatus& endpoint) {
    return endpoint.up && !endpoint.draining && endpoint.weight > 0 && !endpoint.resolved.empty();
}

bool shown(const telemetry::ServiceStatus& service, const Snapshot* snapshot) {
    return service.listening || service.active_connections > 0 ||
           (snapshot != nullptr && snapshot->find_service(service.name) != nullptr);
}

std::unordered_map<std::string, PathReading> readings_by_path(const View& view) {
    std::unordered_map<std::string, PathReading> readings;
    for (PathReading& reading : view.path_readings())
        readings.emplace(reading.path, std::move(reading));
    return readings;
}

PathHealth path_health(const Status& status, const std::string& path) {
    PathHealth health{.draining = true};
    for (const telemetry::ServiceStatus& service : status.services) {
        for (const telemetry::EndpointStatus& endpoint : service.endpoints) {
            if (endpoint.path != path) continue;
            health.known = true;
            health.up = health.up || usable(endpoint);
            health.draining = health.draining && endpoint.draining;
            health.active_connections += endpoint.active_connections;
        }
        for (const telemetry::PathCounters& counters : service.paths) {
            if (counters.path != path) continue;
            health.received_bytes += counters.received_bytes;
            health.sent_bytes += counters.sent_bytes;
        }
    }
    health.draining = health.draining && health.known;
    return health;
}

std::vector<std::string> not_ready_because(const ProcessStatus& process, const Status& status,
                                           const Snapshot* snapshot) {
    if (process.state == ProcessState::starting || snapshot == nullptr) return {"the proxy is starting"};
    if (process.state == ProcessState::draining) return {"the proxy is draining: it ends when its connections have"};
    std::vector<std::string> reasons;
    for (const telemetry::ServiceStatus& service : status.services) {
        if (!service.problem.empty()) reasons.push_back(fmt::format("service {}: {}", service.name, service.problem));
        if (service.listening && std::none_of(service.endpoints.begin(), service.endpoints.end(), usable))
            reasons.push_back(describe(service));
    }
    return reasons;
}

}  // namespace marchproxy::admin
