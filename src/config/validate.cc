#include "config/validate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string>
#include <tuple>
#include <unordered_map>
#include <unordered_set>

#include "model/quote.h"

namespace marchproxy::config {
namespace {

// The node of a value that was given and read; null otherwise.
const Node* sound(const Node& parent, std::string_view key) {
    const Node* node = parent.find(key);
    return node && !node->refused ? node : nullptr;
}

std::string place_of(const Node& node) {
    return node.given_by ? *node.given_by : fmt::format("line {}", node.line);
}

const Node& element(const Node& root, std::string_view list, size_t index) {
    return root.find(list)->children[index];
}

// Names of a list's elements: each once.
class UniqueNames {
  public:
    UniqueNames(std::string list, Problems& problems) : list_(std::move(list)), problems_(problems) {}

    void add(const Node& owner, size_t index, std::string_view name) {
        const Node* node = sound(owner, "name");
        if (!node) return;
        const auto [first, fresh] = seen_.emplace(name, node);
        if (!fresh)
            problems_.at_value(*node, fmt::format("{}[{}].name", list_, index),
                               fmt::format("{} is taken already, by {}", quoted(name), place_of(*first->second)));
    }

  private:
    std::string list_;
    Problems& problems_;
    std::unordered_map<std::string_view, const Node*> seen_;
};

struct PrefixHash {
    size_t operator()(const Prefix& prefix) const {
        const std::string_view bytes(reinterpret_cast<const char*>(prefix.ip.bytes.data()), prefix.ip.bytes.size());
        return std::hash<std::string_view>()(bytes) * 131 + prefix.length;
    }
};

void check_location(const Node& owner, const std::string& path, std::string_view key, Problems& problems) {
    const Node* node = owner.find(key);
    if (!node || node->kind != Node::Kind::map || (node->child("lat") && node->child("lon"))) return;
    problems.at_value(*node, path, "needs both lat and lon");
}

// A prefix in two paths leads nowhere in particular; of overlapping ones the longest wins.
void check_destinations(const Snapshot& snapshot, const Node& root, Problems& problems) {
    std::unordered_map<Prefix, size_t, PrefixHash> owners;
    for (size_t i = 0; i < snapshot.paths.size(); ++i) {
        const Node* destinations = sound(element(root, "paths", i), "destinations");
        for (const Prefix& prefix : snapshot.paths[i].destinations) {
            const auto [owner, fresh] = owners.emplace(prefix, i);
            if (!fresh && destinations)
                problems.at_value(*destinations, fmt::format("paths[{}].destinations", i),
                                  owner->second == i ? fmt::format("{} is there twice", to_string(prefix))
                                                     : fmt::format("{} is one of path {} already", to_string(prefix),
                                                                   snapshot.paths[owner->second].name));
        }
    }
}

// Each tier ends above the one before; only the last has no end.
void check_tariff(const Tariff& tariff, const Node& owner, const std::string& path, Problems& problems) {
    const Node* list = sound(owner, "cost_per_gb");
    if (!list || list->kind != Node::Kind::list) return;
    if (tariff.tiers.empty())
        problems.at_value(*list, path + ".cost_per_gb", "has no tier; write one price, or leave it out");
    for (size_t i = 0; i < tariff.tiers.size(); ++i) {
        const std::optional<Bytes>& ends = tariff.tiers[i].up_to;
        const Node& tier = list->children[i];
        const std::string key = fmt::format("{}.cost_per_gb[{}]", path, i);
        const Node* given = tier.find("up_to");
        if (!ends && !given && i + 1 < tariff.tiers.size())
            problems.at_owner(tier, key + ".up_to", "is missing; only the last tier goes on without an end");
        const bool falls = ends && i > 0 && tariff.tiers[i - 1].up_to && *ends <= *tariff.tiers[i - 1].up_to;
        if (falls && sound(tier, "up_to"))
            problems.at_value(*given, key + ".up_to",
                              fmt::format("{} does not lie above the tier before, which ends at {}", to_string(*ends),
                                          to_string(*tariff.tiers[i - 1].up_to)));
    }
}

void check_gateway(const Path& path, const Node& owner, const std::string& key, Problems& problems) {
    const Node* node = sound(owner, "gateway");
    if (!node || !path.gateway) return;
    const IpAddress& gateway = *path.gateway;
    const bool link_local = !gateway.is_v4() && gateway.bytes[0] == 0xfe && (gateway.bytes[1] & 0xc0) == 0x80;
    const bool multicast = gateway.is_v4() ? gateway.bytes[12] >= 224 : gateway.bytes[0] == 0xff;
    if (gateway.is_unspecified() || gateway.is_loopback() || multicast)
        problems.at_value(*node, key, "is no address of a router");
    else if (link_local)
        problems.at_value(
            *node, key, "is a link-local address, which is another one on each link; name the router by a global one");
    else if (path.source && path.source->is_v4() != gateway.is_v4())
        problems.at_value(*node, key, "is of another family than the path's source");
}

// A budget of what does not exist would never be spent.
void check_budgets(const Snapshot& snapshot, const Node& root, Problems& problems) {
    std::unordered_set<std::string_view> services, paths, providers, regions;
    for (const Service& service : snapshot.services)
        services.insert(service.name);
    for (const Path& path : snapshot.paths) {
        paths.insert(path.name);
        providers.insert(path.provider);
        regions.insert(path.region);
    }
    UniqueNames names("multicloud.budgets", problems);
    const std::vector<Budget>& budgets = snapshot.settings.multicloud.budgets;
    for (size_t i = 0; i < budgets.size(); ++i) {
        const Node& node = element(root, "multicloud.budgets", i);
        names.add(node, i, budgets[i].name);
        const auto check = [&](const char* key, const std::string& name, const auto& known, const char* where) {
            const Node* value = sound(node, key);
            if (value && !name.empty() && !known.contains(name))
                problems.at_value(*value, fmt::format("multicloud.budgets[{}].{}", i, key),
                                  fmt::format("{} is none of {}", quoted(name), where));
        };
        check("service", budgets[i].scope.service, services, "the services");
        check("path", budgets[i].scope.path, paths, "the paths");
        check("provider", budgets[i].scope.provider, providers, "the paths' providers");
        check("region", budgets[i].scope.region, regions, "the paths' regions");
    }
}

void check_paths(const Snapshot& snapshot, const Node& root, Problems& problems) {
    UniqueNames names("paths", problems);
    check_destinations(snapshot, root, problems);
    for (size_t i = 0; i < snapshot.paths.size(); ++i) {
        const Node& node = element(root, "paths", i);
        names.add(node, i, snapshot.paths[i].name);
        check_tariff(snapshot.paths[i].cost_per_gb, node, fmt::format("paths[{}]", i), problems);
        check_location(node, fmt::format("paths[{}].location", i), "location", problems);
        check_gateway(snapshot.paths[i], node, fmt::format("paths[{}].gateway", i), problems);
        const Node* source = sound(node, "source");
        if (source && snapshot.paths[i].source && snapshot.paths[i].source->is_unspecified())
            problems.at_value(*source, fmt::format("paths[{}].source", i),
                              "is no address to speak from; leave it out for what the routes prefer");
    }
}

bool overlap(const SocketAddress& a, const SocketAddress& b) {
    const bool wildcard = a.ip.is_unspecified() || b.ip.is_unspecified();
    return a.port == b.port && (a.ip == b.ip || (wildcard && a.ip.is_v4() == b.ip.is_v4()));
}

class Services {
  public:
    Services(const Snapshot& snapshot, const Node& root, Problems& problems)
        : snapshot_(snapshot),
          root_(root),
          problems_(problems),
          names_("services", problems),
          admin_{snapshot.settings.admin.address, snapshot.settings.admin.port} {
        for (const Path& path : snapshot.paths)
            paths_.insert(path.name);
    }

