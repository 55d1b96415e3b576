// The one configured value. The control side builds a Snapshot from whatever source is configured and publishes it;
// nothing in a data plane is configured in any other way. Immutable once published, shared by pointer.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/address.h"
#include "model/egress.h"
#include "model/names.h"
#include "model/path_table.h"
#include "model/units.h"

namespace marchproxy {

// --- services -------------------------------------------------------------------------------------------------------

struct Endpoint {
    HostPort address;
    std::string path;       // name of a Path; empty: none
    uint32_t weight = 100;  // relative; 0 takes no new connections
    bool operator==(const Endpoint&) const = default;
};

struct Access {
    std::vector<Prefix> allow;  // empty: everybody
    std::vector<Prefix> deny;   // wins over allow
    bool operator==(const Access&) const = default;
};

struct Limits {
    std::optional<uint64_t> connections;                  // at one time, over all workers; UDP: sessions
    std::optional<uint64_t> connections_per_source;       // the same, from one client address
    std::optional<Frequency> new_connections;             // with a burst of 100 ms worth, at least 1
    std::optional<Frequency> new_connections_per_source;  // from one client address; with a burst of a second's worth
    std::optional<Frequency> packets;                     // of clients; packet plane only; bursts of 100 ms worth
    std::optional<Frequency> packets_per_source;          // the same, from one client address
    // TCP connections half open: beyond, clients prove their address (packet plane) or the kernel has them do so
    // (listen(2)).
    std::optional<uint32_t> backlog;
    bool operator==(const Limits&) const = default;
};

struct DirectedRate {
    std::optional<Rate> up;    // client to endpoint
    std::optional<Rate> down;  // endpoint to client
    bool operator==(const DirectedRate&) const = default;
};

// What a mark that a client's packets come with stands for, where a service says so.
struct MarkRule {
    uint8_t arrived = 0;  // DSCP
    std::optional<Priority> priority;
    std::optional<uint8_t> dscp;
    bool operator==(const MarkRule&) const = default;
};

struct ServiceQos {
    std::optional<Priority> priority;  // absent: the default of `qos`
    DirectedRate rate;
    DirectedRate guarantee;
    std::optional<Bytes> burst;
    std::optional<uint8_t> dscp;  // 0-63; absent: by priority
    bool ecn = false;
    bool trust = false;
    std::vector<MarkRule> rules;
    bool operator==(const ServiceQos&) const = default;
};

struct RoutingWeights {
    double latency = 0.6, cost = 0.3, bandwidth = 0.1;
    bool operator==(const RoutingWeights&) const = default;
};

struct Routing {
    Policy policy = Policy::weighted_round_robin;
    RoutingWeights weights;
    Retry retry = Retry::connect;
    Bytes replay{64 << 10};          // of `unanswered`: what a client may have said, of one connection
    OnDown on_down = OnDown::reset;  // what becomes of connections whose endpoint probes say is down
    uint64_t seed = 0;               // of the Maglev table: the same on every node that shares the service
    bool operator==(const Routing&) const = default;
};

struct Service {
    std::string name;
    Protocol protocol = Protocol::tcp;
    SocketAddress listen;
    PlaneChoice plane = PlaneChoice::automatic;
    Forwarding forwarding = Forwarding::nat;
    Encapsulation encapsulation = Encapsulation::none;
    Access access;
    Limits limits;
    ServiceQos qos;
    Routing routing;
    TlsMode tls = TlsMode::none;
    ProxyProtocol proxy_protocol = ProxyProtocol::none;  // sent to endpoints
    bool accept_proxy_protocol = false;                  // demanded from clients
    std::optional<Duration> idle_timeout;                // absent: stream.idle_timeout (TCP), 60 s (UDP sessions)
    std::optional<uint16_t> mss;                         // the largest segment that clients and endpoints are told
    std::vector<Endpoint> endpoints;
    bool operator==(const Service&) const = default;
};

// --- paths ----------------------------------------------------------------------------------------------------------

struct Location {
    double latitude = 0, longitude = 0;  // degrees
    bool operator==(const Location&) const = default;
};

// What a gigabyte costs while the month's volume is below `up_to`.
struct CostTier {
    std::optional<Bytes> up_to;  // none: all the rest
    double cost = 0;             // dollars
    bool operator==(const CostTier&) const = default;
};

struct Tariff {
    std::vector<CostTier> tiers;  // none: it is not known what the path costs

