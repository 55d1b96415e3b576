#include "stream/forward.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>

#include <fstream>
#include <thread>

#include "stream/connection.h"
#include "stream/test_sockets.h"

namespace marchproxy::stream {
namespace {

using namespace testing;
using namespace std::chrono_literals;

class ForwarderTest : public ::testing::Test {
  protected:
    ForwarderTest() : forwarder(budget, settings()) {}
    ~ForwarderTest() override { forwarder.release(direction); }

    static StreamSettings settings(ForwardMethod method = ForwardMethod::automatic) {
        StreamSettings result;
        result.buffer = Bytes{256 << 10};
        result.forward = method;
        return result;
    }

    Pumped pump() {
        source.readable = sink.writable = true;
        now += 1ms;
        return pump(connection, direction, source, sink);
    }
    Pumped pump(Connection& which, Direction& its, Leg& from_leg, Leg& to_leg) {
        size_t left = Forwarder::turn_budget;
        return forwarder.pump(which, true, its, from_leg, to_leg, now, left);
    }

    // Pumps until `size` bytes have come out at the far end.
    std::string pump_out(size_t size) {
        std::string out;
        std::thread reader([&] { out = read_bytes(to.outer, size); });
        while (direction.bytes < size && pump() != Pumped::source_failed)
            std::this_thread::sleep_for(100us);
        reader.join();
        return out;
    }

    int low_water() const {
        int value = 0;
        socklen_t size = sizeof value;
        getsockopt(source.descriptor, SOL_SOCKET, SO_RCVLOWAT, &value, &size);
        return value;
    }

