#include "stream/udp.h"

#include <sys/epoll.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <cstring>

#include "stream/choose.h"
#include "stream/marking.h"
#include "stream/sockets.h"
#include "stream/tag.h"

namespace marchproxy::stream {

namespace {
constexpr int buffer_bytes = 1 << 20;  // of an endpoint's socket, as far as the system allows
}

size_t UdpProxy::Hash::operator()(const Key& key) const {
    // Folded 128-bit products, as wyhash does: keyed, a few nanoseconds.
    const auto mix = [](uint64_t a, uint64_t b) {
        const unsigned __int128 product = static_cast<unsigned __int128>(a) * b;
        return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
    };
    uint64_t client[2], asked[2];
    std::memcpy(client, key.client.ip.bytes.data(), 16);
    std::memcpy(asked, key.asked.bytes.data(), 16);
    uint64_t hash = mix(client[0] ^ secret, client[1] ^ 0x9e3779b97f4a7c15ULL);
    hash = mix(hash ^ asked[1] ^ (static_cast<uint64_t>(key.client.port) << 48), asked[0] ^ secret);
    return mix(hash ^ reinterpret_cast<uintptr_t>(key.service), 0xbf58476d1ce4e5b9ULL);
}

UdpProxy::UdpProxy(Context& context) : context_(context), timers_(context.now), sessions_(0, Hash{context.random()}) {}

UdpProxy::~UdpProxy() {
    assert(sessions_.empty());
    for (Session* session : ended_)  // what waits for its turn does not get it any more
        delete session;
}

// --- client to endpoint --------------------------------------------------------------------------------------------

void UdpProxy::receive(Listener& listener) {
    if (!batch_) batch_ = std::make_unique<DatagramBatch>();
    const int got = batch_->receive(listener.descriptor);
    if (got <= 0) return;
    uint64_t datagrams = 0;
    for (int i = 0; i < got; ++i) {
        Datagram& datagram = (*batch_)[i];
        datagrams += datagram.count();
        Session* session = find_or_begin(listener, datagram);
        if (!session) continue;
        if (session->chain.empty()) touched_.push_back(session);
        batch_->append(session->chain, i);
    }
    listener.service->slot().received_datagrams.add(datagrams);
    for (Session* session : touched_) {
        if (!session->ended) pass(*session, true, batch_->pieces(session->chain));
        session->chain = {};
    }
    touched_.clear();
}

Session* UdpProxy::find_or_begin(Listener& listener, const Datagram& datagram) {
    const Key key{listener.service, datagram.from, datagram.to};
    const auto found = sessions_.find(key);
    if (found != sessions_.end()) return found->second;
    if (!accepting_) {
        account_drop(context_, *listener.service, datagram.from, Verdict::drained, {}, datagram.count());
        return nullptr;
    }
    return begin(listener, key);
}

Session* UdpProxy::begin(Listener& listener, const Key& key) {
    WorkerService& service = *listener.service;
    Admission admission;
    const auto drop = [&](Verdict reason) {
        account_drop(context_, service, key.client, reason);
        release(service, key.client.ip, admission);
        return nullptr;
    };
    if (const auto refused = admit(service, key.client.ip, context_.now, admission)) return drop(*refused);
    if (!context_.descriptors.take(1)) return drop(Verdict::descriptors);
    std::shared_ptr<EndpointRuntime> endpoint = choose(context_, service, key.client.ip, {});
    const int descriptor = endpoint ? connect_to(*endpoint, service.view->marks) : -1;
    if (descriptor < 0) {
        const int error = errno;
        context_.descriptors.give_back(1);
        if (!endpoint) return drop(Verdict::no_endpoint);
        return drop(error == EMFILE || error == ENFILE ? Verdict::descriptors : Verdict::endpoint_unreachable);
    }
    auto* session = new Session;
    session->service = &service;
    session->state = &service.state();
    session->listener = &listener;
    session->endpoint = std::move(endpoint);
    session->decision = service.decision;
    session->client = key.client;
    session->asked = key.asked;
    session->descriptor = descriptor;
    session->admission = admission;
    session->number = static_cast<uint32_t>(context_.random());
    session->started = session->last_activity = context_.now;
    service.sessions.add(*session);
    session->endpoint->state->active.fetch_add(1, std::memory_order_relaxed);
    session->endpoint->state->attempts.fetch_add(1, std::memory_order_relaxed);
    sessions_.emplace(key, session);
    timers_.arm(*session, context_.now + service.view->idle_timeout);

    epoll_event event{.events = EPOLLIN, .data = {.ptr = tagged(session, Tag::session)}};
    if (epoll_ctl(context_.epoll, EPOLL_CTL_ADD, descriptor, &event) == 0) return session;
    end(*session, Verdict::memory);
    return nullptr;
}

int UdpProxy::connect_to(const EndpointRuntime& endpoint, bool marks) {
    sockaddr_storage address;
    const socklen_t size = endpoint.address.to(address);
    const int descriptor = socket(address.ss_family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return -1;
    set_option(descriptor, SOL_SOCKET, SO_RCVBUF, buffer_bytes);
    set_option(descriptor, SOL_SOCKET, SO_SNDBUF, buffer_bytes);
    DatagramBatch::enable_runs(descriptor);
    if (marks) report_marks(descriptor, endpoint.address.ip.is_v4(), true);
    const bool leaves = leave_by(descriptor, endpoint.egress);
    if (leaves && connect(descriptor, reinterpret_cast<const sockaddr*>(&address), size) == 0) return descriptor;
    const int error = leaves ? errno : ENETUNREACH;
    close(descriptor);
    errno = error;
    return -1;
}

// --- endpoint to client --------------------------------------------------------------------------------------------

void UdpProxy::receive(Session& session) {
    if (session.ended) return;
    if (!batch_) batch_ = std::make_unique<DatagramBatch>();
    const int got = batch_->receive(session.descriptor);
    if (got < 0) {
        endpoint_failed(session, -got);
        return;
    }
    if (got == 0) return;
    Chain chain;
    for (int i = 0; i < got; ++i)
        batch_->append(chain, i);
    if (!session.answered) {
        session.answered = true;
        account_success(context_, *session.service, *session.endpoint);
    }
    pass(session, false, batch_->pieces(chain));
}

// --- both ways -----------------------------------------------------------------------------------------------------

void UdpProxy::pass(Session& session, bool up, std::span<const Piece> pieces) {
    const ServiceView& view = *session.service->view;
    session.last_activity = context_.now;
    if (qos::ShapedService* shaped = up ? view.shaped_up : view.shaped_down)
        shape(session, up, *shaped, pieces);
    else
        send(session, up, pieces);
}

// A listener and a session's socket are of one family each: that of the address they are bound or connected to.
Way UdpProxy::way_to(const Session& session, bool up) const {
    const bool marked = session.service->view->marks;
    if (up) return {.descriptor = session.descriptor, .is_v4 = session.endpoint->address.ip.is_v4(), .marked = marked};
    return {.descriptor = session.listener->descriptor,
            .to = &session.client,
            .source = session.listener->any_address ? &session.asked : nullptr,
            .is_v4 = session.client.ip.is_v4(),
            .marked = marked};
}

void UdpProxy::send(Session& session, bool up, std::span<const Piece> pieces) {
    const Way way = way_to(session, up);
    const ServiceView& view = *session.service->view;
    // Of a batch the first counts for all: they are of one sender.
    const auto priority = static_cast<size_t>(view.priority_of(pieces.front().traffic_class));
    if (way.marked) {
        marked_.assign(pieces.begin(), pieces.end());
        for (Piece& piece : marked_)
            piece.traffic_class = view.traffic_class_of(piece.traffic_class);
        pieces = marked_;
    }
    const SendResult result = sender_.send(pieces, way, up ? session.up_limits : session.down_limits);
    PathSlot& slot = session.endpoint->path->slots[context_.worker];
    (up ? session.received_bytes : session.sent_bytes) += result.bytes;
    (up ? slot.received_bytes : slot.sent_bytes).add(result.bytes);
    ServiceSlot& service = session.service->slot();
    (up ? service.received_by_priority : service.sent_by_priority)[priority].add(result.bytes);
    if (!up) service.sent_datagrams.add(result.datagrams);
    count_unsent(session, result);
    if (up && result.error == ECONNREFUSED) endpoint_failed(session, result.error);
}

void UdpProxy::count_unsent(Session& session, const SendResult& result) {
    if (result.unsent == 0) return;
    Verdict reason = Verdict::internal_error;
    switch (result.error) {
        case EAGAIN:
        case ENOBUFS:
            reason = Verdict::send_queue_full;
            break;
        case ENOMEM:
            reason = Verdict::memory;
            break;
        case EMSGSIZE:
            reason = Verdict::oversized;
            break;
        case ECONNREFUSED:
        case ENETUNREACH:
        case EHOSTUNREACH:
        case EPERM:
        case EACCES:
            reason = Verdict::endpoint_unreachable;
            break;
        default:
            break;
    }
    account_drop(context_, *session.service, session.client, reason, strerror(result.error), result.unsent);
}

// ICMP said that nobody is there. The session ends, so that the client's next datagram gets an endpoint anew.
void UdpProxy::endpoint_failed(Session& session, int error) {
    account_failure(context_, *session.service, *session.endpoint, error);
    if (!session.answered) session.endpoint->state->failures.fetch_add(1, std::memory_order_relaxed);
    end(session, Verdict::endpoint_unreachable);
}

// --- time, reloads and the end -------------------------------------------------------------------------------------

void UdpProxy::run_due() {
    timers_.advance(context_.now, [this](qos::Timer& timer) {
        auto& session = static_cast<Session&>(timer);
        const Duration quiet = context_.now - session.last_activity;
        const Duration allowed = session.service->view->idle_timeout;
        if (quiet >= allowed) return end(session, Verdict::idle_timeout);
        timers_.arm(session, session.last_activity + allowed);
    });
}

void UdpProxy::end_turn() {
    std::erase_if(ended_, [](Session* session) {
        if (session->waiting > 0) return false;
        delete session;
        return true;
    });
}

void UdpProxy::service_changed(WorkerService& service) {
    service.sessions.for_each([&](Session& session) {
        if (const auto refused = readmit(service, session.client.ip, session.admission))
            end(session, *refused);
        else
            settle(session);
    });
}

// A session goes by the new view.
void UdpProxy::settle(Session& session) {
    const ServiceView& view = *session.service->view;
    report_marks(session.descriptor, session.endpoint->address.ip.is_v4(), view.marks);
    timers_.arm(session, session.last_activity + view.idle_timeout);
}

void UdpProxy::endpoint_down(WorkerService& service, const EndpointRuntime& endpoint) {
    service.sessions.for_each([&](Session& session) {
        if (session.endpoint.get() == &endpoint) end(session, Verdict::endpoint_down);
    });
}

void UdpProxy::end_all(WorkerService& service, Verdict reason) {
    service.sessions.for_each([&](Session& session) { end(session, reason); });
}

void UdpProxy::end_sessions_of(const Listener& listener, Verdict reason) {
    listener.service->sessions.for_each([&](Session& session) {
        if (session.listener == &listener) end(session, reason);
    });
}

void UdpProxy::end(Session& session, Verdict reason) {
    account_end(context_, *session.service, ended(session, reason));
    session.endpoint->state->active.fetch_sub(1, std::memory_order_relaxed);
    sessions_.erase({session.service, session.client, session.asked});
    timers_.disarm(session);
    close(session.descriptor);
    context_.descriptors.give_back(1);
    release(*session.service, session.client.ip, session.admission);
    session.service->sessions.remove(session);
    session.ended = true;
    session.end_reason = reason;
    ended_.push_back(&session);
}

Ended UdpProxy::ended(const Session& session, Verdict reason) const {
    return {.client = session.client,
            .endpoint = session.endpoint.get(),
            .decision = session.decision,
            .received_bytes = session.received_bytes,
            .sent_bytes = session.sent_bytes,
            .started = session.started,
            .attempts = 1,
            .reason = reason};
}

flow::Record UdpProxy::record(const Session& session) const {
    return make_record(*session.service, ended(session, Verdict::finished), flow::State::active, context_.now);
}

}  // namespace marchproxy::stream
