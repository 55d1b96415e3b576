// What a service's traffic looks like to qos: by direction and priority.
//
// Threads: control and admin threads, under the plane's lock.
#pragma once

#include <vector>

#include "stream/state.h"
#include "telemetry/status.h"

namespace marchproxy::stream {

// Every direction and priority, without what is configured.
std::vector<telemetry::QosStatus> qos_classes(const ServiceState& state);

// Brings the service's meters up to date; `elapsed` since the last time.
void measure(ServiceState& state, Duration elapsed);

}  // namespace marchproxy::stream
