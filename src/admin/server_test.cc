#include "admin/server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <httplib.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "admin/server_case.h"

namespace marchproxy::admin {
namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;
using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

// A TCP connection that says exactly what a test wants.
class RawClient {
  public:
    explicit RawClient(uint16_t port) {
        sockaddr_storage storage{};
        const socklen_t length = SocketAddress{loopback, port}.to(storage);
        connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&storage), length) == 0;
    }
    ~RawClient() { close(socket_); }
    RawClient(const RawClient&) = delete;
    RawClient& operator=(const RawClient&) = delete;

    bool connected() const { return connected_; }
    void say(std::string_view text) const { (void)send(socket_, text.data(), text.size(), MSG_NOSIGNAL); }

    // All until the server closes, or what came within the time.
    std::string hear(std::chrono::milliseconds patience = 10s) const {
        std::string result;
        const auto until = Clock::now() + patience;
        while (Clock::now() < until) {
            pollfd watched{socket_, POLLIN, 0};
            if (poll(&watched, 1, 50) <= 0) continue;
            char buffer[65536];
            const ssize_t received = recv(socket_, buffer, sizeof buffer, 0);
            if (received <= 0) return result;
            result.append(buffer, static_cast<size_t>(received));
        }
        return result;
    }

  private:
    int socket_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool connected_ = false;
};

// --- what it tells --------------------------------------------------------------------------------------------------

TEST_F(ServerTest, IsAliveAndReady) {
    view.add_service("web");
    EXPECT_EQ(get("/healthz")->status, 200);
    EXPECT_EQ(get_json("/readyz")["status"], "ready");
}

TEST_F(ServerTest, IsNotReadyWhileStartingOrDraining) {
    for (ProcessState state : {ProcessState::starting, ProcessState::draining}) {
        view.process_status.state = state;
        const auto answer = get("/readyz");
        EXPECT_EQ(answer->status, 503);
        EXPECT_THAT(answer->body, HasSubstr(state == ProcessState::starting ? "starting" : "draining"));
        EXPECT_EQ(get("/healthz")->status, 200) << "alive all the same";
    }
}

TEST_F(ServerTest, IsNotReadyWhenAServiceHasNoUsableEndpoint) {
    view.add_service("web");
    telemetry::ServiceStatus& database = view.add_service("db");
    database.endpoints[0].up = false;
    database.endpoints[0].last_error = "Connection refused";
    auto answer = get("/readyz");
    EXPECT_EQ(answer->status, 503);
    EXPECT_THAT(answer->body, HasSubstr("service db: no usable endpoint (10.1.0.10:80: Connection refused)"));
    EXPECT_THAT(answer->body, Not(HasSubstr("service web")));
    database.endpoints[0].up = true;
    database.endpoints[0].draining = true;
    EXPECT_THAT(get("/readyz")->body, HasSubstr("draining"));
    database.endpoints[0].draining = false;
    database.endpoints[0].resolved = "";
    database.endpoints[0].last_error = "";
    EXPECT_THAT(get("/readyz")->body, HasSubstr("has not resolved"));
    database.endpoints[0].resolved = "10.1.0.10:80";
    EXPECT_EQ(get("/readyz")->status, 200);
}

TEST_F(ServerTest, ListsServicesWithTheContractsFields) {
    telemetry::ServiceStatus& web = view.add_service("web");
    web.active_connections = 3;
    web.priority = Priority::p1;
    web.endpoints[0].active_connections = 3;
    web.paths[0].received_bytes = 10;
    web.paths[0].ended[static_cast<size_t>(Verdict::connect_refused)] = 2;
    web.dropped[static_cast<size_t>(Verdict::rate_limit)] = 4;
    const json services = get_json("/api/v1/services");
    ASSERT_EQ(services.size(), 1u);
    const json& service = services[0];
    EXPECT_EQ(service["name"], "web");
    EXPECT_EQ(service["protocol"], "tcp");
    EXPECT_EQ(service["listen"], "0.0.0.0:8080");
    EXPECT_EQ(service["plane"], "stream");
    EXPECT_EQ(service["plane_reason"], "it accepts the PROXY protocol");
    EXPECT_EQ(service["priority"], "P1");
    EXPECT_EQ(service["active_connections"], 3);
    EXPECT_EQ(service["connections_total"], 5);
    EXPECT_EQ(service["received_bytes"], 10);
    EXPECT_EQ(service["results"], json({{"connect_refused", 2}}));
    EXPECT_EQ(service["dropped"], json({{"rate_limit", 4}}));
    const json& endpoint = service["endpoints"][0];
    EXPECT_EQ(endpoint["address"], "10.1.0.10:80");
    EXPECT_EQ(endpoint["path"], "aws-us-east-1");
    EXPECT_EQ(endpoint["up"], true);
    EXPECT_EQ(endpoint["draining"], false);
    EXPECT_EQ(endpoint["weight"], 100);
    EXPECT_EQ(endpoint["active_connections"], 3);
}

