#include "stream/tcp.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <cstring>

#include "stream/account.h"
#include "stream/choose.h"
#include "stream/losses.h"
#include "stream/marking.h"
#include "stream/proxy_protocol.h"
#include "stream/sockets.h"

namespace marchproxy::stream {

namespace {

constexpr int accepts_a_turn = 64;
// Connections that live shorter are not worth the system calls that ask for keep-alive probes.
constexpr auto keepalive_after = std::chrono::seconds(1);
constexpr auto losses_interval = std::chrono::seconds(1);  // at which a busy connection is looked at

void mark_edges(Leg& leg, uint32_t events) {
    if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) leg.readable = true;
    if (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) leg.writable = true;
    if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) leg.hangup = true;
    if (events & EPOLLERR) leg.reset = true;
}

Verdict verdict_of(int error) {
    switch (error) {
        case ETIMEDOUT:
            return Verdict::connect_timeout;
        case ECONNREFUSED:
        case ECONNRESET:
            return Verdict::connect_refused;
        case EADDRNOTAVAIL:
            return Verdict::local_ports;
        case EMFILE:
        case ENFILE:
            return Verdict::descriptors;
        case ENOBUFS:
        case ENOMEM:
            return Verdict::memory;
        case ENETUNREACH:
        case EHOSTUNREACH:
        case EACCES:
        case EPERM:
            return Verdict::connect_unreachable;
        default:
            return Verdict::internal_error;
    }
}

// Whether the endpoint is to blame, or this machine.
bool is_endpoints_fault(int error) {
    const Verdict verdict = verdict_of(error);
    return verdict == Verdict::connect_timeout || verdict == Verdict::connect_refused ||
           verdict == Verdict::connect_unreachable;
}

}  // namespace

TcpProxy::TcpProxy(Context& context, const StreamSettings& settings)
    : context_(context), forwarder_(context.descriptors, settings), timers_(context.now) {}

TcpProxy::~TcpProxy() {
    assert(active_ == 0);
}

// --- from accept to an established connection ----------------------------------------------------------------------

Accepted TcpProxy::accept(Listener& listener) {
    for (int i = 0; i < accepts_a_turn; ++i) {
        if (!context_.descriptors.take(2)) return Accepted::no_descriptor;  // both legs, before the client is let in
        sockaddr_storage address;
        socklen_t size = sizeof address;
        const int descriptor =
            accept4(listener.descriptor, reinterpret_cast<sockaddr*>(&address), &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor >= 0) {
            begin(listener, descriptor, SocketAddress::from(address));
            continue;
        }
        context_.descriptors.give_back(2);
        if (errno == EAGAIN) return Accepted::all;
        if (errno == EMFILE || errno == ENFILE) return Accepted::no_descriptor;
        if (errno == ENOBUFS || errno == ENOMEM) return Accepted::no_memory;
        // What remains concerns one connection that died in the queue (accept(2)): the next may be well.
    }
    return Accepted::more;
}

void TcpProxy::begin(Listener& listener, int descriptor, const SocketAddress& client) {
    WorkerService& service = *listener.service;
    auto* connection = new Connection;
    connection->service = &service;
    connection->client = client;
    connection->client_leg.descriptor = descriptor;
    connection->started = connection->last_activity = context_.now;
    service.connections.add(*connection);
    ++active_;
    mark_client(*connection);

    if (service.service().accept_proxy_protocol) {
        // Who it is for is not known yet, but it takes a place: as many as may be served may also wait.
        if (const auto refused = take_place(service, connection->admission)) return refuse(*connection, *refused);
        if (!watch_client(*connection)) return refuse(*connection, Verdict::memory);
        arm(*connection, service.view->settings->stream.connect_timeout);
        return;
    }
    if (admit_client(*connection)) connect_endpoint(*connection);
}

// An accepted socket has its listener's mark.
void TcpProxy::mark_client(Connection& connection) {
    const ServiceView& view = *connection.service->view;
    connection.dscp = view.own().dscp;
    if (!view.heeds) return;
    const bool is_v4 = view.service->listen.ip.is_v4();
    connection.arrived = arrived_mark(connection.client_leg.descriptor, is_v4).value_or(unknown_mark);
    connection.dscp = view.treatment(connection.arrived).dscp;
    if (connection.dscp != view.own().dscp) mark(connection.client_leg.descriptor, is_v4, connection.dscp);
}

