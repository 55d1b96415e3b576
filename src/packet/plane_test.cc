// The packet plane as the process uses it: a snapshot goes in, packets come at an interface, status and flows come out.
#include "packet/plane.h"

#include <gmock/gmock.h>

#include <functional>

#include "packet/pinned_maps.h"
#include "packet/plane_case.h"

namespace marchproxy::packet {
namespace {

using ::testing::AnyOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

// Two suites, as loading the programs takes seconds: one process, and several after or beside each other.
class PlaneTest : public PlaneCase {};
class PlaneProcesses : public PlaneCase {};

TEST_F(PlaneTest, RunsAServiceAndTellsAboutIt) {
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    EXPECT_FALSE(plane.status().running);
    EXPECT_EQ(plane.due(), TimePoint::max());
    Snapshot next = snapshot();
    next.settings.packet.mode = PacketMode::automatic;
    const auto prepared = prepare(plane, next);
    ASSERT_TRUE(prepared.ok()) << prepared.error();
    EXPECT_TRUE(plane.carries("web"));
    EXPECT_FALSE(plane.carries("other"));
    EXPECT_FALSE(attached()) << "packets see nothing of what was only prepared";
    EXPECT_EQ(plane.due(), TimePoint::max()) << "and there is nothing to look after";
    plane.apply();

    const Status status = plane.status();
    EXPECT_TRUE(status.running);
    EXPECT_FALSE(status.took_over);
    EXPECT_EQ(status.flow_capacity, 1000u);
    EXPECT_GT(status.memory_bytes, 0u);
    ASSERT_THAT(status.interfaces, SizeIs(1));
    EXPECT_EQ(status.interfaces[0].name, "near");
    EXPECT_THAT(status.interfaces[0].way, HasSubstr("TC")) << status.interfaces[0].problem;
    ASSERT_FALSE(status.interfaces[0].refused.empty());
    EXPECT_THAT(status.interfaces[0].refused[0], HasSubstr("veth"));
    EXPECT_THAT(status.notes, IsEmpty());
    ASSERT_THAT(status.services, SizeIs(1));
    EXPECT_EQ(status.services[0].name, "web");
    EXPECT_EQ(status.services[0].plane, "packet");
    EXPECT_TRUE(status.services[0].listening);
    EXPECT_EQ(status.services[0].plane_reason, "nothing of it needs sockets");
    EXPECT_EQ(plane.reason("web"), "nothing of it needs sockets");
    EXPECT_EQ(plane.reason("other"), "");
    EXPECT_NE(plane.due(), TimePoint::max());
    EXPECT_THAT(plane.descriptors(), SizeIs(2));
}

TEST_F(PlaneTest, CountsAndListsFlows) {
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    run(plane, snapshot());
    begin_flow(plane, 50'001);
    begin_flow(plane, 50'002, 2);
    const auto records = plane.active_flows({.service = "web"});
    ASSERT_THAT(records, SizeIs(2));
    EXPECT_EQ(records[0].origin->service, "web");
    EXPECT_EQ(records[0].origin->endpoint, "10.9.0.2:8080");
    EXPECT_EQ(to_string(records[0].endpoint), "10.9.0.2:8080");
    EXPECT_EQ(to_string(records[0].client.ip), "198.51.100.7");
    EXPECT_EQ(records[0].state, flow::State::connecting);
    EXPECT_THAT(plane.active_flows({.service = "web", .limit = 1}), SizeIs(1));
    EXPECT_THAT(plane.active_flows({.service = "other"}), IsEmpty());
    const telemetry::ServiceStatus web = plane.status().services.at(0);
    EXPECT_EQ(web.active_connections, 2u);
    EXPECT_EQ(web.received_packets, 2u);
    ASSERT_THAT(web.paths, SizeIs(1));
    EXPECT_EQ(web.paths[0].decisions, 2u);
    ASSERT_THAT(web.endpoints, SizeIs(1));
    EXPECT_EQ(web.endpoints[0].active_connections, 2u);
}

// Between two pieces of a listing others have their turn.
TEST_F(PlaneTest, EndsAListingWhereAReloadTakesTheProgramsAway) {
    struct Reloading final : flow::Sink {
        void finished(std::vector<flow::Record>& batch) override {
            batch.clear();
            if (then) std::exchange(then, nullptr)();
        }
        std::function<void()> then;
    } sink;
    Plane plane(log_, sink, shapers_, endpoint_states_, 0);
    Snapshot large = snapshot();
    large.settings.packet.max_flows = 200'000;
    run(plane, large);
    for (uint16_t number = 1; number <= 8; ++number)
        begin_flow(plane, 50'000 + number, number);
    large.services[0].endpoints[0].address.host = "10.9.0.3";  // so that the listing meets flows that are over
    run(plane, large);
    sink.then = [&] { run(plane, without_packet_services()); };
    EXPECT_THAT(plane.active_flows({}), IsEmpty());
    EXPECT_FALSE(sink.then) << "there was a reload";
    EXPECT_FALSE(plane.status().running);
}

TEST_F(PlaneTest, RefusesWhatItCannotCarryAndChangesNothing) {
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    Snapshot impossible = snapshot();
    impossible.services[0].plane = PlaneChoice::packet;
    impossible.services[0].tls = TlsMode::terminate;
    impossible.services.push_back(service("dns", "203.0.113.1:53", {"10.9.0.2:53"}));
    const auto fresh = prepare(plane, impossible);
    ASSERT_FALSE(fresh.ok());
    EXPECT_THAT(fresh.error(), HasSubstr("service web: plane: packet is not possible: tls.mode"));
    EXPECT_FALSE(plane.status().running);
    EXPECT_THAT(pinned(), IsEmpty()) << "and nothing was made for the other service";

    run(plane, snapshot());
    begin_flow(plane, 50'001);
    ASSERT_FALSE(prepare(plane, impossible).ok());
    EXPECT_FALSE(plane.carries("web")) << "nothing is prepared";
    plane.apply();
    EXPECT_THAT(plane.status().services, SizeIs(1));
    EXPECT_THAT(plane.active_flows({}), SizeIs(1));
    EXPECT_TRUE(attached());
}

TEST_F(PlaneTest, LeavesNothingOfASnapshotThatIsTooLarge) {
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    Snapshot large = snapshot();
    for (int number = 0; number < 1100; ++number)
        large.services.push_back(
            service("s" + std::to_string(number), "203.0.113.2:" + std::to_string(20'000 + number), {"10.9.0.2:8080"}));
    const auto prepared = prepare(plane, large);
    ASSERT_FALSE(prepared.ok());
    EXPECT_THAT(prepared.error(), HasSubstr("1023"));
    EXPECT_FALSE(PinnedMaps(pin_).any()) << "no memory is held for nothing";
    EXPECT_TRUE(PinLock::take(pin_).ok());
    EXPECT_EQ(plane.due(), TimePoint::max());
    run(plane, snapshot());
    EXPECT_TRUE(plane.status().running) << "the next one has all it needs";
    EXPECT_FALSE(plane.status().took_over);
}

TEST_F(PlaneProcesses, AnotherProcesssPinIsLeftToIt) {
    Plane first(log_, flows_, shapers_, endpoint_states_, 0);
    run(first, snapshot());
    begin_flow(first, 50'001);

    std::vector<std::string> lines;
    telemetry::Log log(LogLevel::info, LogFormat::text, [&](std::string_view line) { lines.emplace_back(line); });
    Plane second(log, flows_, shapers_, endpoint_states_, 0);
    for (int time = 0; time < 2; ++time) {
        run(second, snapshot());
        EXPECT_FALSE(second.carries("web"));
        EXPECT_FALSE(second.status().running);
        EXPECT_THAT(second.reason("web"), HasSubstr("is another running process's"));
        EXPECT_THAT(second.status().reason, HasSubstr("is another running process's"));
    }
    Snapshot asks = snapshot();
    asks.services[0].plane = PlaneChoice::packet;
    const auto prepared = prepare(second, asks);
    ASSERT_FALSE(prepared.ok());
    EXPECT_THAT(prepared.error(), AllOf(HasSubstr("service web"), HasSubstr("is another running process's")));

    EXPECT_TRUE(first.status().running);
    EXPECT_THAT(first.active_flows({}), SizeIs(1));
    EXPECT_TRUE(attached());
}

TEST_F(PlaneTest, LeavesServicesToTheStreamPlaneWhileItIsOnNoInterface) {
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    Snapshot wanted = snapshot();
    wanted.settings.packet.interfaces = {"later"};
    const auto assigned_anew = [&] {
        bool moved = false;
        const auto begin = Clock::now();
        EXPECT_TRUE(turn_until(
            plane, [&] { return moved; }, &moved));
        const Duration took = Clock::now() - begin;
        run(plane, wanted);
        return took;
    };
    run(plane, wanted);
    EXPECT_FALSE(plane.status().running);
    EXPECT_THAT(plane.status().services.at(0).problem, HasSubstr("on no interface (later: "));
    EXPECT_FALSE(plane.status().services.at(0).listening);
    EXPECT_LT(assigned_anew(), std::chrono::seconds(2)) << "nothing is lost by it";
    EXPECT_THAT(plane.reason("web"), HasSubstr("on no interface (later: "));
    EXPECT_THAT(plane.status().reason, HasSubstr("on no interface (later: "));

    ASSERT_TRUE(testing::run("ip link add later type veth peer name beyond && ip link set later up"));
    assigned_anew();
    EXPECT_EQ(plane.reason("web"), "nothing of it needs sockets");
    EXPECT_TRUE(plane.status().running);
    EXPECT_TRUE(plane.status().services.at(0).listening);

    ASSERT_TRUE(testing::run("ip link delete later"));
    EXPECT_GT(assigned_anew(), std::chrono::seconds(3)) << "it may come back, and its flows with it";
    EXPECT_THAT(plane.reason("web"), HasSubstr("on no interface (later: "));
    EXPECT_THAT(pinned(), Not(IsEmpty())) << "the flows wait";
}

TEST_F(PlaneTest, EndsWhereNoServiceIsItsAnyMore) {
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    run(plane, snapshot());
    begin_flow(plane, 50'001);
    ASSERT_THAT(pinned(), Not(IsEmpty()));
    run(plane, without_packet_services());
    EXPECT_FALSE(attached());
    EXPECT_THAT(pinned(), IsEmpty());
    EXPECT_FALSE(plane.status().running);
    EXPECT_EQ(plane.due(), TimePoint::max());
    EXPECT_THAT(plane.descriptors(), IsEmpty());
    EXPECT_EQ(plane.reason("web"), "the configuration asks for it");
    ASSERT_THAT(plane.status().services, SizeIs(1)) << "what was counted stays";
    EXPECT_FALSE(plane.status().services[0].listening);
    EXPECT_EQ(plane.status().services[0].paths.at(0).decisions, 1u);

    run(plane, snapshot());
    EXPECT_TRUE(plane.status().running);
    EXPECT_FALSE(plane.status().took_over);
    begin_flow(plane, 50'002);
    EXPECT_EQ(plane.status().services.at(0).paths.at(0).decisions, 2u) << "and goes on";
}

TEST_F(PlaneProcesses, LeavesWhatAnotherRunsAloneWhereItHasNoInterface) {
    { Plane(log_, flows_, shapers_, endpoint_states_, 0).apply(); }
    {
        Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
        run(plane, snapshot());
    }
    Snapshot elsewhere = snapshot();
    elsewhere.settings.packet.interfaces.clear();
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    run(plane, elsewhere);
    EXPECT_TRUE(attached());
    EXPECT_THAT(plane.status().notes, Contains(HasSubstr("detach")));
    EXPECT_EQ(plane.status().reason, "packet.interfaces names no interface");
}

TEST_F(PlaneProcesses, ClearsAtStartWhatAnEarlierProcessLeft) {
    {
        Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
        run(plane, snapshot());
    }
    ASSERT_TRUE(attached());
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    run(plane, without_packet_services());
    EXPECT_FALSE(attached());
    EXPECT_THAT(pinned(), IsEmpty());
}

TEST_F(PlaneProcesses, OutlivesItsProcessAndIsTakenOver) {
    uint32_t program = 0;
    {
        Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
        run(plane, snapshot());
        begin_flow(plane, 50'001);
        program = plane.status().interfaces.at(0).program_id;
    }
    EXPECT_TRUE(attached());
    send_syn(50'002);
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    run(plane, snapshot());
    const Status status = plane.status();
    EXPECT_TRUE(status.took_over);
    EXPECT_TRUE(status.interfaces.at(0).adopted);
    EXPECT_NE(status.interfaces.at(0).program_id, program);
    EXPECT_THAT(plane.active_flows({}), SizeIs(2)) << "one began while no process ran";
    EXPECT_EQ(plane.active_flows({}).at(0).origin->service, "web");
    EXPECT_EQ(status.services.at(0).active_connections, 2u);
    EXPECT_EQ(status.services.at(0).paths.at(0).decisions, 0u) << "counted by the process before";
}

// What flows still carry must not be given to anybody else. The table is so large that one turn sweeps a part of it.
TEST_F(PlaneProcesses, KeepsNumbersThatFlowsOfAnEarlierProcessCarry) {
    constexpr size_t flows = 8;
    Snapshot large = snapshot();
    large.settings.packet.max_flows = 200'000;
    {
        Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
        run(plane, large);
        for (uint16_t number = 1; number <= flows; ++number)
            begin_flow(plane, 50'000 + number, number);
    }
    large.services[0].endpoints[0].address.host = "10.9.0.3";
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    run(plane, large);
    plane.turn();
    const auto book = [&] { return PinnedMaps(pin_).read_book().value_or(""); };
    if (flows_.records.size() < flows) {
        EXPECT_THAT(book(), HasSubstr("10.9.0.2:8080")) << "flows carry its number still";
    }
    EXPECT_TRUE(turn_until(plane, [&] { return book().find("10.9.0.2:8080") == std::string::npos; }))
        << "once they have ended it is free";
    ASSERT_THAT(flows_.records, SizeIs(flows));
    for (const flow::Record& record : flows_.records) {
        EXPECT_EQ(record.origin->service, "web");
        EXPECT_EQ(to_string(record.endpoint), "10.9.0.2:8080");
    }
}

TEST_F(PlaneProcesses, TellsOfAServiceThatWasRemovedWhileNoProcessRan) {
    {
        Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
        run(plane, snapshot());
        begin_flow(plane, 50'001);
    }
    Snapshot other = snapshot();
    other.services[0] = service("api", "203.0.113.9:80", {"10.9.0.2:8080"});
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    run(plane, other);
    auto flows = plane.active_flows({});
    flows.insert(flows.end(), flows_.records.begin(), flows_.records.end());  // or it has ended with its service
    ASSERT_THAT(flows, SizeIs(1));
    EXPECT_EQ(flows[0].origin->service, "web");
    for (const telemetry::ServiceStatus& status : plane.status().services)
        EXPECT_THAT(status.name, AnyOf("api", "web"));
}

TEST_F(PlaneTest, DrainsAnEndpointByTheNameItIsConfiguredUnderAndByItsAddress) {
    Snapshot named = snapshot();
    named.services[0].endpoints[0].address = {"one.example", 8080};
    named.services[0].endpoints.push_back({.address = {"10.9.0.3", 8080}, .path = {}});
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    const Resolution resolution{{{"one.example", 8080}, {at("10.9.0.2:8080")}}};
    ASSERT_TRUE(plane.prepare(std::make_shared<const Snapshot>(named), resolution).ok());
    plane.apply();
    const auto draining = [&] {
        std::vector<bool> list;
        const Status status = plane.status();
        for (const telemetry::EndpointStatus& endpoint : status.services.at(0).endpoints)
            list.push_back(endpoint.draining);
        return list;
    };
    const auto drain = [&](std::string_view address, bool is) {
        endpoint_states_.of("web", at(address), "")->set(routing::closed_by_hand, is);
        plane.steer({});
    };
    EXPECT_THAT(draining(), ElementsAre(false, false));
    drain("10.9.0.2:8080", true);
    EXPECT_THAT(draining(), ElementsAre(true, false));
    for (uint16_t port = 50'001; port <= 50'008; ++port)
        begin_flow(plane, port, port - 50'000u);
    for (const flow::Record& record : plane.active_flows({}))
        EXPECT_EQ(to_string(record.endpoint), "10.9.0.3:8080");

    drain("10.9.0.3:8080", true);
    drain("10.9.0.2:8080", false);
    EXPECT_THAT(draining(), ElementsAre(false, true));
    begin_flow(plane, 50'009, 9);
    const auto flows = plane.active_flows({});
    EXPECT_EQ(std::count_if(flows.begin(), flows.end(),
                            [](const flow::Record& record) { return record.endpoint == at("10.9.0.2:8080"); }),
              1);
}

TEST_F(PlaneProcesses, IsPausedForAnotherProcessAndTakenBack) {
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    run(plane, snapshot());
    begin_flow(plane, 50'001);
    plane.pause(true);
    EXPECT_EQ(plane.due(), TimePoint::max());
    EXPECT_THAT(plane.descriptors(), IsEmpty());
    EXPECT_FALSE(plane.turn());
    EXPECT_THAT(plane.active_flows({}), IsEmpty());
    EXPECT_TRUE(attached()) << "packets go on";
    {
        Plane successor(log_, flows_, shapers_, endpoint_states_, 0);
        run(successor, snapshot());
        EXPECT_TRUE(successor.status().took_over);
        EXPECT_THAT(successor.active_flows({}), SizeIs(1));
    }
    plane.pause(false);
    EXPECT_TRUE(plane.status().running);
    EXPECT_NE(plane.due(), TimePoint::max());
    EXPECT_THAT(plane.active_flows({}), SizeIs(1));
    begin_flow(plane, 50'002, 2);
    EXPECT_FALSE(PinLock::take(pin_).ok()) << "the pin is its own again";
}

TEST_F(PlaneProcesses, IsRemovedOnlyWhereNoProcessRunsIt) {
    const auto nothing = Plane::remove(pin_);
    ASSERT_TRUE(nothing.ok()) << nothing.error();
    EXPECT_EQ(nothing->interfaces, 0u);
    {
        Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
        run(plane, snapshot());
        const auto refused = Plane::remove(pin_);
        ASSERT_FALSE(refused.ok());
        EXPECT_THAT(refused.error(), HasSubstr("is another running process's"));
        EXPECT_TRUE(attached());
        EXPECT_TRUE(lets_programs_ask());
    }
    const auto removed = Plane::remove(pin_);
    ASSERT_TRUE(removed.ok()) << removed.error();
    EXPECT_EQ(removed->interfaces, 1u);
    EXPECT_THAT(removed->left, IsEmpty());
    EXPECT_FALSE(attached());
    EXPECT_FALSE(lets_programs_ask()) << "as the machine was before";
    EXPECT_NE(::access(pin_.c_str(), F_OK), 0);
    const auto again = Plane::remove(pin_);
    ASSERT_TRUE(again.ok()) << again.error();
    EXPECT_EQ(again->interfaces, 0u);
}

TEST_F(PlaneTest, FollowsTheMachinesAddresses) {
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    run(plane, snapshot());
    plane.turn();
    EXPECT_FALSE(plane.turn()) << "nothing has changed";
    ASSERT_TRUE(testing::run("ip address add 10.9.0.9/32 dev near"));
    bool moved = false;
    EXPECT_TRUE(turn_until(
        plane, [&] { return moved; }, &moved))
        << "the snapshot has to be applied again";
    ASSERT_TRUE(testing::run("ip link add later type veth peer name later_far"));
    EXPECT_TRUE(plane.status().running);
}

// As the end of another packet plane does, and `sysctl net.ipv4.ip_forward=0`.
TEST_F(PlaneTest, LetsItsProgramsAskForRoutesAgainWhenSomebodyForbidsIt) {
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    run(plane, snapshot());
    EXPECT_TRUE(lets_programs_ask());
    ASSERT_TRUE(testing::run("sysctl -qw net.ipv4.conf.lo.forwarding=0"));
    EXPECT_TRUE(turn_until(plane, lets_programs_ask));
    begin_flow(plane, 50'001);
    run(plane, without_packet_services());
    EXPECT_FALSE(lets_programs_ask()) << "nobody asks any more";
}

TEST_F(PlaneTest, SaysWhatIsMissingAndGoesOnWithTheRest) {
    Snapshot next = snapshot();
    next.settings.packet.interfaces.push_back("later");
    next.services[0].endpoints.push_back({.address = {"192.0.2.77", 80}, .path = {}});
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    ASSERT_TRUE(testing::run("ip route add 192.0.2.0/24 via 10.9.0.2"));
    run(plane, next);
    EXPECT_THAT(plane.status().notes, Contains(HasSubstr("no interface later")));
    begin_flow(plane, 50'001);
    ASSERT_TRUE(testing::run("ip link add later type veth peer name later_far"));
    EXPECT_TRUE(turn_until(plane, [&] { return plane.status().notes.empty(); }));
    EXPECT_NE(plane.status().interfaces.at(1).way, "");
    ASSERT_TRUE(testing::run("ip route del 192.0.2.0/24"));
    EXPECT_TRUE(turn_until(plane, [&] { return !plane.status().notes.empty(); }));
    EXPECT_THAT(plane.status().notes, Contains(HasSubstr("no route to 192.0.2.77")));
}

}  // namespace
}  // namespace marchproxy::packet