TEST_F(ServerTest, ShowsARemovedServiceOnlyWhileItHasConnections) {
    view.add_service("web");
    view.publish(Snapshot());
    view.plane.services[0].listening = false;
    view.plane.services[0].active_connections = 1;
    EXPECT_EQ(get_json("/api/v1/services").size(), 1u);
    view.plane.services[0].active_connections = 0;
    EXPECT_EQ(get_json("/api/v1/services").size(), 0u);
    EXPECT_EQ(get_json("/api/v1/qos"), json::array());
}

TEST_F(ServerTest, TellsItsStatus) {
    view.add_service("web");
    view.plane.workers.push_back({.index = 0, .active_connections = 7});
    view.plane.descriptors_used = 12;
    view.plane.descriptors_limit = 1024;
    view.plane.notes = {"splice: pipe limit reached, copying"};
    view.process_status.notes = {"eBPF is off"};
    view.process_status.reload = {.succeeded = 2, .failed = 1, .last = WallTime{}, .last_error = "proxy.yaml:3:1: no"};
    const json status = get_json("/status");
    EXPECT_EQ(status["version"], "1.2.3");
    EXPECT_EQ(status["commit"], "abcdef");
    EXPECT_EQ(status["state"], "ready");
    EXPECT_EQ(status["uptime_seconds"], 90.0);
    EXPECT_EQ(status["pid"], getpid());
    EXPECT_EQ(status["services"][0]["plane"], "stream");
    EXPECT_EQ(status["workers"][0]["active_connections"], 7);
    EXPECT_EQ(status["descriptors"], json({{"used", 12}, {"limit", 1024}}));
    EXPECT_EQ(status["notes"], json({"eBPF is off", "splice: pipe limit reached, copying"}));
    EXPECT_EQ(status["reload"]["failed"], 1);
    EXPECT_EQ(status["reload"]["last_error"], "proxy.yaml:3:1: no");
    EXPECT_EQ(status["reload"]["last"], "1970-01-01T00:00:00.000Z");
}

TEST_F(ServerTest, ListsActiveFlowsFirst) {
    view.active = {flow_record("web", 1, flow::State::active), flow_record("dns", 2, flow::State::active)};
    std::vector<flow::Record> batch = {flow_record("web", 50, flow::State::closed),
                                       flow_record("web", 60, flow::State::closed)};
    view.store.finished(batch);
    auto bytes = [](const json& flows) {
        std::vector<int> result;
        for (const json& flow : flows)
            result.push_back(flow["received_bytes"].get<int>());
        return result;
    };
    EXPECT_THAT(bytes(get_json("/api/v1/flows")), testing::ElementsAre(2, 1, 60, 50));
    EXPECT_THAT(bytes(get_json("/api/v1/flows?limit=3&sort=bytes")), testing::ElementsAre(2, 1, 60));
    EXPECT_THAT(bytes(get_json("/api/v1/flows?service=web&limit=1")), testing::ElementsAre(1));
    EXPECT_THAT(bytes(get_json("/api/v1/flows?service=dns")), testing::ElementsAre(2));
    EXPECT_EQ(get_json("/api/v1/flows")[0]["state"], "active");
}

TEST_F(ServerTest, RefusesAFlowQueryItDoesNotUnderstand) {
    for (const char* query : {"limit=0", "limit=10001", "limit=-1", "limit=1x", "limit=", "limit=99999999999999999999",
                              "sort=size", "sort=", "servce=web", "limit=1&limit=2"}) {
        const auto answer = get(std::string("/api/v1/flows?") + query);
        EXPECT_EQ(answer->status, 400) << query;
        EXPECT_FALSE(json::parse(answer->body)["error"].get<std::string>().empty()) << query;
    }
    EXPECT_THAT(get("/api/v1/flows?limit=0")->body, HasSubstr("from 1 to 10000"));
}

