#include "admin/metrics.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <string>
#include <unordered_map>

#include "admin/health.h"
#include "telemetry/process.h"

namespace marchproxy::admin {

namespace {

using telemetry::HistogramValues;
using telemetry::Metric;
using telemetry::MetricSet;

double seconds(Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

bool observed(const HistogramValues& values) {
    return std::accumulate(values.counts.begin(), values.counts.end(), uint64_t{0}) > 0;
}

// Where every endpoint has a path, the path "" stands for connections that found no endpoint: none, as a rule.
bool untouched(const telemetry::PathCounters& path) {
    return path.path.empty() && path.decisions == 0 &&
           std::all_of(path.ended.begin(), path.ended.end(), [](uint64_t count) { return count == 0; });
}

void fill_path_of_service(MetricSet& set, const telemetry::ServiceStatus& service, const telemetry::PathCounters& path,
                          std::string_view policy) {
    for (size_t i = 0; i < verdict_count; ++i) {
        if (path.ended[i] == 0 && static_cast<Verdict>(i) != Verdict::finished) continue;
        set.add(Metric::marchproxy_connections_total, {service.name, path.path, verdict_texts[i].name}, path.ended[i]);
    }
    set.add(Metric::marchproxy_received_bytes_total, {service.name, path.path}, path.received_bytes);
    set.add(Metric::marchproxy_sent_bytes_total, {service.name, path.path}, path.sent_bytes);
    if (!policy.empty())
        set.add(Metric::marchproxy_routing_decisions_total, {service.name, path.path, policy}, path.decisions);
    if (observed(path.connect_latency))
        set.add(Metric::marchproxy_connect_latency_seconds, {service.name, path.path}, path.connect_latency);
}

void fill_dropped(MetricSet& set, std::string_view service, std::string_view plane,
                  const std::array<uint64_t, verdict_count>& dropped) {
    for (size_t i = 0; i < verdict_count; ++i)
        if (dropped[i] > 0)
            set.add(Metric::marchproxy_dropped_total, {service, plane, verdict_texts[i].name}, dropped[i]);
}

void fill_service(MetricSet& set, const telemetry::ServiceStatus& service, std::string_view policy) {
    set.add(Metric::marchproxy_active_connections, {service.name}, service.active_connections);
    set.add(Metric::marchproxy_flows, {service.name}, service.active_connections);
    set.add(Metric::marchproxy_failovers_total, {service.name}, service.failovers);
    if (observed(service.duration))
        set.add(Metric::marchproxy_connection_duration_seconds, {service.name}, service.duration);
    if (service.protocol == Protocol::udp || service.received_packets > 0) {
        set.add(Metric::marchproxy_packets_total, {service.name, "received"}, service.received_packets);
        set.add(Metric::marchproxy_packets_total, {service.name, "sent"}, service.sent_packets);
    }
    fill_dropped(set, service.name, service.plane, service.dropped);
    if (service.cookies_sent > 0) {
        set.add(Metric::marchproxy_syn_cookies_total, {service.name, "sent"}, service.cookies_sent);
        set.add(Metric::marchproxy_syn_cookies_total, {service.name, "proven"}, service.cookies_proven);
    }
    if (service.uncounted_sources > 0)
        set.add(Metric::marchproxy_uncounted_sources_total, {service.name}, service.uncounted_sources);
    for (const telemetry::PathCounters& path : service.paths) {
        if (service.paths.size() == 1 || !untouched(path)) fill_path_of_service(set, service, path, policy);
    }
}

// The two directions of a priority are one series.
void fill_qos(MetricSet& set, const telemetry::ServiceStatus& service) {
    std::map<Priority, telemetry::QosStatus> priorities;
    for (const telemetry::QosStatus& of : service.qos) {
        telemetry::QosStatus& sum = priorities[of.priority];
        sum.processed_bytes += of.processed_bytes;
        sum.queued_bytes += of.queued_bytes;
        sum.dropped_full += of.dropped_full;
        sum.dropped_late += of.dropped_late;
        sum.dropped_over += of.dropped_over;
        sum.marked += of.marked;
        sum.delay = std::max(sum.delay, of.delay);
    }
    for (const auto& [priority, sum] : priorities) {
        const std::string_view name = name_of(priority);
        set.add(Metric::marchproxy_qos_bytes_processed_total, {service.name, name}, sum.processed_bytes);
        set.add(Metric::marchproxy_qos_queue_depth, {service.name, name}, sum.queued_bytes);
        set.add(Metric::marchproxy_qos_delay_seconds, {service.name, name},
                std::chrono::duration<double>(sum.delay).count());
        set.add(Metric::marchproxy_qos_ecn_marked_total, {service.name, name}, sum.marked);
        for (const auto& [reason, count] :
             {std::pair(Verdict::queue_full, sum.dropped_full), std::pair(Verdict::queue_delay, sum.dropped_late),
              std::pair(Verdict::over_rate, sum.dropped_over)})
            set.add(Metric::marchproxy_qos_packets_dropped_total, {service.name, name, name_of(reason)}, count);
    }
}

// A name may resolve to several addresses: one series then, up when one of them is.
void fill_endpoints(MetricSet& set, const telemetry::ServiceStatus& service) {
    std::vector<const telemetry::EndpointStatus*> first;
    std::unordered_map<std::string_view, bool> up;
    for (const telemetry::EndpointStatus& endpoint : service.endpoints) {
        const auto [entry, added] = up.emplace(endpoint.address, false);
        if (added) first.push_back(&endpoint);
        entry->second = entry->second || usable(endpoint);
    }
    for (const telemetry::EndpointStatus* endpoint : first)
        set.add(Metric::marchproxy_endpoint_up, {service.name, endpoint->address, endpoint->path},
                bool{up[endpoint->address]});
}

void fill_bill(MetricSet& set, const Path& path, const costs::PathBill& bill) {
    const MetricSet::Labels labels{path.name, path.provider, path.region};
    if (bill.price) {
        set.add(Metric::marchproxy_path_cost_dollars_total, labels, bill.dollars_ever);
        set.add(Metric::marchproxy_path_cost_per_gb_dollars, labels, *bill.price);
    }
    const auto rate = [&](std::string_view direction, double bits) {
        set.add(Metric::marchproxy_path_p95_bits_per_second, {path.name, path.provider, path.region, direction}, bits);
    };
    rate("received", bill.this_month.received);
    rate("sent", bill.this_month.sent);
}

void fill_paths(MetricSet& set, const View& view, const Status& status, const Snapshot& snapshot) {
    std::unordered_map<std::string, PathReading> readings = readings_by_path(view);
    for (const Path& path : snapshot.paths) {
        const PathHealth health = path_health(status, path.name);
        const MetricSet::Labels labels{path.name, path.provider, path.region};
        if (health.known) set.add(Metric::marchproxy_path_up, labels, health.up);
        const PathReading& reading = readings[path.name];
        if (reading.round_trip) set.add(Metric::marchproxy_path_rtt_seconds, labels, seconds(*reading.round_trip));
        if (reading.traffic_round_trip)
            set.add(Metric::marchproxy_path_traffic_rtt_seconds, labels, seconds(*reading.traffic_round_trip));
        if (reading.jitter) set.add(Metric::marchproxy_path_jitter_seconds, labels, seconds(*reading.jitter));
        if (reading.loss_ratio) set.add(Metric::marchproxy_path_loss_ratio, labels, *reading.loss_ratio);
        fill_bill(set, path, reading.bill);
    }
}

void fill_budgets(MetricSet& set, const View& view) {
    for (const costs::BudgetReading& reading : view.budgets()) {
        set.add(Metric::marchproxy_budget_dollars, {reading.budget.name}, reading.budget.dollars);
        set.add(Metric::marchproxy_budget_spent_dollars, {reading.budget.name}, reading.spent);
    }
}

void fill_workers(MetricSet& set, const Status& status) {
    for (const stream::WorkerStatus& worker : status.workers) {
        const std::string index = std::to_string(worker.index);
        set.add(Metric::marchproxy_worker_active_connections, {index}, worker.active_connections);
        set.add(Metric::marchproxy_worker_loops_total, {index}, worker.loops);
        set.add(Metric::marchproxy_worker_events_total, {index}, worker.events);
        set.add(Metric::marchproxy_worker_bulk_directions, {index}, worker.bulk_directions);
        set.add(Metric::marchproxy_worker_memory_bytes, {index}, worker.user_memory_bytes);
    }
}

void fill_process(MetricSet& set, const View& view) {
    const ProcessStatus process = view.process();
    set.add(Metric::marchproxy_build_info, {process.version, process.commit}, true);
    set.add(Metric::marchproxy_config_reload_total, {"success"}, process.reload.succeeded);
    set.add(Metric::marchproxy_config_reload_total, {"failure"}, process.reload.failed);
    const flow::StoreStatus flows = view.flows().status();
    set.add(Metric::marchproxy_flow_records_total, {}, flows.total);
    set.add(Metric::marchproxy_flow_records_dropped_total, {}, flows.dropped);
    const telemetry::ProcessUsage usage = telemetry::process_usage();
    set.add(Metric::process_cpu_seconds_total, {}, usage.cpu_seconds);
    set.add(Metric::process_resident_memory_bytes, {}, usage.resident_bytes);
    set.add(Metric::process_virtual_memory_bytes, {}, usage.virtual_bytes);
    set.add(Metric::process_open_fds, {}, usage.open_descriptors);
    set.add(Metric::process_max_fds, {}, usage.most_descriptors);
    set.add(Metric::process_start_time_seconds, {}, usage.start_seconds);
}

}  // namespace

void fill(MetricSet& set, const View& view) {
    const Status status = view.status();
    const SnapshotPointer snapshot = view.snapshot();
    std::unordered_map<std::string_view, std::string_view> policies;
    if (snapshot)
        for (const Service& service : snapshot->services)
            policies.emplace(service.name, name_of(service.routing.policy));
    for (const telemetry::ServiceStatus& service : status.services) {
        const auto policy = policies.find(service.name);
        fill_service(set, service, policy == policies.end() ? std::string_view() : policy->second);
        fill_endpoints(set, service);
        fill_qos(set, service);
    }
    fill_dropped(set, "", "packet", status.packet.dropped);
    if (snapshot) fill_paths(set, view, status, *snapshot);
    fill_budgets(set, view);
    fill_workers(set, status);
    fill_process(set, view);
}

}  // namespace marchproxy::admin
