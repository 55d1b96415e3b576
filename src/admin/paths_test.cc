#include <gmock/gmock.h>

#include "admin/server_case.h"

namespace marchproxy::admin {
namespace {

using testing::HasSubstr;

TEST_F(ServerTest, ListsPathsAndSaysNullWhereNothingIsMeasured) {
    view.add_service("web");
    Snapshot next = *view.snapshot();
    next.paths.push_back({.name = "unused"});
    view.publish(next);
    view.readings = {{.path = "aws-us-east-1", .bill = {.path = "aws-us-east-1", .price = 0.09}}};
    const json paths = get_json("/api/v1/paths");
    ASSERT_EQ(paths.size(), 2u);
    EXPECT_EQ(paths[0]["provider"], "aws");
    EXPECT_EQ(paths[0]["region"], "us-east-1");
    EXPECT_EQ(paths[0]["up"], true);
    EXPECT_EQ(paths[0]["draining"], false);
    EXPECT_EQ(paths[0]["cost_per_gb"], 0.09);
    for (const char* unmeasured : {"rtt_seconds", "jitter_seconds", "loss_ratio", "score", "last_change"}) {
        ASSERT_TRUE(paths[0].contains(unmeasured));
        EXPECT_TRUE(paths[0][unmeasured].is_null());
    }
    EXPECT_TRUE(paths[1]["up"].is_null());
}

TEST_F(ServerTest, DrainsPathsProvidersAndRegions) {
    EXPECT_EQ(post("/api/v1/paths/aws-us-east-1/drain")->status, 200);
    EXPECT_EQ(view.last_drained, "path aws-us-east-1 drains");
    const json answer = json::parse(post("/api/v1/paths/aws-us-east-1/undrain")->body);
    EXPECT_EQ(answer, (json{{"path", "aws-us-east-1"}, {"draining", false}}));
    EXPECT_EQ(view.last_drained, "path aws-us-east-1 is back");
    EXPECT_EQ(post("/api/v1/providers/aws/drain")->status, 200);
    EXPECT_EQ(view.last_drained, "provider aws drains");
    EXPECT_EQ(post("/api/v1/regions/us-east-1/drain")->status, 200);
    EXPECT_EQ(view.last_drained, "region us-east-1 drains");
    const auto unknown = post("/api/v1/paths/nowhere/drain");
    EXPECT_EQ(unknown->status, 404);
    EXPECT_THAT(unknown->body, HasSubstr("no path nowhere"));
    EXPECT_EQ(get("/api/v1/paths/aws-us-east-1/drain")->status, 405);
    set_token("secret");
    EXPECT_EQ(post("/api/v1/paths/aws-us-east-1/drain")->status, 401);
}

TEST_F(ServerTest, TellsWhatIsMeasuredOfPaths) {
    view.add_service("web");
    view.readings = {{.path = "aws-us-east-1",
                      .draining = true,
                      .round_trip = std::chrono::milliseconds(80),
                      .least = std::chrono::milliseconds(70),
                      .jitter = std::chrono::milliseconds(2),
                      .traffic_round_trip = std::chrono::milliseconds(90),
                      .loss_ratio = 0.25,
                      .score = 0.08,
                      .changed = WallTime{std::chrono::seconds(1'000'000)},
                      .received_rate = 8e6,
                      .sent_rate = 16e6}};
    const json path = get_json("/api/v1/paths")[0];
    EXPECT_EQ(path["draining"], true);
    EXPECT_EQ(path["rtt_seconds"], 0.08);
    EXPECT_EQ(path["least_rtt_seconds"], 0.07);
    EXPECT_EQ(path["jitter_seconds"], 0.002);
    EXPECT_EQ(path["traffic_rtt_seconds"], 0.09);
    EXPECT_EQ(path["loss_ratio"], 0.25);
    EXPECT_EQ(path["score"], 0.08);
    EXPECT_EQ(path["last_change"], "1970-01-12T13:46:40.000Z");
    EXPECT_EQ(path["received_rate"], 8'000'000);
    EXPECT_EQ(path["sent_rate"], 16'000'000);
    const std::string metrics = get("/metrics")->body;
    const std::string labels = "{path=\"aws-us-east-1\",provider=\"aws\",region=\"us-east-1\"}";
    EXPECT_THAT(metrics, HasSubstr("marchproxy_path_rtt_seconds" + labels + " 0.08"));
    EXPECT_THAT(metrics, HasSubstr("marchproxy_path_traffic_rtt_seconds" + labels + " 0.09"));
    EXPECT_THAT(metrics, HasSubstr("marchproxy_path_jitter_seconds" + labels + " 0.002"));
    EXPECT_THAT(metrics, HasSubstr("marchproxy_path_loss_ratio" + labels + " 0.25"));
}

TEST_F(ServerTest, ExplainsADecision) {
    view.explanation = {.service = "web", .policy = Policy::latency, .steered = true, .chosen = 1, .candidates = {}};
    view.explanation.candidates.push_back({.path = "far",
                                           .endpoint = "db.example:80",
                                           .address = "10.1.0.10:80",
                                           .up = true,
                                           .round_trip = std::chrono::milliseconds(80),
                                           .cost_per_gb = 0.09,
                                           .score = 0.08,
                                           .reason = "is 100% above the best"});
    view.explanation.candidates.push_back({.path = "near",
                                           .endpoint = "10.2.0.10:80",
                                           .address = "10.2.0.10:80",
                                           .up = true,
                                           .round_trip = std::chrono::milliseconds(40),
                                           .score = 0.04,
                                           .share = 1,
                                           .preferred = true,
                                           .reason = "is the best"});
    const json told = get_json("/api/v1/paths/explain?service=web&source=10.1.2.3");
    EXPECT_EQ(view.last_asked, "10.1.2.3");
    EXPECT_EQ(told["service"], "web");
    EXPECT_EQ(told["policy"], "latency");
    EXPECT_EQ(told["chosen"], "near");
    EXPECT_EQ(told["chosen_endpoint"], "10.2.0.10:80");
    ASSERT_EQ(told["candidates"].size(), 2u);
    const json& far = told["candidates"][0];
    EXPECT_EQ(far["path"], "far");
    EXPECT_EQ(far["endpoint"], "db.example:80");
    EXPECT_EQ(far["up"], true);
    EXPECT_EQ(far["rtt_seconds"], 0.08);
    EXPECT_EQ(far["cost_per_gb"], 0.09);
    EXPECT_EQ(far["score"], 0.08);
    EXPECT_EQ(far["reason"], "is 100% above the best");
    EXPECT_TRUE(told["candidates"][1]["cost_per_gb"].is_null());
    EXPECT_EQ(get("/api/v1/paths/explain?service=none&source=10.1.2.3")->status, 404);
    EXPECT_EQ(get("/api/v1/paths/explain?service=web&source=here")->status, 400);
    EXPECT_EQ(get("/api/v1/paths/explain?service=web")->status, 400);
    EXPECT_EQ(get("/api/v1/paths/explain?service=web&source=10.1.2.3&x=1")->status, 400);
}

TEST_F(ServerTest, TellsWhatPathsCost) {
    view.add_service("web");
    view.readings = {{.path = "aws-us-east-1",
                      .bill = {.path = "aws-us-east-1",
                               .price = 0.085,
                               .month_billed = 2e12,
                               .month_dollars = 175,
                               .dollars_ever = 12.5,
                               .this_month = {.received = 1e6, .sent = 4e6},
                               .last_month = {.received = 2e6, .sent = 8e6}}}};
    const json path = get_json("/api/v1/paths")[0];
    EXPECT_EQ(path["cost_per_gb"], 0.085);
    EXPECT_EQ(path["month_billed_bytes"], 2'000'000'000'000);
    EXPECT_EQ(path["month_dollars"], 175);
    EXPECT_EQ(path["p95_received_rate"], 1'000'000);
    EXPECT_EQ(path["p95_sent_rate"], 4'000'000);
    EXPECT_EQ(path["last_month_p95_sent_rate"], 8'000'000);
    const std::string metrics = get("/metrics")->body;
    const std::string labels = "{path=\"aws-us-east-1\",provider=\"aws\",region=\"us-east-1\"";
    EXPECT_THAT(metrics, HasSubstr("marchproxy_path_cost_dollars_total" + labels + "} 12.5"));
    EXPECT_THAT(metrics, HasSubstr("marchproxy_path_cost_per_gb_dollars" + labels + "} 0.085"));
    EXPECT_THAT(metrics, HasSubstr("marchproxy_path_p95_bits_per_second" + labels + ",direction=\"sent\"} 4000000"));
}

TEST_F(ServerTest, AsksTheCostBook) {
    view.cost_rows = {
        {.by = {"2026-11-30", "web"}, .received = 1, .sent = 1'000'000'000, .billed = 1'000'000'000, .dollars = 0.09}};
    const json rows = get_json("/api/v1/costs?by=day,service&since=2026-11-01&until=2026-11-30&provider=aws");
    EXPECT_EQ(rows, json::parse(R"([{"day": "2026-11-30", "service": "web", "received_bytes": 1,
                                     "sent_bytes": 1000000000, "billed_bytes": 1000000000, "dollars": 0.09}])"));
    EXPECT_EQ(view.last_query.by.size(), 2u);
    EXPECT_EQ(costs::text_of(*view.last_query.since), "2026-11-01");
    EXPECT_EQ(view.last_query.scope.provider, "aws");
    get_json("/api/v1/costs?by=");
    EXPECT_TRUE(view.last_query.by.empty());
    for (const auto& [question, answer] :
         {std::pair("by=colour", "`by` has \\\"colour\\\"; it takes some of day,"),
          std::pair("by=day,day", "`by` has day twice"), std::pair("since=yesterday", "a day such as 2026-11-30"),
          std::pair("until=2026-02-30", "a day such as 2026-11-30"),
          std::pair("since=2026-11-02&until=2026-11-01", "which is after `until`"),
          std::pair("by=day&by=path", "`by` is given twice"), std::pair("x=1", "`x` is not known here")}) {
        const auto refused = get(std::string("/api/v1/costs?") + question);
        EXPECT_EQ(refused->status, 400) << question;
        EXPECT_THAT(refused->body, HasSubstr(answer));
    }
    view.cost_rows.resize(10'001);
    EXPECT_EQ(get("/api/v1/costs")->status, 400) << "too many rows";
}

TEST_F(ServerTest, TellsOfBudgets) {
    EXPECT_EQ(get_json("/api/v1/budgets"), json::array());
    Budget budget{.name = "aws", .scope = {}, .dollars = 100, .at_limit = AtLimit::stop_new};
    budget.scope.provider = "aws";
    view.budget_readings = {{.budget = budget,
                             .spent = 85,
                             .since = *costs::day_from("2026-11-01"),
                             .ends = *costs::day_from("2026-12-01")}};
    const json told = get_json("/api/v1/budgets")[0];
    EXPECT_EQ(told["name"], "aws");
    EXPECT_EQ(told["provider"], "aws");
    EXPECT_TRUE(told["service"].is_null());
    EXPECT_EQ(told["dollars"], 100);
    EXPECT_EQ(told["spent"], 85);
    EXPECT_EQ(told["state"], "warned");
    EXPECT_EQ(told["at_limit"], "stop_new");
    EXPECT_EQ(told["ends"], "2026-12-01");
    EXPECT_THAT(get("/metrics")->body, HasSubstr("marchproxy_budget_spent_dollars{budget=\"aws\"} 85"));
    view.budget_readings[0].spent = 100;
    EXPECT_EQ(get_json("/api/v1/budgets")[0]["state"], "spent");
}

}  // namespace
}  // namespace marchproxy::admin