    void check() {
        for (size_t i = 0; i < snapshot_.services.size(); ++i) {
            const Service& service = snapshot_.services[i];
            const Node& node = element(root_, "services", i);
            const std::string path = fmt::format("services[{}]", i);
            names_.add(node, i, service.name);
            check_listen(service, node, path);
            check_endpoints(service, node, path);
            if (service.protocol == Protocol::udp) check_udp(node, path, service);
            check_qos(service, node, path);
            check_packet(service, node, path);
            check_routing(service, node, path);
            check_packet_limit(service, service.limits.packets.has_value(), "limits.packets", node, path);
            check_packet_limit(service, service.limits.packets_per_source.has_value(), "limits.packets_per_source",
                               node, path);
        }
    }

  private:
    void check_listen(const Service& service, const Node& node, const std::string& path) {
        const Node* listen = sound(node, "listen");
        if (!listen) return;
        const auto [first, fresh] = listeners_.emplace(std::tuple(service.protocol, service.listen), listen);
        if (!fresh)
            problems_.at_value(*listen, path + ".listen",
                               fmt::format("another service listens on {} {} already, at {}", name_of(service.protocol),
                                           to_string(service.listen), place_of(*first->second)));
        if (service.protocol == Protocol::tcp && overlap(service.listen, admin_))
            problems_.at_value(*listen, path + ".listen",
                               fmt::format("{} is where the admin server listens; choose another port for one of them",
                                           to_string(admin_)));
    }

