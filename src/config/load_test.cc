#include "config/load.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "config/features.h"
#include "config/print.h"
#include "config/testing.h"
#include "version.h"

namespace marchproxy::config {
namespace {

using testing::HasSubstr;
using namespace std::chrono_literals;

// A service that is fine, on line 1; what a row adds begins on line 2, two columns in.
std::string service(const std::string& more) {
    return "services: [{ name: web, listen: \"127.0.0.1:80\", endpoints: [{ address: \"10.0.0.1:80\" }],\n  " + more +
           " }]\n";
}

TEST(Load, DefaultsWithoutAnything) {
    const Loaded loaded = load({});
    EXPECT_EQ("", listed(loaded));
    EXPECT_EQ(Snapshot().settings, loaded.snapshot.settings);
    EXPECT_TRUE(loaded.snapshot.services.empty());
}

TEST(Load, ReadsEveryKeyOfTheStreamPlane) {
    const Loaded loaded = load_text(R"(
listen: { address: "::", port: 9090 }
admin: { address: 127.0.0.2, port: 9091, token: geheim }
log: { level: warning, format: text }
drain_timeout: 5s
stream: { workers: 3, buffer: 256KiB, idle_timeout: 10m, udp_idle_timeout: 20s, connect_timeout: 1.5s,
          keepalive: 0s, forward: splice, congestion_control: bbr }
telemetry: { metrics: { enabled: false }, flows: { enabled: true, file: /tmp/flows, keep: 7 } }
paths: [{ name: aws, provider: amazon, region: us }]
services:
  - name: web
    protocol: tcp
    listen: "[::1]:443"
    plane: stream
    access: { allow: ["10.0.0.0/8", "fd00::/8"], deny: [10.1.0.0/16] }
    limits: { connections: 5, connections_per_source: 2, new_connections: 20/s, new_connections_per_source: 3/s,
              backlog: 0 }
    routing: { policy: maglev, retry: none, seed: 18446744073709551615 }
    proxy_protocol: v2
    accept_proxy_protocol: true
    idle_timeout: 3s
    endpoints:
      - { address: "db.example:5432", path: aws, weight: 0 }
      - address: "[2001:db8::1]:80"
)",
                                    "f");
    ASSERT_EQ("", listed(loaded));
    const Settings& settings = loaded.snapshot.settings;
    EXPECT_EQ("::", to_string(settings.listen_address));
    EXPECT_EQ(9090, settings.listen_port);
    EXPECT_EQ("127.0.0.2", to_string(settings.admin.address));
    EXPECT_EQ(9091, settings.admin.port);
    EXPECT_EQ("geheim", settings.admin.token);
    EXPECT_EQ((LogSettings{LogLevel::warn, LogFormat::text}), settings.log);
    EXPECT_EQ(Duration(5s), settings.drain_timeout);
    EXPECT_EQ((StreamSettings{3, Bytes{256 << 10}, 10min, 20s, 1500ms, 0s, ForwardMethod::splice, "bbr"}),
              settings.stream);
    EXPECT_FALSE(settings.telemetry.metrics);
    EXPECT_EQ("/tmp/flows", settings.telemetry.flow_file);
    EXPECT_EQ(7U, settings.telemetry.keep_flows);

