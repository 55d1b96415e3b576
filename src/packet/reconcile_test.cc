#include "packet/reconcile.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>

#include "packet/access_rows.h"
#include "packet/directory.h"
#include "packet/plan_cases.h"

namespace marchproxy::packet {
namespace {

using Verdicts = std::map<IpAddress, bool>;

// Maps as the kernel holds them: no index is ever absent, a record of zeros means nothing.
class Maps final : public MapTarget {
  public:
    std::map<uint32_t, abi::address> sources;
    std::map<uint32_t, abi::packet_endpoint> endpoints;
    std::map<uint32_t, abi::packet_service> services;
    std::map<uint32_t, abi::packet_limits> limits;
    std::map<uint32_t, abi::packet_qos> qos;
    std::map<uint32_t, uint32_t> slots;
    AccessTrees access;
    std::vector<abi::directory_entry> directory;
    std::function<void()> after = [] {};
    size_t writes_left = SIZE_MAX;

    Result<void> set_source(uint32_t index, const abi::address& a) override {
        return write([&] { sources[index] = a; });
    }
    Result<void> set_endpoint(uint32_t index, const abi::packet_endpoint& e) override {
        return write([&] { endpoints[index] = e; });
    }
    Result<void> set_ring(uint32_t first, std::span<const uint32_t> ring) override {
        for (const auto& [index, s] : services) {
            const uint64_t begin = s.ring >> 32, end = begin + static_cast<uint32_t>(s.ring);
            EXPECT_FALSE(begin < first + ring.size() && first < end) << "a ring in use is written over";
        }
        return write([&] {
            for (uint32_t i = 0; i < ring.size(); ++i)
                slots[first + i] = ring[i];
        });
    }
    Result<void> set_access(const AccessTrees& trees) override {
        return write([&] { access = trees; });
    }
    Result<void> set_limits(uint32_t service, const abi::packet_limits& l) override {
        return write([&] { limits[service] = l; });
    }
    Result<void> set_qos(uint32_t service, const abi::packet_qos& q) override {
        return write([&] { qos[service] = q; });
    }
    Result<void> set_service(uint32_t index, const abi::packet_service& s) override {
        return write([&] { services[index] = s; });
    }
    Result<void> set_directory(std::span<const abi::directory_entry> entries) override {
        return write([&] { directory.assign(entries.begin(), entries.end()); });
    }

    const abi::directory_entry* find(const abi::address& a, uint16_t port_be, uint8_t protocol) const {
        for (const auto& entry : directory)
            if (same_bytes(entry.address, a) && entry.port_be == port_be && entry.protocol == protocol) return &entry;
        return nullptr;
    }

    bool admits(uint32_t service, const IpAddress& address) {
        const abi::packet_service& s = services[service];
        if (!(s.flags & abi::service_has_access)) return true;
        const auto tree = access.find(service);
        return tree == access.end() || tree->second->passes(address);
    }

    // What a service's flags have packets ask for is there.
    void check_limits() {
        constexpr uint32_t asking = abi::service_limits_packets | abi::service_limits_flows;
        for (const auto& [index, s] : services)
            EXPECT_EQ(flags_of(limits[index]) & s.flags, s.flags & asking) << "service " << index;
        for (const auto& [index, s] : services)
            EXPECT_TRUE(!(s.flags & abi::service_has_qos) || !same_bytes(qos[index], abi::packet_qos{}))
                << "service " << index;
    }

    void check_directory() {
        for (const abi::directory_entry& entry : directory) {
            const abi::packet_service& s = services[entry.index];
            const abi::packet_endpoint& e = endpoints[entry.index];
            const bool exact = entry.kind == abi::directory_service;
            if (exact || entry.kind == abi::directory_host) {
                EXPECT_TRUE(same_bytes(s.address, entry.address));
                EXPECT_TRUE(!exact || (s.port_be == entry.port_be && s.protocol == entry.protocol));
            } else if (entry.kind == abi::directory_endpoint) {
                EXPECT_TRUE(same_bytes(e.address, entry.address) && e.port_be == entry.port_be);
            } else {
                EXPECT_TRUE(same_bytes(sources[entry.index], entry.address));
            }
            if (exact) check_ring(s);
        }
    }

