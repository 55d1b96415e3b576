// Step 5, account: counters, log lines and flow records of what ended or was refused.
#pragma once

#include <cstdint>
#include <string_view>

#include "stream/context.h"
#include "stream/worker_service.h"

namespace marchproxy::stream {

// Refused at admission, or a datagram that could not be carried on. The log line is limited to one a second a cause.
// `detail` says more than the verdict's meaning, for the log.
void account_drop(Context& context, WorkerService& service, const SocketAddress& client, Verdict reason,
                  std::string_view detail = {}, uint64_t count = 1);

// A connection or session that ended: counted by how, and handed over as a flow record.
struct Ended {
    const SocketAddress& client;
    const EndpointRuntime* endpoint;  // null: none was chosen
    const DecisionPointer& decision;
    uint64_t received_bytes, sent_bytes;
    TimePoint started;
    uint8_t attempts;
    Verdict reason;
};
void account_end(Context& context, WorkerService& service, const Ended& ended);

// What a connect, or a datagram, has shown of an endpoint's health; a change of state is logged.
void account_failure(Context& context, const WorkerService& service, EndpointRuntime& endpoint, int error);
void account_success(Context& context, const WorkerService& service, EndpointRuntime& endpoint);

// The same record for one that is still open.
flow::Record make_record(const WorkerService& service, const Ended& flow, flow::State state, TimePoint now);

}  // namespace marchproxy::stream
