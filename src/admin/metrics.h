// The metrics of one scrape, from the view.
#pragma once

#include "admin/view.h"
#include "telemetry/metric_set.h"

namespace marchproxy::admin {

void fill(telemetry::MetricSet& set, const View& view);

}  // namespace marchproxy::admin
