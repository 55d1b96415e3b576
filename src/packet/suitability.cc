#include "packet/suitability.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "abi/packet.h"
#include "packet/indexes.h"
#include "packet/qos_records.h"

namespace marchproxy::packet {
namespace {

using Reason = std::optional<std::string>;

// --- one service ---------------------------------------------------------------------------------------------------

Reason by_machine(const Service&, const Surroundings& around) {
    if (!around.settings->packet.enabled) return "packet.enabled is false";
    if (!around.unavailable.empty()) return around.unavailable;
    if (around.settings->packet.interfaces.empty()) return "packet.interfaces names no interface";
    return {};
}

Reason by_connections(const Service& service, const Surroundings&) {
    if (service.tls != TlsMode::none) return fmt::format("tls.mode: {} needs sockets", name_of(service.tls));
    if (service.proxy_protocol != ProxyProtocol::none)
        return fmt::format("proxy_protocol: {} needs sockets", name_of(service.proxy_protocol));
    if (service.accept_proxy_protocol) return "accept_proxy_protocol needs sockets";
    if (service.routing.retry == Retry::unanswered) return "routing.retry: unanswered needs sockets";
    return {};
}

Reason by_listen(const Service& service, const Surroundings&) {
    const IpAddress& ip = service.listen.ip;
    if (ip.is_unspecified())
        return fmt::format("listen: {} is every address; write the service's own, as in {}", to_string(service.listen),
                           to_string(SocketAddress{*IpAddress::parse(ip.is_v4() ? "192.0.2.10" : "2001:db8::10"),
                                                   service.listen.port}));
    if (ip.is_loopback())
        return fmt::format("listen: {} is met by no packet of an interface", to_string(service.listen));
    return {};
}

Reason by_policy(const Service& service, const Surroundings&) {
    if (service.routing.policy != Policy::least_connections) return {};
    return "routing.policy: least_connections needs a count that packets do not have; weighted_round_robin does "
           "without";
}

constexpr Duration longest_idle = std::chrono::seconds(abi::longest_idle_seconds);

Reason by_limits(const Service& service, const Surroundings& around) {
    if (service.limits.connections.value_or(0) > UINT32_MAX)
        return fmt::format("limits.connections is beyond {}", UINT32_MAX);
    if (service.limits.connections_per_source.value_or(0) > UINT32_MAX)
        return fmt::format("limits.connections_per_source is beyond {}", UINT32_MAX);
    const Duration idle = idle_timeout_of(service, around.settings->stream);
    if (idle > longest_idle)
        return fmt::format("an idle_timeout of {} is longer than the packet plane can tell, {}", to_string(idle),
                           to_string(longest_idle));
    return {};
}

Reason by_qos(const Service& service, const Surroundings& around) {
    if (!needs_queue(service, around.settings->qos)) return {};
    const bool at_tc = around.settings->packet.mode == PacketMode::tc;
    if (!at_tc && around.no_queues.empty()) return {};
    return fmt::format("by its qos packets wait for their turn, and {}",
                       at_tc ? "with packet.mode: tc nothing can" : around.no_queues);
}

const char* family_of(const IpAddress& ip) {
    return ip.is_v4() ? "IPv4" : "IPv6";
}

// Where an endpoint has addresses, one must be of the service's family.
Reason by_families(const Service& service, const Surroundings& around) {
    for (const Endpoint& endpoint : service.endpoints) {
        const std::vector<SocketAddress> addresses = addresses_of(endpoint, around.resolution);
        const auto fits = [&](const SocketAddress& a) { return a.ip.is_v4() == service.listen.ip.is_v4(); };
        if (!addresses.empty() && std::none_of(addresses.begin(), addresses.end(), fits))
            return fmt::format("endpoint {} is {} and the service {}; packets are not translated between them",
                               to_string(endpoint.address), family_of(addresses[0].ip), family_of(service.listen.ip));
    }
    return {};
}

std::vector<Target> targets_in(const Service& service, const Surroundings& around) {
    static const Snapshot none;
    return targets_of(service, around.resolution, around.snapshot ? *around.snapshot : none);
}

Reason by_endpoints(const Service& service, const Surroundings& around) {
    const std::vector<IpAddress> own = around.sources.all();
    for (const Target& target : targets_in(service, around)) {
        const IpAddress& ip = target.address.ip;
        if (ip.is_loopback() || ip == service.listen.ip || around.own.contains(ip) ||
            std::find(own.begin(), own.end(), ip) != own.end())
            return fmt::format("endpoint {} is on this machine, where no packets are forwarded to",
                               to_string(target.address));
        if (service.forwarding != Forwarding::dnat && around.sources.towards(target).empty())
            return fmt::format("this machine has no {} address from which to speak to endpoint {}", family_of(ip),
                               to_string(target.address));
    }
    return {};
}

}  // namespace

Reason reason_against(const Service& service, const Surroundings& surroundings) {
    for (const auto& check :
         {by_machine, by_connections, by_listen, by_policy, by_limits, by_qos, by_families, by_endpoints})
        if (Reason reason = check(service, surroundings)) return reason;
    return {};
}

// --- services beside each other ------------------------------------------------------------------------------------

namespace {

// What the services that are in the packet plane have claimed.
class Claims {
  public:
    explicit Claims(const Surroundings& surroundings) : surroundings_(surroundings) {}

