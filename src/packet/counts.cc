#include "packet/counts.h"

namespace marchproxy::packet {

namespace {

using abi::direction_down, abi::direction_up;

std::set<std::string> paths_of(const CountedService& counted) {
    std::set<std::string> paths;
    for (const auto& [index, path] : counted.paths)
        paths.insert(path);
    return paths;
}

// What was counted before this process began, or before it first looked, is not its own.
template <class T>
T step(std::map<uint32_t, T>& before, uint32_t index, const T& now) {
    const auto [entry, fresh] = before.try_emplace(index, now);
    const T last = std::exchange(entry->second, now);
    return fresh ? now : last;
}

}  // namespace

Counts::Service& Counts::service(const std::string& name) {
    std::unique_ptr<Service>& found = services_[name];
    if (!found) found = std::make_unique<Service>();
    return *found;
}

void Counts::configure(const Programs& programs, std::vector<CountedService> services, std::set<uint32_t> others) {
    read(programs);
    configured_ = std::move(services);
    others_ = std::move(others);
    for (const CountedService& counted : configured_)
        for (const auto& [index, path] : counted.paths)
            service(counted.name).paths[path];
    read(programs);
}

void Counts::read(const Programs& programs) {
    read_none(programs);
    for (const CountedService& counted : configured_) {
        read_service(programs, counted);
        if (counted.has_qos) read_qos(programs, counted);
        read_endpoints(programs, counted, paths_of(counted).size() > 1);
    }
    for (const uint32_t index : others_)
        if (const auto now = programs.endpoint_counters(index); now.ok()) (void)step(endpoints_before_, index, *now);
}

void Counts::read_none(const Programs& programs) {
    constexpr uint32_t none = 0;
    const auto now = programs.service_counters(none);
    if (!now.ok()) return;
    const abi::packet_counters before = step(services_before_, none, *now);
    for (size_t i = 0; i < verdict_count; ++i)
        dropped_of_none_[i] += now->dropped[i] - before.dropped[i];
}

void Counts::read_service(const Programs& programs, const CountedService& counted) {
    const auto now = programs.service_counters(counted.index);
    if (!now.ok()) return;
    const abi::packet_counters before = step(services_before_, counted.index, *now);
    Service& sums = service(counted.name);
    sums.received_packets += now->packets[direction_up] - before.packets[direction_up];
    sums.sent_packets += now->packets[direction_down] - before.packets[direction_down];
    sums.cookies += now->cookies - before.cookies;
    sums.proven += now->proven - before.proven;
    sums.uncounted += now->uncounted - before.uncounted;
    for (size_t i = 0; i < verdict_count; ++i)
        sums.dropped[i] += now->dropped[i] - before.dropped[i];
    const std::set<std::string> paths = paths_of(counted);
    if (paths.size() > 1) return;
    Path& path = sums.paths[paths.empty() ? "" : *paths.begin()];
    path.received_bytes += now->bytes[direction_up] - before.bytes[direction_up];
    path.sent_bytes += now->bytes[direction_down] - before.bytes[direction_down];
    path.flows += now->flows - before.flows;
}

void Counts::read_qos(const Programs& programs, const CountedService& counted) {
    const auto now = programs.qos_counters(counted.index);
    if (!now.ok()) return;
    const abi::qos_counters before = step(qos_before_, counted.index, *now);
    Service& sums = service(counted.name);
    for (const auto direction : {direction_up, direction_down})
        for (size_t i = 0; i < abi::packet_priorities; ++i) {
            QosClass& of = sums.qos[direction][i];
            of.bytes += now->bytes[direction][i] - before.bytes[direction][i];
            of.dropped_over += now->dropped[direction][i] - before.dropped[direction][i];
            of.dropped_bytes += now->dropped_bytes[direction][i] - before.dropped_bytes[direction][i];
        }
}

// Counters that began anew, with the queue, have fallen.
void Counts::read_queue(const std::string& name, bool up, Priority priority, const qos::QueueCounters& now) {
    Service& sums = service(name);
    QosClass& of = sums.qos[up ? direction_up : direction_down][static_cast<size_t>(priority)];
    const bool anew = now.sent_packets < of.queue.sent_packets || now.dropped_full < of.queue.dropped_full ||
                      now.dropped_late < of.queue.dropped_late;
    const qos::QueueCounters before = anew ? qos::QueueCounters{} : of.queue;
    const uint64_t full = now.dropped_full - before.dropped_full, late = now.dropped_late - before.dropped_late;
    of.bytes += now.sent_bytes - before.sent_bytes;
    of.dropped_full += full;
    of.dropped_late += late;
    of.dropped_bytes += now.dropped_bytes - before.dropped_bytes;
    of.marked += now.marked - before.marked;
    sums.dropped[static_cast<size_t>(Verdict::queue_full)] += full;
    sums.dropped[static_cast<size_t>(Verdict::queue_delay)] += late;
    of.queue = now;
}

void Counts::measure(TimePoint now) {
    const Duration elapsed = now - std::exchange(measured_, now);
    if (elapsed <= Duration(0)) return;
    for (const auto& [name, sums] : services_)
        for (auto& direction : sums->qos)
            for (QosClass& of : direction)
                of.meter.look(of.bytes + of.dropped_bytes + of.queue.queued_bytes, of.bytes, elapsed);
}

void Counts::read_endpoints(const Programs& programs, const CountedService& counted, bool several_paths) {
    for (const auto& [index, name] : counted.paths) {
        const auto now = programs.endpoint_counters(index);
        if (!now.ok()) continue;
        const abi::endpoint_counters before = step(endpoints_before_, index, *now);
        if (!several_paths) continue;
        Path& path = service(counted.name).paths[name];
        path.received_bytes += now->bytes[direction_up] - before.bytes[direction_up];
        path.sent_bytes += now->bytes[direction_down] - before.bytes[direction_down];
        path.flows += now->flows - before.flows;
    }
}

void Counts::flow_ended(const std::string& name, const std::string& path, Verdict why, Duration duration) {
    Service& sums = service(name);
    ++sums.paths[path].ended[static_cast<size_t>(why)];
    sums.duration.observe(duration);
}

void Counts::fill(const std::string& name, telemetry::ServiceStatus& status) const {
    const auto found = services_.find(name);
    if (found == services_.end()) return;
    const Service& sums = *found->second;
    status.received_packets = sums.received_packets;
    status.sent_packets = sums.sent_packets;
    status.cookies_sent = sums.cookies;
    status.cookies_proven = sums.proven;
    status.uncounted_sources = sums.uncounted;
    status.dropped = sums.dropped;
    status.duration = sums.duration.values();
    for (const auto direction : {direction_up, direction_down})
        for (size_t i = 0; i < abi::packet_priorities; ++i) {
            const QosClass& of = sums.qos[direction][i];
            status.qos.push_back({.up = direction == direction_up,
                                  .priority = static_cast<Priority>(i),
                                  .rate = {},
                                  .guarantee = {},
                                  .offered = of.meter.offered(),
                                  .delivered = of.meter.delivered(),
                                  .processed_bytes = of.bytes,
                                  .queued_bytes = of.queue.queued_bytes,
                                  .dropped_full = of.dropped_full,
                                  .dropped_late = of.dropped_late,
                                  .dropped_over = of.dropped_over,
                                  .marked = of.marked,
                                  .delay = of.queue.delay});
        }
    for (const auto& [path, counts] : sums.paths)
        status.paths.push_back({.path = path,
                                .decisions = counts.flows,
                                .received_bytes = counts.received_bytes,
                                .sent_bytes = counts.sent_bytes,
                                .ended = counts.ended,
                                .connect_latency = {}});
}

std::vector<telemetry::PathTraffic> Counts::traffic() const {
    std::vector<telemetry::PathTraffic> traffic;
    for (const auto& [name, sums] : services_)
        for (const auto& [path, counts] : sums->paths)
            traffic.push_back({name, path, counts.received_bytes, counts.sent_bytes});
    return traffic;
}

std::vector<std::string> Counts::names() const {
    std::vector<std::string> names;
    for (const auto& [name, sums] : services_)
        names.push_back(name);
    return names;
}

uint64_t Counts::live_of_service(uint32_t index) const {
    const auto found = services_before_.find(index);
    return found == services_before_.end() ? 0 : found->second.flows - found->second.ended;
}

uint64_t Counts::live_of_endpoint(uint32_t index) const {
    const auto found = endpoints_before_.find(index);
    return found == endpoints_before_.end() ? 0 : found->second.flows - found->second.ended;
}

}  // namespace marchproxy::packet
