#include "control/demo.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <set>
#include <string>
#include <thread>

#include "control/http_head.h"

namespace marchproxy::control {
namespace {

class Client {
  public:
    explicit Client(const SocketAddress& address) : descriptor_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
        sockaddr_storage storage{};
        const socklen_t length = address.to(storage);
        EXPECT_EQ(::connect(descriptor_, reinterpret_cast<sockaddr*>(&storage), length), 0);
        const timeval patience{10, 0};
        ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    }
    ~Client() { ::close(descriptor_); }

    void send(std::string_view bytes) {
        while (!bytes.empty()) {
            const ssize_t sent = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
            ASSERT_GT(sent, 0);
            bytes.remove_prefix(static_cast<size_t>(sent));
        }
    }

    std::string read(size_t size) {
        std::string bytes(size, '\0');
        size_t have = 0;
        while (have < size) {
            const ssize_t received = ::recv(descriptor_, bytes.data() + have, size - have, 0);
            if (received <= 0) break;
            have += static_cast<size_t>(received);
        }
        bytes.resize(have);
        return bytes;
    }

    std::string read_head() {
        std::string read_so_far;
        while (!read_so_far.ends_with("\r\n\r\n")) {
            const std::string byte = read(1);
            if (byte.empty()) break;
            read_so_far += byte;
        }
        return read_so_far;
    }

    // The body of the next answer; its head goes to `head`.
    std::string answer() {
        head = read_head();
        const size_t at = head.find("Content-Length: ");
        return at == std::string::npos ? "" : read(std::stoul(head.substr(at + 16)));
    }

    bool closed() { return read(1).empty(); }

    std::string head;

