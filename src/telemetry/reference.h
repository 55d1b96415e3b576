// The reference pages made from the tables: docs/reference/metrics.md and docs/reference/verdicts.md. The room's tests
// fail when a page is not what these functions write, and write it when MARCHPROXY_UPDATE_DOCS is set.
#pragma once

#include <string>

namespace marchproxy::telemetry {

std::string metrics_reference();
std::string verdicts_reference();

}  // namespace marchproxy::telemetry
