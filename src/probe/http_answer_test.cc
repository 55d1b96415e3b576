#include "probe/http_answer.h"

#include <gtest/gtest.h>

namespace marchproxy::probe {
namespace {

constexpr auto pending = std::nullopt;
const std::string fine;

TEST(HttpAnswer, AnyStatusFrom200To399IsFine) {
    EXPECT_EQ(judge("HTTP/1.1 200 OK\r\n", false, {}), fine);
    EXPECT_EQ(judge("HTTP/1.0 302\r\n", false, {}), fine);
    EXPECT_EQ(judge("HTTP/1.1 503 Service Unavailable\r\n", false, {}), "status 503");
    EXPECT_EQ(judge("HTTP/1.1 100 Continue\n", false, {}), "status 100");
}

TEST(HttpAnswer, AStatusMayBeAskedFor) {
    const ProbeSettings settings{.expect_status = 401};
    EXPECT_EQ(judge("HTTP/1.1 401 Unauthorized\r\n", false, settings), fine);
    EXPECT_EQ(judge("HTTP/1.1 200 OK\r\n", false, settings), "status 200 instead of 401");
}

TEST(HttpAnswer, ATextMayBeAskedForInTheBodyAlone) {
    const ProbeSettings settings{.expect_body = "ready"};
    EXPECT_EQ(judge("HTTP/1.1 200 OK\r\nX: ready\r\n\r\n", false, settings), pending);
    EXPECT_EQ(judge("HTTP/1.1 200 OK\r\nX: ready\r\n\r\nnot yet", true, settings),
              "the answer does not hold \"ready\"");
    EXPECT_EQ(judge("HTTP/1.1 200 OK\r\n\r\nI am rea", false, settings), pending);
    EXPECT_EQ(judge("HTTP/1.1 200 OK\r\n\r\nI am ready", false, settings), fine);
    EXPECT_EQ(judge("HTTP/1.1 500 Oh\r\n\r\nready", true, settings), "status 500");
}

TEST(HttpAnswer, WhatIsNoHttpIsToldSoon) {
    EXPECT_EQ(judge("", false, {}), pending);
    EXPECT_EQ(judge("HTTP/1.1 2", false, {}), pending);
    EXPECT_EQ(judge("", true, {}), "closed without an answer");
    for (const char* text :
         {"SSH-2.0-OpenSSH\r\n", "HTTP/2 200\r\n", "HTTP/1.1 20x OK\r\n", "HTTP/1.1 2000 OK\r\n", "HTTP/1.1\r\n", "\n"})
        EXPECT_EQ(judge(text, false, {}), "the answer is not HTTP/1") << text;
    EXPECT_EQ(judge(std::string(2000, 'x'), false, {}), "the answer is not HTTP/1");
}

TEST(HttpAnswer, AnEndlessOneIsNotReadToItsEnd) {
    const ProbeSettings settings{.expect_body = "ready"};
    const std::string endless = "HTTP/1.1 200 OK\r\n\r\n" + std::string(most_of_an_answer, 'x') + "ready";
    EXPECT_EQ(judge(endless, false, settings), "the answer does not hold \"ready\"");
}

}  // namespace
}  // namespace marchproxy::probe