  private:
    Result<void> write(const std::function<void()>& store) {
        if (writes_left == 0) return Error{"full"};
        --writes_left;
        store();
        after();
        return {};
    }

    // Wherever a client of the service may be sent, packets can go and come back.
    void check_ring(const abi::packet_service& s) {
        uint32_t last = 0;
        for (uint32_t i = 0; i < static_cast<uint32_t>(s.ring); ++i) {
            const uint32_t index = slots[static_cast<uint32_t>(s.ring >> 32) + i];
            if (index == last) continue;
            last = index;
            const abi::packet_endpoint& e = endpoints[index];
            ASSERT_TRUE(e.flags & abi::endpoint_in_use) << "endpoint " << index;
            const auto* entry = find(e.address, e.port_be, e.protocol);
            ASSERT_TRUE(entry && entry->kind == abi::directory_endpoint && entry->index == index);
            if (s.forwarding == abi::forwarding_dnat) {
                ASSERT_NE(e.dnat_service, 0U);
                continue;
            }
            ASSERT_GT(e.source_count, 0);
            for (uint32_t source = e.source_first; source < uint32_t{e.source_first} + e.source_count; ++source) {
                const auto* named = find(sources[source], 0, 0);
                ASSERT_TRUE(named && named->kind == abi::directory_source && named->index == source);
            }
        }
    }
};

Verdicts verdicts(const Access& access) {
    Verdicts all;
    for (uint32_t host = 0; host < 32; ++host) {
        const IpAddress address = IpAddress::v4(0xc0000200 + host);
        all[address] = testing::admits(access, address);
    }
    return all;
}

// A world that changes, its maps, and a look at each packet after each write.
class Reconciling : public ::testing::Test {
  protected:
    World world;
    Maps maps;
    Plan held;
    std::map<uint32_t, Verdicts> before, wanted;  // by service, of those in a directory
    std::mt19937 random{7};

    // False: the maps failed on the way.
    bool go() {
        Result<Planned> made = make_plan(world.input(), world.indexes, held);
        EXPECT_TRUE(made.ok()) << made.error();
        world.indexes = made->indexes;
        wanted.clear();
        for (const PlannedService& s : world.input().services)
            wanted[*world.indexes.services.take(
                {s.service->name, s.service->protocol, s.service->listen,
                 s.service->forwarding == Forwarding::dnat ? abi::forwarding_dnat : abi::forwarding_nat})] =
                verdicts(s.service->access);
        maps.after = [&] { check(); };
        if (!apply(reconcile(held, made->plan), maps, held)) return false;
        EXPECT_TRUE(held == made->plan);
        maps.check_limits();
        EXPECT_TRUE(reconcile(held, made->plan).empty());
        before = wanted;
        return true;
    }

    void check() {
        maps.check_directory();
        for (const abi::directory_entry& entry : maps.directory)
            if (entry.kind == abi::directory_service) check_access(entry.index);
    }

    void check_access(uint32_t service) {
        for (uint32_t host = 0; host < 32; ++host) {
            const IpAddress address = IpAddress::v4(0xc0000200 + host);
            const bool verdict = maps.admits(service, address);
            const bool as_before = before.contains(service) && before[service][address] == verdict;
            const bool as_wanted = wanted.contains(service) && wanted[service][address] == verdict;
            ASSERT_TRUE(as_before || as_wanted) << to_string(address);
        }
    }

    Prefix draw_prefix() {
        const auto length = static_cast<uint8_t>(123 + random() % 6);
        const uint32_t host = static_cast<uint32_t>(random() & 31) >> (128 - length) << (128 - length);
        return {IpAddress::v4(0xc0000200 + host), length};
    }

