#include "telemetry/status.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

namespace marchproxy::telemetry {

std::vector<ServiceStatus> joined(std::vector<ServiceStatus> packet, std::vector<ServiceStatus> stream) {
    std::unordered_map<std::string, size_t> places;
    for (size_t i = 0; i < packet.size(); ++i)
        places.emplace(packet[i].name, i);
    for (ServiceStatus& service : stream) {
        const auto known = places.find(service.name);
        if (known == places.end()) {
            packet.push_back(std::move(service));
            continue;
        }
        ServiceStatus& of_packet = packet[known->second];
        if (service.listening) std::swap(of_packet, service);
        absorb(of_packet, service);
    }
    return packet;
}

namespace {

bool used(const QosStatus& of) {
    return of.processed_bytes || of.queued_bytes || of.dropped_full || of.dropped_late || of.dropped_over;
}

void absorb_qos(std::vector<QosStatus>& classes, const std::vector<QosStatus>& others) {
    for (const QosStatus& other : others) {
        const auto found = std::find_if(classes.begin(), classes.end(), [&](const QosStatus& known) {
            return known.up == other.up && known.priority == other.priority;
        });
        if (found == classes.end()) {
            classes.push_back(other);
            continue;
        }
        found->processed_bytes += other.processed_bytes;
        found->queued_bytes += other.queued_bytes;
        found->dropped_full += other.dropped_full;
        found->dropped_late += other.dropped_late;
        found->dropped_over += other.dropped_over;
        found->marked += other.marked;
    }
}

}  // namespace

std::vector<QosStatus> shown(const std::vector<QosStatus>& classes, const ServiceQos& wanted, Priority own) {
    std::vector<QosStatus> rows;
    for (QosStatus of : classes) {
        if (!used(of) && of.priority != own) continue;
        of.rate = of.up ? wanted.rate.up : wanted.rate.down;
        of.guarantee = of.up ? wanted.guarantee.up : wanted.guarantee.down;
        rows.push_back(of);
    }
    return rows;
}

std::string resting_qos_note(size_t services) {
    return fmt::format("qos: off, so the qos keys of {} services rest; set qos.enabled: true, or --enable-qos",
                       services);
}

void absorb(ServiceStatus& status, const ServiceStatus& other) {
    status.active_connections += other.active_connections;
    status.failovers += other.failovers;
    status.received_packets += other.received_packets;
    status.sent_packets += other.sent_packets;
    status.cookies_sent += other.cookies_sent;
    status.cookies_proven += other.cookies_proven;
    status.uncounted_sources += other.uncounted_sources;
    for (size_t i = 0; i < verdict_count; ++i)
        status.dropped[i] += other.dropped[i];
    status.duration += other.duration;
    absorb_qos(status.qos, other.qos);
    for (const PathCounters& path : other.paths) {
        const auto found = std::find_if(status.paths.begin(), status.paths.end(),
                                        [&](const PathCounters& known) { return known.path == path.path; });
        if (found == status.paths.end()) {
            status.paths.push_back(path);
            continue;
        }
        found->decisions += path.decisions;
        found->received_bytes += path.received_bytes;
        found->sent_bytes += path.sent_bytes;
        for (size_t i = 0; i < verdict_count; ++i)
            found->ended[i] += path.ended[i];
        found->connect_latency += path.connect_latency;
    }
}

}  // namespace marchproxy::telemetry