TEST_F(ServerTest, ShowsTheConfigurationWithoutItsSecrets) {
    set_token("very secret");
    const auto answer = get("/api/v1/config");
    EXPECT_EQ(answer->status, 200);
    EXPECT_THAT(answer->body, Not(HasSubstr("very secret")));
    EXPECT_EQ(json::parse(answer->body)["admin"]["port"], 8081);
}

TEST_F(ServerTest, ExposesMetricsInTheFormatAskedFor) {
    telemetry::ServiceStatus& web = view.add_service("web");
    web.active_connections = 2;
    web.paths[0].received_bytes = 1000;
    web.paths[0].decisions = 5;
    web.paths[0].ended[static_cast<size_t>(Verdict::idle_timeout)] = 1;
    web.dropped[static_cast<size_t>(Verdict::access_denied)] = 9;
    telemetry::Histogram latency;
    latency.observe(2ms);
    web.paths[0].connect_latency = latency.values();
    web.paths.push_back({.path = ""});
    const auto text = get("/metrics");
    EXPECT_THAT(text->body, Not(HasSubstr("path=\"\""))) << "every endpoint has a path and nothing went without";
    EXPECT_EQ(text->get_header_value("Content-Type"), "text/plain; version=0.0.4; charset=utf-8");
    for (const char* line : {
             "marchproxy_active_connections{service=\"web\"} 2\n",
             "marchproxy_connections_total{service=\"web\",path=\"aws-us-east-1\",result=\"finished\"} 0\n",
             "marchproxy_connections_total{service=\"web\",path=\"aws-us-east-1\",result=\"idle_timeout\"} 1\n",
             "marchproxy_received_bytes_total{service=\"web\",path=\"aws-us-east-1\"} 1000\n",
             "marchproxy_dropped_total{service=\"web\",plane=\"stream\",reason=\"access_denied\"} 9\n",
             "marchproxy_path_up{path=\"aws-us-east-1\",provider=\"aws\",region=\"us-east-1\"} 1\n",
             "marchproxy_connect_latency_seconds_count{service=\"web\",path=\"aws-us-east-1\"} 1\n",
             "marchproxy_routing_decisions_total{service=\"web\",path=\"aws-us-east-1\",policy=\"weighted_round_"
             "robin\"} 5\n",
             "marchproxy_build_info{version=\"1.2.3\",commit=\"abcdef\"} 1\n",
         })
        EXPECT_THAT(text->body, HasSubstr(line));
    const auto open = get("/metrics", {{"Accept", "application/openmetrics-text; version=1.0.0"}});
    EXPECT_EQ(open->get_header_value("Content-Type"), "application/openmetrics-text; version=1.0.0; charset=utf-8");
    EXPECT_THAT(open->body, testing::EndsWith("# EOF\n"));
}

TEST_F(ServerTest, SaysThatMetricsAreOffWhereTheyAre) {
    Snapshot next = *view.snapshot();
    next.settings.telemetry.metrics = false;
    view.publish(next);
    EXPECT_EQ(get("/metrics")->status, 404);
    EXPECT_THAT(get("/metrics")->body, HasSubstr("telemetry.metrics.enabled"));
}