    ASSERT_EQ(1U, loaded.snapshot.paths.size());
    EXPECT_EQ("amazon", loaded.snapshot.paths[0].provider);
    ASSERT_EQ(1U, loaded.snapshot.services.size());
    const Service& web = loaded.snapshot.services[0];
    EXPECT_EQ("[::1]:443", to_string(web.listen));
    EXPECT_EQ(PlaneChoice::stream, web.plane);
    ASSERT_EQ(2U, web.access.allow.size());
    EXPECT_EQ("fd00::/8", to_string(web.access.allow[1]));
    EXPECT_EQ("10.1.0.0/16", to_string(web.access.deny.at(0)));
    EXPECT_EQ((Limits{5, 2, Frequency{20}, Frequency{3}, {}, {}, 0U}), web.limits);
    EXPECT_EQ(Policy::maglev, web.routing.policy);
    EXPECT_EQ(Retry::none, web.routing.retry);
    EXPECT_EQ(UINT64_MAX, web.routing.seed);
    EXPECT_EQ(ProxyProtocol::v2, web.proxy_protocol);
    EXPECT_TRUE(web.accept_proxy_protocol);
    EXPECT_EQ(Duration(3s), web.idle_timeout);
    EXPECT_EQ("db.example:5432", to_string(web.endpoints.at(0).address));
    EXPECT_EQ("aws", web.endpoints[0].path);
    EXPECT_EQ(0U, web.endpoints[0].weight);
    EXPECT_EQ("[2001:db8::1]:80", to_string(web.endpoints.at(1).address));
    EXPECT_EQ(100U, web.endpoints[1].weight);
}

struct Row {
    std::string yaml;
    std::string problem;  // the one that must be reported, from its start
};

void PrintTo(const Row& row, std::ostream* out) {
    *out << row.yaml;
}

class Refused : public testing::TestWithParam<Row> {};

TEST_P(Refused, WithItsPlace) {
    const std::string all = listed(load_text(GetParam().yaml, "f"));
    EXPECT_THAT("\n" + all, HasSubstr("\n" + GetParam().problem));
}

INSTANTIATE_TEST_SUITE_P(
    Keys, Refused,
    testing::Values(Row{"lisen: {}", "f:1:1: lisen: is not a key; did you mean \"listen\"?"},
                    Row{"stream:\n  wrokers: 1", "f:2:3: stream.wrokers: is not a key; did you mean \"workers\"?"},
                    Row{"idle_timeout: 1s",
                        "f:1:1: idle_timeout: is not a key here; did you mean \"stream.idle_timeout\"?"},
                    Row{"log: { zzz: 1 }", "f:1:8: log.zzz: is not a key; allowed here: level, format"},
                    Row{service("colour: red"), "f:2:3: services[0].colour: is not a key; allowed here: name, "},
                    Row{"log: { level: INFO }\nlog: {}", "f:2:1: log: is given twice; first on line 1"},
                    Row{"log:\n  level: INFO\n  level: INFO", "f:3:3: log.level: is given twice; first on line 2"},
                    Row{service("access: {}, access: {}"), "f:2:15: services[0].access: is given twice"},
                    Row{"stream: 5", "f:1:9: stream: is a single value; expected a map with the keys workers, "},
                    Row{"stream: [a]", "f:1:9: stream: is a list; expected a map with the keys workers, "},
                    Row{"services: {}", "f:1:11: services: is a map; expected a list"},
                    Row{"services: [web]", "f:1:12: services[0]: is a single value; expected a map of keys"},
                    Row{"[a, b]", "f:1:1: must be a map"}, Row{"word", "f:1:1: must be a map"}));

INSTANTIATE_TEST_SUITE_P(
    Values, Refused,
    testing::Values(
        Row{"listen: { port: 0 }", "f:1:17: listen.port: \"0\" is out of range; allowed: 1..65535"},
        Row{"listen: { port: 65536 }", "f:1:17: listen.port: \"65536\" is out of range; allowed: 1..65535"},
        Row{"listen: { port: 99999999999999999999 }", "f:1:17: listen.port: 99999999999999999999 is too large"},
        Row{"listen: { port: -1 }", "f:1:17: listen.port: \"-1\" is not a whole number"},
        Row{"listen: { port: 80.5 }", "f:1:17: listen.port: \"80.5\" is not a whole number"},
        Row{"listen: { port: http }", "f:1:17: listen.port: \"http\" is not a whole number"},
        Row{"listen: { port: [80] }", "f:1:17: listen.port: is a list; expected: number"},
        Row{"listen: { port: { a: 1 } }", "f:1:17: listen.port: is a map; expected: number"},
        Row{"listen: { port: }", "f:1:17: listen.port: has no value; expected: number"},
        Row{"listen: { address: localhost }", "f:1:20: listen.address: \"localhost\""},
        Row{"log: { level: LOUD }", "f:1:15: log.level: \"LOUD\" is not one of: TRACE, DEBUG, INFO, WARN, ERROR"},
        Row{"drain_timeout: 30", "f:1:16: drain_timeout: \"30\" is not a duration: the unit is missing"},
        Row{"stream: { workers: 1025 }", "f:1:20: stream.workers: \"1025\" is out of range; allowed: 0..1024"},
        Row{"stream: { buffer: 4095B }", "f:1:19: stream.buffer: \"4095B\" is out of range; allowed: 4KiB..64MiB"},
        Row{"stream: { buffer: 65MiB }", "f:1:19: stream.buffer: \"65MiB\" is out of range"},
        Row{"stream: { idle_timeout: 0s }", "f:1:25: stream.idle_timeout: \"0s\" is out of range"},
        Row{"stream: { keepalive: 1500ms }", "f:1:22: stream.keepalive: must be whole seconds"},
        Row{"stream: { congestion_control: Cubic! }", "f:1:31: stream.congestion_control: \"Cubic!\" is not allowed"},
        Row{"stream: { congestion_control: abcdefghijklmnop }", "f:1:31: stream.congestion_control: "},
        Row{"telemetry: { metrics: { enabled: 1 } }",
            "f:1:34: telemetry.metrics.enabled: \"1\" is neither true nor false"},
        Row{"telemetry: { tracing: { sample: .nan } }", "f:1:33: telemetry.tracing.sample: \".nan\" is not a number"},
        Row{"telemetry: { tracing: { sample: nan } }", "f:1:33: telemetry.tracing.sample: \"nan\" is not a number"},
        Row{"telemetry: { tracing: { sample: 1.5 } }",
            "f:1:33: telemetry.tracing.sample: \"1.5\" is out of range; allowed: 0..1"},
        Row{"qos: { floors: { P1: 110% } }", "f:1:22: qos.floors.P1: \"110%\""},
        Row{"admin: { token: \"a b\" }", "f:1:17: admin.token: is not allowed; allowed: printable characters"},
        Row{"log: { level: \"a\\x01b\" }", "f:1:15: log.level: holds control characters"},
        Row{service("protocol: sctp"), "f:2:13: services[0].protocol: \"sctp\" is not one of: tcp, udp"},
        Row{service("access: { allow: [10.0.0.0/8, 10.0.0.1/8] }"),
            "f:2:33: services[0].access.allow[1]: \"10.0.0.1/8\""},
        Row{service("access: { allow: 10.0.0.0/8 }"),
            "f:2:20: services[0].access.allow: is a single value; expected a list"},
        Row{service("limits: { connections: 0 }"),
            "f:2:26: services[0].limits.connections: \"0\" is too small; allowed: 1 or more"},
        Row{service("limits: { new_connections: 20 }"),
            "f:2:30: services[0].limits.new_connections: \"20\" is not a frequency"},
        Row{service("limits: { new_connections: 0/s }"),
            "f:2:30: services[0].limits.new_connections: \"0/s\" is out of range"},
        Row{service("qos: { dscp: 64 }"), "f:2:16: services[0].qos.dscp: \"64\" is not a DSCP mark"},
        Row{service("qos: { rate: 5 }"), "f:2:16: services[0].qos.rate: \"5\" is not a rate"},
        Row{service("qos: { rate: { up: 5Gbps, sideways: 1Gbps } }"),
            "f:2:29: services[0].qos.rate.sideways: is not a key"}));

INSTANTIATE_TEST_SUITE_P(
    Together, Refused,
    testing::Values(
        Row{"services: [{}]", "f:1:12: services[0].name: is missing"},
        Row{"services: [{}]", "f:1:12: services[0].listen: is missing"},
        Row{"services: [{}]", "f:1:12: services[0]: has no endpoints"},
        Row{"services: [{ name: a, listen: \"127.0.0.1:80\", endpoints: [{ address: \"127.0.0.1:80\" }] }]",
            "f:1:70: services[0].endpoints[0].address: is where the service itself listens"},
        Row{"services:\n- name: a\n  endpoints: []", "f:3:14: services[0]: has no endpoints"},
        Row{"services:\n- name: a\n- name: b\n- name: a", "f:4:9: services[2].name: \"a\" is taken already, by line 2"},
        Row{"paths:\n- name: a\n- name: a", "f:3:9: paths[1].name: \"a\" is taken already, by line 2"},
        Row{"paths: [{ name: a/b }]", "f:1:17: paths[0].name: \"a/b\" is not allowed"},
        Row{"services:\n- listen: 1.2.3.4:5\n- listen: 1.2.3.4:5",
            "f:3:11: services[1].listen: another service listens on tcp 1.2.3.4:5 already, at line 2"},
        Row{"services:\n- listen: 0.0.0.0:8081",
            "f:2:11: services[0].listen: 127.0.0.1:8081 is where the admin server listens"},
        Row{"listen: { port: 8081 }", "f:1:17: listen.port: 127.0.0.1:8081 is also where the admin server listens"},
        Row{"services:\n- endpoints:\n  - { address: 1.2.3.4:5, path: x }",
            "f:3:33: services[0].endpoints[0].path: \"x\" names no path"},
        Row{"services:\n- endpoints:\n  - address: a:5\n  - address: a:5",
            "f:4:14: services[0].endpoints[1].address: a:5 is an endpoint of this service already"},
        Row{"services:\n- endpoints: [{ address: 1.2.3.4 }]",
            "f:2:26: services[0].endpoints[0].address: \"1.2.3.4\" has no port"},
        Row{"services:\n- endpoints: [{ address: 1.2.3.4:5, weight: 65536 }]",
            "f:2:45: services[0].endpoints[0].weight: \"65536\" is out of range; allowed: 0..65535"},
        Row{service("protocol: udp, limits: { backlog: 10 }"), "f:2:37: services[0].limits.backlog: is for tcp"},
        Row{service("plane: stream, limits: { packets: 5/s }"),
            "f:2:37: services[0].limits.packets: needs the packet plane; plane is stream"},
        Row{service("plane: auto, limits: { packets_per_source: 5/s }"),
            "f:2:46: services[0].limits.packets_per_source: needs the packet plane; packet.interfaces names no"},
        Row{service("limits: { packets: 5/s }") + "\npacket: { enabled: false, interfaces: [eth0] }",
            "f:2:22: services[0].limits.packets: needs the packet plane; packet.enabled is false"},
        Row{service("limits: { packets_per_source: 0/s }"),
            "f:2:33: services[0].limits.packets_per_source: \"0/s\" is out of range"},
        Row{service("limits: { new_connections_per_source: 5 }"),
            "f:2:41: services[0].limits.new_connections_per_source: \"5\" is not a frequency"},
        Row{service("limits: { backlog: 2147483648 }"), "f:2:22: services[0].limits.backlog: \"2147483648\" is out"},
        Row{service("protocol: udp, proxy_protocol: v1"), "f:2:34: services[0].proxy_protocol: is for tcp"},
        Row{service("protocol: udp, proxy_protocol: v2"), "f:2:34: services[0].proxy_protocol: is for tcp"},
        Row{service("protocol: udp, accept_proxy_protocol: true"),
            "f:2:41: services[0].accept_proxy_protocol: is for tcp"},
        Row{service("protocol: udp, mss: 1400"), "f:2:23: services[0].mss: is for tcp"},
        Row{service("encapsulation: ipip"), "f:2:18: services[0].encapsulation: needs forwarding: dsr"},
        Row{service("forwarding: dsr"), "f:2:15: services[0].forwarding: dsr needs encapsulation: ipip or gue"},
        Row{service("forwarding: dsr, encapsulation: none"),
            "f:2:35: services[0].encapsulation: dsr needs encapsulation: ipip or gue"},
        Row{"services:\n- { name: a, listen: 1.2.3.4:80, forwarding: dsr, encapsulation: gue, endpoints: [{ address: "
            "1.2.3.5:81 }] }",
            "f:2:94: services[0].endpoints[0].address: with forwarding: dsr the endpoint answers in the service's "
            "place, at its port; write 1.2.3.5:80"},
        Row{service("routing: { policy: weighted, weights: { latency: 0, cost: 0, bandwidth: 0 } }"),
            "f:2:41: services[0].routing.weights: at least one"},
        Row{service("routing: { replay: 1MiB }"),
            "f:2:22: services[0].routing.replay: needs routing.retry: unanswered"},
        Row{service("routing: { weights: { latency: 1 } }"),
            "f:2:23: services[0].routing.weights: are of policy: weighted; this service's is weighted_round_robin"},
        Row{service("routing: { policy: latency }"),
            "f:2:22: services[0].routing.policy: latency looks at paths; set multicloud.enabled: true"},
        Row{"multicloud: { enabled: true }\n" + service("routing: { policy: geo }"),
            "f:3:22: services[0].routing.policy: geo needs multicloud.locality"},
        Row{"multicloud: { enabled: true, policy: geo }", "f:1:38: multicloud.policy: geo needs multicloud.locality"},
        Row{"multicloud: { probe: { expect_body: ok } }",
            "f:1:37: multicloud.probe.expect_body: is of kind: http; the kind is tcp"},
        Row{"multicloud: { probe: { kind: icmp, port: 7 } }", "f:1:42: multicloud.probe.port: icmp knows no ports"},
        Row{"paths:\n- { name: a, destinations: [10.0.0.0/8] }\n- { name: b, destinations: [10.0.0.0/8] }",
            "f:3:28: paths[1].destinations: 10.0.0.0/8 is one of path a already"},
        Row{"paths:\n- { name: a, destinations: [10.0.0.0/8, 10.0.0.0/8] }",
            "f:2:28: paths[0].destinations: 10.0.0.0/8 is there twice"},
        Row{"paths:\n- { name: a, cost_per_gb: [] }", "f:2:27: paths[0].cost_per_gb: has no tier"},
        Row{"paths:\n- { name: a, cost_per_gb: [{ up_to: 1TB, cost: 0.09 }, { up_to: 1TB, cost: 0.08 }] }",
            "f:2:65: paths[0].cost_per_gb[1].up_to: 1TB does not lie above the tier before, which ends at 1TB"},
        Row{"paths:\n- { name: a, cost_per_gb: [{ cost: 0.09 }, { cost: 0.08 }] }",
            "f:2:28: paths[0].cost_per_gb[0].up_to: is missing"},
        Row{"paths:\n- { name: a, cost_per_gb: [{ up_to: 1TB }] }", "f:2:28: paths[0].cost_per_gb[0].cost: is missing"},
        Row{"paths:\n- { name: a, cost_per_gb: [{ cost: -0.09 }] }", "f:2:36: paths[0].cost_per_gb[0].cost: "},
        Row{"paths:\n- { name: a, cost_per_gb: [0.09] }", "f:2:28: paths[0].cost_per_gb[0]: is a single value"},
        Row{"paths:\n- { name: a, billed: all }",
            "f:2:22: paths[0].billed: \"all\" is not one of: sent, received, both"},
        Row{"multicloud: { budgets: [{ name: a, dollars: 0 }] }", "f:1:45: multicloud.budgets[0].dollars: "},
        Row{"multicloud: { budgets: [{ name: a }] }", "f:1:25: multicloud.budgets[0].dollars: is missing"},
        Row{"multicloud: { budgets: [{ name: a, dollars: 1, provider: aws }] }",
            "f:1:58: multicloud.budgets[0].provider: \"aws\" is none of the paths' providers"},
        Row{"multicloud: { budgets: [{ name: a, dollars: 1 }, { name: a, dollars: 2 }] }",
            "f:1:58: multicloud.budgets[1].name: \"a\" is taken already"},
        Row{"multicloud: { cost_book: costs.db }", "f:1:26: multicloud.cost_book: "},
        Row{"paths:\n- { name: a, cost_per_gb: -1 }", "f:2:27: paths[0].cost_per_gb: "},
        Row{"paths:\n- { name: a, cost_per_gb: .nan }", "f:2:27: paths[0].cost_per_gb: "},
        Row{"paths:\n- { name: a, gateway: 127.0.0.1 }", "f:2:23: paths[0].gateway: is no address of a router"},
        Row{"paths:\n- { name: a, gateway: 0.0.0.0 }", "f:2:23: paths[0].gateway: is no address of a router"},
        Row{"paths:\n- { name: a, gateway: \"ff02::1\" }", "f:2:23: paths[0].gateway: is no address of a router"},
        Row{"paths:\n- { name: a, gateway: \"fe80::1\" }", "f:2:23: paths[0].gateway: is a link-local address"},
        Row{"paths:\n- { name: a, gateway: 10.0.0.1, source: \"2001:db8::1\" }",
            "f:2:23: paths[0].gateway: is of another family than the path's source"},
        Row{"paths:\n- { name: a, gateway: router }", "f:2:23: paths[0].gateway: "},
        Row{"paths:\n- { name: a, source: 0.0.0.0 }", "f:2:22: paths[0].source: is no address to speak from"},
        Row{service("qos: { rate: 1Gbps, guarantee: 2Gbps }"),
            "f:2:34: services[0].qos.guarantee: 2Gbps is more than the rate, 1Gbps"},
        Row{"qos: { link_rate: 1Gbps }\n" + service("qos: { guarantee: { down: 2Gbps } }"),
            "f:3:21: services[0].qos.guarantee: the guarantees up to here add up to 2Gbps with qos.floors; "
            "qos.link_rate "
            "is 1Gbps"},
        Row{"qos: { link_rate: 1Gbps, floors: { P0: 5% } }", "f:1:36: qos.floors.P0: is not a key"},
        Row{"qos: { link_rate: 1Gbps, floors: { P2: 60% } }\n" +
                service("qos: { priority: P1, guarantee: { up: 500Mbps } }"),
            "f:3:35: services[0].qos.guarantee: the guarantees up to here add up to 1.1Gbps with qos.floors"},
        Row{service("qos: { guarantee: 1Gbps }"), "f:2:21: services[0].qos.guarantee: needs qos.link_rate"},
        Row{"qos: { floors: { P3: 5% } }", "f:1:16: qos.floors: needs qos.link_rate"},
        Row{service("qos: { rules: [{ arrived: EF, dscp: CS1 }, { arrived: 46, priority: P1 }] }"),
            "f:2:57: services[0].qos.rules[1].arrived: another rule says already"},
        Row{service("qos: { rules: [{ arrived: EF }] }"), "f:2:18: services[0].qos.rules[0]: changes nothing"},
        Row{service("qos: { rules: [{ priority: P1 }] }"), "f:2:18: services[0].qos.rules[0].arrived: is missing"},
        Row{service("qos: { rules: [{ arrived: XY, dscp: 1 }] }"),
            "f:2:29: services[0].qos.rules[0].arrived: \"XY\" is not a DSCP mark"},
        Row{service("qos: { rate: 0Mbps }"), "f:2:16: services[0].qos.rate: \"0Mbps\" is out of range"},
        Row{service("qos: { rate: 999999Gbps }"), "f:2:16: services[0].qos.rate: \"999999Gbps\" is out of range"},
        Row{service("qos: { rate: -1Mbps }"), "f:2:16: services[0].qos.rate: \"-1Mbps\" is not a rate"},
        Row{service("qos: { burst: 100B }"), "f:2:17: services[0].qos.burst: \"100B\" is out of range"},
        Row{service("qos: { burst: 2MB }"), "f:2:17: services[0].qos.burst: needs qos.rate"},
        Row{service("qos: { burst: 2GB }"), "f:2:17: services[0].qos.burst: \"2GB\" is out of range"},
        Row{"qos: { link_rate: 1Gbps, floors: { P1: 50%, P2: 30%, P3: 21% } }", "f:1:34: qos.floors: add up to 101%"},
        Row{"multicloud: { probe: { interval: 1s, timeout: 1s } }",
            "f:1:47: multicloud.probe.timeout: 1s must be shorter"},
        Row{"multicloud: { locality: { lat: 1 } }", "f:1:25: multicloud.locality: needs both lat and lon"},
        Row{"manager: { url: \"http://a\" }", "f:1:17: manager.url: needs manager.cluster_api_key"}));

INSTANTIATE_TEST_SUITE_P(
    Features, Refused,
    testing::Values(Row{service("tls: { mode: terminate }"),
                        "f:2:10: services[0].tls.mode: TLS (tls) is not in this version (" MARCHPROXY_VERSION
                        "); remove the key or set it to "
                        "none\n"},
                    Row{"numa: { enabled: yes }", "f:1:9: numa.enabled: NUMA placement (numa) is not"},
                    Row{"telemetry: { flows: { ipfix: \"a:1\" } }",
                        "f:1:23: telemetry.flows.ipfix: IPFIX export (ipfix) is not"},
                    Row{"telemetry: { custom_metrics: [{}] }",
                        "f:1:14: telemetry.custom_metrics: metrics of one's own (custom_metrics) is not"},
                    Row{"manager: { url: \"http://a\" }", "f:1:12: manager.url: the manager (manager) is not"}));

TEST(Load, ServicesThatNameNoPolicyHaveThatOfMulticloud) {
    const auto policy_of = [](const std::string& multicloud, const std::string& routing) {
        const Loaded loaded = load_text(multicloud + service(routing), "f");
        EXPECT_EQ("", listed(loaded));
        return loaded.snapshot.services.at(0).routing.policy;
    };
    EXPECT_EQ(Policy::weighted_round_robin, policy_of("", ""));
    EXPECT_EQ(Policy::weighted_round_robin, policy_of("multicloud: { policy: cost }\n", ""));
    EXPECT_EQ(Policy::latency, policy_of("multicloud: { enabled: true }\n", ""));
    EXPECT_EQ(Policy::cost, policy_of("multicloud: { enabled: true, policy: cost }\n", "routing: { seed: 3 }"));
    EXPECT_EQ(Policy::maglev,
              policy_of("multicloud: { enabled: true, policy: cost }\n", "routing: { policy: maglev }"));
}

TEST(Load, APriceIsOneOrTiers) {
    const Loaded loaded = load_text(
        "paths:\n"
        "- { name: a, cost_per_gb: 0.09 }\n"
        "- { name: b, billed: both, cost_per_gb: [{ up_to: 10TB, cost: 0.09 }, { up_to: 50TB, cost: 0.085 }, { cost: "
        "0.07 }] }\n"
        "- { name: c }\n",
        "f");
    ASSERT_EQ("", listed(loaded));
    const auto& paths = loaded.snapshot.paths;
    EXPECT_EQ((Tariff{{{std::nullopt, 0.09}}}), paths[0].cost_per_gb);
    EXPECT_EQ((Tariff{{{Bytes{10'000'000'000'000}, 0.09}, {Bytes{50'000'000'000'000}, 0.085}, {std::nullopt, 0.07}}}),
              paths[1].cost_per_gb);
    EXPECT_EQ(Billed::both, paths[1].billed);
    EXPECT_TRUE(paths[2].cost_per_gb.tiers.empty());
    const nlohmann::json printed = to_json(loaded.snapshot);
    EXPECT_EQ(0.09, printed["paths"][0]["cost_per_gb"]);
    EXPECT_EQ(
        nlohmann::json::parse(R"([{"up_to": 10000000000000, "cost": 0.09}, {"up_to": 50000000000000, "cost": 0.085},
                                        {"up_to": null, "cost": 0.07}])"),
        printed["paths"][1]["cost_per_gb"]);
    EXPECT_TRUE(printed["paths"][2]["cost_per_gb"].is_null());
}

