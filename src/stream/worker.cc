#include "stream/worker.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <system_error>

#include "stream/tag.h"

namespace marchproxy::stream {

namespace {

int checked(int descriptor, const char* what) {
    if (descriptor < 0) throw std::system_error(errno, std::generic_category(), what);
    return descriptor;
}

uint64_t random_seed() {
    std::random_device device;
    return static_cast<uint64_t>(device()) << 32 | device();
}

}  // namespace

Worker::Worker(unsigned index, const StreamSettings& settings, telemetry::Log& log, DescriptorBudget& descriptors,
               qos::Shapers& shapers, flow::Sink& flows)
    : context_{.worker = index,
               .epoll = checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1"),
               .log = log,
               .descriptors = descriptors,
               .shapers = shapers,
               .random = Random(random_seed()),
               .now = Clock::now(),
               .finished = {}},
      flows_(flows),
      mailbox_(checked(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd")),
      tcp_(context_, settings),
      udp_(context_),
      events_(events_a_turn) {
    epoll_event event{.events = EPOLLIN, .data = {.ptr = nullptr}};
    checked(epoll_ctl(context_.epoll, EPOLL_CTL_ADD, mailbox_, &event), "epoll_ctl");
    thread_ = std::thread([this] { run(); });
}

Worker::~Worker() {
    run_on([this] {
        for (const auto& listener : listeners_)
            close_listener(*listener);
        end_all(Verdict::drained);
        stopping_ = true;
    });
    thread_.join();
    close(mailbox_);
    close(context_.epoll);
}

// --- the loop ------------------------------------------------------------------------------------------------------

void Worker::run() {
    pthread_setname_np(pthread_self(), ("worker-" + std::to_string(context_.worker)).c_str());
    while (!stopping_) {
        const int count = wait();
        context_.now = Clock::now();
        handled_.add(static_cast<uint64_t>(count));
        for (int i = 0; i < count; ++i)
            dispatch(events_[static_cast<size_t>(i)]);
        accept_again();
        tcp_.run_due();
        udp_.run_due();
        take_turns();
        end_removed_services();
        finish_turn();
    }
}

int Worker::wait() {
    const TimePoint due = next_due();
    const Duration left = due == TimePoint::max() ? Duration::max() : std::max(due - context_.now, Duration::zero());
    const auto whole = std::chrono::floor<std::chrono::seconds>(left);
    const timespec timeout{.tv_sec = whole.count(), .tv_nsec = (left - whole).count()};
    // Microseconds count for coalescing reads, hence not epoll_wait.
    const int count = epoll_pwait2(context_.epoll, events_.data(), events_a_turn,
                                   left == Duration::max() ? nullptr : &timeout, nullptr);
    return std::max(count, 0);
}

TimePoint Worker::next_due() const {
    if (!unfinished_.empty()) return context_.now;
    TimePoint due = std::min(tcp_.next_due(), udp_.next_due());
    if (!paused_.empty()) due = std::min(due, paused_until_);
    for (const bool up : {true, false})
        due = std::min(due, context_.shapers.at(up).due(context_.worker));
    return std::min(due, removed_due_);
}

void Worker::dispatch(const epoll_event& event) {
    void* pointer = event.data.ptr;
    switch (tag_of(pointer)) {
        case Tag::mailbox:
            mail_ = true;
            break;
        case Tag::listener:
            accept(untagged<Listener>(pointer));
            break;
        case Tag::client_leg:
            tcp_.client_event(untagged<Connection>(pointer), event.events);
            break;
        case Tag::endpoint_leg:
            tcp_.endpoint_event(untagged<Connection>(pointer), event.events);
            break;
        case Tag::session:
            udp_.receive(untagged<Session>(pointer));
            break;
    }
}

void Worker::accept(Listener& listener) {
    if (listener.protocol == Protocol::udp) {
        udp_.receive(listener);  // level-triggered: what is left comes again
        return;
    }
    const Accepted result = tcp_.accept(listener);
    if (result == Accepted::all) return;
    if (result == Accepted::more) return unfinished_.push_back(&listener);
    const Verdict reason = result == Accepted::no_descriptor ? Verdict::descriptors : Verdict::memory;
    account_drop(context_, *listener.service, {}, reason,
                 "connections wait in the kernel's backlog; raise LimitNOFILE (ulimit -n) or lower limits.connections");
    paused_.push_back(&listener);
    paused_until_ = context_.now + accept_pause;
}

// What waited to be read, and may be now.
void Worker::take_turns() {
    for (const bool up : {true, false}) {
        qos::Shaper& shaper = context_.shapers.at(up);
        if (shaper.due(context_.worker) > context_.now) continue;
        given_.clear();
        shaper.run(context_.worker, context_.now, given_);
        udp_.take_turns(given_);
        for (qos::ShapedFlow* flow : given_.flows)
            tcp_.granted(*flow);
    }
}

void Worker::accept_again() {
    std::vector<Listener*> again;
    again.swap(unfinished_);
    if (!paused_.empty() && context_.now >= paused_until_) {
        again.insert(again.end(), paused_.begin(), paused_.end());
        paused_.clear();
    }
    for (Listener* listener : again)
        accept(*listener);
}

// What ended is freed, recorded and no longer counted.
void Worker::settle() {
    tcp_.end_turn();
    udp_.end_turn();
    if (!context_.finished.empty()) flows_.finished(context_.finished);
    active_.store(tcp_.active() + udp_.active(), std::memory_order_relaxed);
}

void Worker::finish_turn() {
    settle();
    turns_.add();
    bulk_.store(tcp_.forwarder().spliced_directions(), std::memory_order_relaxed);
    memory_.store(tcp_.active() * sizeof(Connection) + udp_.active() * sizeof(Session) +
                      tcp_.forwarder().spilled_bytes() + tcp_.forwarder().buffer_size(),
                  std::memory_order_relaxed);
    pipes_starved_.store(tcp_.forwarder().pipes_starved(), std::memory_order_relaxed);
    if (mail_) read_mailbox();
}

// --- tasks from other threads --------------------------------------------------------------------------------------

void Worker::run_on(const std::function<void()>& task) {
    std::promise<void> done;
    {
        std::lock_guard lock(tasks_mutex_);
        tasks_.push_back({&task, &done});
    }
    wake();
    done.get_future().wait();
}

void Worker::wake() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(mailbox_, &one, sizeof one);  // an eventfd refuses only overflow
}

void Worker::read_mailbox() {
    mail_ = false;
    uint64_t count;
    [[maybe_unused]] const ssize_t got = read(mailbox_, &count, sizeof count);
    std::vector<Task> tasks;
    {
        std::lock_guard lock(tasks_mutex_);
        tasks.swap(tasks_);
    }
    for (const Task& task : tasks)
        (*task.work)();
    settle();  // before anybody is told
    for (const Task& task : tasks)
        task.done->set_value();
}

WorkerService& Worker::service_of(const ServiceViewPointer& view) {
    auto& service = services_[view->state.get()];
    if (!service)
        service = std::make_unique<WorkerService>(
            WorkerService{.view = view, .selector = view->selector, .decision = {}, .worker = context_.worker});
    return *service;
}

void Worker::apply(const WorkerPlan& plan) {
    tcp_.configure(plan.settings);
    for (const auto& [state, service] : services_)
        service->end_by = std::min(service->end_by, context_.now + plan.drain_timeout);
    for (const ServiceViewPointer& view : plan.views) {
        WorkerService& service = service_of(view);
        service.view = view;
        service.selector = view->selector;
        if (!view->settings->multicloud.enabled) service.decision.reset();
        service.end_by = TimePoint::max();
        tcp_.service_changed(service);
        udp_.service_changed(service);
    }
    for (const auto& [state, service] : services_)
        removed_due_ = std::min(removed_due_, service->end_by);
    for (const auto& listener : listeners_) {
        const auto wanted = std::find_if(plan.listeners.begin(), plan.listeners.end(), [&](const auto& candidate) {
            return candidate.descriptor == listener->descriptor;
        });
        if (wanted == plan.listeners.end())
            close_listener(*listener);
        else
            listener->service = &service_of(wanted->view);
    }
    std::erase_if(listeners_, [](const auto& listener) { return listener->descriptor < 0; });
    for (const WorkerPlan::Listening& wanted : plan.listeners) {
        const bool known = std::any_of(listeners_.begin(), listeners_.end(),
                                       [&](const auto& listener) { return listener->descriptor == wanted.descriptor; });
        if (!known) open(wanted.descriptor, service_of(wanted.view));
    }
}

void Worker::steer(const ServiceState& state, const std::shared_ptr<const routing::Selector>& selector) {
    if (const auto found = services_.find(&state); found != services_.end()) found->second->selector = selector;
}

void Worker::explain(const ServiceState& state, const DecisionPointer& decision) {
    if (const auto found = services_.find(&state); found != services_.end()) found->second->decision = decision;
}

void Worker::endpoint_down(const ServiceState& state, const EndpointRuntime& endpoint) {
    const auto found = services_.find(&state);
    if (found == services_.end()) return;
    tcp_.endpoint_down(*found->second, endpoint);
    udp_.endpoint_down(*found->second, endpoint);
}

void Worker::open(int descriptor, WorkerService& service) {
    auto listener = std::make_unique<Listener>();
    listener->descriptor = descriptor;
    listener->service = &service;
    listener->protocol = service.service().protocol;
    uint32_t events = EPOLLIN | EPOLLET;
    if (listener->protocol == Protocol::udp) {
        events = EPOLLIN;
        listener->any_address = service.service().listen.ip.is_unspecified();
        DatagramBatch::enable_runs(descriptor);
        if (listener->any_address) DatagramBatch::report_destination(descriptor, service.service().listen.ip.is_v4());
    }
    epoll_event event{.events = events, .data = {.ptr = tagged(listener.get(), Tag::listener)}};
    if (epoll_ctl(context_.epoll, EPOLL_CTL_ADD, descriptor, &event) != 0)
        context_.log.error("cannot watch a listener", {{"service", service.state().name}, {"error", strerror(errno)}});
    context_.descriptors.take_always(1);
    listeners_.push_back(std::move(listener));
}

void Worker::close_listener(Listener& listener) {
    if (listener.descriptor < 0) return;
    udp_.end_sessions_of(listener, Verdict::service_removed);
    std::erase(unfinished_, &listener);
    std::erase(paused_, &listener);
    // Closing alone would not do: while another descriptor, here or in another process, holds the socket, epoll goes on
    // reporting it (epoll(7), Q6).
    epoll_ctl(context_.epoll, EPOLL_CTL_DEL, listener.descriptor, nullptr);
    close(listener.descriptor);
    context_.descriptors.give_back(1);
    listener.descriptor = -1;
}

void Worker::stop_accepting(bool handed_over) {
    udp_.stop_accepting();
    for (const auto& listener : listeners_) {
        if (listener->protocol == Protocol::tcp) {
            if (!handed_over)
                while (tcp_.accept(*listener) == Accepted::more)
                    continue;
            close_listener(*listener);
        } else if (handed_over) {  // the descriptor stays, for replies
            epoll_ctl(context_.epoll, EPOLL_CTL_DEL, listener->descriptor, nullptr);
        }
    }
    std::erase_if(listeners_, [](const auto& listener) { return listener->descriptor < 0; });
}

void Worker::end_all(Verdict reason) {
    for (const auto& [state, service] : services_) {
        tcp_.end_all(*service, reason);
        udp_.end_all(*service, reason);
    }
}

void Worker::end_removed_services() {
    if (context_.now < removed_due_) return;
    removed_due_ = TimePoint::max();
    std::erase_if(services_, [this](const auto& entry) {
        WorkerService& service = *entry.second;
        if (service.end_by > context_.now) {
            removed_due_ = std::min(removed_due_, service.end_by);
            return false;
        }
        tcp_.end_all(service, Verdict::service_removed);
        udp_.end_all(service, Verdict::service_removed);
        return true;
    });
}

void Worker::collect_flows(const flow::Query& query, std::vector<flow::Record>& records) const {
    for (const auto& [state, service] : services_) {
        if (!query.service.empty() && state->name != query.service) continue;
        for (const Connection* c = service->connections.first(); c && records.size() < query.limit; c = c->after)
            if (c->stage != Stage::header) records.push_back(tcp_.record(*c));
        for (const Session* s = service->sessions.first(); s && records.size() < query.limit; s = s->after)
            records.push_back(udp_.record(*s));
    }
}

WorkerStatus Worker::status() const {
    return {.index = context_.worker,
            .active_connections = active_.load(std::memory_order_relaxed),
            .loops = turns_.get(),
            .events = handled_.get(),
            .bulk_directions = bulk_.load(std::memory_order_relaxed),
            .user_memory_bytes = memory_.load(std::memory_order_relaxed)};
}

}  // namespace marchproxy::stream
