#include "telemetry/metric_set.h"

#include <gmock/gmock.h>

#include <chrono>
#include <set>

#include "telemetry/exposition.h"
#include "telemetry/process.h"

namespace marchproxy::telemetry {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

std::string text(MetricSet& set) {
    return expose(set.take_families(), ExpositionFormat::prometheus_text);
}
std::string openmetrics(MetricSet& set) {
    return expose(set.take_families(), ExpositionFormat::openmetrics);
}

TEST(MetricSet, WritesPrometheusText) {
    MetricSet set;
    set.add(Metric::marchproxy_connections_total, {"web", "aws", "finished"}, uint64_t{7});
    set.add(Metric::marchproxy_active_connections, {"web"}, uint64_t{3});
    const std::string page = text(set);
    EXPECT_THAT(page, HasSubstr("# TYPE marchproxy_connections_total counter\n"
                                "marchproxy_connections_total{service=\"web\",path=\"aws\",result=\"finished\"} 7\n"));
    EXPECT_THAT(page, HasSubstr("# TYPE marchproxy_active_connections gauge\n"
                                "marchproxy_active_connections{service=\"web\"} 3\n"));
    EXPECT_THAT(page, Not(HasSubstr("marchproxy_flows"))) << "no family without a sample";
}

TEST(MetricSet, WritesOpenMetrics) {
    MetricSet set;
    set.add(Metric::marchproxy_received_bytes_total, {"web", ""}, uint64_t{1} << 40);
    set.add(Metric::marchproxy_build_info, {"0.1.0", "abc"}, true);
    EXPECT_EQ(openmetrics(set),
              "# TYPE marchproxy_received_bytes counter\n"
              "# HELP marchproxy_received_bytes Bytes carried from clients to endpoints: payload in the stream plane, "
              "from the IP header on in the packet plane\n"
              "marchproxy_received_bytes_total{service=\"web\",path=\"\"} 1099511627776\n"
              "# TYPE marchproxy_build_info gauge\n"
              "# HELP marchproxy_build_info Always 1; what runs\n"
              "marchproxy_build_info{version=\"0.1.0\",commit=\"abc\"} 1\n"
              "# EOF\n");
}

TEST(MetricSet, WritesHistogramsInSecondsAndCumulative) {
    Histogram histogram;
    histogram.observe(std::chrono::milliseconds(1));
    histogram.observe(std::chrono::milliseconds(2));
    histogram.observe(std::chrono::minutes(10));
    MetricSet set;
    set.add(Metric::marchproxy_connection_duration_seconds, {"web"}, histogram.values());
    const auto families = set.take_families();
    for (ExpositionFormat format : {ExpositionFormat::prometheus_text, ExpositionFormat::openmetrics}) {
        const std::string page = expose(families, format);
        EXPECT_THAT(page, HasSubstr("_bucket{service=\"web\",le=\"0.0005\"} 0\n"));
        EXPECT_THAT(page, HasSubstr("_bucket{service=\"web\",le=\"0.001\"} 1\n"));
        EXPECT_THAT(page, HasSubstr("_bucket{service=\"web\",le=\"0.0025\"} 2\n"));
        EXPECT_THAT(page, HasSubstr("_bucket{service=\"web\",le=\"+Inf\"} 3\n"));
        EXPECT_THAT(page, HasSubstr("_count{service=\"web\"} 3\n"));
        EXPECT_THAT(page, HasSubstr("_sum{service=\"web\"} 600.003"));
    }
    EXPECT_THAT(expose(families, ExpositionFormat::openmetrics), HasSubstr("le=\"1.0\"} 2\n"));
}

TEST(MetricSet, EscapesLabelValues) {
    for (ExpositionFormat format : {ExpositionFormat::prometheus_text, ExpositionFormat::openmetrics}) {
        MetricSet set;
        set.add(Metric::marchproxy_flows, {"a\"b\\c\nd\xff"}, uint64_t{1});
        const std::string page = expose(set.take_families(), format);
        EXPECT_THAT(page, HasSubstr("marchproxy_flows{service=\"a\\\"b\\\\c\\nd\xef\xbf\xbd\"} 1\n"));
    }
}

TEST(MetricSet, HasAWellFormedTable) {
    std::set<std::string_view> names;
    for (const MetricText& metric : metric_texts) {
        EXPECT_TRUE(names.insert(metric.name).second) << metric.name;
        EXPECT_EQ(metric.type == MetricType::counter, metric.name.ends_with("_total")) << metric.name;
        EXPECT_FALSE(metric.help.empty());
    }
}

TEST(MetricSet, CarriesTenThousandServices) {
    MetricSet set;
    Histogram histogram;
    histogram.observe(std::chrono::milliseconds(1));
    for (int i = 0; i < 10'000; ++i) {
        const std::string service = "service-" + std::to_string(i);
        set.add(Metric::marchproxy_active_connections, {service}, uint64_t{1});
        set.add(Metric::marchproxy_connections_total, {service, "aws", "finished"}, uint64_t{1});
        set.add(Metric::marchproxy_received_bytes_total, {service, "aws"}, uint64_t{1});
        set.add(Metric::marchproxy_sent_bytes_total, {service, "aws"}, uint64_t{1});
        set.add(Metric::marchproxy_connection_duration_seconds, {service}, histogram.values());
    }
    const auto families = set.take_families();
    for (ExpositionFormat format : {ExpositionFormat::prometheus_text, ExpositionFormat::openmetrics}) {
        const auto begin = std::chrono::steady_clock::now();
        const std::string page = expose(families, format);
        const auto took = std::chrono::steady_clock::now() - begin;
        EXPECT_EQ(std::count(page.begin(), page.end(), '\n') / 10'000, 4 + 28);
        RecordProperty(format == ExpositionFormat::openmetrics ? "openmetrics_milliseconds" : "text_milliseconds",
                       static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(took).count()));
    }
}

TEST(Exposition, PrefersOpenMetricsOnlyWhereAsked) {
    EXPECT_EQ(negotiate_exposition(""), ExpositionFormat::prometheus_text);
    EXPECT_EQ(negotiate_exposition("*/*"), ExpositionFormat::prometheus_text);
    EXPECT_EQ(negotiate_exposition("text/html, */*;q=0.1"), ExpositionFormat::prometheus_text);
    EXPECT_EQ(negotiate_exposition("application/openmetrics-text"), ExpositionFormat::openmetrics);
    EXPECT_EQ(negotiate_exposition("application/openmetrics-text;version=1.0.0;q=0.5,"
                                   "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,"
                                   "*/*;q=0.2"),
              ExpositionFormat::openmetrics);
    EXPECT_EQ(negotiate_exposition("application/openmetrics-text; q=0.2, text/plain; q=0.9"),
              ExpositionFormat::prometheus_text);
    EXPECT_EQ(negotiate_exposition("application/openmetrics-text;q=0"), ExpositionFormat::prometheus_text);
    EXPECT_EQ(negotiate_exposition(",;,;q=,=,"), ExpositionFormat::prometheus_text);
}

TEST(Process, TellsWhatItUses) {
    const ProcessUsage usage = process_usage();
    EXPECT_GT(usage.resident_bytes, 100'000u);
    EXPECT_GT(usage.virtual_bytes, usage.resident_bytes);
    EXPECT_GE(usage.open_descriptors, 3u);
    EXPECT_LT(usage.open_descriptors, 1000u);
    EXPECT_GE(usage.most_descriptors, usage.open_descriptors);
    const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    EXPECT_NEAR(usage.start_seconds, now, 120);
}

}  // namespace
}  // namespace marchproxy::telemetry
