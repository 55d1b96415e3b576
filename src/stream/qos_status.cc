#include "stream/qos_status.h"

namespace marchproxy::stream {

namespace {

uint64_t processed(const ServiceState& state, bool up, size_t priority) {
    uint64_t bytes = 0;
    for (const ServiceSlot& slot : state.slots)
        bytes += (up ? slot.received_by_priority : slot.sent_by_priority)[priority].get();
    return bytes;
}

qos::QueueCounters queued(const ServiceState& state, bool up, size_t priority) {
    const std::unique_ptr<qos::ShapedService>& shaped = up ? state.shaped_up : state.shaped_down;
    return shaped ? shaped->counters(static_cast<Priority>(priority)) : qos::QueueCounters{};
}

}  // namespace

std::vector<telemetry::QosStatus> qos_classes(const ServiceState& state) {
    std::vector<telemetry::QosStatus> classes;
    for (const bool up : {true, false})
        for (size_t i = 0; i < qos::priorities; ++i) {
            const qos::QueueCounters queue = queued(state, up, i);
            const telemetry::Meter& meter = (up ? state.meters_up : state.meters_down)[i];
            classes.push_back({.up = up,
                               .priority = static_cast<Priority>(i),
                               .rate = {},
                               .guarantee = {},
                               .offered = meter.offered(),
                               .delivered = meter.delivered(),
                               .processed_bytes = processed(state, up, i),
                               .queued_bytes = queue.queued_bytes,
                               .dropped_full = queue.dropped_full,
                               .dropped_late = queue.dropped_late,
                               .marked = queue.marked,
                               .delay = queue.delay});
        }
    return classes;
}

void measure(ServiceState& state, Duration elapsed) {
    for (const bool up : {true, false})
        for (size_t i = 0; i < qos::priorities; ++i) {
            const qos::QueueCounters queue = queued(state, up, i);
            const uint64_t delivered = processed(state, up, i);
            const uint64_t offered = delivered + queue.queued_bytes + queue.dropped_bytes;
            (up ? state.meters_up : state.meters_down)[i].look(offered, delivered, elapsed);
        }
}

}  // namespace marchproxy::stream
