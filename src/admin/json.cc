#include "admin/json.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <unordered_map>

#include "admin/health.h"
#include "flow/json.h"
#include "model/rfc3339.h"
#include "telemetry/process.h"

namespace marchproxy::admin {

namespace {

using Json = nlohmann::json;

constexpr size_t most_active_flows = 10'000;  // looked at for one answer

double seconds(Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

uint64_t sum(const std::array<uint64_t, verdict_count>& counts) {
    return std::accumulate(counts.begin(), counts.end(), uint64_t{0});
}

// Only those that happened: {"connect_refused": 3}
Json by_verdict(const std::array<uint64_t, verdict_count>& counts) {
    Json result = Json::object();
    for (size_t i = 0; i < counts.size(); ++i)
        if (counts[i] > 0) result[std::string(verdict_texts[i].name)] = counts[i];
    return result;
}

struct ServiceTotals {
    uint64_t received_bytes = 0, sent_bytes = 0, ended = 0, failed = 0;
    std::array<uint64_t, verdict_count> results{};
};

ServiceTotals totals_of(const telemetry::ServiceStatus& service) {
    ServiceTotals totals;
    for (const telemetry::PathCounters& path : service.paths) {
        totals.received_bytes += path.received_bytes;
        totals.sent_bytes += path.sent_bytes;
        totals.ended += sum(path.ended);
        for (size_t i = 0; i < verdict_count; ++i)
            totals.results[i] += path.ended[i];
    }
    return totals;
}

Json endpoint_json(const telemetry::EndpointStatus& endpoint) {
    return {{"address", endpoint.address},
            {"resolved", text_or_null(endpoint.resolved)},
            {"path", endpoint.path},
            {"up", endpoint.up && !endpoint.resolved.empty()},
            {"draining", endpoint.draining},
            {"weight", endpoint.weight},
            {"active_connections", endpoint.active_connections},
            {"last_error", text_or_null(endpoint.last_error)}};
}

Json service_json(const telemetry::ServiceStatus& service, const Service* configured) {
    const ServiceTotals totals = totals_of(service);
    Json endpoints = Json::array();
    for (const telemetry::EndpointStatus& endpoint : service.endpoints)
        endpoints.push_back(endpoint_json(endpoint));
    return {{"name", service.name},
            {"protocol", name_of(service.protocol)},
            {"listen", to_string(service.listen)},
            {"listening", service.listening},
            {"problem", text_or_null(service.problem)},
            {"plane", service.plane},
            {"plane_reason", service.plane_reason},
            {"priority", name_of(service.priority)},
            {"policy", configured ? Json(name_of(configured->routing.policy)) : Json()},
            {"active_connections", service.active_connections},
            {"connections_total", totals.ended + service.active_connections},
            {"received_bytes", totals.received_bytes},
            {"sent_bytes", totals.sent_bytes},
            {"received_packets", service.received_packets},
            {"sent_packets", service.sent_packets},
            {"results", by_verdict(totals.results)},
            {"dropped", by_verdict(service.dropped)},
            {"endpoints", std::move(endpoints)}};
}

Json rate_json(const std::optional<Rate>& rate) {
    return rate ? Json(rate->bits_per_second) : Json();
}

Json qos_class_json(const std::string& service, const telemetry::QosStatus& of) {
    return {{"service", service},
            {"direction", of.up ? "up" : "down"},
            {"priority", name_of(of.priority)},
            {"rate", rate_json(of.rate)},
            {"guarantee", rate_json(of.guarantee)},
            {"offered", std::llround(of.offered)},
            {"delivered", std::llround(of.delivered)},
            {"processed_bytes", of.processed_bytes},
            {"queued_bytes", of.queued_bytes},
            {"dropped", of.dropped_full + of.dropped_late + of.dropped_over},
            {"marked", of.marked},
            {"delay_seconds", seconds(of.delay)}};
}

Json seconds_or_null(const std::optional<Duration>& duration) {
    return duration ? Json(seconds(*duration)) : Json();
}

Json or_null(const std::optional<double>& number) {
    return number ? Json(*number) : Json();
}

Json path_json(const Path& path, const PathHealth& health, const PathReading& reading) {
    return {{"name", path.name},
            {"provider", path.provider},
            {"region", path.region},
            {"up", health.known ? Json(health.up) : Json()},
            {"draining", health.draining || reading.draining},
            {"rtt_seconds", seconds_or_null(reading.round_trip)},
            {"least_rtt_seconds", seconds_or_null(reading.least)},
            {"traffic_rtt_seconds", seconds_or_null(reading.traffic_round_trip)},
            {"jitter_seconds", seconds_or_null(reading.jitter)},
            {"loss_ratio", or_null(reading.loss_ratio)},
            {"cost_per_gb", or_null(reading.bill.price)},
            {"month_billed_bytes", std::llround(reading.bill.month_billed)},
            {"month_dollars", reading.bill.month_dollars},
            {"p95_received_rate", std::llround(reading.bill.this_month.received)},
            {"p95_sent_rate", std::llround(reading.bill.this_month.sent)},
            {"last_month_p95_received_rate", std::llround(reading.bill.last_month.received)},
            {"last_month_p95_sent_rate", std::llround(reading.bill.last_month.sent)},
            {"score", or_null(reading.score)},
            {"last_change", reading.changed ? Json(rfc3339(*reading.changed)) : Json()},
            {"received_rate", std::llround(reading.received_rate)},
            {"sent_rate", std::llround(reading.sent_rate)},
            {"active_connections", health.active_connections},
            {"received_bytes", health.received_bytes},
            {"sent_bytes", health.sent_bytes}};
}

Json worker_json(const stream::WorkerStatus& worker) {
    return {{"index", worker.index},
            {"active_connections", worker.active_connections},
            {"loops", worker.loops},
            {"events", worker.events},
            {"bulk_directions", worker.bulk_directions},
            {"memory_bytes", worker.user_memory_bytes}};
}

Json packet_json(const packet::Status& status) {
    Json interfaces = Json::array();
    for (const packet::InterfaceStatus& interface : status.interfaces)
        interfaces.push_back({{"name", interface.name},
                              {"way", text_or_null(interface.way)},
                              {"problem", text_or_null(interface.problem)},
                              {"program_id", interface.program_id},
                              {"adopted", interface.adopted},
                              {"queues", text_or_null(interface.queues)},
                              {"refused", interface.refused}});
    return {{"running", status.running},
            {"reason", status.reason},
            {"interfaces", std::move(interfaces)},
            {"took_over", status.took_over},
            {"flow_capacity", status.flow_capacity},
            {"memory_bytes", status.memory_bytes},
            {"dropped", by_verdict(status.dropped)}};
}

Json reload_json(const ReloadStatus& reload) {
    return {{"succeeded", reload.succeeded},
            {"failed", reload.failed},
            {"last", reload.last ? Json(rfc3339(*reload.last)) : Json()},
            {"last_error", text_or_null(reload.last_error)}};
}

Json planes_json(const Status& status, const Snapshot* snapshot) {
    Json result = Json::array();
    for (const telemetry::ServiceStatus& service : status.services) {
        if (!shown(service, snapshot)) continue;
        result.push_back({{"name", service.name},
                          {"plane", service.plane},
                          {"plane_reason", service.plane_reason},
                          {"listening", service.listening},
                          {"active_connections", service.active_connections}});
    }
    return result;
}

Json flow_store_json(const flow::StoreStatus& store) {
    return {{"finished", store.total},
            {"kept", store.kept},
            {"written", store.written},
            {"dropped", store.dropped},
            {"file_error", text_or_null(store.file_error)}};
}

}  // namespace

Json text_or_null(const std::string& text) {
    return text.empty() ? Json() : Json(text);
}

std::string_view name_of(ProcessState state) {
    switch (state) {
        case ProcessState::starting:
            return "starting";
        case ProcessState::ready:
            return "ready";
        case ProcessState::draining:
            return "draining";
    }
    return "?";
}

Json status_json(const View& view) {
    const ProcessStatus process = view.process();
    const Status status = view.status();
    const SnapshotPointer snapshot = view.snapshot();
    const telemetry::ProcessUsage usage = telemetry::process_usage();
    std::vector<std::string> notes = process.notes;
    notes.insert(notes.end(), status.notes.begin(), status.notes.end());
    Json workers = Json::array();
    for (const stream::WorkerStatus& worker : status.workers)
        workers.push_back(worker_json(worker));
    return {{"version", process.version},
            {"commit", process.commit},
            {"state", name_of(process.state)},
            {"pid", getpid()},
            {"start", rfc3339(process.started)},
            {"uptime_seconds", seconds(process.uptime)},
            {"accepting", status.accepting},
            {"config_version", snapshot ? Json(snapshot->version) : Json()},
            {"reload", reload_json(process.reload)},
            {"services", planes_json(status, snapshot.get())},
            {"workers", std::move(workers)},
            {"packet_plane", packet_json(status.packet)},
            {"descriptors", {{"used", status.descriptors_used}, {"limit", status.descriptors_limit}}},
            {"memory", {{"resident_bytes", usage.resident_bytes}}},
            {"cpu_seconds", usage.cpu_seconds},
            {"flows", flow_store_json(view.flows().status())},
            {"notes", std::move(notes)}};
}

Json services_json(const Status& status, const Snapshot* snapshot) {
    std::unordered_map<std::string_view, const Service*> configured;
    if (snapshot != nullptr)
        for (const Service& service : snapshot->services)
            configured.emplace(service.name, &service);
    Json result = Json::array();
    for (const telemetry::ServiceStatus& service : status.services) {
        const auto found = configured.find(service.name);
        if (found != configured.end())
            result.push_back(service_json(service, found->second));
        else if (shown(service, nullptr))
            result.push_back(service_json(service, nullptr));
    }
    return result;
}

nlohmann::json qos_json(const Status& status) {
    Json result = Json::array();
    for (const telemetry::ServiceStatus& service : status.services)
        for (const telemetry::QosStatus& of : service.qos)
            result.push_back(qos_class_json(service.name, of));
    return result;
}

Json paths_json(const View& view, const Snapshot* snapshot) {
    Json result = Json::array();
    if (snapshot == nullptr) return result;
    const Status status = view.status();
    std::unordered_map<std::string, PathReading> readings = readings_by_path(view);
    for (const Path& path : snapshot->paths)
        result.push_back(path_json(path, path_health(status, path.name), readings[path.name]));
    return result;
}

Json explanation_json(const Explanation& explanation) {
    Json candidates = Json::array();
    for (const CandidateReading& candidate : explanation.candidates)
        candidates.push_back({{"path", candidate.path},
                              {"endpoint", candidate.endpoint},
                              {"resolved", candidate.address},
                              {"up", candidate.up},
                              {"rtt_seconds", seconds_or_null(candidate.round_trip)},
                              {"traffic_rtt_seconds", seconds_or_null(candidate.traffic_round_trip)},
                              {"loss_ratio", candidate.loss_ratio},
                              {"cost_per_gb", or_null(candidate.cost_per_gb)},
                              {"distance_km", or_null(candidate.distance)},
                              {"score", or_null(candidate.score)},
                              {"share", candidate.share},
                              {"preferred", candidate.preferred},
                              {"reason", candidate.reason}});
    Json chosen, chosen_endpoint;
    if (explanation.chosen) {
        const CandidateReading& winner = explanation.candidates[*explanation.chosen];
        chosen_endpoint = winner.endpoint;
        chosen = winner.path.empty() ? winner.endpoint : winner.path;
    }
    return {{"service", explanation.service},
            {"policy", name_of(explanation.policy)},
            {"measured", explanation.steered},
            {"chosen", std::move(chosen)},
            {"chosen_endpoint", std::move(chosen_endpoint)},
            {"notes", explanation.notes},
            {"candidates", std::move(candidates)}};
}

Json flows_json(const View& view, const flow::Query& query) {
    std::vector<flow::Record> records =
        view.active_flows({.service = query.service, .limit = most_active_flows, .sort = query.sort});
    flow::arrange(records, query);
    flow::Query rest = query;
    rest.limit -= records.size();
    for (flow::Record& record : view.flows().query(rest))
        records.push_back(std::move(record));
    Json result = Json::array();
    for (const flow::Record& record : records)
        result.push_back(flow::to_json(record));
    return result;
}

Json totals_json(const View& view) {
    const Status status = view.status();
    const telemetry::ProcessUsage usage = telemetry::process_usage();
    uint64_t active = 0, ended = 0, received = 0, sent = 0, dropped = 0, endpoints = 0, usable_endpoints = 0;
    for (const telemetry::ServiceStatus& service : status.services) {
        const ServiceTotals totals = totals_of(service);
        active += service.active_connections;
        ended += totals.ended;
        received += totals.received_bytes;
        sent += totals.sent_bytes;
        dropped += sum(service.dropped);
        endpoints += service.endpoints.size();
        usable_endpoints +=
            static_cast<uint64_t>(std::count_if(service.endpoints.begin(), service.endpoints.end(), usable));
    }
    const ProcessStatus process = view.process();
    return {{"time", rfc3339(std::chrono::system_clock::now())},
            {"state", name_of(process.state)},
            {"uptime_seconds", seconds(process.uptime)},
            {"services", status.services.size()},
            {"endpoints", endpoints},
            {"usable_endpoints", usable_endpoints},
            {"active_connections", active},
            {"connections_total", ended + active},
            {"received_bytes", received},
            {"sent_bytes", sent},
            {"dropped_total", dropped},
            {"cpu_seconds", usage.cpu_seconds},
            {"resident_bytes", usage.resident_bytes}};
}

std::string dump(const Json& json) {
    return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace marchproxy::admin