TEST_F(ServerTest, CarriesTenThousandServices) {
    Snapshot next;
    for (int i = 0; i < 10'000; ++i) {
        const std::string name = "service-" + std::to_string(i);
        next.services.push_back({.name = name});
        telemetry::ServiceStatus service;
        service.name = name;
        service.listening = true;
        service.endpoints.push_back({.address = "10.1.0.10:80", .resolved = "10.1.0.10:80", .weight = 100});
        service.paths.resize(1);
        view.plane.services.push_back(service);
    }
    view.publish(next);
    const auto begin = Clock::now();
    EXPECT_THAT(get("/metrics")->body, HasSubstr("marchproxy_active_connections{service=\"service-9999\"} 0\n"));
    EXPECT_EQ(get_json("/api/v1/services").size(), 10'000u);
    EXPECT_EQ(get("/readyz")->status, 200);
    RecordProperty("milliseconds", static_cast<int>((Clock::now() - begin) / 1ms));
}

TEST_F(ServerTest, ServesTheDashboardUnderAStrictPolicy) {
    const auto page = get("/");
    EXPECT_EQ(page->status, 200);
    EXPECT_EQ(page->get_header_value("Content-Type"), "text/html; charset=utf-8");
    const std::string policy = page->get_header_value("Content-Security-Policy");
    EXPECT_THAT(policy, HasSubstr("default-src 'none'"));
    EXPECT_THAT(policy, Not(HasSubstr("unsafe")));
    EXPECT_THAT(page->body, Not(HasSubstr("NONCE")));
    EXPECT_THAT(page->body, Not(testing::ContainsRegex("(src|href)=.(https?:)?//"))) << "nothing from elsewhere";
    const size_t at = policy.find("nonce-") + 6;
    EXPECT_THAT(page->body, HasSubstr("<script nonce=\"" + policy.substr(at, 32) + "\">"));
    EXPECT_NE(get("/")->get_header_value("Content-Security-Policy"), policy) << "a nonce is used once";
}

TEST_F(ServerTest, SaysWhatIsNotThere) {
    const auto missing = get("/api/v1/nothing");
    EXPECT_EQ(missing->status, 404);
    EXPECT_EQ(json::parse(missing->body)["error"], "there is nothing at /api/v1/nothing");
    const auto wrong = post("/status");
    EXPECT_EQ(wrong->status, 405);
    EXPECT_EQ(wrong->get_header_value("Allow"), "GET, HEAD");
    EXPECT_EQ(get("/api/v1/reload")->status, 405);
    EXPECT_EQ(get("/api/v1/reload")->get_header_value("Allow"), "POST");
    EXPECT_EQ(client().Head("/status")->status, 200);
    for (const char* path : {"/", "/status", "/api/v1/nothing"})
        EXPECT_EQ(get(path)->get_header_value("X-Content-Type-Options"), "nosniff") << path;
}

// --- what it changes ------------------------------------------------------------------------------------------------

TEST_F(ServerTest, ReloadsAndSaysWhyItCannot) {
    EXPECT_EQ(post("/api/v1/reload")->status, 200);
    view.reload_error = "proxy.yaml:3:1: unknown key `servces`";
    const auto refused = post("/api/v1/reload");
    EXPECT_EQ(refused->status, 422);
    EXPECT_EQ(json::parse(refused->body)["error"], view.reload_error);
    EXPECT_EQ(view.reloads, 2);
}

TEST_F(ServerTest, DrainsAnEndpointAndTakesItBack) {
    EXPECT_EQ(post("/api/v1/endpoints/10.1.0.10:80/drain")->status, 200);
    EXPECT_EQ(view.last_drained, "endpoint 10.1.0.10:80 drains");
    EXPECT_EQ(post("/api/v1/endpoints/%5B2001:db8::1%5D:80/undrain")->status, 200);
    EXPECT_EQ(view.last_drained, "endpoint [2001:db8::1]:80 is back");
    const auto unknown = post("/api/v1/endpoints/10.9.9.9:80/drain");
    EXPECT_EQ(unknown->status, 404);
    EXPECT_THAT(unknown->body, HasSubstr("10.9.9.9:80"));
    EXPECT_EQ(post("/api/v1/endpoints//drain")->status, 404);
    EXPECT_EQ(post("/api/v1/endpoints/10.1.0.10:80/destroy")->status, 404);
}

TEST_F(ServerTest, TakesChangesOnlyWithTheTokenWhereOneIsSet) {
    set_token("secret");
    EXPECT_EQ(post("/api/v1/reload")->status, 401);
    EXPECT_EQ(post("/api/v1/reload")->get_header_value("WWW-Authenticate"), "Bearer");
    EXPECT_EQ(post("/api/v1/reload", {{"Authorization", "Bearer wrong"}})->status, 401);
    EXPECT_EQ(view.reloads, 0);
    EXPECT_EQ(post("/api/v1/reload", {{"Authorization", "Bearer secret"}})->status, 200);
    EXPECT_EQ(get("/status")->status, 200) << "reading needs none";
    set_token("");
    EXPECT_EQ(post("/api/v1/reload")->status, 200) << "a reload took the token away";
}

TEST_F(ServerTest, RefusesChangesThatABrowserWasTrickedInto) {
    EXPECT_EQ(post("/api/v1/reload", {{"Origin", "http://evil.example"}})->status, 403);
    EXPECT_EQ(post("/api/v1/reload", {{"Host", "evil.example"}})->status, 403);
    EXPECT_EQ(post("/api/v1/endpoints/10.1.0.10:80/drain", {{"Host", "evil.example"}})->status, 403);
    EXPECT_EQ(view.reloads, 0);
    EXPECT_EQ(view.last_drained, "");
}

// --- event streams --------------------------------------------------------------------------------------------------

TEST_F(ServerTest, StreamsTotals) {
    view.add_service("web").active_connections = 5;
    RawClient subscriber(server.port());
    subscriber.say("GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
    const std::string heard = subscriber.hear(2500ms);
    EXPECT_THAT(heard, HasSubstr("Content-Type: text/event-stream"));
    size_t events = 0;
    for (size_t at = heard.find("data: "); at != std::string::npos; at = heard.find("data: ", at + 1)) {
        const size_t end = heard.find("\n\n", at);
        ASSERT_NE(end, std::string::npos);
        EXPECT_EQ(json::parse(heard.substr(at + 6, end - at - 6))["active_connections"], 5);
        ++events;
    }
    EXPECT_GE(events, 2u);
    EXPECT_LE(events, 4u);
}

TEST_F(ServerTest, BoundsItsSubscribersAndStillAnswersOthers) {
    std::vector<std::unique_ptr<RawClient>> subscribers;
    for (unsigned i = 0; i < Server::most_subscribers; ++i) {
        subscribers.push_back(std::make_unique<RawClient>(server.port()));
        subscribers.back()->say("GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
        EXPECT_THAT(subscribers.back()->hear(200ms), HasSubstr("200 OK"));
    }
    EXPECT_EQ(get("/api/v1/events")->status, 503);
    EXPECT_EQ(get("/healthz")->status, 200);
    subscribers.clear();
    for (int i = 0; i < 50; ++i) {  // a gone subscriber is noticed at its next event
        RawClient next(server.port());
        next.say("GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
        if (next.hear(100ms).find("200 OK") != std::string::npos) return;
        std::this_thread::sleep_for(50ms);
    }
    FAIL() << "the places of subscribers that left are not given to others";
}

// --- hostile clients ------------------------------------------------------------------------------------------------

TEST_F(ServerTest, SurvivesGarbage) {
    const std::string garbage[] = {
        "\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "BREW / HTTP/1.1\r\n\r\n",
        "GET /%ZZ%00%ff HTTP/1.1\r\n\r\n",
        "GET /?%=&&&=%&limit=\xff HTTP/1.1\r\n\r\n",
        "GET /api/v1/flows?service=\xff\xfe HTTP/1.1\r\n\r\n",
        "GET /\xff\xfe\x01 HTTP/1.1\r\n\r\n",
        "GET " + std::string(9000, 'a') + " HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nRange: bytes=" + std::string(8000, '-') + "\r\n\r\n",
        "GET / HTTP/1.1\r\nrange: bytes=0-1" +
            [] {
                std::string ranges;
                for (int i = 0; i < 1900; ++i)
                    ranges += ",0-1";
                return ranges;
            }() +
            "\r\n\r\n",
        "POST /api/v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "POST /api/v1/reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        std::string(3, '\0') + "\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"s,
    };
    for (const std::string& text : garbage) {
        RawClient client(server.port());
        client.say(text);
        const std::string heard = client.hear(3s);
        EXPECT_THAT(heard, testing::AnyOf("", testing::StartsWith("HTTP/1.1 "))) << text.substr(0, 60);
    }
    EXPECT_EQ(get("/healthz")->status, 200);
}

TEST_F(ServerTest, GivesTheWholeAnswerToWhoAsksForManyParts) {
    for (const char* range : {"bytes=0-1", "bytes=0-,0-,0-,0-"}) {
        const auto answer = get("/status", {{"Range", range}});
        EXPECT_EQ(answer->status, 200);
        EXPECT_TRUE(json::accept(answer->body));
    }
}

TEST_F(ServerTest, RefusesAHeadWithoutEnd) {
    RawClient many(server.port());
    std::string head = "GET / HTTP/1.1\r\n";
    for (int i = 0; i < 500; ++i)
        head += "a: b\r\n";
    many.say(head + "\r\n");
    EXPECT_THAT(many.hear(3s), HasSubstr(" 431 "));
    RawClient large(server.port());
    large.say("GET / HTTP/1.1\r\nX: " + std::string(100'000, 'x'));
    EXPECT_THAT(large.hear(3s), HasSubstr(" 431 "));
    EXPECT_EQ(get("/healthz")->status, 200);
}

TEST_F(ServerTest, GivesASlowRequestFiveSeconds) {
    RawClient slow(server.port());
    const auto begin = Clock::now();
    std::thread drip([&] {
        for (int i = 0; i < 12; ++i) {
            slow.say(i == 0 ? "GET / HTTP/1.1\r\n" : "a");
            std::this_thread::sleep_for(500ms);
        }
    });
    EXPECT_EQ(slow.hear(10s), "");
    const auto took = Clock::now() - begin;
    drip.join();
    EXPECT_GT(took, 4s);
    EXPECT_LT(took, 7s);
}

TEST_F(ServerTest, IsNotStarvedByIdleConnections) {
    std::vector<std::unique_ptr<RawClient>> idle;
    for (int i = 0; i < 40; ++i)
        idle.push_back(std::make_unique<RawClient>(server.port()));
    std::this_thread::sleep_for(100ms);
    const auto begin = Clock::now();
    EXPECT_EQ(get("/healthz")->status, 200);
    EXPECT_LT(Clock::now() - begin, 5s);
}

TEST_F(ServerTest, AnswersWhenDescriptorsAreManyMoreThanSelectTakes) {
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    const rlimit before = limit;
    limit.rlim_cur = std::min<rlim_t>(limit.rlim_max, 4096);
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    std::vector<int> held;
    while (held.size() < 1500) {
        const int descriptor = dup(STDERR_FILENO);
        if (descriptor < 0) break;
        held.push_back(descriptor);
    }
    const bool enough = held.size() == 1500;
    if (enough) {
        RawClient client(server.port());
        client.say("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        EXPECT_THAT(client.hear(3s), HasSubstr("HTTP/1.1 200 OK"));
    }
    for (int descriptor : held)
        close(descriptor);
    setrlimit(RLIMIT_NOFILE, &before);
    if (!enough) GTEST_SKIP() << "the descriptor limit is too low";
}

// --- start and stop -------------------------------------------------------------------------------------------------

TEST_F(ServerTest, SaysThatItsPortIsOccupied) {
    Server second(view, log);
    const Result<void> started = second.start(loopback, server.port());
    ASSERT_FALSE(started.ok());
    EXPECT_THAT(started.error(), HasSubstr("127.0.0.1:" + std::to_string(server.port())));
    EXPECT_THAT(started.error(), HasSubstr("another process has that port"));
    EXPECT_EQ(second.port(), 0);
}

TEST_F(ServerTest, ListensOnIPv6) {
    Server second(view, log);
    const Result<void> started = second.start(IpAddress::parse("::1").value(), 0);
    if (!started.ok()) GTEST_SKIP() << started.error();
    httplib::Client client("::1", second.port());
    EXPECT_EQ(client.Get("/healthz")->status, 200);
    EXPECT_EQ(client.Post("/api/v1/reload", "", "application/json")->status, 200);
}

TEST_F(ServerTest, StopsAtOnceWithStreamsAndIdleConnectionsOpen) {
    RawClient subscriber(server.port()), idle(server.port());
    subscriber.say("GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_THAT(subscriber.hear(300ms), HasSubstr("data: "));
    const uint16_t port = server.port();
    const auto begin = Clock::now();
    server.stop();
    EXPECT_LT(Clock::now() - begin, 900ms);
    EXPECT_FALSE(RawClient(port).connected());
    Server next(view, log);
    EXPECT_TRUE(next.start(loopback, port).ok()) << "the port is free at once";
    server.stop();
}

}  // namespace
}  // namespace marchproxy::admin