    void change_world() {
        world.snapshot.services.clear();
        world.snapshot.settings.qos.enabled = random() % 2;
        world.down.clear();
        world.draining.clear();
        for (int i = 0; i < 4; ++i) {
            if (random() % 4 == 0) continue;
            Service& made = world.add("s" + std::to_string(i), "203.0.113.1:80", {});
            made.listen.port = static_cast<uint16_t>(80 + i + random() % 2 * 10);
            if (random() % 3 == 0) made.forwarding = Forwarding::dnat;
            for (int e = 0; e < 6; ++e)
                if (random() % 2)
                    made.endpoints.push_back({.address = {"10.0.1." + std::to_string(e), 8080},
                                              .path = {},
                                              .weight = random() % 4 ? 100U : 0U});
            if (random() % 2) made.limits.packets = Frequency{10};
            if (random() % 4 == 0) made.protocol = Protocol::udp;
            for (size_t n = random() % 4; n > 0; --n)
                (random() % 2 ? made.access.allow : made.access.deny).push_back(draw_prefix());
        }
        for (int e = 0; e < 6; ++e)
            if (random() % 5 == 0) world.down.push_back(at("10.0.1." + std::to_string(e) + ":8080"));
        world.around.sources.general.clear();
        for (int n = 0; n < 4; ++n)
            if (n == 0 || random() % 2) world.around.sources.general.push_back(IpAddress::v4(0x0a000010U + n));
    }

    void release_some() {
        for (const auto& [index, key] : world.indexes.services.resting())
            if (random() % 2) world.indexes.services.release(index);
        for (const auto& [index, key] : world.indexes.endpoints.resting())
            if (random() % 2) world.indexes.endpoints.release(index);
        for (const auto& [index, key] : world.indexes.sources.resting())
            if (random() % 2) world.indexes.sources.release(index);
    }
};

TEST_F(Reconciling, EveryPacketSeesTheOldOrTheNewConfigurationAfterEachWrite) {
    for (int round = 0; round < 150 && !HasFailure(); ++round) {
        change_world();
        ASSERT_TRUE(go());
        release_some();
    }
}

TEST_F(Reconciling, GoesOnFromWhereTheMapsFailed) {
    for (int round = 0; round < 100 && !HasFailure(); ++round) {
        change_world();
        maps.writes_left = random() % 20;
        const bool whole = go();
        maps.writes_left = SIZE_MAX;
        if (whole) continue;
        // What a service had before may be that of two configurations ago.
        maps.after = [&] { maps.check_directory(); };
        const Result<Planned> made = make_plan(world.input(), world.indexes, held);
        ASSERT_TRUE(made.ok());
        world.indexes = made->indexes;
        ASSERT_TRUE(apply(reconcile(held, made->plan), maps, held).ok());
        EXPECT_TRUE(held == made->plan);
        before = wanted;
        check();
        release_some();
    }
}

TEST_F(Reconciling, WritesNothingWhereNothingChanged) {
    world.add("web", "203.0.113.1:80", {"10.0.1.1:80"});
    ASSERT_TRUE(go());
    maps.writes_left = 0;
    EXPECT_TRUE(go());
}

TEST_F(Reconciling, AnEndpointThatFellCostsARingAServiceAndADirectory) {
    world.add("web", "203.0.113.1:80", {"10.0.1.1:80", "10.0.1.2:80"});
    ASSERT_TRUE(go());
    world.down = {at("10.0.1.2:80")};
    const auto made = make_plan(world.input(), world.indexes, held);
    const std::vector<MapChange> changes = reconcile(held, made->plan);
    ASSERT_EQ(changes.size(), 5U);
    EXPECT_TRUE(std::holds_alternative<WriteRing>(changes[0]));
    EXPECT_TRUE(std::holds_alternative<WriteService>(changes[1]));
    EXPECT_TRUE(std::holds_alternative<ReplaceDirectory>(changes[2]));
    EXPECT_TRUE(std::holds_alternative<WriteEndpoint>(changes[3]));
    EXPECT_TRUE(std::holds_alternative<LeaveRing>(changes[4]));
}

TEST_F(Reconciling, ANewEndpointIsInTheDirectoryBeforeFlowsBeginThere) {
    world.add("web", "203.0.113.1:80", {"10.0.1.1:80"});
    ASSERT_TRUE(go());
    world.snapshot.services[0].endpoints.push_back({.address = {"10.0.1.2", 80}, .path = {}});
    bool named = false;
    maps.after = [&] {};
    const auto made = make_plan(world.input(), world.indexes, held);
    for (const MapChange& change : reconcile(held, made->plan)) {
        if (const auto* directory = std::get_if<ReplaceDirectory>(&change))
            for (const auto& entry : directory->entries)
                named |= same_bytes(entry.address, to_abi(ip("10.0.1.2")));
        if (std::holds_alternative<WriteService>(change)) {
            EXPECT_TRUE(named);
        }
    }
}

}  // namespace
}  // namespace marchproxy::packet