// By the view as it is now.
void TcpProxy::mark_anew(Connection& connection) {
    const ServiceView& view = *connection.service->view;
    const uint8_t dscp = view.treatment(connection.arrived).dscp;
    if (connection.dscp == dscp) return;
    connection.dscp = dscp;
    mark(connection.client_leg.descriptor, view.service->listen.ip.is_v4(), dscp);
    mark(connection.endpoint_leg.descriptor, connection.endpoint->address.ip.is_v4(), dscp);
}

bool TcpProxy::admit_client(Connection& connection) {
    const auto refused = admit(*connection.service, connection.client.ip, context_.now, connection.admission);
    if (!refused) return true;
    refuse(connection, *refused);
    return false;
}

void TcpProxy::connect_endpoint(Connection& connection) {
    while (true) {
        const std::span<const std::shared_ptr<EndpointRuntime>> failed =
            connection.failed ? connection.failed->endpoints : std::span<const std::shared_ptr<EndpointRuntime>>{};
        const bool may_try = failed.empty() || (connection.service->service().routing.retry != Retry::none &&
                                                failed.size() < most_attempts);
        connection.endpoint = may_try ? choose(context_, *connection.service, connection.client.ip, failed) : nullptr;
        connection.decision = connection.service->decision;
        if (!connection.endpoint) {
            // The record names the endpoint that was tried last.
            if (connection.failed) connection.endpoint = connection.failed->endpoints.back();
            const Verdict reason = connection.failed ? verdict_of(connection.failed->last_error) : Verdict::no_endpoint;
            return end(connection, reason, true);
        }
        connection.endpoint->state->active.fetch_add(1, std::memory_order_relaxed);
        connection.endpoint->state->attempts.fetch_add(1, std::memory_order_relaxed);
        const int error = start_attempt(connection);
        if (error == 0) return;
        note_failure(connection, error);
    }
}

// Begins a connect; the outcome comes as an edge or a timeout. Returns errno, 0 when under way.
int TcpProxy::start_attempt(Connection& connection) {
    sockaddr_storage address;
    const socklen_t size = connection.endpoint->address.to(address);
    const int descriptor = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return errno;
    const StreamSettings& settings = connection.service->view->settings->stream;
    send_at_once(descriptor);
    if (connection.dscp) mark(descriptor, connection.endpoint->address.ip.is_v4(), connection.dscp);
    if (connection.service->service().mss) limit_segments(descriptor, connection.service->service());
    const Egress& egress = connection.endpoint->egress;
    if (!leave_by(descriptor, egress)) {
        const auto text = [](const auto& ip) { return ip ? to_string(*ip) : std::string(); };
        context_.log.limited(LogLevel::error, "egress " + connection.endpoint->path->name,
                             "connections cannot leave as a path says",
                             {{"path", connection.endpoint->path->name},
                              {"source", text(egress.source)},
                              {"gateway", text(egress.gateway)},
                              {"error", strerror(errno)}});
        close(descriptor);
        return ENETUNREACH;  // the path is not to be had
    }
    if (connect(descriptor, reinterpret_cast<const sockaddr*>(&address), size) != 0 && errno != EINPROGRESS) {
        const int error = errno;
        close(descriptor);
        return error;
    }
    connection.stage = Stage::connecting;
    connection.attempt_started = context_.now;
    connection.endpoint_leg = {.descriptor = descriptor};
    connection.losses = {};
    if (!watch(connection, descriptor, Tag::endpoint_leg) || !watch_client(connection)) {
        close(descriptor);
        connection.endpoint_leg.descriptor = -1;
        return ENOMEM;
    }
    arm(connection, settings.connect_timeout);
    return 0;
}

// Books a failed attempt on the endpoint, and remembers not to try it again for this connection.
void TcpProxy::note_failure(Connection& connection, int error) {
    EndpointRuntime& endpoint = *connection.endpoint;
    endpoint.state->active.fetch_sub(1, std::memory_order_relaxed);
    if (is_endpoints_fault(error)) {
        endpoint.state->failures.fetch_add(1, std::memory_order_relaxed);
        account_failure(context_, *connection.service, endpoint, error);
    }
    if (!connection.failed) connection.failed = std::make_unique<FailedAttempts>();
    connection.failed->endpoints.push_back(std::move(connection.endpoint));
    connection.failed->last_error = error;
}

void TcpProxy::attempt_failed(Connection& connection, int error) {
    close(connection.endpoint_leg.descriptor);
    connection.endpoint_leg.descriptor = -1;
    note_failure(connection, error);
    connect_endpoint(connection);
}

