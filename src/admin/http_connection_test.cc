#include "admin/http_connection.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

namespace marchproxy::admin {
namespace {

class HttpConnectionTest : public ::testing::Test {
  protected:
    HttpConnectionTest() { EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends_), 0); }
    ~HttpConnectionTest() override {
        leave();
        close(stop_);
    }
    void leave() {
        if (ends_[1] >= 0) close(ends_[1]);
        ends_[1] = -1;
    }

    int ends_[2] = {-1, -1};
    const int stop_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
};

TEST_F(HttpConnectionTest, AStreamEndsWithTheReaderThatLeft) {
    HttpConnection connection(ends_[0], stop_, {}, [] { return false; });
    connection.stream_without_end();
    EXPECT_TRUE(connection.is_writable());
    shutdown(ends_[1], SHUT_WR);
    EXPECT_FALSE(connection.is_writable());
    leave();
}

TEST_F(HttpConnectionTest, AnAnswerGoesToAClientThatClosedItsHalf) {
    HttpConnection connection(ends_[0], stop_, {}, [] { return false; });
    shutdown(ends_[1], SHUT_WR);
    EXPECT_TRUE(connection.is_writable());
    leave();
}

}  // namespace
}  // namespace marchproxy::admin
