#include "stream/qos_status.h"

#include <algorithm>

namespace marchproxy::stream {

namespace {

uint64_t processed(const ServiceState& state, bool up, size_t priority) {
    uint64_t bytes = 0;
    for (const ServiceSlot& slot : state.slots)
        bytes += (up ? slot.received_by_priority : slot.sent_by_priority)[priority].get();
    return bytes;
}

qos::QueueCounters queued(const ServiceState& state, bool up, size_t priority) {
    const std::unique_ptr<ShapedService>& shaped = up ? state.shaped_up : state.shaped_down;
    return shaped ? shaped->counters(static_cast<Priority>(priority)) : qos::QueueCounters{};
}

}  // namespace

std::vector<telemetry::QosStatus> qos_status(const ServiceView& view) {
    const ServiceQos& wanted = view.service->qos;
    const ServiceState& state = *view.state;
    std::vector<telemetry::QosStatus> result;
    for (const bool up : {true, false})
        for (size_t i = 0; i < qos::priorities; ++i) {
            const qos::QueueCounters queue = queued(state, up, i);
            const Meter& meter = (up ? state.meters_up : state.meters_down)[i];
            const telemetry::QosStatus status{.up = up,
                                              .priority = static_cast<Priority>(i),
                                              .rate = up ? wanted.rate.up : wanted.rate.down,
                                              .guarantee = up ? wanted.guarantee.up : wanted.guarantee.down,
                                              .offered = meter.offered,
                                              .delivered = meter.delivered,
                                              .processed_bytes = processed(state, up, i),
                                              .queued_bytes = queue.queued_bytes,
                                              .dropped_full = queue.dropped_full,
                                              .dropped_late = queue.dropped_late,
                                              .marked = queue.marked,
                                              .delay = queue.delay};
            const bool used = status.processed_bytes || status.queued_bytes || queue.dropped_full || queue.dropped_late;
            if (used || status.priority == view.priority) result.push_back(status);
        }
    return result;
}

// What is offered either moves, waits or is dropped.
void measure(ServiceState& state, Duration elapsed) {
    const double seconds = std::chrono::duration<double>(elapsed).count();
    for (const bool up : {true, false})
        for (size_t i = 0; i < qos::priorities; ++i) {
            Meter& meter = (up ? state.meters_up : state.meters_down)[i];
            const qos::QueueCounters queue = queued(state, up, i);
            const uint64_t delivered = processed(state, up, i);
            const uint64_t offered = delivered + queue.queued_bytes + queue.dropped_bytes;
            meter.delivered = static_cast<double>(delivered - meter.delivered_bytes) * 8 / seconds;
            meter.offered = static_cast<double>(offered - std::min(offered, meter.offered_bytes)) * 8 / seconds;
            meter.delivered_bytes = delivered;
            meter.offered_bytes = offered;
        }
}

}  // namespace marchproxy::stream
