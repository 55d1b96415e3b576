// What the packet plane tells about itself.
#include <fmt/format.h>

#include <algorithm>

#include "packet/plane_state.h"

namespace marchproxy::packet {

telemetry::ServiceStatus Plane::Implementation::status_of(const Service& service, const std::string& why) const {
    const std::string problem = failure_.empty() ? why_unattached() : failure_;
    telemetry::ServiceStatus status{.name = service.name,
                                    .protocol = service.protocol,
                                    .listen = service.listen,
                                    .priority = priority_of(service, current_->snapshot->settings.qos),
                                    .plane = "packet",
                                    .plane_reason = why,
                                    .listening = problem.empty(),
                                    .problem = problem};
    const ServiceKey key{service.name, service.protocol, service.listen, forwarding_of(service)};
    if (const auto index = indexes_.services.find(key)) status.active_connections = counts_.live_of_service(*index);
    counts_.fill(service.name, status);
    const QosSettings& qos = current_->snapshot->settings.qos;
    status.qos =
        qos.enabled ? telemetry::shown(status.qos, service.qos, status.priority) : std::vector<telemetry::QosStatus>();
    for (const Endpoint& endpoint : service.endpoints) {
        const std::vector<SocketAddress> addresses = addresses_of(endpoint, current_->resolution);
        telemetry::EndpointStatus one{
            .address = to_string(endpoint.address), .path = endpoint.path, .weight = endpoint.weight};
        if (addresses.empty()) {
            one.up = false;
            one.last_error = "the name has not resolved";
            status.endpoints.push_back(one);
        }
        for (const SocketAddress& address : addresses) {
            one.resolved = to_string(address);
            if (endpoint.path.empty()) one.path = current_->snapshot->path_table.path_to(address.ip);
            if (const auto state = current_->states.find({service.name, address}); state != current_->states.end()) {
                one.draining = state->second->draining();
                one.up = state->second->up();
            }
            const auto number = indexes_.endpoints.find({address, service.protocol});
            one.active_connections = number ? counts_.live_of_endpoint(*number) : 0;
            status.endpoints.push_back(one);
        }
    }
    return status;
}

Status Plane::Implementation::status() const {
    Status status;
    if (!current_) return status;
    const Snapshot& snapshot = *current_->snapshot;
    const auto& assigned = current_->assignments.services;
    std::set<std::string> shown;
    if (programs_) {
        counts_.read(*programs_);
        count_queues();
    }
    for (size_t i = 0; i < snapshot.services.size(); ++i) {
        if (!assigned[i].packet) continue;
        shown.insert(snapshot.services[i].name);
        status.services.push_back(status_of(snapshot.services[i], assigned[i].reason));
    }
    // Those that are gone, or another plane's by now, go on being counted, so that counters never fall.
    for (const std::string& name : counts_.names()) {
        if (shown.contains(name)) continue;
        telemetry::ServiceStatus removed{
            .name = name, .listen = {}, .plane = "packet", .plane_reason = "removed by a reload"};
        for (const auto& [index, key] : indexes_.services.owners())
            if (key.name == name) removed.active_connections += counts_.live_of_service(index);
        counts_.fill(name, removed);
        status.services.push_back(std::move(removed));
    }
    size_t resting = 0;
    for (size_t i = 0; i < snapshot.services.size(); ++i)
        resting += assigned[i].packet && snapshot.services[i].qos != ServiceQos{};
    const std::string unattached = why_unattached();
    status.running = programs_ && unattached.empty();
    status.notes = notes_;
    if (resting > 0 && !snapshot.settings.qos.enabled) status.notes.push_back(telemetry::resting_qos_note(resting));
    status.dropped = counts_.dropped_of_none();
    for (size_t i = 0; i < snapshot.services.size(); ++i)
        if (!assigned[i].packet && snapshot.services[i].forwarding != Forwarding::nat)
            status.notes.push_back(
                fmt::format("service {}: forwarding: {} needs the packet plane ({}); endpoints see this machine's "
                            "address instead of "
                            "the clients'",
                            snapshot.services[i].name, name_of(snapshot.services[i].forwarding), assigned[i].reason));
    if (!programs_) {
        status.reason = !refused_.empty()                             ? refused_
                        : unavailable_ && !unavailable_->empty()      ? *unavailable_
                        : !snapshot.settings.packet.enabled           ? "packet.enabled is false"
                        : snapshot.settings.packet.interfaces.empty() ? "packet.interfaces names no interface"
                                                                      : "no service is in it";
        return status;
    }
    status.reason = unattached.empty() ? fmt::format("{} services", shown.size()) : unattached;
    status.interfaces = interfaces_->status();
    tell_queues(status);
    status.took_over = programs_->took_over();
    status.flow_capacity = programs_->capacity().flows;
    status.memory_bytes = programs_->table_bytes();
    for (const std::string& problem : {failure_, unasked_})
        if (!problem.empty()) status.notes.push_back(problem);
    for (const InterfaceStatus& interface : status.interfaces)
        if (!interface.problem.empty()) status.notes.push_back("packet plane: " + interface.problem);
    if (watch_)
        for (const std::string& note : interfaces_->notes_on(watch_->vlans()))
            status.notes.push_back("packet plane: " + note);
    for (const std::string& problem : neighbours_.problems())
        status.notes.push_back("packet plane: " + problem);
    return status;
}

std::string Plane::Implementation::reason(const std::string& service) const {
    const Assignment* assignment = current_ ? current_->assignment_of(service) : nullptr;
    return assignment ? assignment->reason : std::string();
}

// Takes the lock piece by piece, as a pass over ten million flows takes the better part of a second.
std::vector<flow::Record> Plane::Implementation::active_flows(const flow::Query& query) {
    std::vector<flow::Record> listed, ended;
    std::unique_lock lock(mutex);
    if (!programs_ || paused) return listed;
    std::vector<uint32_t> wanted;
    for (const auto& [index, key] : indexes_.services.owners())
        if (key.name == query.service) wanted.push_back(index);
    if (query.service.empty()) wanted.push_back(abi::list_all);
    const auto between = [&] {
        lock.unlock();
        if (!ended.empty()) flows_.finished(ended);
        lock.lock();
        return programs_ && !paused;  // a reload may have come in between
    };
    for (const uint32_t service : wanted) {
        if (!programs_ || paused || listed.size() >= query.limit) break;
        const auto limit = static_cast<uint32_t>(std::min<size_t>(query.limit - listed.size(), UINT32_MAX));
        const auto done = Sweeper::list(
            *programs_, service, limit, [&](const abi::flow_report& report) { take_report(report, ended, &listed); },
            between);
        if (!done.ok()) log_.limited(LogLevel::error, "packet-list", done.error());
    }
    return listed;
}

}  // namespace marchproxy::packet
