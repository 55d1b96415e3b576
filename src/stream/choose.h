// Step 3, choose: which endpoint takes a new connection or session.
#pragma once

#include <memory>
#include <span>

#include "stream/context.h"
#include "stream/worker_service.h"

namespace marchproxy::stream {

// Endpoints tried for one connection at most, so that a client of a large dead service is not held for minutes.
inline constexpr size_t most_attempts = 8;

// Null: every endpoint is drained, without weight, unresolved, or in `failed`.
std::shared_ptr<EndpointRuntime> choose(Context& context, WorkerService& service, const IpAddress& client,
                                        std::span<const std::shared_ptr<EndpointRuntime>> failed);

}  // namespace marchproxy::stream