    void check_endpoints(const Service& service, const Node& node, const std::string& path) {
        const Node* list = node.find("endpoints");
        if (list && list->refused) return;
        if (service.endpoints.empty())
            return problems_.at_owner(list ? *list : node, path,
                                      "has no endpoints; add at least one, as in "
                                      "endpoints: [{ address: \"10.0.0.1:80\" }]");
        std::set<std::tuple<HostPort, std::string_view>> seen;
        for (size_t i = 0; i < service.endpoints.size(); ++i) {
            const Endpoint& endpoint = service.endpoints[i];
            const Node& given = list->children[i];
            const std::string key = fmt::format("{}.endpoints[{}]", path, i);
            const Node* address = sound(given, "address");
            if (address && to_string(endpoint.address) == to_string(service.listen))
                problems_.at_value(*address, key + ".address",
                                   "is where the service itself listens: connections would go round in circles");
            if (address && !seen.emplace(endpoint.address, endpoint.path).second)
                problems_.at_value(*address, key + ".address",
                                   fmt::format("{} is an endpoint of this service already; use weight to give it more",
                                               to_string(endpoint.address)));
            const Node* name = sound(given, "path");
            if (name && !endpoint.path.empty() && !paths_.contains(endpoint.path))
                problems_.at_value(*name, key + ".path",
                                   fmt::format("{} names no path; add it to paths", quoted(endpoint.path)));
        }
    }

    void check_udp(const Node& node, const std::string& path, const Service& service) {
        const auto refuse = [&](bool given, std::string_view key) {
            const Node* value = sound(node, key);
            if (given && value)
                problems_.at_value(*value, fmt::format("{}.{}", path, key),
                                   "is for tcp; this service's protocol is udp");
        };
        refuse(service.accept_proxy_protocol, "accept_proxy_protocol");
        refuse(service.proxy_protocol != ProxyProtocol::none, "proxy_protocol");
        refuse(service.tls != TlsMode::none, "tls.mode");
        refuse(service.limits.backlog.has_value(), "limits.backlog");
        refuse(service.mss.has_value(), "mss");
    }

