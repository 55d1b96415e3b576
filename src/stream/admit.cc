#include "stream/admit.h"

#include <limits>

namespace marchproxy::stream {

std::optional<Verdict> take_place(WorkerService& service, Admission& admission) {
    const std::optional<uint64_t>& limit = service.service().limits.connections;
    std::atomic<uint64_t>& active = service.state().active;
    const uint64_t before = active.fetch_add(1, std::memory_order_relaxed);
    if (limit && before >= *limit) {
        active.fetch_sub(1, std::memory_order_relaxed);
        return Verdict::connection_limit;
    }
    admission.counted = true;
    return std::nullopt;
}

std::optional<Verdict> admit(WorkerService& service, const IpAddress& client, TimePoint now, Admission& admission) {
    const Limits& limits = service.service().limits;
    ServiceState& state = service.state();
    if (!service.view->access.admits(client)) return Verdict::access_denied;

    std::optional<Verdict> refused;
    if (!admission.counted) refused = take_place(service, admission);
    if (!refused && limits.connections_per_source) {
        admission.source_counted = state.sources.acquire(client, *limits.connections_per_source);
        if (!admission.source_counted) refused = Verdict::source_limit;
    }
    if (!refused && limits.new_connections_per_source &&
        !state.source_rates.admit(client, *limits.new_connections_per_source, now))
        refused = Verdict::source_rate;
    if (!refused && limits.new_connections && !state.new_connections.admit(now)) refused = Verdict::rate_limit;
    if (refused) release(service, client, admission);
    return refused;
}

void release(WorkerService& service, const IpAddress& client, Admission& admission) {
    if (admission.counted) service.state().active.fetch_sub(1, std::memory_order_relaxed);
    if (admission.source_counted) service.state().sources.release(client);
    admission = {};
}

std::optional<Verdict> readmit(WorkerService& service, const IpAddress& client, Admission& admission) {
    if (!service.view->access.admits(client)) return Verdict::access_denied;
    // A limit a source that the reload brought counts those who were here before; one that it lowered ends nobody.
    if (service.service().limits.connections_per_source && !admission.source_counted)
        admission.source_counted = service.state().sources.acquire(client, std::numeric_limits<uint64_t>::max());
    return std::nullopt;
}

}  // namespace marchproxy::stream
