// What the tests of plans and changes begin with.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "packet/plan.h"
#include "packet/suitability.h"

namespace marchproxy::packet {

inline IpAddress ip(std::string_view text) {
    return *IpAddress::parse(text);
}
inline SocketAddress at(std::string_view text) {
    return *SocketAddress::parse(text);
}
inline Prefix prefix(std::string_view text) {
    return *Prefix::parse(text);
}

inline Service service(std::string name, std::string_view listen, const std::vector<std::string>& endpoints) {
    Service made;
    made.name = std::move(name);
    made.listen = at(listen);
    for (const std::string& endpoint : endpoints)
        made.endpoints.push_back({.address = *HostPort::parse(endpoint), .path = {}});
    return made;
}

// A configuration, and what has become of it.
struct World {
    Snapshot snapshot;
    Surroundings around{.settings = &snapshot.settings, .resolution = {}, .sources = {}, .unavailable = {}};
    Capacity capacity{.flows = 1, .services = 64, .endpoints = 64, .ring_slots = 1 << 20};
    Indexes indexes = Indexes::within(capacity.services, capacity.endpoints);
    std::vector<SocketAddress> down, draining, lost;
    std::set<IpAddress> own{ip("10.0.0.2"), ip("10.0.0.3"), ip("2001:db8::2")};

    World() {
        snapshot.settings.packet.interfaces = {"eth0"};
        around.sources.general = {ip("10.0.0.2"), ip("2001:db8::2")};
    }
    World(const World&) = delete;
    World& operator=(const World&) = delete;

    Service& add(std::string name, std::string_view listen, const std::vector<std::string>& endpoints) {
        return snapshot.services.emplace_back(service(std::move(name), listen, endpoints));
    }

    PlanInput input() const {
        const auto among = [](const auto& list, const SocketAddress& a) {
            return std::find(list.begin(), list.end(), a) != list.end();
        };
        PlanInput made{.services = {},
                       .stream = snapshot.settings.stream,
                       .qos = snapshot.settings.qos,
                       .sources = around.sources,
                       .own = own,
                       .capacity = capacity};
        const Assignments planes = assign(snapshot, around);
        for (size_t i = 0; i < snapshot.services.size(); ++i) {
            if (!planes.services[i].packet) continue;
            std::vector<Target> targets = targets_of(snapshot.services[i], around.resolution, {});
            for (Target& target : targets) {
                target.up = !among(down, target.address);
                target.draining = among(draining, target.address);
                target.lost = among(lost, target.address);
            }
            made.services.push_back({&snapshot.services[i], targets, access_tree(snapshot.services[i].access)});
        }
        return made;
    }
};

}  // namespace marchproxy::packet