    void check_rules(const ServiceQos& qos, const Node& node, const std::string& path) {
        std::set<uint8_t> seen;
        for (size_t i = 0; i < qos.rules.size(); ++i) {
            const Node& given = element(node, "qos.rules", i);
            const std::string key = fmt::format("{}.qos.rules[{}]", path, i);
            const Node* arrived = sound(given, "arrived");
            if (arrived && !seen.insert(qos.rules[i].arrived).second)
                problems_.at_value(*arrived, key + ".arrived", "another rule says already what this mark stands for");
            if (arrived && !given.find("priority") && !given.find("dscp"))
                problems_.at_owner(given, key, "changes nothing; give it a priority, or a dscp");
        }
    }

    void check_qos(const Service& service, const Node& node, const std::string& path) {
        const ServiceQos& qos = service.qos;
        check_rules(qos, node, path);
        const Node* burst = sound(node, "qos.burst");
        if (burst && qos.burst && !qos.rate.up && !qos.rate.down)
            problems_.at_value(*burst, path + ".qos.burst", "needs qos.rate: it is what may pass at once above that");
        const Node* guarantee = node.find("qos.guarantee");
        if (!guarantee) return;
        const bool given = qos.guarantee.up || qos.guarantee.down;
        if (given && !snapshot_.settings.qos.link_rate)
            problems_.at_value(*guarantee, path + ".qos.guarantee",
                               "needs qos.link_rate: what the link carries is what guarantees are given of");
        const auto priority = static_cast<size_t>(priority_of(service, snapshot_.settings.qos));
        check_direction(qos.guarantee.up, qos.rate.up, up_, priority, *guarantee, path);
        check_direction(qos.guarantee.down, qos.rate.down, down_, priority, *guarantee, path);
    }

    // Guarantees of one direction, by priority.
    using Guarantees = std::array<uint64_t, 4>;

    // What guarantees and floors need together: what a priority's services are guaranteed counts for its floor.
    double needed(const Guarantees& guarantees) const {
        const QosSettings& qos = snapshot_.settings.qos;
        const std::array<Share, 4> floors{Share{}, qos.floor_p1, qos.floor_p2, qos.floor_p3};
        double sum = 0;
        for (size_t i = 0; i < floors.size(); ++i)
            sum += std::max(static_cast<double>(guarantees[i]),
                            floors[i].fraction * static_cast<double>(qos.link_rate->bits_per_second));
        return sum;
    }

    void check_direction(const std::optional<Rate>& guarantee, const std::optional<Rate>& rate, Guarantees& sums,
                         size_t priority, const Node& node, const std::string& path) {
        if (!guarantee) return;
        if (rate && *guarantee > *rate)
            problems_.at_value(node, path + ".qos.guarantee",
                               fmt::format("{} is more than the rate, {}", to_string(*guarantee), to_string(*rate)));
        const std::optional<Rate>& link = snapshot_.settings.qos.link_rate;
        if (!link) return;
        const bool fitted = needed(sums) <= static_cast<double>(link->bits_per_second);
        uint64_t& sum = sums[priority];
        if (__builtin_add_overflow(sum, guarantee->bits_per_second, &sum)) sum = UINT64_MAX;
        const double wanted = needed(sums);
        if (fitted && wanted > static_cast<double>(link->bits_per_second))
            problems_.at_value(
                node, path + ".qos.guarantee",
                fmt::format("the guarantees up to here add up to {} with qos.floors; qos.link_rate is {}",
                            to_string(Rate{static_cast<uint64_t>(std::min(wanted, 1.8e19))}), to_string(*link)));
    }

    void check_packet(const Service& service, const Node& node, const std::string& path) {
        const Node* encapsulation = sound(node, "encapsulation");
        if (encapsulation && service.encapsulation != Encapsulation::none && service.forwarding != Forwarding::dsr)
            problems_.at_value(*encapsulation, path + ".encapsulation", "needs forwarding: dsr");
        const Node* forwarding = sound(node, "forwarding");
        if (forwarding && service.forwarding == Forwarding::dsr) check_dsr(service, node, *forwarding, path);
        if (forwarding && service.forwarding != Forwarding::nat && service.plane == PlaneChoice::stream)
            problems_.at_value(*forwarding, path + ".forwarding",
                               fmt::format("{} needs the packet plane; plane is stream", name_of(service.forwarding)));
        const Node* plane = sound(node, "plane");
        if (plane && service.plane == PlaneChoice::packet && snapshot_.settings.packet.interfaces.empty())
            problems_.at_value(*plane, path + ".plane",
                               "packet needs packet.interfaces: the interfaces that clients and endpoints come in by");
    }