  private:
    int descriptor_;
};

class DemoTest : public testing::Test {
  protected:
    void SetUp() override {
        auto started = Demo::start();
        ASSERT_TRUE(started.ok()) << started.error();
        demo = std::move(*started);
    }
    SocketAddress first() const { return demo->addresses()[0]; }
    std::unique_ptr<Demo> demo;
};

TEST_F(DemoTest, EachCloudSaysWhichItIs) {
    const auto addresses = demo->addresses();
    for (size_t i = 0; i < demo_clouds.size(); ++i) {
        Client client(addresses[i]);
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        EXPECT_EQ(client.answer().find(demo_clouds[i].path), 0u);
        EXPECT_EQ(client.head.find("HTTP/1.1 200 OK"), 0u);
    }
}

TEST_F(DemoTest, BytesAreAsManyAsAskedForAndTheSameFromEveryCloud) {
    std::set<std::string> answers;
    for (const auto& address : demo->addresses()) {
        Client client(address);
        client.send("GET /bytes/3000001?x HTTP/1.1\r\n\r\n");
        answers.insert(client.answer());
    }
    ASSERT_EQ(answers.size(), 1u);
    EXPECT_EQ(answers.begin()->size(), 3000001u);
}

TEST_F(DemoTest, AConnectionServesRequestAfterRequestAlsoSentAhead) {
    Client client(first());
    client.send(
        "GET /bytes/5 HTTP/1.1\r\n\r\nPOST /echo HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcHEAD /bytes/9 "
        "HTTP/1.1\r\n\r\n");
    EXPECT_EQ(client.answer().size(), 5u);
    EXPECT_EQ(client.answer(), "abc");
    EXPECT_NE(client.read_head().find("Content-Length: 9\r\n"), std::string::npos);
    client.send("GET /bytes/0 HTTP/1.1\r\nConnection: close\r\n\r\n");
    EXPECT_EQ(client.answer(), "");
    EXPECT_TRUE(client.closed());
}

TEST_F(DemoTest, EchoGivesALargeBodyBackWhileItStillComes) {
    std::string body(20'000'000, '\0');
    for (size_t i = 0; i < body.size(); ++i)
        body[i] = static_cast<char>(i * 2654435761u >> 24);
    Client client(first());
    std::thread sender([&] {
        client.send("POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: " + std::to_string(body.size()) +
                    "\r\n\r\n");
        client.send(body);
    });
    EXPECT_EQ(client.read_head(), "HTTP/1.1 100 Continue\r\n\r\n");
    const std::string echoed = client.answer();
    sender.join();
    EXPECT_TRUE(echoed == body);
}

TEST_F(DemoTest, UploadCountsTheBody) {
    Client client(first());
    client.send("PUT /upload HTTP/1.1\r\nContent-Length: 700000\r\n\r\n" + std::string(700000, 'x'));
    EXPECT_EQ(client.answer(), "received 700000 bytes\n");
    client.send("POST /upload HTTP/1.1\r\nContent-Length: 0\r\n\r\n");
    EXPECT_EQ(client.answer(), "received 0 bytes\n");
}

TEST_F(DemoTest, ADelayedAnswerHoldsUpNobodyElse) {
    const auto start = Clock::now();
    Client slow(first());
    slow.send("GET /delay/300 HTTP/1.1\r\n\r\n");
    Client quick(first());
    quick.send("GET /bytes/1 HTTP/1.1\r\n\r\n");
    quick.answer();
    EXPECT_LT(Clock::now() - start, std::chrono::milliseconds(250));
    EXPECT_NE(slow.answer().find("300 ms"), std::string::npos);
    EXPECT_GE(Clock::now() - start, std::chrono::milliseconds(300));
}

TEST_F(DemoTest, AnEndlessDownloadHoldsUpNobodyElse) {
    Client endless(first());
    endless.send("GET /bytes/100000000000 HTTP/1.1\r\n\r\n");
    std::thread reader([&] { endless.read(200'000'000); });
    for (int i = 0; i < 20; ++i) {
        const auto start = Clock::now();
        Client quick(first());
        quick.send("GET /bytes/1 HTTP/1.1\r\n\r\n");
        EXPECT_EQ(quick.answer().size(), 1u);
        EXPECT_LT(Clock::now() - start, std::chrono::seconds(2));
    }
    reader.join();
}

TEST_F(DemoTest, WrongRequestsGetAStatusThatSaysSo) {
    const std::pair<std::string, std::string> rows[] = {
        {"GET /nothing HTTP/1.1\r\n\r\n", "404"},
        {"GET /bytes/100000000001 HTTP/1.1\r\n\r\n", "404"},
        {"GET /bytes/-1 HTTP/1.1\r\n\r\n", "404"},
        {"GET /delay/10001 HTTP/1.1\r\n\r\n", "404"},
        {"GET /upload HTTP/1.1\r\n\r\n", "405"},
        {"DELETE / HTTP/1.1\r\n\r\n", "405"},
        {"POST /upload HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "411"},
        {"POST /upload HTTP/1.1\r\nContent-Length: 1x\r\n\r\n", "400"},
        {"GET / HTTP/3.0\r\n\r\n", "505"},
        {"\x16\x03\x01 garbage\r\n\r\n", "400"},
        {"GET / HTTP/1.1\r\nX: " + std::string(largest_head, 'x'), "431"},
    };
    for (const auto& [request, status] : rows) {
        Client client(first());
        client.send(request);
        client.answer();
        EXPECT_EQ(client.head.substr(0, 12), "HTTP/1.1 " + status) << request.substr(0, 60);
    }
}

TEST_F(DemoTest, EndsWithConnectionsOpen) {
    Client waiting(first());
    waiting.send("GET /delay/10000 HTTP/1.1\r\n\r\n");
    Client half(first());
    half.send("GET / HT");
    demo.reset();
    EXPECT_TRUE(waiting.closed());
    EXPECT_TRUE(half.closed());
}

TEST_F(DemoTest, TheDefaultServiceBalancesOverFourClouds) {
    Snapshot snapshot;
    snapshot.settings.listen_port = 9999;
    demo->add_to(snapshot);
    ASSERT_EQ(snapshot.services.size(), 1u);
    const Service& service = snapshot.services[0];
    EXPECT_EQ(service.name, "default");
    EXPECT_EQ(service.listen, (SocketAddress{IpAddress::any_v4(), 9999}));
    ASSERT_EQ(service.endpoints.size(), 4u);
    snapshot.path_table = PathTable(snapshot.paths);
    for (const Endpoint& endpoint : service.endpoints) {
        EXPECT_TRUE(endpoint.address.is_literal());
        EXPECT_NE(snapshot.find_path(endpoint.path), nullptr) << endpoint.path;
    }
}

TEST(HttpHead, IsAbsentUntilItIsWhole) {
    const std::string whole = "GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
    for (size_t size = 0; size < whole.size(); ++size)
        EXPECT_FALSE(parse_head(whole.substr(0, size)).has_value());
    const auto head = parse_head(whole + "more");
    ASSERT_TRUE(head.has_value());
    EXPECT_EQ(head->size, whole.size());
    EXPECT_EQ(head->path, "/a");
    EXPECT_TRUE(head->keep_alive);
}

TEST(HttpHead, KeepsTheConnectionAsVersionAndFieldSay) {
    EXPECT_FALSE(parse_head("GET / HTTP/1.0\r\n\r\n")->keep_alive);
    EXPECT_TRUE(parse_head("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")->keep_alive);
    EXPECT_FALSE(parse_head("GET / HTTP/1.1\r\nconnection:close\r\n\r\n")->keep_alive);
}

}  // namespace
}  // namespace marchproxy::control
