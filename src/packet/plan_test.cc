#include "packet/plan.h"

#include <gmock/gmock.h>

#include "packet/directory.h"
#include "packet/plan_cases.h"
#include "packet/ring.h"

namespace marchproxy::packet {
namespace {

using ::testing::HasSubstr;

Planned must_plan(World& world, const Plan& held = {}) {
    Result<Planned> made = make_plan(world.input(), world.indexes, held);
    EXPECT_TRUE(made.ok()) << made.error();
    world.indexes = made->indexes;
    return *made;
}

const abi::directory_entry* find(const Plan& plan, std::string_view address, uint16_t port, uint8_t protocol) {
    for (const abi::directory_entry& entry : plan.directory)
        if (from_abi(entry.address) == ip(address) && entry.port_be == to_network(port) && entry.protocol == protocol)
            return &entry;
    return nullptr;
}

std::vector<uint32_t> ring_at(const Plan& plan, uint32_t service) {
    const uint64_t word = plan.services.at(service).ring;
    const auto found = plan.rings.find(static_cast<uint32_t>(word >> 32));
    return static_cast<uint32_t>(word) ? found->second : std::vector<uint32_t>{};
}

TEST(Plan, OfOneService) {
    World world;
    Service& web = world.add("web", "203.0.113.1:80", {"10.0.1.1:8080", "10.0.1.2:8080"});
    web.routing.policy = Policy::maglev;
    web.routing.seed = 5;
    web.limits.connections = 1000;
    web.idle_timeout = std::chrono::milliseconds(90'500);
    const Plan plan = must_plan(world).plan;

    const abi::packet_service& service = plan.services.at(1);
    EXPECT_EQ(from_abi(service.address), ip("203.0.113.1"));
    EXPECT_EQ(service.port_be, to_network(80));
    EXPECT_EQ(service.protocol, IPPROTO_TCP);
    EXPECT_EQ(service.flags, uint32_t{abi::service_by_client | abi::service_limits_flows});
    EXPECT_EQ(service.seed, 5U);
    EXPECT_EQ(service.idle_seconds, 91U);
    EXPECT_EQ(service.opening_seconds, 60U);
    EXPECT_EQ(service.connections, 1000U);
    EXPECT_EQ(service.new_flow_step, 0U);

    std::vector<uint32_t> expected = ring_of(Policy::maglev, 5, world.input().services[0].targets);
    for (uint32_t& slot : expected)
        ++slot;  // targets are counted from 0, endpoints from 1
    EXPECT_EQ(ring_at(plan, 1), expected);

    const abi::packet_endpoint& endpoint = plan.endpoints.at(2);
    EXPECT_EQ(from_abi(endpoint.address), ip("10.0.1.2"));
    EXPECT_EQ(endpoint.flags, abi::endpoint_in_use | abi::endpoint_takes);
    EXPECT_EQ(from_abi(plan.sources.at(endpoint.source_first)), ip("10.0.0.2"));
    EXPECT_EQ(endpoint.source_count, 1);

    EXPECT_EQ(find(plan, "203.0.113.1", 80, IPPROTO_TCP)->kind, abi::directory_service);
    EXPECT_EQ(find(plan, "203.0.113.1", 0, 0)->kind, abi::directory_host);
    EXPECT_EQ(find(plan, "10.0.1.2", 8080, IPPROTO_TCP)->index, 2U);
    EXPECT_EQ(find(plan, "10.0.0.2", 0, 0)->kind, abi::directory_source);
}

TEST(Plan, AnEndpointThatIsDownKeepsItsFlowsAndOneThatIsGoneEndsThem) {
    World world;
    world.add("web", "203.0.113.1:80", {"10.0.1.1:80", "10.0.1.2:80"});
    world.draining = {at("10.0.1.2:80")};
    Plan plan = must_plan(world).plan;
    EXPECT_EQ(plan.endpoints.at(2).flags, abi::endpoint_in_use);
    EXPECT_THAT(ring_at(plan, 1), ::testing::Each(1U));

    world.snapshot.services[0].endpoints.pop_back();
    plan = must_plan(world, plan).plan;
    EXPECT_EQ(plan.endpoints.at(2).flags, 0);
    EXPECT_EQ(from_abi(plan.endpoints.at(2).address), ip("10.0.1.2"));
    EXPECT_EQ(find(plan, "10.0.1.2", 80, IPPROTO_TCP), nullptr);

    ASSERT_TRUE(world.indexes.endpoints.release(2));
    EXPECT_FALSE(must_plan(world, plan).plan.endpoints.contains(2));
}

TEST(Plan, AServiceThatMovesIsAnotherOneAndTheOldOneRests) {
    World world;
    world.add("web", "203.0.113.1:80", {"10.0.1.1:80"});
    const Plan before = must_plan(world).plan;
    world.snapshot.services[0].listen.port = 81;
    const Plan plan = must_plan(world, before).plan;
    EXPECT_EQ(find(plan, "203.0.113.1", 80, IPPROTO_TCP), nullptr);
    EXPECT_EQ(find(plan, "203.0.113.1", 81, IPPROTO_TCP)->index, 2U);
    EXPECT_EQ(plan.services.at(1).ring, 0U);
    EXPECT_EQ(plan.services.at(1).port_be, to_network(80)) << "packets on the way back still need it";
}

TEST(Plan, AReleasedNumberIsFreeOnlyOnceItsRecordIsCleared) {
    World world;
    world.add("web", "203.0.113.1:80", {"10.0.1.1:80"});
    const Plan first = must_plan(world).plan;
    world.snapshot.services[0].endpoints[0].address.host = "10.0.1.2";
    const Plan second = must_plan(world, first).plan;
    ASSERT_TRUE(world.indexes.endpoints.release(1));
    world.snapshot.services[0].endpoints.push_back({.address = {"10.0.1.3", 80}, .path = {}});
    const Plan third = must_plan(world, second).plan;
    EXPECT_FALSE(third.endpoints.contains(1));
    EXPECT_EQ(find(third, "10.0.1.3", 80, IPPROTO_TCP)->index, 3U);
}

TEST(Plan, ALostBookIsFoundAgainInTheMaps) {
    World world;
    world.add("a", "203.0.113.1:80", {"10.0.1.1:80"});
    world.add("b", "203.0.113.1:81", {"10.0.1.2:80"});
    const Plan before = must_plan(world).plan;
    world.indexes = Indexes::within(64, 64);
    std::swap(world.snapshot.services[0], world.snapshot.services[1]);
    EXPECT_TRUE(must_plan(world, before).plan == before);
}

TEST(Plan, AChangedRingGoesWhereNothingLies) {
    World world;
    world.add("a", "203.0.113.1:80", {"10.0.1.1:80", "10.0.1.2:80"});
    world.add("b", "203.0.113.1:81", {"10.0.1.1:80", "10.0.1.2:80"}).routing.seed = 9;
    const Plan before = must_plan(world).plan;
    world.snapshot.services[0].endpoints.pop_back();
    const Plan plan = must_plan(world, before).plan;
    EXPECT_EQ(plan.services.at(2).ring, before.services.at(2).ring);
    EXPECT_EQ(plan.services.at(1).ring >> 32, 2U * 2039);
    world.snapshot.services[0].endpoints.push_back({.address = {"10.0.1.3", 80}, .path = {}});
    EXPECT_EQ(must_plan(world, plan).plan.services.at(1).ring >> 32, 0U) << "what was left is used again";
}

TEST(Plan, ServicesShareEndpoints) {
    World world;
    world.add("nat", "203.0.113.1:80", {"10.0.1.1:80"}).endpoints[0].weight = 0;
    world.add("dnat", "203.0.113.1:81", {"10.0.1.1:80"}).forwarding = Forwarding::dnat;
    const Plan plan = must_plan(world).plan;
    ASSERT_EQ(plan.endpoints.size(), 1U);
    EXPECT_EQ(plan.endpoints.at(1).dnat_service, 2U);
    EXPECT_EQ(plan.endpoints.at(1).source_count, 1);
    EXPECT_EQ(plan.endpoints.at(1).flags, abi::endpoint_in_use | abi::endpoint_takes);
    EXPECT_EQ(ring_at(plan, 1).size(), 0U);
}

TEST(Plan, FlowsOfADeadEndpointEnd) {
    World world;
    world.add("web", "203.0.113.1:80", {"10.0.1.1:80", "10.0.1.2:80"});
    world.down = world.lost = {*SocketAddress::parse("10.0.1.1:80")};
    const Plan plan = must_plan(world).plan;
    EXPECT_EQ(plan.endpoints.at(1).flags, abi::endpoint_dead);
    EXPECT_EQ(plan.endpoints.at(2).flags, abi::endpoint_in_use | abi::endpoint_takes);
    const std::vector<uint32_t> ring = ring_at(plan, 1);
    EXPECT_EQ(std::count(ring.begin(), ring.end(), 1U), 0);
}

TEST(Plan, WithDsrNothingComesBackFromEndpoints) {
    World world;
    Service& web = world.add("web", "203.0.113.1:80", {"10.0.1.1:80"});
    web.forwarding = Forwarding::dsr;
    web.encapsulation = Encapsulation::gue;
    const Plan plan = must_plan(world).plan;
    EXPECT_EQ(plan.services.at(1).forwarding, abi::forwarding_dsr_gue);
    EXPECT_EQ(plan.endpoints.at(1).source_count, 1) << "the outer header's source";
    for (const abi::directory_entry& entry : plan.directory)
        EXPECT_NE(entry.kind, abi::directory_endpoint);
}

TEST(Plan, OwnAddressesThatAreGoneGoOnWithTheirFlows) {
    World world;
    world.around.sources.general = {ip("10.0.0.2"), ip("10.0.0.3")};
    world.add("web", "203.0.113.1:80", {"10.0.1.1:80"});
    const Plan before = must_plan(world).plan;
    EXPECT_EQ(before.endpoints.at(1).source_count, 2);
    world.around.sources.general = {ip("10.0.0.2")};
    const Plan plan = must_plan(world, before).plan;
    EXPECT_EQ(plan.endpoints.at(1).source_count, 1);
    EXPECT_EQ(plan.sources.size(), 2U);
    EXPECT_NE(find(plan, "10.0.0.3", 0, 0), nullptr);
}

// The machine answers for its own addresses itself, whether the packet plane speaks from them or not.
TEST(Plan, TheMachinesOwnAddressesAreNoHosts) {
    World world;
    world.add("moving", "203.0.113.1:80", {"10.0.1.1:80"});
    world.add("own", "203.0.113.2:80", {"10.0.1.1:80"});
    world.add("own too", "203.0.113.2:81", {"10.0.1.1:80"});
    world.add("spoken from", "10.0.0.2:80", {"10.0.1.1:80"});
    world.own.insert(ip("203.0.113.2"));
    const Plan before = must_plan(world).plan;
    EXPECT_EQ(find(before, "203.0.113.1", 0, 0)->kind, abi::directory_host);
    EXPECT_EQ(find(before, "203.0.113.2", 0, 0), nullptr);
    EXPECT_EQ(find(before, "10.0.0.2", 0, 0)->kind, abi::directory_source);

    // An address that left the machine: one is answered for now, from the other flows still speak.
    world.own = {};
    world.around.sources.general = {ip("10.0.0.3"), ip("2001:db8::2")};
    const Plan plan = must_plan(world, before).plan;
    EXPECT_EQ(find(plan, "203.0.113.2", 0, 0)->kind, abi::directory_host);
    EXPECT_EQ(find(plan, "203.0.113.2", 0, 0)->index, 2U);
    EXPECT_EQ(find(plan, "10.0.0.2", 0, 0)->kind, abi::directory_source);
}

TEST(Plan, AccessListsAreFolded) {
    World world;
    world.add("web", "203.0.113.1:80", {"10.0.1.1:80"}).access.allow = {prefix("192.0.2.0/24")};
    const Plan plan = must_plan(world).plan;
    EXPECT_EQ(plan.services.at(1).flags, uint32_t{abi::service_has_access | abi::service_limits_flows});
    EXPECT_TRUE(plan.access.at(1)->passes(ip("192.0.2.7")));
    EXPECT_FALSE(plan.access.at(1)->passes(ip("192.0.3.7")));
}

TEST(Plan, WhatIsUsedUpIsNamed) {
    World world;
    world.add("web", "203.0.113.1:80", {"10.0.1.1:80", "10.0.1.2:80"});
    world.capacity.ring_slots = 2000;
    EXPECT_THAT(make_plan(world.input(), world.indexes, {}).error(), HasSubstr("Maglev table of service web"));
    world.capacity.ring_slots = 1 << 20;
    EXPECT_THAT(make_plan(world.input(), Indexes::within(64, 2), {}).error(), HasSubstr("endpoint 10.0.1.2:80"));
    EXPECT_THAT(make_plan(world.input(), Indexes::within(1, 64), {}).error(), HasSubstr("service web"));
}

TEST(Plan, HoldsTheQosOfServicesWhereItIsOn) {
    World world;
    Service& dns = world.add("dns", "203.0.113.1:53", {"10.0.1.1:53"});
    dns.protocol = Protocol::udp;
    dns.qos.rate.down = Rate{1'000'000'000};
    dns.qos.priority = Priority::p0;
    const auto off = make_plan(world.input(), world.indexes, {});
    ASSERT_TRUE(off) << off.error();
    EXPECT_TRUE(off->plan.qos.empty());
    EXPECT_FALSE(off->plan.services.at(1).flags & abi::service_has_qos);

    world.snapshot.settings.qos.enabled = true;
    PlanInput input = world.input();
    input.cpus = 4;
    const auto on = make_plan(input, world.indexes, off->plan);
    ASSERT_TRUE(on) << on.error();
    EXPECT_TRUE(on->plan.services.at(1).flags & abi::service_has_qos);
    EXPECT_FALSE(on->plan == off->plan);
    const abi::packet_qos& qos = on->plan.qos.at(1);
    EXPECT_EQ(qos.rate[abi::direction_up].bits_per_second, 0U);
    const abi::packet_rate& down = qos.rate[abi::direction_down];
    EXPECT_EQ(down.bits_per_second, 1'000'000'000U);
    EXPECT_EQ(down.burst + 4 * down.share, 625'000U) << "5 ms";
    EXPECT_EQ(down.share, 39'062U);
    EXPECT_EQ(qos.dscp[0], 46) << "EF, as P0 is marked";
    EXPECT_EQ(qos_priority(&qos, 8), 0U);

    // A rate at which 5 ms are not a packet: no shares.
    world.snapshot.services[0].qos.rate.down = Rate{1'000'000};
    const auto slow = make_plan(world.input(), world.indexes, {});
    EXPECT_EQ(slow->plan.qos.at(1).rate[abi::direction_down].share, 0U);
    EXPECT_GE(slow->plan.qos.at(1).rate[abi::direction_down].burst, 1'448U);
}

TEST(Plan, HoldsTheLimitsThatAServiceHas) {
    World world;
    world.add("web", "203.0.113.1:80", {"10.0.1.1:80"});
    world.add("dns", "203.0.113.1:53", {"10.0.1.1:53"}).protocol = Protocol::udp;
    const auto planned = make_plan(world.input(), world.indexes, {});
    ASSERT_TRUE(planned) << planned.error();
    ASSERT_EQ(planned->plan.limits.size(), 1U) << "datagrams have none that is not asked for";
    const auto& [web, limits] = *planned->plan.limits.begin();
    EXPECT_EQ(limits.proven_from, 65537U);
    EXPECT_TRUE(planned->plan.services.at(web).flags & abi::service_limits_flows);

    world.snapshot.services[1].limits.packets = Frequency{10};
    const auto changed = make_plan(world.input(), world.indexes, planned->plan);
    ASSERT_TRUE(changed);
    EXPECT_EQ(changed->plan.limits.size(), 2U);
    EXPECT_FALSE(changed->plan == planned->plan);
}

TEST(Plan, MarksEndpointsWhoseSourceAddressIsAServicesToo) {
    World world;
    world.add("own", "10.0.0.2:8080", {"10.0.1.1:80"});
    world.add("vip", "203.0.113.1:80", {"[2001:db8:1::1]:80", "10.0.1.2:80"});
    const auto planned = make_plan(world.input(), world.indexes, {});
    ASSERT_TRUE(planned) << planned.error();
    for (const auto& [index, endpoint] : planned->plan.endpoints)
        EXPECT_TRUE(endpoint.flags & abi::endpoint_shares) << index;

    world.snapshot.services.erase(world.snapshot.services.begin());
    const auto alone = make_plan(world.input(), world.indexes, {});
    ASSERT_TRUE(alone);
    for (const auto& [index, endpoint] : alone->plan.endpoints)
        EXPECT_FALSE(endpoint.flags & abi::endpoint_shares) << index;
}

}  // namespace
}  // namespace marchproxy::packet