    void check_routing(const Service& service, const Node& node, const std::string& path) {
        const auto& [policy, weights, retry, replay, on_down, seed] = service.routing;
        const MulticloudSettings& multicloud = snapshot_.settings.multicloud;
        const Node* given = node.find("routing.weights");
        if (given && weights.latency + weights.cost + weights.bandwidth <= 0)
            problems_.at_value(*given, path + ".routing.weights", "at least one must be more than 0");
        if (given && policy != Policy::weighted)
            problems_.at_value(*given, path + ".routing.weights",
                               fmt::format("are of policy: weighted; this service's is {}", name_of(policy)));
        const Node* kept = sound(node, "routing.replay");
        if (kept && retry != Retry::unanswered)
            problems_.at_value(*kept, path + ".routing.replay", "needs routing.retry: unanswered");
        if (kept && service.protocol == Protocol::udp)
            problems_.at_value(*kept, path + ".routing.replay", "is for tcp; this service's protocol is udp");
        const Node* named = sound(node, "routing.policy");
        if (named && is_measured(policy) && !multicloud.enabled)
            problems_.at_value(*named, path + ".routing.policy",
                               fmt::format("{} looks at paths; set multicloud.enabled: true", name_of(policy)));
        if (named && policy == Policy::geo && multicloud.enabled && !multicloud.locality)
            problems_.at_value(*named, path + ".routing.policy",
                               "geo needs multicloud.locality: where this proxy stands");
    }

    // What comes out of the tunnel is for the service's own address and port.
    void check_dsr(const Service& service, const Node& node, const Node& forwarding, const std::string& path) {
        const Node* encapsulation = node.find("encapsulation");
        if (service.encapsulation == Encapsulation::none && !(encapsulation && encapsulation->refused))
            problems_.at_value(encapsulation ? *encapsulation : forwarding,
                               path + (encapsulation ? ".encapsulation" : ".forwarding"),
                               "dsr needs encapsulation: ipip or gue, as the endpoints take it");
        if (!sound(node, "listen")) return;
        for (size_t i = 0; i < service.endpoints.size(); ++i) {
            const Node* address = sound(element(node, "endpoints", i), "address");
            if (address && service.endpoints[i].address.port != service.listen.port)
                problems_.at_value(
                    *address, fmt::format("{}.endpoints[{}].address", path, i),
                    fmt::format("with forwarding: dsr the endpoint answers in the service's place, at "
                                "its port; write {}",
                                to_string(HostPort{service.endpoints[i].address.host, service.listen.port})));
        }
    }

    // What the packet plane alone can hold is not to be accepted where that cannot be.
    void check_packet_limit(const Service& service, bool given, std::string_view key, const Node& node,
                            const std::string& path) {
        const Node* value = sound(node, key);
        if (!given || !value) return;
        const PacketSettings& packet = snapshot_.settings.packet;
        const char* why = service.plane == PlaneChoice::stream ? "plane is stream"
                          : !packet.enabled                    ? "packet.enabled is false"
                          : packet.interfaces.empty()          ? "packet.interfaces names no interface"
                                                               : nullptr;
        if (why)
            problems_.at_value(*value, fmt::format("{}.{}", path, key), fmt::format("needs the packet plane; {}", why));
    }