    DescriptorBudget budget;
    Forwarder forwarder;
    TcpPair from, to;
    Connection connection;
    Direction direction;
    Leg source{.descriptor = from.inner}, sink{.descriptor = to.inner};
    TimePoint now = Clock::now();
};

TEST_F(ForwarderTest, CarriesASmallMessage) {
    write_bytes(from.outer, "hello");
    EXPECT_EQ(pump(), Pumped::blocked);
    EXPECT_EQ(read_bytes(to.outer, 5), "hello");
    EXPECT_EQ(direction.bytes, 5u);
    EXPECT_EQ(forwarder.spliced_directions(), 0u);
}

TEST_F(ForwarderTest, PassesTheEndOnlyAfterEveryByte) {
    write_bytes(from.outer, "last words");
    shutdown(from.outer, SHUT_WR);
    wait_readable(source.descriptor);
    source.hangup = true;
    EXPECT_EQ(pump(), Pumped::finished);
    EXPECT_EQ(read_bytes(to.outer, 10), "last words");
}

TEST_F(ForwarderTest, KeepsNoMoreThanOneBufferForASinkThatDoesNotRead) {
    const std::string bytes = random_bytes(16 << 20);
    std::thread writer([&] { write_bytes(from.outer, bytes); });
    forwarder.configure(settings(ForwardMethod::copy));
    for (int i = 0; i < 200; ++i) {
        pump();
        std::this_thread::sleep_for(1ms);
    }
    EXPECT_TRUE(direction.pending());
    EXPECT_GT(forwarder.spilled_bytes(), 0u);
    EXPECT_LE(forwarder.spilled_bytes(), settings().buffer.count);
    EXPECT_LT(direction.bytes, bytes.size()) << "the sink's socket took everything: the test shows nothing";

    std::string out;
    std::thread reader([&] { out = read_bytes(to.outer, bytes.size()); });
    while (direction.bytes < bytes.size())
        pump();
    writer.join();
    reader.join();
    EXPECT_TRUE(out == bytes);
    EXPECT_EQ(forwarder.spilled_bytes(), 0u);
}

TEST_F(ForwarderTest, SplicesBulkAndGoesBackToCopyingWhenItEnds) {
    forwarder.configure(settings(ForwardMethod::splice));
    const std::string bytes = random_bytes(32 << 20);
    std::thread writer([&] { write_bytes(from.outer, bytes); });
    bool spliced = false;
    std::string out;
    std::thread reader([&] { out = read_bytes(to.outer, bytes.size()); });
    while (direction.bytes < bytes.size()) {
        pump();
        spliced |= forwarder.spliced_directions() == 1;
    }
    writer.join();
    reader.join();
    EXPECT_TRUE(spliced);
    EXPECT_TRUE(out == bytes);
    for (int i = 0; i < 10; ++i)
        pump();
    EXPECT_EQ(forwarder.spliced_directions(), 0u);
    EXPECT_EQ(low_water(), 1) << "a later small message would wait for more";
    write_bytes(from.outer, "small again");
    wait_readable(source.descriptor);
    pump();
    EXPECT_EQ(read_bytes(to.outer, 11), "small again");
}

TEST_F(ForwarderTest, CopiesALoneTransferOfThisHostAndSplicesOnceThereAreTwo) {
    const auto bulk = [](TcpPair& pair) { write_bytes(pair.outer, random_bytes(128 << 10)); };
    bulk(from);
    while (direction.bytes < (128 << 10))
        pump();
    EXPECT_EQ(forwarder.spliced_directions(), 0u);

    TcpPair other_from, other_to;
    Connection other;
    Direction other_direction;
    Leg other_source{.descriptor = other_from.inner}, other_sink{.descriptor = other_to.inner};
    bulk(other_from);
    while (other_direction.bytes < (128 << 10)) {
        other_source.readable = true;
        pump(other, other_direction, other_source, other_sink);
    }
    EXPECT_EQ(forwarder.spliced_directions(), 1u);
    bulk(from);
    while (direction.bytes < (256 << 10))
        pump();
    EXPECT_EQ(forwarder.spliced_directions(), 2u);

    // Both go quiet: a later one is alone again.
    while (Bulk* due = forwarder.take_due(now += 1ms)) {
        const bool first = due->connection == &connection;
        Leg& leg = first ? source : other_source;
        leg.readable = true;
        pump(first ? connection : other, first ? direction : other_direction, leg, first ? sink : other_sink);
    }
    EXPECT_EQ(forwarder.spliced_directions(), 0u);
    bulk(from);
    while (direction.bytes < (384 << 10))
        pump();
    EXPECT_EQ(forwarder.spliced_directions(), 0u);
}

TEST_F(ForwarderTest, WakesABulkDirectionAfterTheCoalescingDelay) {
    forwarder.configure(settings(ForwardMethod::splice));
    write_bytes(from.outer, random_bytes(128 << 10));
    while (direction.bytes < (128 << 10))
        pump();
    ASSERT_EQ(forwarder.spliced_directions(), 1u);
    pump();
    ASSERT_TRUE(forwarder.next_due());
    EXPECT_EQ(forwarder.take_due(now), nullptr);
    Bulk* due = forwarder.take_due(*forwarder.next_due());
    ASSERT_NE(due, nullptr);
    EXPECT_EQ(due->connection, &connection);
    EXPECT_TRUE(due->up);
    forwarder.release(direction);
    EXPECT_EQ(forwarder.spliced_directions(), 0u);
}

TEST_F(ForwarderTest, NamesTheSideThatFailedAndDeliversWhatCameBefore) {
    write_bytes(from.outer, "before the reset");
    wait_readable(source.descriptor);
    const linger now_reset{1, 0};
    setsockopt(from.outer, SOL_SOCKET, SO_LINGER, &now_reset, sizeof now_reset);
    from.outer.reset();
    source.hangup = true;
    EXPECT_EQ(pump(), Pumped::source_failed);
    EXPECT_EQ(read_bytes(to.outer, 16), "before the reset");
}

TEST_F(ForwarderTest, NoticesASinkThatIsGone) {
    const linger now_reset{1, 0};
    setsockopt(to.outer, SOL_SOCKET, SO_LINGER, &now_reset, sizeof now_reset);
    to.outer.reset();
    write_bytes(from.outer, "nobody hears");
    wait_readable(source.descriptor);
    EXPECT_EQ(pump(), Pumped::sink_failed);
}

TEST_F(ForwarderTest, SendsWhatIsPrependedFirstAndDoesNotCountIt) {
    const std::string header = "PROXY header\r\n";
    forwarder.prepend(direction, std::as_bytes(std::span(header)), {});
    write_bytes(from.outer, "payload");
    wait_readable(source.descriptor);
    pump();
    EXPECT_EQ(read_bytes(to.outer, header.size() + 7), header + "payload");
    EXPECT_EQ(direction.bytes, 7u);
}

TEST_F(ForwarderTest, CopiesWhenNoPipeIsToBeHad) {
    forwarder.configure(settings(ForwardMethod::splice));
    budget.take_always(budget.limit());
    const std::string bytes = random_bytes(8 << 20);
    std::thread writer([&] { write_bytes(from.outer, bytes); });
    EXPECT_TRUE(pump_out(bytes.size()) == bytes);
    writer.join();
    EXPECT_EQ(forwarder.spliced_directions(), 0u);
    EXPECT_TRUE(forwarder.pipes_starved());
}

TEST(NearLeg, TakesANearLegOffBbrAndLeavesTheRestAlone) {
    std::string system;
    std::ifstream("/proc/sys/net/ipv4/tcp_congestion_control") >> system;
    TcpPair pair;
    write_bytes(pair.outer, "x");
    read_bytes(pair.inner, 1);
    write_bytes(pair.inner, "y");  // an acknowledged byte gives the round trip
    read_bytes(pair.outer, 1);
    const auto current = [&] {
        char name[16] = {};
        socklen_t size = sizeof name;
        getsockopt(pair.inner, IPPROTO_TCP, TCP_CONGESTION, name, &size);
        return std::string(name);
    };
    NearLeg leg;
    leg.configure("system");
    leg.apply(pair.inner);
    EXPECT_EQ(current(), system);
    leg.configure("auto");
    leg.apply(pair.inner);
    EXPECT_EQ(current(), system == "bbr" ? "cubic" : system);
    leg.configure("reno");
    leg.apply(pair.inner);
    EXPECT_EQ(current(), "reno");
}

}  // namespace
}  // namespace marchproxy::stream