    Reason against(const Service& service) const {
        if (const auto user = uses_.find({service.listen, service.protocol}); user != uses_.end())
            return fmt::format("{} is an endpoint of service {}", to_string(service.listen), user->second.service);
        for (const Target& target : targets_in(service, surroundings_))
            if (Reason reason = against(service, target)) return reason;
        return {};
    }

    void add(const Service& service) {
        listening_[{service.listen, service.protocol}] = service.name;
        for (const Target& target : targets_in(service, surroundings_)) {
            Use& use = uses_[{target.address, service.protocol}];
            use.service = service.name;
            if (service.forwarding == Forwarding::dnat)
                use.dnat = service.name;
            else
                use.sources = surroundings_.sources.towards(target);
        }
    }

  private:
    struct Use {
        std::string service;
        std::string dnat;                // the one service with it that has its packets come from here
        std::vector<IpAddress> sources;  // the addresses that all other services speak from
    };

    Reason against(const Service& service, const Target& target) const {
        const EndpointKey key{target.address, service.protocol};
        if (const auto other = listening_.find(key); other != listening_.end())
            return fmt::format("endpoint {} is service {}", to_string(target.address), other->second);
        const auto found = uses_.find(key);
        if (found == uses_.end()) return {};
        const Use& use = found->second;
        const bool dnat = service.forwarding == Forwarding::dnat;
        if (dnat && !use.dnat.empty())
            return fmt::format(
                "endpoint {} is also one of service {}, and with forwarding: dnat its packets do not show for which of "
                "the two they are; give it another port there",
                to_string(target.address), use.dnat);
        if (!dnat && !use.sources.empty() && use.sources != surroundings_.sources.towards(target))
            return fmt::format("endpoint {} is also one of service {}, by a path with another source address",
                               to_string(target.address), use.service);
        return {};
    }

    const Surroundings& surroundings_;
    std::map<EndpointKey, std::string> listening_;
    std::map<EndpointKey, Use> uses_;
};

constexpr const char* asked_for = "the configuration asks for it";

// What of a service the stream plane cannot do instead; empty: nothing.
const char* packet_plane_only(const Service& service) {
    if (service.limits.packets) return "limits.packets";
    return service.limits.packets_per_source ? "limits.packets_per_source" : "";
}

}  // namespace

Assignments assign(const Snapshot& snapshot, const Surroundings& surroundings) {
    Assignments result;
    result.services.resize(snapshot.services.size(), {false, asked_for});
    Claims claims(surroundings);
    for (const PlaneChoice round : {PlaneChoice::packet, PlaneChoice::automatic})
        for (size_t i = 0; i < snapshot.services.size(); ++i) {
            const Service& service = snapshot.services[i];
            if (service.plane != round) continue;
            Reason reason = reason_against(service, surroundings);
            if (!reason) reason = claims.against(service);
            const bool waits = round == PlaneChoice::packet || *packet_plane_only(service) != '\0';
            if (!reason && !waits && !surroundings.unattached.empty()) reason = surroundings.unattached;
            if (!reason) {
                claims.add(service);
                result.services[i] = {true, round == PlaneChoice::packet ? asked_for : "nothing of it needs sockets"};
                continue;
            }
            result.services[i] = {false, *reason};
            if (round == PlaneChoice::packet)
                result.errors.push_back(
                    fmt::format("service {}: plane: packet is not possible: {}", service.name, *reason));
            else if (const std::string only = packet_plane_only(service); !only.empty())
                result.errors.push_back(
                    fmt::format("service {}: {} needs the packet plane, which is not possible: {}; take it out or see "
                                "`marchproxy-l3l4 doctor`",
                                service.name, only, *reason));
        }
    return result;
}

}  // namespace marchproxy::packet
