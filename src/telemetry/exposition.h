// Metrics as text: the Prometheus text format 0.0.4, and OpenMetrics 1.0.0
// (https://prometheus.io/docs/specs/om/open_metrics_spec/) for who asks for it.
#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <string_view>
#include <vector>

namespace marchproxy::telemetry {

enum class ExpositionFormat : uint8_t { prometheus_text, openmetrics };

// What an Accept header (RFC 9110 12.5.1) prefers; Prometheus text where it says nothing of OpenMetrics.
ExpositionFormat negotiate_exposition(std::string_view accept);

std::string_view content_type(ExpositionFormat format);
std::string expose(const std::vector<prometheus::MetricFamily>& families, ExpositionFormat format);

}  // namespace marchproxy::telemetry
