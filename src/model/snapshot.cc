#include "model/snapshot.h"

#include <algorithm>

#include "model/dscp.h"

namespace marchproxy {

const Path* Snapshot::find_path(std::string_view name) const {
    const auto index = path_table.index_of(name);
    return index ? &paths[*index] : nullptr;
}
const Service* Snapshot::find_service(std::string_view name) const {
    const auto found =
        std::find_if(services.begin(), services.end(), [&](const Service& service) { return service.name == name; });
    return found == services.end() ? nullptr : &*found;
}

Egress Snapshot::egress(const std::string& path, const IpAddress& endpoint) const {
    const Path* by = path.empty() ? nullptr : find_path(path);
    Egress egress;
    if (!by) return egress;
    if (by->source && by->source->is_v4() == endpoint.is_v4()) egress.source = by->source;
    egress.gateway = by->gateway;
    const auto mark = by->gateway ? gateway_marks.find(*by->gateway) : gateway_marks.end();
    if (mark != gateway_marks.end() && by->gateway->is_v4() == endpoint.is_v4()) egress.mark = mark->second;
    return egress;
}

Priority priority_of(const Service& service, const QosSettings& qos) {
    return service.qos.priority.value_or(qos.default_priority);
}

uint8_t dscp_of(const Service& service, const QosSettings& qos) {
    return service.qos.dscp.value_or(dscp_of(priority_of(service, qos)));
}

Treatments treatments_of(const Service& service, const QosSettings& qos) {
    Treatments all;
    all.fill({priority_of(service, qos), dscp_of(service, qos)});
    if (service.qos.trust)
        for (uint8_t arrived = 0; arrived < unknown_mark; ++arrived)
            all[arrived] = {priority_of(arrived), arrived};
    for (const MarkRule& rule : service.qos.rules) {
        Treatment& of = all[rule.arrived];
        if (rule.priority) of = {*rule.priority, dscp_of(*rule.priority)};
        if (rule.dscp) of.dscp = *rule.dscp;
    }
    return all;
}

bool heeds_marks(const ServiceQos& qos) {
    return qos.trust || !qos.rules.empty();
}

Duration idle_timeout_of(const Service& service, const StreamSettings& stream) {
    return service.idle_timeout.value_or(service.protocol == Protocol::tcp ? stream.idle_timeout
                                                                           : stream.udp_idle_timeout);
}

}  // namespace marchproxy
