#include "flow/json.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace marchproxy::flow {
namespace {

Record web_record() {
    auto origin = std::make_shared<Origin>();
    origin->service = "web";
    origin->path = "aws-us-east-1";
    origin->endpoint = "db.example:5432";
    origin->priority = Priority::p1;
    origin->policy = Policy::maglev;
    Record record;
    record.origin = origin;
    record.client = SocketAddress{IpAddress::v4(0x7f000001), 40000};
    record.endpoint = SocketAddress{IpAddress::v4(0x0a010010), 5432};
    record.received_bytes = 10;
    record.sent_bytes = 20;
    record.duration = std::chrono::milliseconds(1500);
    record.end_reason = Verdict::client_reset;
    record.attempts = 2;
    return record;
}

TEST(FlowJson, HasTheContractsFields) {
    const nlohmann::json expected = nlohmann::json::parse(R"({
        "service": "web", "plane": "stream", "protocol": "tcp", "client": "127.0.0.1:40000",
        "endpoint": "10.1.0.16:5432", "path": "aws-us-east-1", "received_bytes": 10, "sent_bytes": 20,
        "start": "1970-01-01T00:00:00.000Z", "duration_seconds": 1.5, "state": "closed",
        "end_reason": "client_reset", "priority": "P1",
        "decision": "maglev: db.example:5432 over aws-us-east-1, 2 attempts",
        "candidates": [], "other_candidates": 0})");
    EXPECT_EQ(to_json(web_record()), expected);
}

TEST(FlowJson, GivesAnOpenFlowNoEndReason) {
    Record record = web_record();
    record.state = State::active;
    EXPECT_TRUE(to_json(record)["end_reason"].is_null());
    EXPECT_EQ(to_json(record)["state"], "active");
}

TEST(FlowJson, SaysWhoElseThereWasAndWhyNot) {
    const auto text = [](const char* words) { return std::make_shared<const std::string>(words); };
    auto decision = std::make_shared<Decision>();
    decision->candidates.push_back({.path = text("aws-us-east-1"),
                                    .endpoint = text("db.example:5432"),
                                    .reason = text("is the best"),
                                    .round_trip = 0.0125F,
                                    .cost_per_gb = 0.09F,
                                    .score = 0.0125F,
                                    .share = 1});
    decision->candidates.push_back({.path = text("gcp"),
                                    .endpoint = text("10.2.0.1:5432"),
                                    .reason = text("is down: Connection refused"),
                                    .up = false});
    decision->others = 3;
    Record record = web_record();
    record.decision = decision;
    EXPECT_EQ(decision_of(record), "maglev: db.example:5432 over aws-us-east-1, 2 attempts: it is the best");
    const nlohmann::json json = to_json(record);
    EXPECT_EQ(json["other_candidates"], 3);
    EXPECT_EQ(json["candidates"], nlohmann::json::parse(R"([
        {"path": "aws-us-east-1", "endpoint": "db.example:5432", "up": true, "rtt_seconds": 0.0125, "cost_per_gb": 0.09,
         "score": 0.0125, "share": 1, "reason": "is the best"},
        {"path": "gcp", "endpoint": "10.2.0.1:5432", "up": false, "rtt_seconds": null, "cost_per_gb": null,
         "score": null, "share": 0, "reason": "is down: Connection refused"}])"));
}

TEST(FlowJson, SaysWhatWasTriedWhenNoEndpointWasReached) {
    Record record = web_record();
    record.endpoint = {};
    EXPECT_EQ(decision_of(record), "maglev: no endpoint reached, 2 attempts");
    EXPECT_EQ(to_json(record)["endpoint"], "db.example:5432");
    record.state = State::connecting;
    EXPECT_EQ(decision_of(record), "maglev: connecting, 2 attempts");
    record.attempts = 0;
    EXPECT_EQ(decision_of(record), "refused before an endpoint was chosen");
}

}  // namespace
}  // namespace marchproxy::flow
