#include "control/mailbox.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <thread>

namespace marchproxy::control {
namespace {

bool readable(const Mailbox& mailbox, int milliseconds) {
    pollfd descriptor{mailbox.descriptor(), POLLIN, 0};
    return ::poll(&descriptor, 1, milliseconds) == 1;
}

TEST(Mailbox, WakesOnceForManyCalls) {
    Mailbox mailbox;
    EXPECT_FALSE(readable(mailbox, 0));
    for (int i = 0; i < 3; ++i)
        mailbox.wake();
    EXPECT_TRUE(readable(mailbox, 0));
    mailbox.drain_wakes();
    EXPECT_FALSE(readable(mailbox, 0));
}

TEST(Mailbox, WhoeverAsksForAReloadHearsItsOutcome) {
    Mailbox mailbox;
    Result<void> outcome;
    std::thread asking([&] { outcome = mailbox.reload(); });
    ASSERT_TRUE(readable(mailbox, 10'000));
    auto requests = mailbox.take_reloads();
    ASSERT_EQ(requests.size(), 1u);
    requests[0].set_value(Error{"line 3 is wrong"});
    asking.join();
    ASSERT_FALSE(outcome.ok());
    EXPECT_EQ(outcome.error(), "line 3 is wrong");
}

TEST(Mailbox, NobodyWaitsForAClosedOne) {
    Mailbox mailbox;
    Result<void> before;
    std::thread asking([&] { before = mailbox.reload(); });
    ASSERT_TRUE(readable(mailbox, 10'000));
    mailbox.close("the proxy is draining");
    asking.join();
    EXPECT_FALSE(before.ok());
    const auto after = mailbox.reload();
    ASSERT_FALSE(after.ok());
    EXPECT_EQ(after.error(), "the proxy is draining");
}

}  // namespace
}  // namespace marchproxy::control