void TcpProxy::attempt_succeeded(Connection& connection) {
    EndpointRuntime& endpoint = *connection.endpoint;
    endpoint.path->slots[context_.worker].connect_latency.observe(context_.now - connection.attempt_started);
    account_success(context_, *connection.service, endpoint);
    if (connection.failed) connection.service->slot().failovers.add();
    connection.stage = Stage::established;
    connection.last_activity = context_.now;
    mark_anew(connection);  // a reload may have come while it was connecting
    say_first(connection);
    arm(connection, std::min<Duration>(keepalive_after, idle_timeout(connection)));
    forward(connection);
}

// What an endpoint hears before what the client says from now on: who the client is, and what another endpoint heard
// and did not answer.
void TcpProxy::say_first(Connection& connection) {
    const Service& service = connection.service->service();
    EncodedProxyHeader header{};
    if (service.proxy_protocol != ProxyProtocol::none) header = proxy_header_of(connection);
    std::span<const std::byte> said;
    if (connection.up.replay) said = connection.up.replay->bytes;
    forwarder_.prepend(connection.up, header.view(), said);
    if (!connection.failed && service.routing.retry == Retry::unanswered)
        connection.up.replay = std::make_unique<Replay>(Replay{.most = service.routing.replay.count, .bytes = {}});
}

EncodedProxyHeader TcpProxy::proxy_header_of(const Connection& connection) {
    SocketAddress asked = connection.asked;
    if (asked.port == 0) asked = address_of(connection.client_leg.descriptor, getsockname).value_or(asked);
    return encode_proxy_header(connection.service->service().proxy_protocol, Protocol::tcp, connection.client, asked);
}

// Whether another endpoint can take over unseen from one that is gone: nothing was said either way, or the service lets
// what has no answer be said again.
bool TcpProxy::can_go_elsewhere(const Connection& connection) {
    const Direction &up = connection.up, &down = connection.down;
    if (connection.service->service().routing.retry == Retry::none || down.bytes > 0 || down.pending()) return false;
    return up.replay || (up.bytes == 0 && !(up.spill && up.spill->has_payload()));
}

void TcpProxy::go_elsewhere(Connection& connection, int error) {
    withdraw(connection);
    for (Direction* direction : {&connection.up, &connection.down}) {
        forwarder_.release(*direction);
        *direction = {.replay = std::move(direction->replay)};
    }
    attempt_failed(connection, error);
}

// --- events --------------------------------------------------------------------------------------------------------

void TcpProxy::client_event(Connection& connection, uint32_t events) {
    mark_edges(connection.client_leg, events);
    switch (connection.stage) {
        case Stage::header:
            if (classify(connection) && admit_client(connection)) connect_endpoint(connection);
            break;
        case Stage::connecting:
            // An end of input alone is no reason to give up: the client may only have finished its request.
            if (events & EPOLLERR) end(connection, Verdict::client_reset, true);
            break;
        case Stage::established:
            forward(connection);
            break;
        case Stage::ended:
            break;
    }
}

void TcpProxy::endpoint_event(Connection& connection, uint32_t events) {
    if (connection.stage == Stage::connecting) {
        if (events & (EPOLLERR | EPOLLHUP)) {
            int error = 0;
            socklen_t size = sizeof error;
            getsockopt(connection.endpoint_leg.descriptor, SOL_SOCKET, SO_ERROR, &error, &size);
            if (error != 0) return attempt_failed(connection, error);
        }
        if (!(events & EPOLLOUT)) return;
        mark_edges(connection.endpoint_leg, events);
        return attempt_succeeded(connection);
    }
    if (connection.stage != Stage::established) return;
    mark_edges(connection.endpoint_leg, events);
    forward(connection);
}

