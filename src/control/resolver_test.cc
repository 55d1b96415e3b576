#include "control/resolver.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>

namespace marchproxy::control {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

enum class Manner { answers, silent, fails, garbage, truncated_record };

// A DNS server (RFC 1035) of one question a datagram, on a loopback port, whose records a test changes as it goes.
class DnsServer {
  public:
    DnsServer() : socket_(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)) {
        sockaddr_storage storage{};
        socklen_t length = SocketAddress{IpAddress::v4(INADDR_LOOPBACK), 0}.to(storage);
        EXPECT_EQ(::bind(socket_, reinterpret_cast<sockaddr*>(&storage), length), 0);
        length = sizeof storage;
        ::getsockname(socket_, reinterpret_cast<sockaddr*>(&storage), &length);
        address_ = to_string(SocketAddress::from(storage));
        thread_ = std::thread([this] { run(); });
    }
    ~DnsServer() {
        stop_ = true;
        thread_.join();
        ::close(socket_);
    }

    void set(const std::string& name, std::vector<std::string> addresses, uint32_t ttl) {
        const std::lock_guard lock(mutex_);
        records_[name] = {std::move(addresses), ttl};
    }
    void behave(Manner manner) { manner_ = manner; }
    const std::string& address() const { return address_; }
    int questions() const { return questions_; }

  private:
    struct Record {
        std::vector<std::string> addresses;
        uint32_t ttl = 0;
    };

    void run() {
        while (!stop_) {
            pollfd ready{socket_, POLLIN, 0};
            if (::poll(&ready, 1, 20) <= 0) continue;
            char question[512];
            sockaddr_storage client{};
            socklen_t length = sizeof client;
            const ssize_t size =
                ::recvfrom(socket_, question, sizeof question, 0, reinterpret_cast<sockaddr*>(&client), &length);
            if (size < 17) continue;
            ++questions_;
            const std::string reply = reply_to({question, static_cast<size_t>(size)});
            if (!reply.empty())
                ::sendto(socket_, reply.data(), reply.size(), 0, reinterpret_cast<sockaddr*>(&client), length);
        }
    }

    std::string reply_to(const std::string& question) {
        if (manner_ == Manner::silent) return {};
        if (manner_ == Manner::garbage) return question.substr(0, 2) + std::string(200, '\xff');
        std::string name;
        size_t at = 12;
        while (question[at] != 0) {
            const auto label = static_cast<size_t>(question[at]);
            name += (name.empty() ? "" : ".") + question.substr(at + 1, label);
            at += label + 1;
        }
        const bool v6 = question[at + 2] == 28;
        const std::string asked = question.substr(12, at + 5 - 12);

        Record record;
        bool known = false;
        {
            const std::lock_guard lock(mutex_);
            if (const auto found = records_.find(name); found != records_.end()) {
                record = found->second;
                known = true;
            }
        }
        std::string answers;
        uint8_t count = 0;
        for (const auto& address : record.addresses) {
            char bytes[16];
            const bool is_v6 = address.find(':') != std::string::npos;
            if (is_v6 != v6 || ::inet_pton(v6 ? AF_INET6 : AF_INET, address.c_str(), bytes) != 1) continue;
            const uint32_t ttl = htonl(record.ttl);
            const char size = v6 ? 16 : 4;
            answers += std::string("\xc0\x0c\x00", 3) + (v6 ? '\x1c' : '\x01') + std::string("\x00\x01", 2) +
                       std::string(reinterpret_cast<const char*>(&ttl), 4) + '\0' + size + std::string(bytes, size);
            ++count;
        }
        if (manner_ == Manner::truncated_record && count > 0) answers.resize(answers.size() - 2);
        const char code = manner_ == Manner::fails ? 2 : known ? 0 : 3;
        return question.substr(0, 2) + '\x81' + static_cast<char>(0x80 | code) + std::string("\x00\x01\x00", 3) +
               static_cast<char>(count) + std::string(4, '\0') + asked + answers;
    }

    int socket_;
    std::string address_;
    std::mutex mutex_;
    std::map<std::string, Record> records_;
    std::atomic<Manner> manner_{Manner::answers};
    std::atomic<int> questions_{0};
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

class ResolverTest : public testing::Test {
  protected:
    ResolverTest() {
        options.servers = dns.address();
        options.hosts_file = hosts_file.string();
        options.ttl_floor = milliseconds(50);
        options.hosts_interval = milliseconds(50);
        options.first_retry = milliseconds(20);
        options.last_retry = milliseconds(100);
        options.query_timeout = milliseconds(200);
    }
    ~ResolverTest() override { std::filesystem::remove(hosts_file); }

    void start() {
        resolver = std::make_unique<Resolver>(
            log, [this] { ++changes; }, options);
    }

