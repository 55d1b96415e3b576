#include "admin/client.h"

#include <gmock/gmock.h>
#include <httplib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "admin/fake_view.h"
#include "admin/server.h"

namespace marchproxy::admin {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

struct Ran {
    int status = -1;
    std::string out, error;
};

struct ClientTest : testing::Test {
    FakeView view;
    telemetry::Log log{LogLevel::error, LogFormat::text, [](std::string_view) {}};
    Server server{view, log};

    void SetUp() override { ASSERT_TRUE(server.start(IpAddress::v4(0x7f000001), 0).ok()); }

    std::string url() const { return "http://127.0.0.1:" + std::to_string(server.port()); }

    static Ran run_at(const std::string& arguments) {
        CLI::App app;
        std::ostringstream out, error;
        int status = 0;
        add_read_commands(app, out, error, status);
        try {
            app.parse(arguments);
        } catch (const CLI::ParseError& problem) {
            return {2, "", problem.what()};
        }
        return {status, out.str(), error.str()};
    }
    Ran run(const std::string& arguments) const { return run_at(arguments + " --admin " + url()); }
};

TEST_F(ClientTest, PrintsTheStatus) {
    view.add_service("web");
    view.plane.notes = {"splice: pipe limit reached, copying"};
    view.process_status.reload.last_error = "proxy.yaml:3:1: no\nproxy.yaml:4:1: nor this";
    const Ran ran = run("status");
    EXPECT_EQ(ran.status, 0);
    EXPECT_THAT(ran.out,
                HasSubstr("marchproxy-l3l4 1.2.3 (abcdef), process " + std::to_string(getpid()) + ": ready\n"));
    EXPECT_THAT(ran.out, HasSubstr("splice: pipe limit reached, copying"));
    EXPECT_THAT(ran.out, HasSubstr("reload refused proxy.yaml:3:1: no\n               proxy.yaml:4:1: nor this\n"));
    EXPECT_THAT(ran.out, HasSubstr("web      stream  yes"));
}

TEST_F(ClientTest, PrintsExactJsonForScripts) {
    view.add_service("web").active_connections = 5;
    const Ran ran = run("services --json");
    EXPECT_EQ(ran.status, 0);
    EXPECT_EQ(ran.out, httplib::Client("127.0.0.1", server.port()).Get("/api/v1/services")->body);
    EXPECT_EQ(json::parse(run("services web --json").out)["active_connections"], 5);
    for (const char* command : {"status", "paths", "qos", "flows", "config", "top --once --interval 0.1", "doctor"})
        EXPECT_TRUE(json::accept(
            run_at(std::string(command) + " --json" + (std::string(command) == "doctor" ? "" : " --admin " + url()))
                .out))
            << command;
}

TEST_F(ClientTest, PrintsServicesAligned) {
    telemetry::ServiceStatus& web = view.add_service("web");
    web.active_connections = 12345;
    web.paths[0].received_bytes = 2'500'000;
    web.paths[0].ended[static_cast<size_t>(Verdict::connect_timeout)] = 3;
    web.paths[0].ended[static_cast<size_t>(Verdict::finished)] = 100;
    view.add_service("a-longer-name").endpoints[0].up = false;
    const Ran ran = run("services");
    EXPECT_EQ(ran.status, 0);
    std::istringstream lines(ran.out);
    std::string header, first, second;
    std::getline(lines, header);
    std::getline(lines, first);
    std::getline(lines, second);
    EXPECT_THAT(first,
                MatchesRegex("web +tcp 0.0.0.0:8080 +weighted_round_robin +12345 +12448 +2.50 MB +0 B +3 +0 +1/1 up"));
    EXPECT_THAT(second, HasSubstr("0/1 up"));
    EXPECT_EQ(first.find("1/1 up"), header.find("ENDPOINTS"));
    EXPECT_EQ(second.find("0/1 up"), header.find("ENDPOINTS"));
}

TEST_F(ClientTest, PrintsOneServiceWithItsEndpoints) {
    telemetry::ServiceStatus& web = view.add_service("web");
    web.endpoints[0].up = false;
    web.endpoints[0].last_error = "Connection refused";
    const Ran ran = run("services web");
    EXPECT_THAT(ran.out, HasSubstr("10.1.0.10:80"));
    EXPECT_THAT(ran.out, HasSubstr("Connection refused"));
    const Ran missing = run("services nothing");
    EXPECT_EQ(missing.status, 1);
    EXPECT_THAT(missing.error, HasSubstr("no service has the name nothing"));
}

TEST_F(ClientTest, PrintsFlowsAndPaths) {
    view.add_service("web");
    view.active = {flow_record("web", 1000, flow::State::active), flow_record("dns & co", 1, flow::State::active)};
    EXPECT_THAT(run("flows").out, HasSubstr("127.0.0.1:40000"));
    const Ran one = run("flows --service 'dns & co' --limit 1 --sort bytes");
    EXPECT_THAT(one.out, HasSubstr("dns & co"));
    EXPECT_THAT(one.out, Not(HasSubstr("web")));
    EXPECT_THAT(run("qos").out, HasSubstr("qos is off"));
    view.plane.services.at(0).qos = {
        {.up = true, .priority = Priority::p1, .rate = Rate{2'000'000}, .offered = 3e6, .delivered = 2e6}};
    EXPECT_THAT(run("qos").out,
                MatchesRegex("SERVICE +DIRECTION +.*\nweb +up +P1 +2.00 Mbit/s +- +3.00 Mbit/s +2.00 Mbit/s .*\n"));
    EXPECT_THAT(run("paths").out, MatchesRegex("PATH +PROVIDER +.*\naws-us-east-1 +aws +us-east-1 +up .*\n"));
    EXPECT_EQ(run("flows --sort size").status, 2);
    EXPECT_EQ(run("flows --limit 0").status, 2);
}

TEST_F(ClientTest, ShowsRatesOnTop) {
    view.add_service("idle");
    telemetry::ServiceStatus& web = view.add_service("web");
    std::thread traffic([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(150));
        std::lock_guard lock(view.mutex);
        web.paths[0].sent_bytes += 12'500'000;
    });
    const Ran ran = run("top --once --interval 0.5 --json");
    traffic.join();
    const json rates = json::parse(ran.out);
    EXPECT_EQ(rates[0]["name"], "web") << "the busiest first";
    EXPECT_GT(rates[0]["sent_bits_per_second"].get<double>(), 100e6);
    EXPECT_LE(rates[0]["sent_bits_per_second"].get<double>(), 200e6);
    EXPECT_EQ(rates[1]["sent_bits_per_second"], 0.0);
    const Ran table = run("top --once --interval 0.1");
    EXPECT_THAT(table.out, HasSubstr("SERVICE"));
    EXPECT_THAT(table.out, Not(HasSubstr("\x1b"))) << "no escape sequences where no terminal is";
}

