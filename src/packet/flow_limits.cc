#include "packet/flow_limits.h"

#include <algorithm>
#include <cmath>

namespace marchproxy::packet {

namespace {

// A GCRA in nanoseconds, of events that come `batch` at a time. A step is rounded up so that the rate is never
// exceeded. The first of a burst needs no tolerance, each further one a step.
struct Pace {
    uint64_t step = 0, tolerance = 0;
};
Pace pace_of(const std::optional<Frequency>& rate, double burst_seconds, uint32_t batch = 1) {
    if (!rate) return {};
    const double step = std::max(std::ceil(1e9 * batch / rate->per_second), 1.0);
    const double bursts = std::max(rate->per_second * burst_seconds / batch, 1.0);
    return {.step = static_cast<uint64_t>(step), .tolerance = static_cast<uint64_t>((bursts - 1) * step)};
}

// What 100 us bring, so that all CPUs together hold little of the burst back, and the word they share is written some
// ten thousand times a second at most, but for rates beyond 640,000/s.
uint32_t batch_of(const std::optional<Frequency>& rate) {
    return rate ? static_cast<uint32_t>(std::clamp(rate->per_second / 10'000, 1.0, 64.0)) : 0;
}

}  // namespace

NewFlowLimit new_flow_limit(const std::optional<Frequency>& limit) {
    if (!limit) return {};
    const double step = std::clamp(std::ceil(1e6 / limit->per_second), 1.0, double{UINT32_MAX});
    const double burst = std::max(limit->per_second / 10, 1.0);  // as in qos/rate_limit.h
    return {.step = static_cast<uint32_t>(step),
            .tolerance = static_cast<uint32_t>(std::min((burst - 1) * step, double{UINT32_MAX}))};
}

abi::packet_limits packet_limits_of(const Service& service) {
    const Limits& limits = service.limits;
    abi::packet_limits record{};
    record.connections_per_source =
        static_cast<uint32_t>(std::min<uint64_t>(limits.connections_per_source.value_or(0), UINT32_MAX));
    if (service.protocol == Protocol::tcp) record.proven_from = limits.backlog.value_or(default_backlog) + 1;
    const Pace flows = pace_of(limits.new_connections_per_source, 1);
    record.source_flow_step = flows.step;
    record.source_flow_tolerance = flows.tolerance;
    const Pace packets = pace_of(limits.packets_per_source, 0.1);
    record.source_packet_step = packets.step;
    record.source_packet_tolerance = packets.tolerance;
    record.packet_batch = batch_of(limits.packets);
    const Pace batches = pace_of(limits.packets, 0.1, std::max(record.packet_batch, 1u));
    record.packet_batch_step = batches.step;
    record.packet_tolerance = batches.tolerance;
    return record;
}

uint32_t flags_of(const abi::packet_limits& limits) {
    uint32_t flags = 0;
    if (limits.source_packet_step || limits.packet_batch) flags |= abi::service_limits_packets;
    if (limits.connections_per_source || limits.proven_from || limits.source_flow_step)
        flags |= abi::service_limits_flows;
    return flags;
}

}  // namespace marchproxy::packet