    static std::vector<SocketAddress> at(std::initializer_list<const char*> addresses) {
        std::vector<SocketAddress> result;
        for (const char* address : addresses)
            result.push_back(SocketAddress::parse(address).value());
        return result;
    }
    bool becomes(const HostPort& name, const std::vector<SocketAddress>& addresses, Duration patience = seconds(5)) {
        for (const TimePoint end = Clock::now() + patience; Clock::now() < end;
             std::this_thread::sleep_for(milliseconds(5)))
            if (resolver->current()[name] == addresses) return true;
        return false;
    }
    bool told_of(int count) {
        for (const TimePoint end = Clock::now() + seconds(5); changes < count && Clock::now() < end;)
            std::this_thread::sleep_for(milliseconds(5));
        return changes == count;
    }
    std::string logged() {
        const std::lock_guard lock(mutex);
        return lines;
    }

    std::filesystem::path hosts_file =
        std::filesystem::temp_directory_path() / ("resolver-hosts-" + std::to_string(::getpid()));
    std::mutex mutex;
    std::string lines;
    telemetry::Log log{LogLevel::debug, LogFormat::json, [this](std::string_view line) {
                           const std::lock_guard lock(mutex);
                           lines += std::string(line) + "\n";
                       }};
    DnsServer dns;
    std::atomic<int> changes{0};
    ResolverOptions options;
    std::unique_ptr<Resolver> resolver;
    const HostPort web{"web.test", 80};
};

TEST_F(ResolverTest, GivesBothFamiliesSortedWithoutDuplicates) {
    dns.set("web.test", {"10.0.0.2", "10.0.0.1", "2001:db8::1", "10.0.0.2"}, 60);
    start();
    const HostPort tls{"web.test", 443};
    const auto resolution = resolver->require({web, tls, {"10.9.9.9", 80}}, seconds(5));
    EXPECT_EQ(resolution.at(web), at({"10.0.0.1:80", "10.0.0.2:80", "[2001:db8::1]:80"}));
    EXPECT_EQ(resolution.at(tls).size(), 3u);
    EXPECT_EQ(resolution.size(), 2u) << "literals need no entry";
    EXPECT_TRUE(told_of(1));
}

TEST_F(ResolverTest, AsksAgainWhenTheTtlIsOverAndTellsOnlyOfChanges) {
    dns.set("web.test", {"10.0.0.1"}, 0);
    start();
    resolver->require({web}, seconds(5));
    const int before = dns.questions();
    std::this_thread::sleep_for(milliseconds(300));
    EXPECT_GT(dns.questions(), before + 3) << "a TTL below the floor counts as the floor";
    EXPECT_EQ(changes, 1);

    dns.set("web.test", {"10.0.0.9"}, 0);
    EXPECT_TRUE(becomes(web, at({"10.0.0.9:80"})));
    EXPECT_TRUE(told_of(2));
}

TEST_F(ResolverTest, LeavesAnAnswerAloneWhileItsTtlRuns) {
    dns.set("web.test", {"10.0.0.1"}, 1);
    start();
    resolver->require({web}, seconds(5));
    const auto resolved = Clock::now();
    dns.set("web.test", {"10.0.0.2"}, 1);
    ASSERT_TRUE(becomes(web, at({"10.0.0.2:80"})));
    EXPECT_GE(Clock::now() - resolved, milliseconds(900));
}

TEST_F(ResolverTest, HoldsALongTtlToTheCeiling) {
    options.ttl_ceiling = milliseconds(100);
    dns.set("web.test", {"10.0.0.1"}, 86400);
    start();
    resolver->require({web}, seconds(5));
    dns.set("web.test", {"10.0.0.2"}, 86400);
    EXPECT_TRUE(becomes(web, at({"10.0.0.2:80"})));
}

TEST_F(ResolverTest, KeepsTheLastAddressesThroughEveryKindOfFailure) {
    for (const Manner manner : {Manner::fails, Manner::garbage, Manner::truncated_record, Manner::silent}) {
        dns.behave(Manner::answers);
        dns.set("web.test", {"10.0.0.1"}, 0);
        start();
        ASSERT_EQ(resolver->require({web}, seconds(5)).at(web), at({"10.0.0.1:80"}));
        dns.behave(manner);
        std::this_thread::sleep_for(milliseconds(500));
        EXPECT_EQ(resolver->current().at(web), at({"10.0.0.1:80"})) << static_cast<int>(manner);
        dns.set("web.test", {"10.0.0.3"}, 0);
        dns.behave(Manner::answers);
        EXPECT_TRUE(becomes(web, at({"10.0.0.3:80"}))) << static_cast<int>(manner);
    }
    EXPECT_NE(logged().find("its last addresses stay in use"), std::string::npos);
    EXPECT_NE(logged().find("age_seconds"), std::string::npos);
    EXPECT_NE(logged().find("name resolves again"), std::string::npos);
}

TEST_F(ResolverTest, SaysForHowLongANameHasNotResolved) {
    dns.set("web.test", {"10.0.0.1"}, 0);
    start();
    resolver->require({web}, seconds(5));
    EXPECT_TRUE(resolver->notes().empty());
    dns.behave(Manner::fails);
    const auto says = [&](const std::string& text) {
        for (int i = 0; i < 500; ++i) {
            const auto notes = resolver->notes();
            if (notes.size() == 1 && notes[0].find(text) != std::string::npos) return true;
            std::this_thread::sleep_for(milliseconds(10));
        }
        return false;
    };
    EXPECT_TRUE(says("name web.test has not resolved for 0s ("));
    EXPECT_TRUE(says("name web.test has not resolved for 1s (")) << "the age grows";
    dns.behave(Manner::answers);
    for (int i = 0; i < 500 && !resolver->notes().empty(); ++i)
        std::this_thread::sleep_for(milliseconds(10));
    EXPECT_TRUE(resolver->notes().empty());
}

TEST_F(ResolverTest, ANameThatDoesNotExistHoldsUpNothingAndIsNamed) {
    dns.set("web.test", {"10.0.0.1"}, 60);
    start();
    const HostPort missing{"missing.test", 80};
    const auto begin = Clock::now();
    const auto resolution = resolver->require({web, missing}, seconds(5));
    EXPECT_LT(Clock::now() - begin, seconds(3));
    EXPECT_EQ(resolution.at(web), at({"10.0.0.1:80"}));
    EXPECT_TRUE(resolution.at(missing).empty());
    EXPECT_NE(logged().find("missing.test"), std::string::npos);
    dns.set("missing.test", {"10.0.0.5"}, 60);
    EXPECT_TRUE(becomes(missing, at({"10.0.0.5:80"})));
}

TEST_F(ResolverTest, ADeadServerHoldsUpAStartNoLongerThanItsPatience) {
    dns.behave(Manner::silent);
    start();
    const auto begin = Clock::now();
    EXPECT_TRUE(resolver->require({web}, milliseconds(100)).at(web).empty());
    EXPECT_LT(Clock::now() - begin, seconds(1));
}

TEST_F(ResolverTest, FailuresAreRetriedLessAndLessOften) {
    options.first_retry = milliseconds(50);
    options.last_retry = seconds(30);
    start();
    resolver->require({{"missing.test", 80}}, seconds(5));
    std::this_thread::sleep_for(milliseconds(700));
    EXPECT_LE(dns.questions(), 2 * 5) << "tries at 0, 50, 150, 350 and 750 ms at most, A and AAAA each";
    EXPECT_GE(dns.questions(), 2 * 2);
}

TEST_F(ResolverTest, TheHostsFileWinsAndItsChangesAreSeen) {
    dns.set("web.test", {"10.0.0.1"}, 60);
    std::ofstream(hosts_file) << "192.0.2.1 WEB.test\n";
    start();
    EXPECT_EQ(resolver->require({web}, seconds(5)).at(web), at({"192.0.2.1:80"}));
    EXPECT_EQ(dns.questions(), 0);
    std::ofstream(hosts_file) << "192.0.2.77 web.test\n";
    EXPECT_TRUE(becomes(web, at({"192.0.2.77:80"})));
}

TEST_F(ResolverTest, LocalhostNeedsNeitherFileNorServer) {
    start();
    const HostPort local{"localhost", 80};
    const auto addresses = resolver->require({local}, seconds(5)).at(local);
    ASSERT_FALSE(addresses.empty());
    for (const auto& address : addresses)
        EXPECT_TRUE(address.ip.is_loopback());
    EXPECT_EQ(dns.questions(), 0);
}

TEST_F(ResolverTest, AnUnspecifiedAddressIsNoEndpoint) {
    dns.set("web.test", {"0.0.0.0", "::"}, 60);
    start();
    EXPECT_TRUE(resolver->require({web}, seconds(5)).at(web).empty());
}

TEST_F(ResolverTest, ForgetsNamesThatNobodyUses) {
    dns.set("web.test", {"10.0.0.1"}, 0);
    dns.set("old.test", {"10.0.0.2"}, 0);
    start();
    resolver->require({web, {"old.test", 1}}, seconds(5));
    resolver->retain({web});
    EXPECT_EQ(resolver->current().size(), 1u);
    resolver->retain({});
    std::this_thread::sleep_for(milliseconds(150));
    const int before = dns.questions();
    std::this_thread::sleep_for(milliseconds(200));
    EXPECT_EQ(dns.questions(), before);
}

TEST_F(ResolverTest, ManyNamesAreAskedForAFewAtATime) {
    options.concurrent = 8;
    std::set<HostPort> names;
    for (int i = 0; i < 500; ++i) {
        const std::string name = "n" + std::to_string(i) + ".test";
        dns.set(name, {"10.1." + std::to_string(i / 250) + "." + std::to_string(i % 250)}, 60);
        names.insert({name, 80});
    }
    start();
    const auto resolution = resolver->require(names, seconds(20));
    for (const auto& [name, addresses] : resolution)
        EXPECT_EQ(addresses.size(), 1u) << name.host;
    EXPECT_EQ(dns.questions(), 1000);
}

TEST_F(ResolverTest, EndsWhileQueriesAreOpen) {
    options.query_timeout = seconds(10);
    dns.behave(Manner::silent);
    start();
    resolver->require({web, {"a.test", 1}, {"b.test", 1}}, milliseconds(20));
    const auto begin = Clock::now();
    resolver.reset();
    EXPECT_LT(Clock::now() - begin, seconds(5));
}

}  // namespace
}  // namespace marchproxy::control
