#include "stream/datagrams.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>

#include "stream/test_sockets.h"

namespace marchproxy::stream {
namespace {

using namespace testing;

class DatagramsTest : public ::testing::Test {
  protected:
    // What `receiver` got, each datagram apart.
    std::vector<std::string> received() {
        std::vector<std::string> result;
        std::string buffer(70000, '\0');
        while (wait_readable(receiver, 50)) {
            const ssize_t size = recv(receiver, buffer.data(), buffer.size(), MSG_DONTWAIT);
            if (size < 0) break;
            result.push_back(buffer.substr(0, static_cast<size_t>(size)));
        }
        return result;
    }

    // Through the batch: in at `middle`, out to `receiver`.
    SendResult relay(const std::vector<std::string>& datagrams, RunLimits& limits) {
        for (const std::string& datagram : datagrams)
            EXPECT_EQ(send(sender, datagram.data(), datagram.size(), 0), static_cast<ssize_t>(datagram.size()));
        wait_readable(middle);
        const int got = batch.receive(middle);
        EXPECT_GT(got, 0);
        Chain chain;
        for (int i = 0; i < got; ++i)
            batch.append(chain, i);
        const SocketAddress to = local_address(receiver);
        return sender_of_runs.send(batch.pieces(chain), {.descriptor = out, .to = &to}, limits);
    }

    Fd middle = bound_socket(SOCK_DGRAM, SOCK_NONBLOCK), receiver = bound_socket(SOCK_DGRAM, SOCK_NONBLOCK);
    Fd out = bound_socket(SOCK_DGRAM, SOCK_NONBLOCK);
    Fd sender = connect_to(local_address(middle), SOCK_DGRAM);
    DatagramBatch batch;
    DatagramSender sender_of_runs;
};

TEST_F(DatagramsTest, CarriesEverySizeAndKeepsTheOrder) {
    const std::vector<std::string> datagrams = {"",  "a", random_bytes(100),  random_bytes(100, 2), random_bytes(40),
                                                "b", "",  random_bytes(1472), random_bytes(65507),  "the last"};
    RunLimits limits;
    const SendResult result = relay(datagrams, limits);
    EXPECT_EQ(result.datagrams, datagrams.size());
    EXPECT_EQ(result.unsent, 0u);
    EXPECT_EQ(received(), datagrams);
}

TEST_F(DatagramsTest, SendsAFullBatchOfEqualDatagramsAsTheyCame) {
    std::vector<std::string> datagrams;
    for (unsigned i = 0; i < DatagramBatch::capacity; ++i)
        datagrams.push_back(random_bytes(1200, i));
    RunLimits limits;
    EXPECT_EQ(relay(datagrams, limits).datagrams, datagrams.size());
    EXPECT_EQ(received(), datagrams);
}

TEST_F(DatagramsTest, TakesRunsThatTheKernelJoinedApartAgain) {
    DatagramBatch::enable_runs(middle);
    // One segmented send arrives joined at a socket with UDP_GRO.
    const std::string run = random_bytes(5 * 1000 + 300);
    const int segment = 1000;
    setsockopt(sender, 17, 103, &segment, sizeof segment);  // SOL_UDP, UDP_SEGMENT
    RunLimits limits;
    EXPECT_EQ(relay({run}, limits).datagrams, 6u);
    const std::vector<std::string> got = received();
    ASSERT_EQ(got.size(), 6u);
    for (size_t i = 0; i < 6; ++i)
        EXPECT_EQ(got[i], run.substr(i * 1000, i < 5 ? 1000 : 300));
}

TEST_F(DatagramsTest, SendsSinglyWhereARunIsRefusedAndLearnsFromIt) {
    // Segments of more than the loopback's MTU cannot be asked for in one send.
    std::vector<std::string> datagrams = {random_bytes(30000), random_bytes(30000, 2)};
    const int discover = 2;  // IP_PMTUDISC_DO: keeps the kernel from fragmenting, so that a run must fit
    setsockopt(out, 0, 10, &discover, sizeof discover);
    RunLimits limits{.largest_segment = 1000};
    const SendResult result = relay(datagrams, limits);
    EXPECT_EQ(result.datagrams, 2u);
    EXPECT_EQ(received(), datagrams);
}

TEST_F(DatagramsTest, CountsWhatTheKernelRefuses) {
    for (const char* text : {"first", "second"})
        send(sender, text, strlen(text), 0);
    wait_readable(middle);
    const int got = batch.receive(middle);
    Chain chain;
    for (int i = 0; i < got; ++i)
        batch.append(chain, i);
    const SocketAddress nowhere = loopback(0);
    RunLimits limits;
    const SendResult result = sender_of_runs.send(batch.pieces(chain), {.descriptor = out, .to = &nowhere}, limits);
    EXPECT_EQ(result.datagrams, 0u);
    EXPECT_EQ(result.unsent, static_cast<uint64_t>(got));
    EXPECT_EQ(result.error, EINVAL);
}

TEST_F(DatagramsTest, TellsWhichAddressWasAsked) {
    DatagramBatch::report_destination(middle, true);
    send(sender, "x", 1, 0);
    wait_readable(middle);
    ASSERT_EQ(batch.receive(middle), 1);
    EXPECT_EQ(batch[0].to, IpAddress::v4(0x7f000001));
    EXPECT_EQ(batch[0].from, local_address(sender));
}

}  // namespace
}  // namespace marchproxy::stream
