#include "control/board.h"

#include <gtest/gtest.h>

namespace marchproxy::control {
namespace {

TEST(Board, TellsHowTheLastReloadWent) {
    Board board;
    EXPECT_EQ(board.status().reload.last, std::nullopt) << "the first load is none";
    board.reload_failed("proxy.yaml:3:5: unknown key");
    EXPECT_EQ(board.status().reload.failed, 1u);
    EXPECT_EQ(board.status().reload.last_error, "proxy.yaml:3:5: unknown key");
    board.reload_succeeded();
    const auto reload = board.status().reload;
    EXPECT_EQ(reload.succeeded, 1u);
    EXPECT_EQ(reload.failed, 1u);
    EXPECT_EQ(reload.last_error, "");
    EXPECT_TRUE(reload.last.has_value());
}

TEST(Board, ANoteLastsUntilItsTopicSaysOtherwise) {
    Board board;
    board.note("restart", {"stream.workers waits", "stream.buffer waits"});
    board.note("admin", {"admin: port 8081 is occupied"});
    board.note("restart", {"stream.workers waits"});
    EXPECT_EQ(board.status().notes, (std::vector<std::string>{"admin: port 8081 is occupied", "stream.workers waits"}));
    board.note("admin", {});
    EXPECT_EQ(board.status().notes, std::vector<std::string>{"stream.workers waits"});
}

TEST(Board, StartsAsStartingWithoutASnapshot) {
    Board board;
    EXPECT_EQ(board.status().state, admin::ProcessState::starting);
    EXPECT_EQ(board.snapshot(), nullptr);
    EXPECT_FALSE(board.status().version.empty());
}

}  // namespace
}  // namespace marchproxy::control