    static Tariff flat(double dollars) { return {{{.up_to = std::nullopt, .cost = dollars}}}; }
    bool operator==(const Tariff&) const = default;
};

struct Path {
    std::string name;
    std::string provider;
    std::string region;
    Tariff cost_per_gb;
    Billed billed = Billed::sent;
    std::optional<Rate> bandwidth;
    std::optional<Location> location;
    std::vector<Prefix> destinations;
    std::optional<IpAddress> gateway;
    std::optional<IpAddress> source;
    bool operator==(const Path&) const = default;
};

// --- the process ----------------------------------------------------------------------------------------------------

struct AdminSettings {
    IpAddress address = IpAddress::v4(0x7f000001);
    uint16_t port = 8081;
    std::string token;  // secret: never printed
    bool operator==(const AdminSettings&) const = default;
};

struct LogSettings {
    LogLevel level = LogLevel::info;
    LogFormat format = LogFormat::json;
    bool operator==(const LogSettings&) const = default;
};

struct StreamSettings {
    uint32_t workers = 0;   // 0: one a core
    Bytes buffer{1 << 20};  // moved at once for one connection; a worker's, not a connection's
    Duration idle_timeout = std::chrono::hours(1);
    Duration udp_idle_timeout = std::chrono::seconds(60);
    Duration connect_timeout = std::chrono::seconds(5);  // each attempt; also for a client's PROXY header
    Duration keepalive = std::chrono::seconds(60);       // idle time before TCP keep-alive probes; 0: none
    ForwardMethod forward = ForwardMethod::automatic;    // how bytes move: copy small, splice bulk
    std::string congestion_control = "auto";  // auto: what suits a leg's round trip; system; or a kernel name
    bool operator==(const StreamSettings&) const = default;
};

struct PacketSettings {
    bool enabled = true;
    std::vector<std::string> interfaces;
    PacketMode mode = PacketMode::automatic;
    uint64_t max_flows = 10'000'000;
    std::string pin = "/sys/fs/bpf/marchproxy";
    bool operator==(const PacketSettings&) const = default;
};

struct QosSettings {
    bool enabled = false;
    std::optional<Rate> link_rate;
    Priority default_priority = Priority::p3;
    Share floor_p1, floor_p2, floor_p3;
    bool operator==(const QosSettings&) const = default;
};

struct ProbeSettings {
    ProbeKind kind = ProbeKind::tcp;
    Duration interval = std::chrono::milliseconds(200);
    Duration timeout = std::chrono::milliseconds(150);
    uint32_t fall = 3, rise = 2;
    std::optional<uint16_t> port;
    std::string path = "/";
    std::optional<uint16_t> expect_status;
    std::string expect_body;
    bool operator==(const ProbeSettings&) const = default;
};

// Which traffic is meant: all that fits each name that is given.
struct BudgetScope {
    std::string service, path, provider, region;  // empty: any
    bool operator==(const BudgetScope&) const = default;
};

struct Budget {
    std::string name;
    BudgetScope scope;
    double dollars = 0;  // a period
    Period period = Period::month;
    Share warn_at{0.80};
    AtLimit at_limit = AtLimit::warn;
    bool operator==(const Budget&) const = default;
};

struct MulticloudSettings {
    bool enabled = false;
    ProbeSettings probe;
    Policy policy = Policy::latency;
    Share hysteresis{0.10};
    Duration slow_start = std::chrono::seconds(10);  // 0: none
    Share max_ejected{0.50};                         // of a service's endpoints
    Share panic{0.10};                               // fewer up: health is not looked at
    std::optional<Location> locality;
    std::string cost_book = "/var/lib/marchproxy/costs.db";  // empty: in memory
    std::vector<Budget> budgets;
    bool operator==(const MulticloudSettings&) const = default;
};

struct NumaSettings {
    bool enabled = false;
    std::string nodes = "auto";
    bool pin_interrupts = false;
    bool operator==(const NumaSettings&) const = default;
};

struct CustomMetric {
    std::string name, kind, value;
    std::vector<std::pair<std::string, std::string>> where;
    std::vector<std::string> labels;
    bool operator==(const CustomMetric&) const = default;
};

struct TelemetrySettings {
    bool metrics = true;
    bool tracing = false;
    std::string tracing_endpoint = "http://127.0.0.1:4318";
    double trace_sample = 0.01;
    std::vector<std::string> trace_always;
    Duration trace_slow = std::chrono::milliseconds(100);
    bool flows = true;
    std::string flow_file;  // JSON lines, one a finished flow; empty: none
    std::string ipfix;
    uint32_t keep_flows = 100'000;  // finished ones held for /api/v1/flows
    std::vector<CustomMetric> custom_metrics;
    bool operator==(const TelemetrySettings&) const = default;
};

struct ManagerSettings {
    std::string url;
    std::string cluster_api_key;  // secret: never printed
    Duration refresh = std::chrono::seconds(60);
    Duration heartbeat = std::chrono::seconds(30);
    std::string cache = "/var/lib/marchproxy/last-good.json";
    bool operator==(const ManagerSettings&) const = default;
};

struct Settings {
    IpAddress listen_address = IpAddress::any_v4();
    uint16_t listen_port = 8080;
    AdminSettings admin;
    LogSettings log;
    Duration drain_timeout = std::chrono::seconds(30);
    StreamSettings stream;
    PacketSettings packet;
    QosSettings qos;
    MulticloudSettings multicloud;
    NumaSettings numa;
    TelemetrySettings telemetry;
    ManagerSettings manager;
    bool operator==(const Settings&) const = default;
};

struct Snapshot {
    uint64_t version = 0;  // counts publications of this process, from 1
    Settings settings;
    std::vector<Path> paths;
    std::vector<Service> services;
    PathTable path_table;  // of `paths`; made when the snapshot is published
    // Of the paths' gateways, those that can be used, and by which mark; made then too.
    std::map<IpAddress, uint32_t> gateway_marks;

    const Path* find_path(std::string_view name) const;  // by `path_table`
    const Service* find_service(std::string_view name) const;
    // To an endpoint there by this path. A source or gateway of the other family is none; a gateway that is none of
    // this machine's marks is impossible.
    Egress egress(const std::string& path, const IpAddress& endpoint) const;
};

using SnapshotPointer = std::shared_ptr<const Snapshot>;

// What the service is treated as, and marked with, where nothing says otherwise.
Priority priority_of(const Service& service, const QosSettings& qos);
uint8_t dscp_of(const Service& service, const QosSettings& qos);

// How packets are treated and marked by the mark that they came with, or without one that is known.
struct Treatment {
    Priority priority = Priority::p3;
    uint8_t dscp = 0;
    bool operator==(const Treatment&) const = default;
};
inline constexpr uint8_t unknown_mark = 64;
using Treatments = std::array<Treatment, unknown_mark + 1>;
Treatments treatments_of(const Service& service, const QosSettings& qos);
// Whether it matters which mark they came with.
bool heeds_marks(const ServiceQos& qos);

// How long a connection, session or flow of the service may be silent, on whichever plane.
Duration idle_timeout_of(const Service& service, const StreamSettings& stream);

}  // namespace marchproxy
