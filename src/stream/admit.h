// Step 2, admit: may a new connection or session pass? Access list, then limits, cheapest first.
#pragma once

#include <optional>

#include "model/address.h"
#include "stream/worker_service.h"

namespace marchproxy::stream {

// A place in the service's limits, held as long as the connection or session lives.
struct Admission {
    bool counted = false;         // among the service's connections
    bool source_counted = false;  // among its client address's
};

// Takes a place among the service's connections, or says why there is none.
std::optional<Verdict> take_place(WorkerService& service, Admission& admission);
// The whole question, and the place where it was not taken before. `now` drives the rate limit.
std::optional<Verdict> admit(WorkerService& service, const IpAddress& client, TimePoint now, Admission& admission);
void release(WorkerService& service, const IpAddress& client, Admission& admission);

// After a reload: is an established client still admitted, and is it counted as the new limits need it?
std::optional<Verdict> readmit(WorkerService& service, const IpAddress& client, Admission& admission);

}  // namespace marchproxy::stream
