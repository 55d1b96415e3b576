// Packets that wait for their turn: through the real programs, AF_XDP and the shaper's thread, and out again.
#include <gmock/gmock.h>

#include <chrono>

#include "packet/plane_case.h"
#include "packet/queue_sockets.h"

namespace marchproxy::packet {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class PlaneQueues : public PlaneCase {
  protected:
    void SetUp() override {
        PlaneCase::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        if (const Descriptor socket(::socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0)); !socket)
            GTEST_SKIP() << "no AF_XDP here: " << std::strerror(errno);
        // What XDP sends a veth takes only where it polls.
        ASSERT_TRUE(testing::run("ethtool -K far gro on"));
        leaving_ = Descriptor(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_IP)));
        sockaddr_ll address{};
        address.sll_family = AF_PACKET;
        address.sll_protocol = htons(ETH_P_IP);
        address.sll_ifindex = static_cast<int>(::if_nametoindex("far"));
        ASSERT_EQ(::bind(leaving_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
    }

    Snapshot datagrams(const ServiceQos& qos) const {
        Snapshot made = snapshot();
        made.settings.packet.mode = PacketMode::native;
        made.settings.qos.enabled = true;
        made.services[0].protocol = Protocol::udp;
        made.services[0].qos = qos;
        return made;
    }
    static ServiceQos queued(uint64_t rate) {
        ServiceQos qos;
        qos.rate.up = Rate{rate};
        qos.ecn = true;
        return qos;
    }
    static testing::Bytes datagram(uint8_t traffic_class, uint16_t port = 5000) {
        return from_client().traffic_class(traffic_class).udp(port, 80).payload(std::string(1000, 'x'));
    }
    // Those that leave towards the endpoint within a time.
    std::vector<testing::Bytes> leave_within(std::chrono::milliseconds time) const {
        std::vector<testing::Bytes> frames;
        const auto end = Clock::now() + time;
        while (Clock::now() < end) {
            pollfd waiting{leaving_.get(), POLLIN, 0};
            if (::poll(&waiting, 1, 5) <= 0) continue;
            testing::Bytes frame(2000);
            const ssize_t size = ::recv(leaving_.get(), frame.data(), frame.size(), 0);
            frame.resize(static_cast<size_t>(std::max<ssize_t>(size, 0)));
            const auto d = testing::dissect(frame);
            if (d && d->protocol == testing::udp_protocol && testing::get16(frame, d->transport + 2) == 8080)
                frames.push_back(frame);
        }
        return frames;
    }
    static telemetry::QosStatus up(const Plane& plane) {
        const Status status = plane.status();
        for (const telemetry::QosStatus& of : status.services.at(0).qos)
            if (of.up && of.priority == Priority::p3) return of;
        return {};
    }

    Descriptor leaving_;
};

