#include "stream/account.h"

#include <cstring>
#include <string>

namespace marchproxy::stream {

namespace {

bool is_ordinary(Verdict reason) {
    return reason == Verdict::finished || reason == Verdict::idle_timeout || reason == Verdict::client_reset ||
           reason == Verdict::drained;
}

void log_cause(Context& context, const WorkerService& service, std::string_view event, const SocketAddress& client,
               const EndpointRuntime* endpoint, Verdict reason, std::string_view detail = {}) {
    const LogLevel level = is_ordinary(reason) ? LogLevel::debug : LogLevel::warn;
    if (!context.log.enabled(level)) return;
    const std::string key = service.state().name + '/' + std::string(name_of(reason));
    context.log.limited(level, key, event,
                        {{"service", service.state().name},
                         {"reason", name_of(reason)},
                         {"meaning", detail.empty() ? verdict_texts[static_cast<size_t>(reason)].meaning : detail},
                         {"client", to_string(client)},
                         {"endpoint", endpoint ? endpoint->origin->endpoint : std::string()}});
}

// Connections that found no endpoint are counted under the path "".
PathState* path_of(const WorkerService& service, const EndpointRuntime* endpoint) {
    return endpoint ? endpoint->path.get() : service.view->no_path.get();
}

}  // namespace

void account_drop(Context& context, WorkerService& service, const SocketAddress& client, Verdict reason,
                  std::string_view detail, uint64_t count) {
    service.slot().dropped[static_cast<size_t>(reason)].add(count);
    log_cause(context, service, "refused", client, nullptr, reason, detail);
}

void account_end(Context& context, WorkerService& service, const Ended& ended) {
    path_of(service, ended.endpoint)->slots[context.worker].ended[static_cast<size_t>(ended.reason)].add();
    service.slot().duration.observe(context.now - ended.started);
    log_cause(context, service, "connection ended", ended.client, ended.endpoint, ended.reason);
    if (service.view->settings->telemetry.flows)
        context.finished.push_back(make_record(service, ended, flow::State::closed, context.now));
}

void account_failure(Context& context, const WorkerService& service, EndpointRuntime& endpoint, int error) {
    endpoint.last_error.store(error, std::memory_order_relaxed);
    if (!endpoint.state->health.failed(context.now)) return;
    context.log.warn("endpoint is down", {{"service", service.state().name},
                                          {"endpoint", endpoint.origin->endpoint},
                                          {"address", to_string(endpoint.address)},
                                          {"error", strerror(error)}});
}

void account_success(Context& context, const WorkerService& service, EndpointRuntime& endpoint) {
    if (!endpoint.state->health.succeeded()) return;
    endpoint.last_error.store(0, std::memory_order_relaxed);
    context.log.info("endpoint is up again", {{"service", service.state().name},
                                              {"endpoint", endpoint.origin->endpoint},
                                              {"address", to_string(endpoint.address)}});
}

flow::Record make_record(const WorkerService& service, const Ended& flow, flow::State state, TimePoint now) {
    const Duration duration = now - flow.started;
    return {.origin = flow.endpoint ? flow.endpoint->origin : service.view->no_origin,
            .decision = flow.decision,
            .client = flow.client,
            .endpoint = flow.endpoint ? flow.endpoint->address : SocketAddress{},
            .received_bytes = flow.received_bytes,
            .sent_bytes = flow.sent_bytes,
            .start = std::chrono::system_clock::now() -
                     std::chrono::duration_cast<std::chrono::system_clock::duration>(duration),
            .duration = duration,
            .state = state,
            .end_reason = flow.reason,
            .attempts = flow.attempts};
}

}  // namespace marchproxy::stream