TEST_F(ClientTest, PrintsTheConfigurationWithoutSecrets) {
    Snapshot next;
    next.settings.admin.token = "very secret";
    view.publish(next);
    const Ran ran = run("config");
    EXPECT_THAT(ran.out, HasSubstr("\"port\": 8081"));
    EXPECT_THAT(ran.out, Not(HasSubstr("very secret")));
}

TEST_F(ClientTest, LetsNoNameSteerTheTerminal) {
    view.add_service("a\x1b[2Jb");
    EXPECT_THAT(run("services").out, Not(HasSubstr("\x1b")));
    EXPECT_THAT(run("status").out, Not(HasSubstr("\x1b")));
}

TEST_F(ClientTest, SaysThatTheAdminCannotBeReached) {
    const std::string gone = url();
    server.stop();
    for (const char* command : {"status", "services", "paths", "qos", "flows", "config", "top --once"}) {
        const Ran ran = run_at(std::string(command) + " --admin " + gone);
        EXPECT_EQ(ran.status, 1) << command;
        EXPECT_EQ(ran.out, "") << command;
        EXPECT_THAT(ran.error, HasSubstr(gone + " cannot be reached")) << command;
        EXPECT_THAT(ran.error, HasSubstr("is the proxy running?")) << command;
    }
}

TEST_F(ClientTest, RefusesWhatIsNoAdminUrl) {
    for (const char* wrong :
         {"127.0.0.1:8081", "https://127.0.0.1", "http://", "http://:80", "http://x:99999", "http://[::1"}) {
        const Ran ran = run_at(std::string("status --admin ") + wrong);
        EXPECT_EQ(ran.status, 1) << wrong;
        EXPECT_THAT(ran.error, HasSubstr("--admin")) << wrong;
    }
}