TEST_F(PlaneQueues, PacketsWaitAndLeaveMarkedOrNot) {
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    run(plane, datagrams(queued(1'000'000)));
    ASSERT_THAT(plane.status().interfaces.at(0).queues, HasSubstr("AF_XDP")) << plane.status().reason;
    constexpr uint8_t best_effort_capable = 2;
    for (int i = 0; i < 10; ++i)
        send_from_client(datagram(best_effort_capable));
    const auto left = leave_within(300ms);
    ASSERT_EQ(left.size(), 10u) << "8 ms each: the last has waited 70 ms";
    for (const testing::Bytes& frame : left) {
        EXPECT_TRUE(testing::is_sound(frame));
        EXPECT_EQ(frame.at(15) & ~3, 0);
    }
    EXPECT_EQ(left.front().at(15) & 3, 2);
    const telemetry::QosStatus counted = up(plane);
    EXPECT_EQ(counted.processed_bytes, 10'000u);
    EXPECT_EQ(counted.queued_bytes, 0u);

    // As many as wait longer than anything may.
    for (int i = 0; i < 100; ++i)
        send_from_client(datagram(best_effort_capable));
    const size_t later = leave_within(500ms).size();
    EXPECT_GE(later, 10u);
    EXPECT_LE(later, 20u) << "what waited 100 ms is dropped";
    EXPECT_EQ(up(plane).dropped_late, 100 - later);
    EXPECT_EQ(plane.status().services.at(0).dropped[static_cast<size_t>(Verdict::queue_delay)], 100 - later);
    EXPECT_THAT(plane.status().notes, IsEmpty());
}

TEST_F(PlaneQueues, AReloadTakesTheWaitingAwayAndBringsItBack) {
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    run(plane, datagrams(queued(100'000)));
    for (int i = 0; i < 20; ++i)
        send_from_client(datagram(0));
    EXPECT_LE(leave_within(100ms).size(), 3u);
    Snapshot free = datagrams(queued(100'000));
    free.settings.qos.enabled = false;
    run(plane, free);
    EXPECT_THAT(plane.status().interfaces.at(0).queues, IsEmpty());
    for (int i = 0; i < 20; ++i)
        send_from_client(datagram(0));
    EXPECT_EQ(leave_within(100ms).size(), 20u) << "without waiting; what waited is given up";
    run(plane, datagrams(queued(100'000)));
    for (int i = 0; i < 20; ++i)
        send_from_client(datagram(0));
    EXPECT_LE(leave_within(100ms).size(), 3u);
}

TEST_F(PlaneQueues, InGenericModeNothingWaits) {
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    Snapshot generic = datagrams(queued(1'000'000));
    generic.settings.packet.mode = PacketMode::generic;
    const auto next = std::make_shared<const Snapshot>(std::move(generic));
    ASSERT_TRUE(plane.prepare(next, {}).ok());
    plane.apply();
    EXPECT_TRUE(plane.turn());
    ASSERT_TRUE(plane.prepare(next, {}).ok());
    EXPECT_FALSE(plane.carries("web"));
    plane.apply();
    EXPECT_THAT(plane.reason("web"), HasSubstr("near has its program in generic mode"));
}

// The other process's sockets have the place of this one's.
TEST_F(PlaneQueues, WhereAnotherHasTheQueueItIsSaidAndDecidedAnew) {
    auto taken = QueueSockets::open({queued_interface("near")});
    ASSERT_TRUE(taken.ok()) << taken.error();
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    const auto next = std::make_shared<const Snapshot>(datagrams(queued(1'000'000)));
    ASSERT_TRUE(plane.prepare(next, {}).ok());
    EXPECT_TRUE(plane.carries("web")) << "nothing is known yet";
    plane.apply();
    EXPECT_TRUE(plane.turn()) << "somebody else is to carry it";
    ASSERT_TRUE(plane.prepare(next, {}).ok());
    EXPECT_FALSE(plane.carries("web"));
    plane.apply();
    EXPECT_THAT(plane.reason("web"), HasSubstr("queue 0 of near: no AF_XDP socket: Device or resource busy"));
    EXPECT_FALSE(plane.turn()) << "and that is settled";
}

TEST_F(PlaneQueues, APausedPlaneLetsGoOfTheQueues) {
    Plane plane(log_, flows_, shapers_, endpoint_states_, 0);
    run(plane, datagrams(queued(1'000'000)));
    plane.pause(true);
    qos::Shapers of_successor{1};
    {
        Plane successor(log_, flows_, of_successor, endpoint_states_, 0);
        run(successor, datagrams(queued(1'000'000)));
        EXPECT_THAT(successor.status().interfaces.at(0).queues, HasSubstr("AF_XDP"));
    }
    plane.pause(false);
    EXPECT_THAT(plane.status().interfaces.at(0).queues, HasSubstr("AF_XDP"));
    send_from_client(datagram(0));
    EXPECT_EQ(leave_within(100ms).size(), 1u);
}

}  // namespace
}  // namespace marchproxy::packet