TEST(Load, BudgetsHaveAScopeAndAPeriod) {
    const Loaded loaded = load_text(
        "multicloud: { budgets: [{ name: aws, provider: aws, dollars: 5000, period: day, warn_at: 90%, at_limit: "
        "stop_new }, "
        "{ name: all, dollars: 1 }] }\n"
        "paths: [{ name: a, provider: aws }]\n",
        "f");
    ASSERT_EQ("", listed(loaded));
    const auto& budgets = loaded.snapshot.settings.multicloud.budgets;
    EXPECT_EQ((Budget{"aws",
                      {.service = {}, .path = {}, .provider = "aws", .region = {}},
                      5000,
                      Period::day,
                      {0.9},
                      AtLimit::stop_new}),
              budgets.at(0));
    EXPECT_EQ((Budget{"all", {}, 1, Period::month, {0.8}, AtLimit::warn}), budgets.at(1));
}

TEST(Load, WhatAsksForNothingIsAccepted) {
    const Loaded loaded = load_text(
        "packet: { enabled: true, interfaces: [eth0] }\nqos: { enabled: false }\nmulticloud: { enabled: false }\n"
        "numa: { enabled: false }\ntelemetry: { tracing: { enabled: false }, flows: { ipfix: \"\" }, custom_metrics: "
        "[] }\n"
        "manager: { url: \"\", cluster_api_key: \"\" }\npaths:\n" +
            service("plane: auto, tls: { mode: none }, qos: { ecn: false }, encapsulation: none, routing: { retry: "
                    "connect }"),
        "f");
    EXPECT_EQ("", listed(loaded));
}

