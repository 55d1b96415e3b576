// A server over a view that a test writes, and what asks it.
#pragma once

#include <gtest/gtest.h>
#include <httplib.h>

#include <nlohmann/json.hpp>

#include "admin/fake_view.h"
#include "admin/server.h"

namespace marchproxy::admin {

using nlohmann::json;

inline const IpAddress loopback = IpAddress::v4(0x7f000001);

struct ServerTest : testing::Test {
    FakeView view;
    std::vector<std::string> lines;
    telemetry::Log log{LogLevel::info, LogFormat::json, [this](std::string_view line) { lines.emplace_back(line); }};
    Server server{view, log};

    void SetUp() override {
        const Result<void> started = server.start(loopback, 0);
        ASSERT_TRUE(started.ok()) << started.error();
    }

    httplib::Client client() const {
        httplib::Client result("127.0.0.1", server.port());
        result.set_read_timeout(10);
        return result;
    }
    httplib::Result get(const std::string& path, const httplib::Headers& headers = {}) const {
        return client().Get(path, headers);
    }
    json get_json(const std::string& path) const {
        const auto result = get(path);
        EXPECT_TRUE(result) << path;
        if (!result) return {};
        EXPECT_EQ(result->status, 200) << path << ": " << result->body;
        EXPECT_EQ(result->get_header_value("Content-Type"), "application/json") << path;
        return json::parse(result->body);
    }
    httplib::Result post(const std::string& path, const httplib::Headers& headers = {}) const {
        return client().Post(path, headers, "", "application/json");
    }
    void set_token(const std::string& token) {
        Snapshot next = *view.snapshot();
        next.settings.admin.token = token;
        view.publish(next);
    }
};

}  // namespace marchproxy::admin