TEST_F(ClientTest, SaysThatAnAnswerIsNotUnderstood) {
    httplib::Server other;
    other.Get("/status", [](const httplib::Request&, httplib::Response& response) {
        response.set_content("<html>", "text/html");
    });
    other.Get("/api/v1/services",
              [](const httplib::Request&, httplib::Response& response) { response.set_content("[{}]", "text/html"); });
    other.Get("/api/v1/paths", [](const httplib::Request&, httplib::Response& response) {
        response.status = 500;
        response.set_content("{\"error\": \"out of paths\"}", "application/json");
    });
    const int port = other.bind_to_any_port("127.0.0.1");
    std::thread thread([&] { other.listen_after_bind(); });
    const std::string there = " --admin http://127.0.0.1:" + std::to_string(port);
    for (const char* command : {"status", "services"}) {
        const Ran ran = run_at(command + there);
        EXPECT_EQ(ran.status, 1) << command;
        EXPECT_THAT(ran.error, HasSubstr("does not understand")) << command;
    }
    EXPECT_THAT(run_at("paths" + there).error, HasSubstr("HTTP status 500: out of paths"));
    other.stop();
    thread.join();
}

TEST_F(ClientTest, ExaminesThisMachine) {
    const Ran ran = run_at("doctor");
    EXPECT_THAT(ran.out, HasSubstr("descriptors"));
    EXPECT_THAT(ran.out, HasSubstr("net.core.somaxconn"));
}

struct DoctorTest : ClientTest {
    void SetUp() override {
        ClientTest::SetUp();
        std::array<char, 32> name{"/tmp/marchproxy_doctor_XXXXXX"};
        const int made = mkstemp(name.data());
        ASSERT_GE(made, 0);
        close(made);
        file = name.data();
        view.plane.packet = {.running = true, .reason = "1 services"};
        view.plane.packet.interfaces.push_back({.name = "lo", .way = "XDP generic", .program_id = 42});
    }
    void TearDown() override { unlink(file.c_str()); }

    void configure(const std::string& text) const { std::ofstream(file) << text; }
    static json interfaces_in(const Ran& ran) {
        json found = json::object();
        for (const json& finding : json::parse(ran.out))
            if (const std::string name = finding["name"]; name.starts_with("packet plane, interface "))
                found[name.substr(24)] = finding["found"];
        return found;
    }

    std::string file;
};

TEST_F(DoctorTest, ExaminesTheInterfacesOfAConfigurationAndAsksTheProxyThatRunsIt) {
    configure("packet: { interfaces: [lo, nothing0] }\nadmin: { port: " + std::to_string(server.port()) + " }\n");
    const json found = interfaces_in(run_at("doctor --json -c " + file));
    EXPECT_THAT(found.at("lo"), HasSubstr("the running proxy is attached as XDP generic, program 42"));
    EXPECT_THAT(found.at("nothing0"), HasSubstr("there is none of this name"));
    EXPECT_THAT(run_at("doctor -c " + file).out, HasSubstr("its packet plane is on: 1 services"));
}

TEST_F(DoctorTest, ExaminesTheInterfacesOfTheProxyThatRunsWhereNoConfigurationIsNamed) {
    Snapshot next;
    next.settings.packet.interfaces = {"lo"};
    view.publish(next);
    EXPECT_THAT(interfaces_in(run("doctor --json")).at("lo"), HasSubstr("the running proxy is attached"));
}

TEST_F(DoctorTest, TellsWhatAStartWouldDoWhereNoProxyRuns) {
    configure("packet: { interfaces: [lo], mode: tc, pin: /sys/fs/bpf/marchproxy-nothing }\n");
    const std::string gone = url();
    server.stop();
    const Ran ran = run_at("doctor --json -c " + file + " --admin " + gone);
    EXPECT_THAT(interfaces_in(ran).at("lo"), HasSubstr("a start would first try TC ingress"));
    EXPECT_THAT(ran.out, HasSubstr(gone + " cannot be reached"));
    EXPECT_THAT(run_at("doctor -c " + file).out, Not(HasSubstr("cannot be reached"))) << "nobody said that one runs";
}

TEST_F(DoctorTest, AttachesNothingWhereThePacketPlaneIsSwitchedOff) {
    configure("packet: { interfaces: [lo], enabled: false }\n");
    EXPECT_EQ(interfaces_in(run("doctor --json -c " + file)), json::object());
}

TEST_F(DoctorTest, NamesWhatIsWrongInTheConfiguration) {
    configure("packet: { interfacs: [lo] }\n");
    const Ran ran = run("doctor -c " + file);
    EXPECT_EQ(ran.status, 2);
    EXPECT_EQ(ran.out, "");
    EXPECT_THAT(ran.error, HasSubstr(file + ":1:"));
    EXPECT_EQ(run("doctor -c /nowhere.yaml").status, 2);
}

}  // namespace
}  // namespace marchproxy::admin
