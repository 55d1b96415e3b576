#include <gmock/gmock.h>

#include "admin/server_case.h"

namespace marchproxy::admin {
namespace {

using testing::HasSubstr;

TEST_F(ServerTest, ListsPathsAndSaysNullWhereNothingIsMeasured) {
    view.add_service("web");
    Snapshot next = *view.snapshot();
    next.paths[0].cost_per_gb = 0.09;
    next.paths.push_back({.name = "unused"});
    view.publish(next);
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
    EXPECT_EQ(path["loss_ratio"], 0.25);
    EXPECT_EQ(path["score"], 0.08);
    EXPECT_EQ(path["last_change"], "1970-01-12T13:46:40.000Z");
    EXPECT_EQ(path["received_rate"], 8'000'000);
    EXPECT_EQ(path["sent_rate"], 16'000'000);
    const std::string metrics = get("/metrics")->body;
    const std::string labels = "{path=\"aws-us-east-1\",provider=\"aws\",region=\"us-east-1\"}";
    EXPECT_THAT(metrics, HasSubstr("marchproxy_path_rtt_seconds" + labels + " 0.08"));
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

}  // namespace
}  // namespace marchproxy::admin