    const Snapshot& snapshot_;
    const Node& root_;
    Problems& problems_;
    UniqueNames names_;
    SocketAddress admin_;
    std::unordered_set<std::string_view> paths_;
    std::map<std::tuple<Protocol, SocketAddress>, const Node*> listeners_;
    Guarantees up_{}, down_{};  // so far
};

void check_default_listener(const Snapshot& snapshot, const Node& root, Problems& problems) {
    const Settings& settings = snapshot.settings;
    const SocketAddress listen{settings.listen_address, settings.listen_port};
    const SocketAddress admin{settings.admin.address, settings.admin.port};
    if (!snapshot.services.empty() || !overlap(listen, admin)) return;
    const Node* node = sound(root, "listen.port");
    if (!node) node = sound(root, "admin.port");
    if (node)
        problems.at_value(*node, "listen.port",
                          fmt::format("{} is also where the admin server listens; change listen.port or admin.port",
                                      to_string(admin)));
}

void check_settings(const Settings& settings, const Node& root, Problems& problems) {
    const Node* keepalive = sound(root, "stream.keepalive");
    if (keepalive && settings.stream.keepalive % std::chrono::seconds(1) != Duration::zero())
        problems.at_value(*keepalive, "stream.keepalive", "must be whole seconds, as the kernel counts it");

    const double floors =
        settings.qos.floor_p1.fraction + settings.qos.floor_p2.fraction + settings.qos.floor_p3.fraction;
    const Node* given = root.find("qos.floors");
    const Node* link = root.find("qos.link_rate");
    if (given && floors > 0 && !settings.qos.link_rate && !(link && link->refused))
        problems.at_value(*given, "qos.floors", "needs qos.link_rate: floors are shares of what the link carries");
    if (given && floors > 1 + 1e-9)
        problems.at_value(*given, "qos.floors", fmt::format("add up to {:g}%; the link has 100%", 100 * floors));

    const ProbeSettings& probe = settings.multicloud.probe;
    const Node* timeout = sound(root, "multicloud.probe.timeout");
    if (!timeout) timeout = sound(root, "multicloud.probe.interval");
    if (timeout && probe.timeout >= probe.interval)
        problems.at_value(*timeout, "multicloud.probe.timeout",
                          fmt::format("{} must be shorter than the interval, {}", marchproxy::to_string(probe.timeout),
                                      marchproxy::to_string(probe.interval)));
    check_location(root, "multicloud.locality", "multicloud.locality", problems);
    if (probe.kind != ProbeKind::http)
        for (const char* key :
             {"multicloud.probe.path", "multicloud.probe.expect_status", "multicloud.probe.expect_body"})
            if (const Node* node = sound(root, key))
                problems.at_value(*node, key, fmt::format("is of kind: http; the kind is {}", name_of(probe.kind)));
    if (probe.kind == ProbeKind::icmp)
        if (const Node* node = sound(root, "multicloud.probe.port"))
            problems.at_value(*node, "multicloud.probe.port", "icmp knows no ports");
    const Node* policy = sound(root, "multicloud.policy");
    if (policy && settings.multicloud.enabled && settings.multicloud.policy == Policy::geo &&
        !settings.multicloud.locality)
        problems.at_value(*policy, "multicloud.policy", "geo needs multicloud.locality: where this proxy stands");

    const Node* url = sound(root, "manager.url");
    if (url && !settings.manager.url.empty() && settings.manager.cluster_api_key.empty())
        problems.at_value(*url, "manager.url", "needs manager.cluster_api_key");
}

}  // namespace

void validate(const Snapshot& snapshot, const Node& root, Problems& problems) {
    check_settings(snapshot.settings, root, problems);
    check_paths(snapshot, root, problems);
    check_budgets(snapshot, root, problems);
    Services(snapshot, root, problems).check();
    check_default_listener(snapshot, root, problems);
    UniqueNames metrics("telemetry.custom_metrics", problems);
    for (size_t i = 0; i < snapshot.settings.telemetry.custom_metrics.size(); ++i)
        metrics.add(element(root, "telemetry.custom_metrics", i), i,
                    snapshot.settings.telemetry.custom_metrics[i].name);
}

}  // namespace marchproxy::config
