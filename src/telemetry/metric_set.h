// The metrics of one scrape: filled from plain values when somebody asks, so that the data path knows nothing of metric
// libraries. One thread at a time.
#pragma once

#include <prometheus/metric_family.h>

#include <array>
#include <initializer_list>
#include <string_view>
#include <vector>

#include "telemetry/histogram.h"

namespace marchproxy::telemetry {

enum class MetricType : uint8_t { counter, gauge, histogram };

enum class Metric : uint8_t {
#define MARCHPROXY_METRIC(name, type, labels, help) name,
#include "telemetry/metrics.def"
#undef MARCHPROXY_METRIC
};

struct MetricText {
    std::string_view name;
    MetricType type;
    std::string_view labels;  // their names, comma-separated
    std::string_view help;
};

inline constexpr std::array metric_texts = {
#define MARCHPROXY_METRIC(name, type, labels, help) MetricText{#name, MetricType::type, labels, help},
#include "telemetry/metrics.def"
#undef MARCHPROXY_METRIC
};

class MetricSet {
  public:
    // The labels' values in the table's order. Values may hold any bytes: what is no UTF-8 becomes U+FFFD, because one
    // such byte would make Prometheus refuse the whole scrape.
    using Labels = std::initializer_list<std::string_view>;

    MetricSet();

    void add(Metric metric, Labels labels, double value);  // counter or gauge
    void add(Metric metric, Labels labels, uint64_t value) { add(metric, labels, static_cast<double>(value)); }
    void add(Metric metric, Labels labels, bool value) { add(metric, labels, value ? 1.0 : 0.0); }
    void add(Metric metric, Labels labels, const HistogramValues& values);

    // Those with a sample, in the table's order.
    std::vector<prometheus::MetricFamily> take_families();

  private:
    prometheus::ClientMetric& sample(Metric metric, Labels labels);

    std::vector<prometheus::MetricFamily> families_;  // by Metric
};

}  // namespace marchproxy::telemetry
