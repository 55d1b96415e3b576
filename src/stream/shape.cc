// Step 2, admit, for bytes: where a service is shaped, a direction reads what it was given a turn for, and no more.
#include <sys/ioctl.h>

#include <algorithm>

#include "stream/receive_buffer.h"
#include "stream/tcp.h"

namespace marchproxy::stream {

namespace {

// What waits to be read. At least the end of the input, or an error, where that was announced.
uint32_t waiting_at(Leg& source) {
    int bytes = 0;
    if (ioctl(source.descriptor, FIONREAD, &bytes) != 0 || bytes <= 0) bytes = source.hangup ? 1 : 0;
    if (bytes == 0) source.readable = false;  // the next bytes raise an edge
    return static_cast<uint32_t>(bytes);
}

void begin_short(qos::StandingQueue& standing, const qos::ShapedService& service, const Leg& source) {
    const auto buffer = receive_buffer(source.descriptor);
    if (buffer) set_receive_buffer(source.descriptor, standing.first_size(service.bytes_per_second(), *buffer));
}

void keep_short(qos::StandingQueue& standing, const Leg& source, TimePoint now) {
    const auto buffer = receive_buffer(source.descriptor);
    if (!buffer) return;
    const uint64_t size = standing.size_after(*buffer, now);
    if (size != buffer->size) set_receive_buffer(source.descriptor, size);
}

}  // namespace

Pumped TcpProxy::pump(Connection& connection, bool up) {
    qos::ShapedService* const shaped = up ? connection.service->view->shaped_up : connection.service->view->shaped_down;
    if (shaped) return pump_in_turns(connection, up, *shaped);
    Direction& direction = up ? connection.up : connection.down;
    Leg &source = up ? connection.client_leg : connection.endpoint_leg,
        &sink = up ? connection.endpoint_leg : connection.client_leg;
    size_t budget = Forwarder::turn_budget;
    return forwarder_.pump(connection, up, direction, source, sink, context_.now, budget);
}

Pumped TcpProxy::pump_in_turns(Connection& connection, bool up, qos::ShapedService& service) {
    Direction& direction = up ? connection.up : connection.down;
    Leg &source = up ? connection.client_leg : connection.endpoint_leg,
        &sink = up ? connection.endpoint_leg : connection.client_leg;
    if (!direction.shaped) {
        direction.shaped = std::make_unique<ShapedDirection>(connection, context_.worker);
        forwarder_.pace(direction, source);
        begin_short(direction.shaped->standing, service, source);
    }
    ShapedDirection& flow = *direction.shaped;
    qos::Shaper& shaper = context_.shapers.at(up);
    for (size_t moved = 0; moved < Forwarder::turn_budget;) {
        size_t budget = flow.granted;
        const Pumped result = forwarder_.pump(connection, up, direction, source, sink, context_.now, budget);
        moved += flow.granted - budget;
        flow.standing.took(flow.granted - budget, context_.now);
        if (budget > 0) shaper.give_back(flow, static_cast<uint32_t>(budget));
        flow.granted = 0;
        if (result != Pumped::again) return result;
        if (source.reset) {  // nobody is there any more for whom to take turns
            source.read_failed = true;
            continue;
        }
        if (flow.asked) return Pumped::blocked;
        const uint32_t backlog = waiting_at(source);
        flow.standing.found(backlog, service.quantum());
        if (flow.standing.due(context_.now)) keep_short(flow.standing, source, context_.now);
        if (backlog == 0) return Pumped::blocked;
        flow.granted =
            shaper.request(flow, service.at(connection.priority()), backlog, service.quantum(), context_.now);
        if (flow.granted == 0) return Pumped::blocked;
    }
    return Pumped::again;
}

void TcpProxy::granted(qos::ShapedFlow& flow) {
    forward(static_cast<ShapedDirection&>(flow).connection);
}

void TcpProxy::take_no_turns(Connection& connection) {
    if (connection.up.shaped) set_receive_buffer(connection.client_leg.descriptor, 0);
    if (connection.down.shaped) set_receive_buffer(connection.endpoint_leg.descriptor, 0);
    withdraw(connection);
}

void TcpProxy::withdraw(Connection& connection) {
    for (Direction* direction : {&connection.up, &connection.down}) {
        if (!direction->shaped) continue;
        context_.shapers.at(direction == &connection.up).withdraw(*direction->shaped);
        direction->shaped.reset();
    }
}

}  // namespace marchproxy::stream
