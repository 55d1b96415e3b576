#include "stream/admit.h"

#include <limits>

namespace marchproxy::stream {

std::optional<Verdict> admit(WorkerService& service, const IpAddress& client, TimePoint now, Admission& admission) {
    const Limits& limits = service.service().limits;
    ServiceState& state = service.state();
    if (!service.view->access.admits(client)) return Verdict::access_denied;

    const uint64_t before = state.active.fetch_add(1, std::memory_order_relaxed);
    admission.counted = true;
    std::optional<Verdict> refused;
    if (limits.connections && before >= *limits.connections) refused = Verdict::connection_limit;
    if (!refused && limits.connections_per_source) {
        admission.source_counted = state.sources.acquire(client, *limits.connections_per_source);
        if (!admission.source_counted) refused = Verdict::source_limit;
    }
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
