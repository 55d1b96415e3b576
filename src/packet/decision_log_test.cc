#include "packet/decision_log.h"

#include <gtest/gtest.h>

namespace marchproxy::packet {
namespace {

WallTime at(int second) {
    return WallTime(std::chrono::seconds(second));
}

TEST(DecisionLog, KnowsWhichHeldWhen) {
    const DecisionPointer first = std::make_shared<Decision>(), second = std::make_shared<Decision>();
    DecisionLog log;
    EXPECT_EQ(log.at(at(5)), nullptr);
    log.add(at(10), first);
    log.add(at(15), first);
    log.add(at(20), second);
    log.add(at(30), nullptr);
    EXPECT_EQ(log.at(at(9)), nullptr);
    EXPECT_EQ(log.at(at(10)), first);
    EXPECT_EQ(log.at(at(19)), first);
    EXPECT_EQ(log.at(at(20)), second);
    EXPECT_EQ(log.at(at(29)), second);
    EXPECT_EQ(log.at(at(31)), nullptr) << "nobody decides any more";
}

TEST(DecisionLog, ForgetsTheOldest) {
    DecisionLog log;
    std::vector<DecisionPointer> decisions;
    for (int i = 0; i < 500 + 128; ++i)
        log.add(at(i), decisions.emplace_back(std::make_shared<Decision>()));
    EXPECT_EQ(log.at(at(499)), nullptr);
    EXPECT_EQ(log.at(at(500)), decisions[500]);
    EXPECT_EQ(log.at(at(9999)), decisions.back());
}

}  // namespace
}  // namespace marchproxy::packet
