#include "control/notify.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <filesystem>

namespace marchproxy::control {
namespace {

// What a service manager does: a bound datagram socket that reads one message at a time.
class Manager {
  public:
    explicit Manager(const std::string& name) : descriptor_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, name.data(), name.size());
        if (name[0] == '@') address.sun_path[0] = '\0';
        const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
        EXPECT_EQ(::bind(descriptor_, reinterpret_cast<sockaddr*>(&address), length), 0) << std::strerror(errno);
        const timeval patience{2, 0};
        ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    }
    ~Manager() { ::close(descriptor_); }

    std::string next() {
        char buffer[1024];
        const ssize_t length = ::recv(descriptor_, buffer, sizeof buffer, 0);
        return length < 0 ? "nothing came" : std::string(buffer, static_cast<size_t>(length));
    }

  private:
    int descriptor_;
};

std::string abstract_name() {
    return "@marchproxy-notify-test-" + std::to_string(::getpid());
}

TEST(Notifier, TellsAnAbstractSocketEachStepOfALife) {
    Manager manager(abstract_name());
    Notifier notifier(abstract_name());

    ASSERT_TRUE(notifier.ready("2 services").ok());
    EXPECT_EQ(manager.next(), "READY=1\nSTATUS=2 services");
    ASSERT_TRUE(notifier.status("serving").ok());
    EXPECT_EQ(manager.next(), "STATUS=serving");
    ASSERT_TRUE(notifier.main_process(4711).ok());
    EXPECT_EQ(manager.next(), "MAINPID=4711");
    ASSERT_TRUE(notifier.watchdog().ok());
    EXPECT_EQ(manager.next(), "WATCHDOG=1");
    ASSERT_TRUE(notifier.stopping("draining").ok());
    EXPECT_EQ(manager.next(), "STOPPING=1\nSTATUS=draining");
}

TEST(Notifier, SaysWhenAReloadBegan) {
    Manager manager(abstract_name());
    Notifier notifier(abstract_name());
    const auto before = std::chrono::steady_clock::now().time_since_epoch();
    ASSERT_TRUE(notifier.reloading().ok());
    const std::string message = manager.next();
    const std::string prefix = "RELOADING=1\nMONOTONIC_USEC=";
    ASSERT_EQ(message.substr(0, prefix.size()), prefix);
    const std::chrono::microseconds told(std::stoll(message.substr(prefix.size())));
    EXPECT_GE(told, std::chrono::duration_cast<std::chrono::microseconds>(before));
    EXPECT_LE(told, std::chrono::steady_clock::now().time_since_epoch());
}

TEST(Notifier, FindsAPathInTheFileSystem) {
    const std::string path =
        (std::filesystem::temp_directory_path() / ("notify-" + std::to_string(::getpid()))).string();
    {
        Manager manager(path);
        Notifier notifier(path);
        ASSERT_TRUE(notifier.ready("up").ok());
        EXPECT_EQ(manager.next(), "READY=1\nSTATUS=up");
    }
    std::filesystem::remove(path);
}

TEST(Notifier, KeepsAStatusOnOneLine) {
    Manager manager(abstract_name());
    Notifier notifier(abstract_name());
    ASSERT_TRUE(notifier.status("reload failed:\nREADY=1").ok());
    EXPECT_EQ(manager.next(), "STATUS=reload failed: READY=1");
}

TEST(Notifier, IsSilentWithoutAManager) {
    Notifier notifier("");
    EXPECT_TRUE(notifier.ready("up").ok());
    EXPECT_TRUE(notifier.watchdog().ok());
}

TEST(Notifier, NamesASocketThatCannotBeReached) {
    Notifier gone("@nobody-listens-here-" + std::to_string(::getpid()));
    const auto result = gone.ready("up");
    ASSERT_FALSE(result.ok());
    EXPECT_NE(result.error().find("nobody-listens-here"), std::string::npos);

    EXPECT_FALSE(Notifier("relative/path").ready("up").ok());
    EXPECT_FALSE(Notifier("/" + std::string(200, 'x')).ready("up").ok());
}

TEST(Notifier, BeatsTwiceAWatchdogPeriodAndOnlyForItsOwnProcess) {
    ::setenv("WATCHDOG_USEC", "3000000", 1);
    ::unsetenv("WATCHDOG_PID");
    EXPECT_EQ(Notifier::watchdog_interval_from_environment(), std::chrono::milliseconds(1500));
    ::setenv("WATCHDOG_PID", "1", 1);
    EXPECT_EQ(Notifier::watchdog_interval_from_environment(), std::nullopt);
    ::unsetenv("WATCHDOG_PID");
    ::setenv("WATCHDOG_USEC", "soon", 1);
    EXPECT_EQ(Notifier::watchdog_interval_from_environment(), std::nullopt);
    ::unsetenv("WATCHDOG_USEC");
    EXPECT_EQ(Notifier::watchdog_interval_from_environment(), std::nullopt);
}

}  // namespace
}  // namespace marchproxy::control