TEST(Load, WildcardAndOneAddressMayShareAPort) {
    const Loaded loaded = load_text(
        "services:\n- { name: a, listen: 0.0.0.0:80, endpoints: [{ address: b:1 }] }\n"
        "- { name: b, listen: 127.0.0.1:80, endpoints: [{ address: b:1 }] }\n"
        "- { name: c, protocol: udp, listen: 127.0.0.1:80, endpoints: [{ address: b:1 }] }\n",
        "f");
    EXPECT_EQ("", listed(loaded));
}

TEST(Load, AllProblemsInTheOrderOfTheFile) {
    const Loaded loaded =
        load_text("services: [{ nmae: a }]\nlog: { level: X, format: Y }\n", "f", {"", {{"WORKERS", "x"}}, {}});
    std::vector<std::pair<int, std::string>> places;
    for (const Problem& problem : loaded.problems)
        places.emplace_back(problem.line, problem.key);
    EXPECT_EQ((std::vector<std::pair<int, std::string>>{{1, "services[0].name"},
                                                        {1, "services[0].listen"},
                                                        {1, "services[0]"},
                                                        {1, "services[0].nmae"},
                                                        {2, "log.level"},
                                                        {2, "log.format"},
                                                        {0, "environment WORKERS"}}),
              places);
}

