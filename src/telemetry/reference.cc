#include "telemetry/reference.h"

#include <fmt/format.h>

#include "abi/verdicts.h"
#include "telemetry/metric_set.h"

namespace marchproxy::telemetry {

namespace {

std::string_view name_of(MetricType type) {
    switch (type) {
        case MetricType::counter:
            return "counter";
        case MetricType::gauge:
            return "gauge";
        case MetricType::histogram:
            return "histogram";
    }
    return "?";
}

std::string labels_of(std::string_view names) {
    std::string result;
    while (!names.empty()) {
        const size_t end = std::min(names.find(','), names.size());
        result += fmt::format("{}`{}`", result.empty() ? "" : ", ", names.substr(0, end));
        names.remove_prefix(std::min(end + 1, names.size()));
    }
    return result;
}

}  // namespace

std::string metrics_reference() {
    std::string page =
        "# Metrics\n\n"
        "Made from `src/telemetry/metrics.def`; change that file, then run the `telemetry` unit tests with\n"
        "`MARCHPROXY_UPDATE_DOCS=1`.\n\n"
        "`GET /metrics` on the admin port answers in the Prometheus text format, or in OpenMetrics 1.0.0 where the\n"
        "`Accept` header prefers that. `received` is client to endpoint, `sent` endpoint to client. A `path` label is\n"
        "empty where the endpoint has no path. Series by `result` or `reason` appear with their first event "
        "(`finished`\n"
        "is always there), histograms with their first observation. Counters live as long as the process, also those "
        "of\n"
        "a service that a reload has removed.\n\n"
        "| metric | type | labels | meaning |\n|---|---|---|---|\n";
    for (const MetricText& metric : metric_texts)
        page += fmt::format("| `{}` | {} | {} | {} |\n", metric.name, name_of(metric.type), labels_of(metric.labels),
                            metric.help);
    return page;
}

std::string verdicts_reference() {
    std::string page =
        "# Verdicts\n\n"
        "Made from `src/abi/verdicts.def`; change that file, then run the `telemetry` unit tests with\n"
        "`MARCHPROXY_UPDATE_DOCS=1`.\n\n"
        "How a connection or session ended, and why one was refused or a datagram not carried on. The same words "
        "stand\n"
        "in `result` of `marchproxy_connections_total`, `reason` of `marchproxy_dropped_total`, `end_reason` of flow\n"
        "records, and the log.\n\n"
        "| verdict | meaning |\n|---|---|\n";
    for (const VerdictText& verdict : verdict_texts)
        page += fmt::format("| `{}` | {} |\n", verdict.name, verdict.meaning);
    return page;
}

}  // namespace marchproxy::telemetry
