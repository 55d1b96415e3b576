#include "telemetry/metric_set.h"

#include <cassert>
#include <limits>

#include "telemetry/utf8.h"

namespace marchproxy::telemetry {

namespace {

constexpr double nanoseconds_a_second = 1e9;

prometheus::MetricType type_of(MetricType type) {
    switch (type) {
        case MetricType::counter:
            return prometheus::MetricType::Counter;
        case MetricType::gauge:
            return prometheus::MetricType::Gauge;
        case MetricType::histogram:
            return prometheus::MetricType::Histogram;
    }
    return prometheus::MetricType::Untyped;
}

}  // namespace

MetricSet::MetricSet() {
    families_.reserve(metric_texts.size());
    for (const MetricText& text : metric_texts)
        families_.push_back({std::string(text.name), std::string(text.help), type_of(text.type), {}});
}

prometheus::ClientMetric& MetricSet::sample(Metric metric, Labels labels) {
    prometheus::ClientMetric& result = families_[static_cast<size_t>(metric)].metric.emplace_back();
    result.label.reserve(labels.size());
    std::string_view names = metric_texts[static_cast<size_t>(metric)].labels;
    for (std::string_view value : labels) {
        assert(!names.empty() && "more labels than the table has");
        const size_t end = std::min(names.find(','), names.size());
        result.label.push_back({std::string(names.substr(0, end)), valid_utf8(value)});
        names.remove_prefix(std::min(end + 1, names.size()));
    }
    assert(names.empty() && "fewer labels than the table has");
    return result;
}

void MetricSet::add(Metric metric, Labels labels, double value) {
    prometheus::ClientMetric& result = sample(metric, labels);
    if (metric_texts[static_cast<size_t>(metric)].type == MetricType::counter)
        result.counter.value = value;
    else
        result.gauge.value = value;
}

void MetricSet::add(Metric metric, Labels labels, const HistogramValues& values) {
    assert(metric_texts[static_cast<size_t>(metric)].type == MetricType::histogram);
    prometheus::ClientMetric::Histogram& histogram = sample(metric, labels).histogram;
    histogram.bucket.reserve(values.counts.size());
    for (size_t i = 0; i < values.counts.size(); ++i) {
        histogram.sample_count += values.counts[i];
        const double bound = i < histogram_bounds.size()
                                 ? static_cast<double>(histogram_bounds[i]) / nanoseconds_a_second
                                 : std::numeric_limits<double>::infinity();
        histogram.bucket.push_back({histogram.sample_count, bound});
    }
    histogram.sample_sum = static_cast<double>(values.sum_nanoseconds) / nanoseconds_a_second;
}

std::vector<prometheus::MetricFamily> MetricSet::take_families() {
    std::vector<prometheus::MetricFamily> result = std::move(families_);
    std::erase_if(result, [](const prometheus::MetricFamily& family) { return family.metric.empty(); });
    *this = MetricSet();
    return result;
}

}  // namespace marchproxy::telemetry
