#include "telemetry/exposition.h"

#include <fmt/format.h>
#include <prometheus/text_serializer.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <optional>

namespace marchproxy::telemetry {

namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;

// --- Accept ---------------------------------------------------------------------------------------------------------

std::string_view trim(std::string_view text) {
    const size_t begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return {};
    return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

// The part before the next `separator`, taken off `text`.
std::string_view take(std::string_view& text, char separator) {
    const size_t end = std::min(text.find(separator), text.size());
    const std::string_view part = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    return trim(part);
}

double quality_of(std::string_view parameters) {
    while (!parameters.empty()) {
        const std::string_view parameter = take(parameters, ';');
        if (!parameter.starts_with("q=")) continue;
        double quality = 0;
        std::from_chars(parameter.data() + 2, parameter.data() + parameter.size(), quality);
        return quality;
    }
    return 1;
}

// --- OpenMetrics ----------------------------------------------------------------------------------------------------

using Buffer = fmt::memory_buffer;

void append(Buffer& out, std::string_view text) {
    out.append(text.data(), text.data() + text.size());
}

void append_escaped(Buffer& out, std::string_view text) {
    for (char c : text) {
        if (c == '\\')
            append(out, "\\\\");
        else if (c == '"')
            append(out, "\\\"");
        else if (c == '\n')
            append(out, "\\n");
        else
            out.push_back(c);
    }
}

void append_number(Buffer& out, double value) {
    if (std::isnan(value))
        append(out, "NaN");
    else if (std::isinf(value))
        append(out, value > 0 ? "+Inf" : "-Inf");
    else
        fmt::format_to(std::back_inserter(out), "{}", value);
}

// A bound is a label's value: "1.0", never "1", so that it is one and the same series for every reader.
void append_bound(Buffer& out, double bound) {
    const size_t begin = out.size();
    append_number(out, bound);
    const std::string_view written(out.data() + begin, out.size() - begin);
    if (written.find_first_not_of("0123456789") == std::string_view::npos) append(out, ".0");
}

// `{a="b",le="0.1"}`, or nothing where there are no labels.
void append_labels(Buffer& out, const ClientMetric& metric, std::optional<double> bound = std::nullopt) {
    char before = '{';
    for (const ClientMetric::Label& label : metric.label) {
        out.push_back(before);
        append(out, label.name);
        append(out, "=\"");
        append_escaped(out, label.value);
        out.push_back('"');
        before = ',';
    }
    if (bound) {
        out.push_back(before);
        append(out, "le=\"");
        append_bound(out, *bound);
        out.push_back('"');
        before = ',';
    }
    if (before == ',') out.push_back('}');
}

void append_sample(Buffer& out, std::string_view name, std::string_view suffix, const ClientMetric& metric,
                   double value, std::optional<double> bound = std::nullopt) {
    append(out, name);
    append(out, suffix);
    append_labels(out, metric, bound);
    out.push_back(' ');
    append_number(out, value);
    out.push_back('\n');
}

void append_histogram(Buffer& out, std::string_view name, const ClientMetric& metric) {
    for (const ClientMetric::Bucket& bucket : metric.histogram.bucket)
        append_sample(out, name, "_bucket", metric, static_cast<double>(bucket.cumulative_count), bucket.upper_bound);
    append_sample(out, name, "_count", metric, static_cast<double>(metric.histogram.sample_count));
    append_sample(out, name, "_sum", metric, metric.histogram.sample_sum);
}

void append_family(Buffer& out, const MetricFamily& family) {
    const bool counter = family.type == prometheus::MetricType::Counter;
    const bool histogram = family.type == prometheus::MetricType::Histogram;
    std::string_view name = family.name;
    if (counter && name.ends_with("_total")) name.remove_suffix(std::string_view("_total").size());
    fmt::format_to(std::back_inserter(out), "# TYPE {} {}\n# HELP {} ", name,
                   counter     ? "counter"
                   : histogram ? "histogram"
                               : "gauge",
                   name);
    append_escaped(out, family.help);
    out.push_back('\n');
    for (const ClientMetric& metric : family.metric) {
        if (histogram)
            append_histogram(out, name, metric);
        else
            append_sample(out, name, counter ? "_total" : "", metric,
                          counter ? metric.counter.value : metric.gauge.value);
    }
}

}  // namespace

ExpositionFormat negotiate_exposition(std::string_view accept) {
    double openmetrics = 0, text = 0;
    while (!accept.empty()) {
        std::string_view range = take(accept, ',');
        const std::string_view type = take(range, ';');
        if (type == "application/openmetrics-text") openmetrics = std::max(openmetrics, quality_of(range));
        if (type == "text/plain") text = std::max(text, quality_of(range));
    }
    return openmetrics > 0 && openmetrics >= text ? ExpositionFormat::openmetrics : ExpositionFormat::prometheus_text;
}

std::string_view content_type(ExpositionFormat format) {
    return format == ExpositionFormat::openmetrics ? "application/openmetrics-text; version=1.0.0; charset=utf-8"
                                                   : "text/plain; version=0.0.4; charset=utf-8";
}

std::string expose(const std::vector<MetricFamily>& families, ExpositionFormat format) {
    if (format == ExpositionFormat::prometheus_text) return prometheus::TextSerializer().Serialize(families);
    Buffer out;
    for (const MetricFamily& family : families)
        append_family(out, family);
    append(out, "# EOF\n");
    return fmt::to_string(out);
}

}  // namespace marchproxy::telemetry
