#include "control/handover.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

namespace marchproxy::control {
namespace {

Descriptor loopback_socket(int type, bool listening) {
    Descriptor socket(::socket(AF_INET, type | SOCK_CLOEXEC, 0));
    sockaddr_storage storage{};
    const socklen_t length = SocketAddress{IpAddress::v4(INADDR_LOOPBACK), 0}.to(storage);
    EXPECT_EQ(::bind(socket.get(), reinterpret_cast<sockaddr*>(&storage), length), 0);
    if (listening) {
        EXPECT_EQ(::listen(socket.get(), 8), 0);
    }
    return socket;
}

bool closes_on_exec(int descriptor) {
    return (::fcntl(descriptor, F_GETFD) & FD_CLOEXEC) != 0;
}

sigset_t no_signals() {
    sigset_t none;
    ::sigemptyset(&none);
    return none;
}

Successor::Answer awaited(Successor& successor) {
    pollfd ready{successor.ready_descriptor(), POLLIN, 0};
    ::poll(&ready, 1, 10'000);
    return successor.answer();
}

TEST(Numbers, AreWrittenAsRangesAndReadBack) {
    EXPECT_EQ(format_numbers({}), "");
    EXPECT_EQ(format_numbers({7}), "7");
    EXPECT_EQ(format_numbers({9, 5, 3, 4, 6}), "3-6,9");
    EXPECT_EQ(parse_numbers("3-6,9"), (std::vector<int>{3, 4, 5, 6, 9}));
    EXPECT_EQ(parse_numbers(""), std::vector<int>{});
    std::vector<int> many;
    for (int i = 10; i < 40'010; ++i)
        many.push_back(i);
    EXPECT_LT(format_numbers(many).size(), 100u) << "has to fit into one environment variable";
    EXPECT_EQ(parse_numbers(format_numbers(many)), many);
}

TEST(Numbers, RefuseWhatNoProcessWrote) {
    for (const char* text : {"x", "3--4", "-3", "6-3", "3 ", "99999999999", "0-1048577", ",3"})
        EXPECT_FALSE(parse_numbers(text)) << text;
}

TEST(Inherited, TellsFromTheSocketItselfWhatItIs) {
    const Descriptor tcp = loopback_socket(SOCK_STREAM, true);
    const Descriptor udp = loopback_socket(SOCK_DGRAM, false);
    const Descriptor unconnected = loopback_socket(SOCK_STREAM, false);
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const Descriptor reader(ends[0]);
    for (const int descriptor : {tcp.get(), udp.get()})
        ::fcntl(descriptor, F_SETFD, 0);
    ::setenv("MARCHPROXY_INTERNAL_LISTENERS",
             format_numbers({tcp.get(), udp.get(), unconnected.get(), reader.get()}).c_str(), 1);
    ::setenv("MARCHPROXY_INTERNAL_READY", std::to_string(ends[1]).c_str(), 1);

    const Inherited inherited = take_inherited();
    ASSERT_EQ(inherited.sockets.size(), 2u);
    EXPECT_EQ(inherited.sockets[0].protocol, Protocol::tcp);
    EXPECT_EQ(inherited.sockets[0].descriptor, tcp.get());
    EXPECT_TRUE(inherited.sockets[0].address.ip.is_loopback());
    EXPECT_NE(inherited.sockets[0].address.port, 0);
    EXPECT_EQ(inherited.sockets[1].protocol, Protocol::udp);
    EXPECT_TRUE(closes_on_exec(tcp.get())) << "a later child must not hold the listener";
    EXPECT_TRUE(closes_on_exec(ends[1]));
    EXPECT_EQ(inherited.ready_pipe.get(), ends[1]);
    EXPECT_EQ(inherited.problems.size(), 2u);
    EXPECT_EQ(std::getenv("MARCHPROXY_INTERNAL_LISTENERS"), nullptr);
    EXPECT_EQ(std::getenv("MARCHPROXY_INTERNAL_READY"), nullptr);
}

TEST(Inherited, WithoutVariablesThereIsNothing) {
    const Inherited inherited = take_inherited();
    EXPECT_TRUE(inherited.sockets.empty());
    EXPECT_TRUE(inherited.problems.empty());
    EXPECT_FALSE(inherited.ready_pipe);
}

TEST(Inherited, NamesAVariableThatSomebodyMadeUp) {
    ::setenv("MARCHPROXY_INTERNAL_READY", "900000", 1);
    const Inherited inherited = take_inherited();
    EXPECT_FALSE(inherited.ready_pipe);
    ASSERT_EQ(inherited.problems.size(), 1u);
    EXPECT_NE(inherited.problems[0].find("900000"), std::string::npos);
}

TEST(Inherited, TheManagersSocketsAreForTheProcessItNames) {
    ::setenv("LISTEN_FDS", "1", 1);
    ::setenv("LISTEN_PID", "1", 1);
    EXPECT_TRUE(take_inherited().sockets.empty());
    EXPECT_EQ(std::getenv("LISTEN_FDS"), nullptr);
}

TEST(ShareOut, EachWorkerGetsAListenerThatAManagerOpenedOnce) {
    const Descriptor tcp = loopback_socket(SOCK_STREAM, true);
    const Descriptor udp = loopback_socket(SOCK_DGRAM, false);
    const Descriptor shared = loopback_socket(SOCK_STREAM, true);
    const int on = 1;
    ASSERT_EQ(::setsockopt(shared.get(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on), 0);
    const SocketAddress a = SocketAddress::parse("127.0.0.1:1").value();
    const SocketAddress b = SocketAddress::parse("127.0.0.1:2").value();
    std::vector<stream::ListeningSocket> sockets{
        {tcp.get(), Protocol::tcp, a}, {udp.get(), Protocol::udp, a}, {shared.get(), Protocol::tcp, b}};
    share_out(sockets, 3);
    ASSERT_EQ(sockets.size(), 5u);
    for (size_t i = 3; i < sockets.size(); ++i) {
        const Descriptor copy(sockets[i].descriptor);
        EXPECT_EQ(sockets[i].protocol, Protocol::tcp);
        EXPECT_EQ(sockets[i].address, a);
        EXPECT_TRUE(closes_on_exec(copy.get()));
    }
    int shares = 0;
    socklen_t length = sizeof shares;
    ASSERT_EQ(::getsockopt(udp.get(), SOL_SOCKET, SO_REUSEPORT, &shares, &length), 0);
    EXPECT_EQ(shares, 1);
}

TEST(Successor, GetsTheListenersTheArgumentsAndNothingElse) {
    const Descriptor listener = loopback_socket(SOCK_STREAM, true);
    const Descriptor other = loopback_socket(SOCK_STREAM, true);
    const std::filesystem::path seen =
        std::filesystem::temp_directory_path() / ("successor-" + std::to_string(::getpid()));
    const std::string script = "{ ls /proc/$$/fd; echo $1 $LISTEN_FDS; echo $MARCHPROXY_INTERNAL_DRAINS; } > " +
                               seen.string() + "; printf r > /proc/self/fd/$MARCHPROXY_INTERNAL_READY; exec sleep 60";
    ::setenv("LISTEN_FDS", "7", 1);
    auto started = Successor::start("/bin/sh", {"sh", "-c", script, "sh", "argument"},
                                    {{listener.get(), Protocol::tcp, SocketAddress{}}}, "path a\n", no_signals());
    ::unsetenv("LISTEN_FDS");
    ASSERT_TRUE(started.ok()) << started.error();
    EXPECT_EQ(awaited(*started), Successor::Answer::ready);
    EXPECT_TRUE(closes_on_exec(listener.get())) << "a later child must not hold the listener";

    std::ifstream file(seen);
    std::set<int> descriptors;
    std::string word;
    while (file >> word && word != "argument")
        descriptors.insert(std::stoi(word));
    EXPECT_EQ(word, "argument");
    std::string what, name;
    EXPECT_TRUE(file >> what >> name);
    EXPECT_EQ(what + ' ' + name, "path a") << "LISTEN_FDS is about us; this follows at once";
    EXPECT_FALSE(file >> word) << word;
    EXPECT_TRUE(descriptors.contains(listener.get()));
    EXPECT_FALSE(descriptors.contains(other.get()));
    std::filesystem::remove(seen);
    EXPECT_EQ(started->end(), "it was ended by us");
}

TEST(Successor, ThatEndsEarlyIsNoticedAndItsStatusTold) {
    auto started = Successor::start("/bin/sh", {"sh", "-c", "exit 2"}, {}, {}, no_signals());
    ASSERT_TRUE(started.ok()) << started.error();
    EXPECT_EQ(awaited(*started), Successor::Answer::gone);
    EXPECT_EQ(started->end(), "it exited with status 2");
}

TEST(Successor, ThatSaysNothingIsWaitedForAndCanBeEnded) {
    auto started = Successor::start("/bin/sh", {"sh", "-c", "exec sleep 60"}, {}, {}, no_signals());
    ASSERT_TRUE(started.ok()) << started.error();
    EXPECT_EQ(started->answer(), Successor::Answer::none);
    EXPECT_EQ(started->end(), "it was ended by us");
}

TEST(Successor, WithoutAProgramIsAnErrorThatNamesIt) {
    const auto started = Successor::start("/nowhere/marchproxy-l3l4", {"x"}, {}, {}, no_signals());
    ASSERT_FALSE(started.ok());
    EXPECT_NE(started.error().find("/nowhere/marchproxy-l3l4"), std::string::npos);
}

TEST(Program, IsFoundByThePathItWasStartedBy) {
    const std::string path = path_of_this_program();
    ASSERT_TRUE(path.starts_with('/')) << path;
    EXPECT_TRUE(std::filesystem::equivalent(path, "/proc/self/exe"));
}

}  // namespace
}  // namespace marchproxy::control
