// What is usable at the moment, judged from the plane's status: for /readyz, the metrics and the API alike.
#pragma once

#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "admin/view.h"

namespace marchproxy::admin {

// Takes new connections: it is up, its name has resolved, it has weight and is not draining.
bool usable(const telemetry::EndpointStatus& endpoint);

// Configured, or removed with connections left.
bool shown(const telemetry::ServiceStatus& service, const Snapshot* snapshot);

struct PathHealth {
    bool known = false;     // an endpoint uses the path
    bool up = false;        // one of them is usable
    bool draining = false;  // all of them drain
    uint64_t active_connections = 0, received_bytes = 0, sent_bytes = 0;
};
PathHealth path_health(const Status& status, const std::string& path);

std::unordered_map<std::string, PathReading> readings_by_path(const View& view);

// Why the proxy should get no new traffic, in words; empty: it is ready.
std::vector<std::string> not_ready_because(const ProcessStatus& process, const Status& status,
                                           const Snapshot* snapshot);

}  // namespace marchproxy::admin