// Moves what can be moved both ways, and ends the connection when that was all.
void TcpProxy::forward(Connection& connection) {
    Leg &client = connection.client_leg, &endpoint = connection.endpoint_leg;
    const uint64_t up_before = connection.up.bytes, down_before = connection.down.bytes;
    const Pumped down = pump(connection, false);
    const Pumped up = pump(connection, true);

    const uint64_t up_moved = connection.up.bytes - up_before, down_moved = connection.down.bytes - down_before;
    if (down_moved) connection.up.replay.reset();  // it has an answer
    if (up_moved | down_moved) {
        const bool second_over = connection.last_activity - connection.losses_counted >= losses_interval;
        connection.last_activity = context_.now;
        if (second_over && connection.service->view->measures) count_losses(connection);
        PathSlot& slot = connection.endpoint->path->slots[context_.worker];
        slot.received_bytes.add(up_moved);
        slot.sent_bytes.add(down_moved);
        ServiceSlot& service = connection.service->slot();
        const auto priority = static_cast<size_t>(connection.priority());
        service.received_by_priority[priority].add(up_moved);
        service.sent_by_priority[priority].add(down_moved);
    }

    if (up == Pumped::source_failed) return end(connection, Verdict::client_reset, true);
    if (down == Pumped::source_failed) {
        if (can_go_elsewhere(connection)) return go_elsewhere(connection, ECONNRESET);
        return end(connection, Verdict::endpoint_reset, true);
    }
    // It closed without an answer to a client that still waits for one.
    if (down == Pumped::finished && connection.up.replay && !client.ended && connection.up.bytes > 0)
        return go_elsewhere(connection, ECONNRESET);
    // A sink that takes no more may have sent an answer first: the other direction is read to its end.
    const bool up_over = up == Pumped::finished || up == Pumped::sink_failed;
    const bool down_over = down == Pumped::finished || down == Pumped::sink_failed;
    if (up_over && down_over) {
        if (up == Pumped::sink_failed && can_go_elsewhere(connection)) return go_elsewhere(connection, ECONNRESET);
        if (up == Pumped::sink_failed) return end(connection, Verdict::endpoint_reset, true);
        if (down == Pumped::sink_failed) return end(connection, Verdict::client_reset, true);
        return end(connection, Verdict::finished, false);
    }
    if (up == Pumped::finished && !endpoint.shut) endpoint.shut = shutdown(endpoint.descriptor, SHUT_WR) == 0;
    if (down == Pumped::finished && !client.shut) client.shut = shutdown(client.descriptor, SHUT_WR) == 0;
    if (up == Pumped::sink_failed) endpoint.readable = endpoint.hangup = true;
    if (down == Pumped::sink_failed) client.readable = client.hangup = true;
    const bool read_rest = up == Pumped::sink_failed || down == Pumped::sink_failed;
    if (read_rest || up == Pumped::again || down == Pumped::again) queue(connection);
}

// What the kernel had to send again towards the endpoint since the last look.
void TcpProxy::count_losses(Connection& connection) {
    connection.losses_counted = context_.now;
    const auto now = losses_of(connection.endpoint_leg.descriptor);
    if (!now) return;
    routing::EndpointState& state = *connection.endpoint->state;
    Losses& before = connection.losses;
    state.segments.fetch_add(now->segments - before.segments, std::memory_order_relaxed);
    state.retransmissions.fetch_add(now->retransmissions - before.retransmissions, std::memory_order_relaxed);
    state.answered_within(now->round_trip_us);
    before = *now;
}

void TcpProxy::timeout(Connection& connection) {
    switch (connection.stage) {
        case Stage::header:
            return refuse(connection, Verdict::proxy_header_timeout);
        case Stage::connecting:
            return attempt_failed(connection, ETIMEDOUT);
        case Stage::established: {
            // The timer is not moved by each byte: it looks when it was set for, and sets itself again.
            if (!connection.keepalive) keep_alive(connection);
            const Duration quiet = context_.now - connection.last_activity;
            const Duration allowed = idle_timeout(connection);
            if (quiet >= allowed) return end(connection, Verdict::idle_timeout, false);
            return arm(connection, allowed - quiet);
        }
        case Stage::ended:
            return;
    }
}

void TcpProxy::keep_alive(Connection& connection) {
    connection.keepalive = true;
    for (const Leg* leg : {&connection.client_leg, &connection.endpoint_leg})
        probe_when_idle(leg->descriptor, connection.service->view->settings->stream);
}

void TcpProxy::run_due() {
    timers_.advance(context_.now, [this](qos::Timer& timer) { timeout(static_cast<Connection&>(timer)); });
    while (Bulk* bulk = forwarder_.take_due(context_.now)) {
        Connection& connection = *bulk->connection;
        (bulk->up ? connection.client_leg : connection.endpoint_leg).readable = true;
        forward(connection);
    }
}

TimePoint TcpProxy::next_due() const {
    if (!queued_.empty()) return context_.now;
    return std::min(timers_.next_expiry().value_or(TimePoint::max()), forwarder_.next_due().value_or(TimePoint::max()));
}

void TcpProxy::queue(Connection& connection) {
    if (connection.queued) return;
    connection.queued = true;
    queued_.push_back(&connection);
}

void TcpProxy::end_turn() {
    resumed_.swap(queued_);
    for (Connection* connection : resumed_) {
        connection->queued = false;
        if (connection->stage == Stage::established) forward(*connection);
    }
    resumed_.clear();
    std::erase_if(queued_, [](const Connection* connection) { return connection->stage == Stage::ended; });
    for (Connection* connection : ended_)
        delete connection;
    ended_.clear();
}

// --- the end -------------------------------------------------------------------------------------------------------

