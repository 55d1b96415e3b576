// What qos says of itself, as people and programs read it.
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "admin/fake_view.h"
#include "admin/json.h"
#include "admin/metrics.h"
#include "telemetry/exposition.h"

namespace marchproxy::admin {
namespace {

using nlohmann::json;
using testing::HasSubstr;

TEST(Qos, IsShownByDirectionAndPriority) {
    FakeView view;
    telemetry::ServiceStatus& web = view.add_service("web");
    EXPECT_EQ(qos_json(view.status()), json::array());
    web.qos = {{.up = true,
                .priority = Priority::p1,
                .rate = Rate{2'000'000'000},
                .offered = 3e9,
                .delivered = 2e9,
                .processed_bytes = 100,
                .queued_bytes = 5000,
                .dropped_full = 2,
                .dropped_late = 3,
                .marked = 7,
                .delay = std::chrono::milliseconds(4)},
               {.up = false, .priority = Priority::p1, .guarantee = Rate{1'000'000}, .processed_bytes = 11}};
    const json qos = qos_json(view.status());
    ASSERT_EQ(qos.size(), 2u);
    EXPECT_EQ(qos[0], json({{"service", "web"},
                            {"direction", "up"},
                            {"priority", "P1"},
                            {"rate", 2'000'000'000},
                            {"guarantee", nullptr},
                            {"offered", 3'000'000'000},
                            {"delivered", 2'000'000'000},
                            {"processed_bytes", 100},
                            {"queued_bytes", 5000},
                            {"dropped", 5},
                            {"marked", 7},
                            {"delay_seconds", 0.004}}));
    EXPECT_EQ(qos[1]["direction"], "down");
    EXPECT_EQ(qos[1]["guarantee"], 1'000'000);
    telemetry::MetricSet set;
    fill(set, view);
    const std::string metrics = telemetry::expose(set.take_families(), telemetry::ExpositionFormat::prometheus_text);
    EXPECT_THAT(metrics, HasSubstr("marchproxy_qos_bytes_processed_total{service=\"web\",priority=\"P1\"} 111\n"));
    EXPECT_THAT(metrics,
                HasSubstr("qos_packets_dropped_total{service=\"web\",priority=\"P1\",reason=\"queue_delay\"} 3\n"));
    EXPECT_THAT(metrics, HasSubstr("qos_delay_seconds{service=\"web\",priority=\"P1\"} 0.004\n"));
    EXPECT_THAT(metrics, HasSubstr("qos_ecn_marked_total{service=\"web\",priority=\"P1\"} 7\n"));
    EXPECT_THAT(metrics, HasSubstr("qos_queue_depth{service=\"web\",priority=\"P1\"} 5000\n"));
}

}  // namespace
}  // namespace marchproxy::admin
