#include "packet/origins.h"

#include <arpa/inet.h>

#include "packet/directory.h"

namespace marchproxy::packet {

namespace {

using std::chrono::seconds;

// The two lists are one, abi/verdicts.def.
Verdict verdict_of(uint8_t why) {
    return why < abi::packet_verdicts ? static_cast<Verdict>(why) : Verdict::internal_error;
}

flow::State state_of(const abi::flow_report& report) {
    if (report.ended) return flow::State::closed;
    const auto state = static_cast<abi::flow_state>(report.target >> flow_state_shift);
    return state == abi::flow_opening ? flow::State::connecting : flow::State::active;
}

}  // namespace

void Origins::set(uint32_t service, uint32_t endpoint, flow::Origin origin) {
    origin.plane = "packet";
    known_[{service, endpoint}] = std::make_shared<const flow::Origin>(std::move(origin));
}

void Origins::keep_only(const Indexes& indexes) {
    std::erase_if(known_, [&](const auto& entry) {
        const auto [service, endpoint] = entry.first;
        return !indexes.services.owners().contains(service) ||
               (endpoint != 0 && !indexes.endpoints.owners().contains(endpoint));
    });
}

Origins::Pointer Origins::find_exactly(uint32_t service, uint32_t endpoint) const {
    const auto found = known_.find({service, endpoint});
    return found == known_.end() ? nullptr : found->second;
}

Origins::Pointer Origins::find(uint32_t service, uint32_t endpoint) const {
    if (Pointer found = find_exactly(service, endpoint)) return found;
    if (Pointer found = find_exactly(service, 0)) return found;
    return unknown_;
}

std::map<uint32_t, std::string> Origins::paths_of(uint32_t service) const {
    std::map<uint32_t, std::string> paths;
    for (auto at = known_.lower_bound({service, 1}); at != known_.end() && at->first.first == service; ++at)
        paths.emplace(at->first.second, at->second->path);
    return paths;
}

flow::Record Origins::record_of(const abi::flow_report& report, const Indexes& book, WallTime now) const {
    const auto endpoint = static_cast<uint32_t>(report.target >> flow_endpoint_shift & (abi::max_packet_endpoints - 1));
    flow::Record record;
    record.origin = find(report.service, endpoint);
    record.client = {from_abi(report.client), ntohs(report.client_port_be)};
    const auto& owners = book.endpoints.owners();
    if (const auto owner = owners.find(endpoint); owner != owners.end()) record.endpoint = owner->second.address;
    record.received_bytes = report.bytes[abi::direction_up];
    record.sent_bytes = report.bytes[abi::direction_down];
    record.duration = seconds(report.age_seconds);
    record.start = now - seconds(report.age_seconds);
    record.state = state_of(report);
    record.end_reason = verdict_of(report.why);
    return record;
}

}  // namespace marchproxy::packet
