#include "packet/flow_limits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace marchproxy::packet {
namespace {

// As step/admit.h decides; `step` and `tolerance` in the unit of time. Events come `batch` at once.
uint64_t admitted(uint64_t step, uint64_t tolerance, uint64_t time, uint64_t every, uint32_t batch = 1) {
    uint64_t due = 0, count = 0;
    const uint64_t begin = 1'000'000'000'000;
    for (uint64_t now = begin; now < begin + time; now += every)
        while (std::max(due, now) - now <= tolerance) {
            due = std::max(due, now) + step;
            count += batch;
        }
    return count;
}

TEST(NewFlowLimit, AdmitsTheRateAndABurstOfATenthOfASecond) {
    EXPECT_EQ(new_flow_limit({}).step, 0U);
    for (const double rate : {0.001, 5.0, 10.0, 15.0, 100.0, 1000.0, 20'000.0}) {
        const NewFlowLimit limit = new_flow_limit(Frequency{rate});
        const auto within = [&](uint64_t time) {
            return static_cast<double>(admitted(limit.step, limit.tolerance, time, 1000));
        };
        const double burst = std::max(1.0, std::floor(rate / 10));
        EXPECT_EQ(within(1), burst) << rate;
        EXPECT_NEAR(within(10'000'000), burst + rate * 10, 1 + rate / 10) << rate;
        EXPECT_LE(within(10'000'000), burst + rate * 10 + 1) << rate;
    }
}

constexpr uint64_t second = 1'000'000'000;
constexpr double rates[] = {0.001, 5.0, 10.0, 15.0, 100.0, 1000.0, 20'000.0, 1e6};

TEST(PacketLimits, OfNewFlowsOfASourceHaveABurstOfASecond) {
    for (const double rate : rates) {
        Service service;
        service.limits.new_connections_per_source = Frequency{rate};
        const abi::packet_limits limits = packet_limits_of(service);
        const auto within = [&](uint64_t time) {
            return static_cast<double>(
                admitted(limits.source_flow_step, limits.source_flow_tolerance, time, second / 1000));
        };
        const double burst = std::max(1.0, std::floor(rate));
        EXPECT_EQ(within(1), burst) << rate;
        EXPECT_NEAR(within(10 * second), burst + rate * 10, 1 + rate / 100) << rate;
        EXPECT_LE(within(10 * second), burst + rate * 10 + 1) << rate;
    }
}

TEST(PacketLimits, OfPacketsHaveABurstOfATenthOfASecondAndComeInBatches) {
    for (const double rate : rates) {
        Service service;
        service.limits.packets = service.limits.packets_per_source = Frequency{rate};
        const abi::packet_limits limits = packet_limits_of(service);
        ASSERT_GE(limits.packet_batch, 1U);
        EXPECT_LE(limits.packet_batch, std::max(rate / 1000, 1.0)) << "a CPU holds back little";
        const auto source = static_cast<double>(
            admitted(limits.source_packet_step, limits.source_packet_tolerance, 10 * second, second / 1000));
        const auto all = static_cast<double>(admitted(limits.packet_batch_step, limits.packet_tolerance, 10 * second,
                                                      second / 1000, limits.packet_batch));
        const double wanted = std::max(1.0, std::floor(rate / 10)) + rate * 10;
        EXPECT_NEAR(source, wanted, 1 + rate / 100) << rate;
        EXPECT_NEAR(all, wanted, 1 + rate / 100) << rate;
    }
}

TEST(PacketLimits, AreNoneWhereNoneAreAskedFor) {
    Service service;
    service.protocol = Protocol::udp;
    EXPECT_EQ(flags_of(packet_limits_of(service)), 0U);
    service.limits.packets_per_source = Frequency{1};
    EXPECT_EQ(flags_of(packet_limits_of(service)), abi::service_limits_packets);
    service.limits = {};
    service.limits.connections_per_source = 1;
    EXPECT_EQ(flags_of(packet_limits_of(service)), abi::service_limits_flows);

    service = {};  // TCP
    EXPECT_EQ(packet_limits_of(service).proven_from, 65537U);
    service.limits.backlog = 0;
    EXPECT_EQ(packet_limits_of(service).proven_from, 1U);
    EXPECT_EQ(flags_of(packet_limits_of(service)), abi::service_limits_flows);
}

}  // namespace
}  // namespace marchproxy::packet
