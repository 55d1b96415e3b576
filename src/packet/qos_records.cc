#include "packet/qos_records.h"

#include <algorithm>

#include "qos/scheduler.h"

namespace marchproxy::packet {

namespace {

// All CPUs' shares together are a fourth of the burst, and are taken out of it. One of less than a packet would spare
// nobody the word that all contend for.
abi::packet_rate rate_of(const std::optional<Rate>& rate, const std::optional<Bytes>& burst, unsigned cpus) {
    if (!rate) return {};
    const uint64_t whole = std::min(burst.value_or(qos::burst_for(*rate)).count, qos::TokenBucket::largest_burst.count);
    const uint64_t part = whole / 4 / std::max(cpus, 1u), share = cpus < 2 || part < qos::full_packet ? 0 : part;
    return {.bits_per_second = rate->bits_per_second,
            .burst = static_cast<uint32_t>(whole - share * cpus),
            .share = static_cast<uint32_t>(share)};
}

}  // namespace

abi::packet_qos packet_qos_of(const Service& service, const QosSettings& settings, unsigned cpus) {
    abi::packet_qos record{};
    if (!settings.enabled) return record;
    record.queues = needs_queue(service, settings);
    if (!record.queues) {
        record.rate[abi::direction_up] = rate_of(service.qos.rate.up, service.qos.burst, cpus);
        record.rate[abi::direction_down] = rate_of(service.qos.rate.down, service.qos.burst, cpus);
    }
    const Treatments treatments = treatments_of(service, settings);
    for (uint8_t arrived = 0; arrived < abi::packet_marks; ++arrived) {
        record.priorities[arrived / 32] |= static_cast<uint64_t>(treatments[arrived].priority) << arrived % 32 * 2;
        record.dscp[arrived] = treatments[arrived].dscp;
    }
    return record;
}

bool needs_queue(const Service& service, const QosSettings& settings) {
    const ServiceQos& qos = service.qos;
    const bool limited = qos.rate.up || qos.rate.down;
    return settings.enabled && (settings.link_rate || qos.guarantee.up || qos.guarantee.down ||
                                (limited && (qos.ecn || service.protocol == Protocol::tcp)));
}

}  // namespace marchproxy::packet