TEST(Load, ProblemsAreBounded) {
    std::string yaml;
    for (int i = 0; i < 5000; ++i)
        yaml += "unknown-" + std::to_string(i) + ": 1\n";
    const Loaded loaded = load_text(yaml, "f");
    EXPECT_EQ(1001U, loaded.problems.size());
    EXPECT_FALSE(loaded.ok());
}

std::string many_services(int count) {
    std::string yaml = "services:\n";
    for (int i = 0; i < count; ++i)
        yaml += "  - name: service-" + std::to_string(i) + "\n    listen: \"127." + std::to_string(i / 256) + "." +
                std::to_string(i % 256) +
                ".1:20000\"\n    protocol: tcp\n    endpoints:\n"
                "      - { address: \"10.0.0.1:80\", weight: 1 }\n      - { address: \"10.0.0.2:80\", weight: 2 }\n";
    return yaml;
}

TEST(Load, TenThousandServices) {
    const auto began = std::chrono::steady_clock::now();
    const Loaded loaded = load_text(many_services(10'000), "f");
    EXPECT_EQ("", listed(loaded));
    EXPECT_EQ(10'000U, loaded.snapshot.services.size());
    EXPECT_LT(std::chrono::steady_clock::now() - began, 20s);  // about half a second; sanitizers and coverage are slow
}

TEST(Load, OneWrongKeyInFiveThousandLines) {
    std::string yaml = many_services(834);
    const std::string before = "  - name: service-700\n";
    yaml.insert(yaml.find(before), "    wieght: 3\n");
    EXPECT_THAT(listed(load_text(yaml, "f")), testing::StartsWith("f:4202:5: services[699].wieght: is not a key"));
}

TEST(Load, TheKeysOfEveryFeatureAreKnown) {
    const auto file = repository / "tests/fuzz/config_fuzz/every_key.yaml";
    Sources sources;
    sources.file = file.string();
    const Loaded loaded = load(sources);
    for (const Problem& problem : loaded.problems)
        EXPECT_THAT(problem.message, HasSubstr("not in this version")) << to_string(problem);
    for (const Feature& feature : features) {
        const std::string named = fmt::format("({})", feature.name);
        EXPECT_EQ(!feature.built, listed(loaded).find(named) != std::string::npos) << feature.name;
    }
    const Service& web = loaded.snapshot.services.at(0);
    EXPECT_EQ((DirectedRate{Rate{2'000'000'000}, Rate{2'000'000'000}}), web.qos.rate);
    EXPECT_EQ((DirectedRate{Rate{500'000'000}, Rate{1'000'000'000}}), web.qos.guarantee);
    EXPECT_EQ(34, web.qos.dscp);
    EXPECT_EQ((Location{38.95, -77.45}), loaded.snapshot.paths.at(0).location);
    const auto& metric = loaded.snapshot.settings.telemetry.custom_metrics.at(0);
    EXPECT_EQ((std::pair<std::string, std::string>("service", "web")), metric.where.at(0));
}

TEST(Load, TheExamplesAreFine) {
    int count = 0;
    for (const auto& entry : std::filesystem::directory_iterator(repository / "examples")) {
        if (entry.path().extension() != ".yaml") continue;
        Sources sources;
        sources.file = entry.path().string();
        EXPECT_EQ("", listed(load(sources)));
        ++count;
    }
    EXPECT_GE(count, 4);
}

}  // namespace
}  // namespace marchproxy::config
