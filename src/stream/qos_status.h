// What a service's traffic looks like to qos: by direction and priority.
//
// Threads: control and admin threads, under the plane's lock.
#pragma once

#include <vector>

#include "stream/view.h"
#include "telemetry/status.h"

namespace marchproxy::stream {

// Its own priority, and every other one that it has had traffic of.
std::vector<telemetry::QosStatus> qos_status(const ServiceView& view);

// Brings the service's meters up to date; `elapsed` since the last time.
void measure(ServiceState& state, Duration elapsed);

}  // namespace marchproxy::stream