void TcpProxy::refuse(Connection& connection, Verdict reason, std::string_view detail) {
    account_drop(context_, *connection.service, connection.client, reason, detail);
    close_connection(connection, true);
}

void TcpProxy::end(Connection& connection, Verdict reason, bool reset) {
    account_end(context_, *connection.service, ended(connection, reason));
    if (connection.endpoint && connection.endpoint_leg.descriptor >= 0) {
        routing::EndpointState& state = *connection.endpoint->state;
        state.active.fetch_sub(1, std::memory_order_relaxed);
        // Reset before it said anything: as good as refused.
        if (reason == Verdict::endpoint_reset && connection.down.bytes == 0)
            state.failures.fetch_add(1, std::memory_order_relaxed);
        if (connection.service->view->measures) count_losses(connection);
    }
    close_connection(connection, reset);
}

void TcpProxy::close_connection(Connection& connection, bool reset) {
    withdraw(connection);
    forwarder_.release(connection.up);
    forwarder_.release(connection.down);
    for (const Leg* leg : {&connection.client_leg, &connection.endpoint_leg}) {
        if (leg->descriptor < 0) continue;
        if (reset) reset_on_close(leg->descriptor);
        close(leg->descriptor);
    }
    context_.descriptors.give_back(2);
    timers_.disarm(connection);
    release(*connection.service, connection.client.ip, connection.admission);
    connection.service->connections.remove(connection);
    connection.stage = Stage::ended;
    ended_.push_back(&connection);
    --active_;
}

// Edges, once for a socket's life: no later epoll_ctl. False when the kernel's memory or fs.epoll.max_user_watches is
// short.
bool TcpProxy::watch(Connection& connection, int descriptor, Tag leg) {
    epoll_event event{.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data = {.ptr = tagged(&connection, leg)}};
    return epoll_ctl(context_.epoll, EPOLL_CTL_ADD, descriptor, &event) == 0;
}

// With the first attempt that gets so far, or while the PROXY header is waited for.
bool TcpProxy::watch_client(Connection& connection) {
    if (!connection.client_watched)
        connection.client_watched = watch(connection, connection.client_leg.descriptor, Tag::client_leg);
    return connection.client_watched;
}

// --- from the control side -----------------------------------------------------------------------------------------

void TcpProxy::service_changed(WorkerService& service) {
    service.connections.for_each([&](Connection& connection) {
        if (connection.stage == Stage::header) return;
        if (const auto refused = readmit(service, connection.client.ip, connection.admission))
            end(connection, *refused, true);
        else if (connection.stage == Stage::established)
            settle(connection);
    });
}

// An established connection goes by the new view.
void TcpProxy::settle(Connection& connection) {
    mark_anew(connection);
    take_no_turns(connection);
    queue(connection);    // what waited for its turn asks again
    timeout(connection);  // ends it or sets its timer by the new idle timeout
}

void TcpProxy::endpoint_down(WorkerService& service, const EndpointRuntime& endpoint) {
    service.connections.for_each([&](Connection& connection) {
        if (connection.endpoint.get() != &endpoint) return;
        if (connection.stage == Stage::connecting) return attempt_failed(connection, ETIMEDOUT);
        if (connection.stage != Stage::established) return;
        if (can_go_elsewhere(connection)) return go_elsewhere(connection, ETIMEDOUT);
        if (service.service().routing.on_down == OnDown::reset) end(connection, Verdict::endpoint_down, true);
    });
}

void TcpProxy::end_all(WorkerService& service, Verdict reason) {
    service.connections.for_each([&](Connection& connection) {
        if (connection.stage == Stage::header)
            close_connection(connection, true);
        else
            end(connection, reason, true);
    });
}

uint8_t TcpProxy::attempts(const Connection& connection) {
    const size_t failed = connection.failed ? connection.failed->endpoints.size() : 0;
    return static_cast<uint8_t>(failed + (connection.endpoint_leg.descriptor >= 0 ? 1 : 0));
}

Ended TcpProxy::ended(const Connection& connection, Verdict reason) const {
    return {.client = connection.client,
            .endpoint = connection.endpoint.get(),
            .decision = connection.decision,
            .received_bytes = connection.up.bytes,
            .sent_bytes = connection.down.bytes,
            .started = connection.started,
            .attempts = attempts(connection),
            .reason = reason};
}

flow::Record TcpProxy::record(const Connection& connection) const {
    return make_record(*connection.service, ended(connection, Verdict::finished),
                       connection.stage == Stage::established ? flow::State::active : flow::State::connecting,
                       context_.now);
}

}  // namespace marchproxy::stream
