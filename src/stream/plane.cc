#include "stream/plane.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>

#include "stream/qos_status.h"
#include "stream/view.h"
#include "stream/worker.h"

namespace marchproxy::stream {

namespace {

// A port as the kernel sees it: what listeners are known by over reloads.
struct Place {
    Protocol protocol;
    SocketAddress address;
    auto operator<=>(const Place&) const = default;
};

Place place_of(const Service& service) {
    return {service.protocol, service.listen};
}

// Descriptors opened for an apply that is not sure to go through.
class OpenedSockets {
  public:
    ~OpenedSockets() {
        for (const auto& [place, descriptors] : opened_)
            for (const int descriptor : descriptors)
                close(descriptor);
    }
    std::vector<int>& operator[](const Place& place) { return opened_[place]; }
    bool has(const Place& place) const { return opened_.contains(place); }
    std::map<Place, std::vector<int>> keep() { return std::exchange(opened_, {}); }

  private:
    std::map<Place, std::vector<int>> opened_;
};

}  // namespace

struct Plane::Implementation {
    const unsigned worker_count;
    telemetry::Log& log;
    flow::Sink& flows;
    qos::Shapers& shapers;
    routing::EndpointStates& endpoint_states;

    mutable std::mutex mutex;  // over all below
    DescriptorBudget descriptors;
    std::map<Place, std::vector<int>> inherited;
    std::map<Place, std::vector<int>> listeners;  // by place, one or more for each worker; the workers close them
    std::unordered_map<std::string, std::shared_ptr<ServiceState>> states;
    std::map<std::tuple<std::string, SocketAddress, std::string>, std::weak_ptr<EndpointRuntime>> endpoints;
    std::vector<ServiceViewPointer> views;
    SnapshotPointer snapshot;
    Resolution resolution;
    bool accepting = true;
    TimePoint measured = Clock::now();
    std::vector<std::unique_ptr<Worker>> workers;  // last: they end before what they use

    Result<void> open_listeners(const Snapshot& wanted, OpenedSockets& opened);
    void refresh_listeners() const;
    std::shared_ptr<ServiceState> state_of(const std::string& name);
    std::shared_ptr<PathState> path_of(ServiceState& state, const std::string& path);
    std::shared_ptr<EndpointRuntime> endpoint_of(const Service& service, ServiceState& state, const Endpoint& endpoint,
                                                 const SocketAddress& address, const std::string& path);
    ServiceViewPointer make_view(const SnapshotPointer& from, const Service& service, const routing::Shares* shares);
    void start_workers(const StreamSettings& settings);
    void publish();
    telemetry::ServiceStatus service_status(const ServiceView& view) const;
    void add_counters(const ServiceState& state, telemetry::ServiceStatus& status) const;
    std::vector<std::string> notes() const;
};

namespace {

// Shares of another resolution are not this view's: others will come.
std::shared_ptr<const routing::Selector> selector_of(const ServiceView& view, const routing::Shares* shares) {
    if (shares && shares->of.size() != view.candidates.size()) shares = nullptr;
    const Routing& routing = view.service->routing;
    return std::make_shared<const routing::Selector>(routing.policy, routing.seed, view.candidates, shares);
}

}  // namespace

// --- building views ------------------------------------------------------------------------------------------------

std::shared_ptr<ServiceState> Plane::Implementation::state_of(const std::string& name) {
    auto& state = states[name];
    if (!state) state = std::make_shared<ServiceState>(name, worker_count);
    return state;
}

std::shared_ptr<PathState> Plane::Implementation::path_of(ServiceState& state, const std::string& path) {
    std::lock_guard lock(state.mutex);
    auto& found = state.paths[path];
    if (!found) found = std::make_shared<PathState>(path, worker_count);
    return found;
}

std::shared_ptr<EndpointRuntime> Plane::Implementation::endpoint_of(const Service& service, ServiceState& state,
                                                                    const Endpoint& endpoint,
                                                                    const SocketAddress& address,
                                                                    const std::string& path) {
    auto origin =
        std::make_shared<const flow::Origin>(flow::Origin{.service = service.name,
                                                          .path = path,
                                                          .endpoint = to_string(endpoint.address),
                                                          .protocol = service.protocol,
                                                          .priority = priority_of(service, snapshot->settings.qos),
                                                          .policy = service.routing.policy});
    std::weak_ptr<EndpointRuntime>& known = endpoints[{service.name, address, path}];
    std::shared_ptr<EndpointRuntime> runtime = known.lock();
    const Egress egress = snapshot->egress(path, address.ip);
    const bool same = runtime && runtime->egress == egress && runtime->origin->endpoint == origin->endpoint &&
                      runtime->origin->policy == origin->policy && runtime->origin->priority == origin->priority &&
                      runtime->origin->protocol == origin->protocol;
    if (same) return runtime;
    auto fresh = std::make_shared<EndpointRuntime>();
    fresh->origin = std::move(origin);
    fresh->address = address;
    fresh->egress = egress;
    fresh->path = path_of(state, path);
    fresh->state = endpoint_states.of(service.name, address, path);
    known = fresh;
    return fresh;
}

ServiceViewPointer Plane::Implementation::make_view(const SnapshotPointer& from, const Service& service,
                                                    const routing::Shares* shares) {
    auto state = state_of(service.name);
    auto view = std::make_shared<ServiceView>();
    view->snapshot = from;
    view->service = &service;
    view->settings = &from->settings;
    view->state = state;
    view->access = AccessList(service.access);
    view->no_path = path_of(*state, "");
    view->no_origin =
        std::make_shared<const flow::Origin>(flow::Origin{.service = service.name,
                                                          .path = {},
                                                          .endpoint = {},
                                                          .protocol = service.protocol,
                                                          .priority = priority_of(service, snapshot->settings.qos),
                                                          .policy = service.routing.policy});
    view->idle_timeout = idle_timeout_of(service, from->settings.stream);
    const QosSettings& qos = from->settings.qos;
    view->treatments = treatments_of(service, qos);
    view->measures = from->settings.multicloud.enabled;
    view->marks = qos.enabled;
    view->heeds = qos.enabled && heeds_marks(service.qos);
    if (!qos.enabled) view->treatments.fill({priority_of(service, qos), 0});
    view->shaped_up = qos::place_in(shapers, true, state->shaped_up, service.qos, qos);
    view->shaped_down = qos::place_in(shapers, false, state->shaped_down, service.qos, qos);
    for (const auto& [endpoint, address, path] : resolved_endpoints(service, resolution, from->path_table)) {
        view->endpoints.push_back(endpoint_of(service, *state, *endpoint, address, path));
        view->configured.push_back(endpoint);
        view->candidates.push_back({to_string(address), endpoint->weight, view->endpoints.back()->state.get()});
    }
    view->selector = selector_of(*view, shares);
    return view;
}

// --- listeners -----------------------------------------------------------------------------------------------------

Result<void> Plane::Implementation::open_listeners(const Snapshot& wanted, OpenedSockets& opened) {
    for (const Service& service : wanted.services) {
        const Place place = place_of(service);
        if (listeners.contains(place) || opened.has(place)) continue;
        if (const auto found = inherited.find(place); found != inherited.end()) {
            opened[place] = std::move(found->second);
            inherited.erase(found);
        } else if (auto free = check_free(service); !free) {
            return free;
        }
        // A worker more than before has sockets of its own; sockets too many are shared out, since closing one would
        // reset the connections in its queue.
        while (opened[place].size() < worker_count) {
            Result<int> descriptor = open_listener(service);
            if (!descriptor) return Error{descriptor.error()};
            opened[place].push_back(*descriptor);
        }
    }
    return {};
}

// Also of sockets that an earlier snapshot opened, or another process.
void Plane::Implementation::refresh_listeners() const {
    for (const Service& service : snapshot->services)
        if (const auto found = listeners.find(place_of(service)); found != listeners.end())
            for (const int descriptor : found->second)
                refresh_listener(descriptor, service, snapshot->settings.qos);
}

// --- taking over a snapshot ----------------------------------------------------------------------------------------

void Plane::Implementation::start_workers(const StreamSettings& settings) {
    for (unsigned index = static_cast<unsigned>(workers.size()); index < worker_count; ++index) {
        workers.push_back(std::make_unique<Worker>(index, settings, log, descriptors, shapers, flows));
        shapers.attend(index, [worker = workers.back().get()] { worker->wake(); });
    }
}

// Hands `views` and `listeners` to the workers. When it returns, all of them work by it.
void Plane::Implementation::publish() {
    std::map<Place, ServiceViewPointer> by_place;
    for (const ServiceViewPointer& view : views) {
        by_place[place_of(*view->service)] = view;
        view->state->new_connections.configure(view->service->limits.new_connections);
    }
    for (const auto& worker : workers) {
        WorkerPlan plan{.views = views,
                        .listeners = {},
                        .settings = snapshot->settings.stream,
                        .drain_timeout = snapshot->settings.drain_timeout};
        const size_t index = static_cast<size_t>(&worker - workers.data());
        if (accepting)
            for (const auto& [place, descriptors_here] : listeners)
                for (size_t i = index; i < descriptors_here.size(); i += workers.size())
                    plan.listeners.push_back({descriptors_here[i], by_place.at(place)});
        worker->run_on([&] { worker->apply(plan); });
    }
}

Plane::Plane(unsigned workers, telemetry::Log& log, flow::Sink& flows, qos::Shapers& shapers,
             routing::EndpointStates& endpoint_states, const std::vector<ListeningSocket>& inherited)
    : implementation_(new Implementation{.worker_count = std::max(workers, 1U),
                                         .log = log,
                                         .flows = flows,
                                         .shapers = shapers,
                                         .endpoint_states = endpoint_states}) {
    for (const ListeningSocket& socket : inherited) {
        fcntl(socket.descriptor, F_SETFD, FD_CLOEXEC);
        fcntl(socket.descriptor, F_SETFL, fcntl(socket.descriptor, F_GETFL) | O_NONBLOCK);
        implementation_->inherited[{socket.protocol, socket.address}].push_back(socket.descriptor);
    }
}

Plane::~Plane() {
    for (unsigned desk = 0; desk < implementation_->worker_count; ++desk)
        implementation_->shapers.attend(desk, nullptr);
    for (const auto& [place, descriptors] : implementation_->inherited)
        for (const int descriptor : descriptors)
            close(descriptor);
}

Result<void> Plane::apply(SnapshotPointer snapshot, const Resolution& resolution,
                          const routing::SharesByService& shares) {
    Implementation& plane = *implementation_;
    std::lock_guard lock(plane.mutex);
    OpenedSockets opened;
    if (plane.accepting)
        if (auto result = plane.open_listeners(*snapshot, opened); !result) return result;

    plane.snapshot = std::move(snapshot);
    plane.resolution = resolution;
    plane.start_workers(plane.snapshot->settings.stream);
    plane.views.clear();
    std::set<Place> wanted;
    for (const Service& service : plane.snapshot->services) {
        const auto of = shares.find(service.name);
        plane.views.push_back(plane.make_view(plane.snapshot, service, of == shares.end() ? nullptr : &of->second));
        wanted.insert(place_of(service));
    }
    for (auto& [place, descriptors] : opened.keep())
        plane.listeners[place] = std::move(descriptors);
    std::erase_if(plane.listeners, [&](const auto& entry) { return !wanted.contains(entry.first); });
    plane.refresh_listeners();
    std::erase_if(plane.endpoints, [](const auto& entry) { return entry.second.expired(); });
    plane.publish();
    for (const auto& [place, descriptors] : std::exchange(plane.inherited, {}))
        for (const int descriptor : descriptors)
            close(descriptor);
    return {};
}

void Plane::steer(const routing::SharesByService& shares, const DecisionsByService& decisions) {
    const Implementation& plane = *implementation_;
    std::lock_guard lock(plane.mutex);
    std::vector<std::pair<const ServiceView*, std::shared_ptr<const routing::Selector>>> next;
    for (const ServiceViewPointer& view : plane.views)
        if (const auto of = shares.find(view->service->name); of != shares.end())
            next.emplace_back(view.get(), selector_of(*view, &of->second));
    std::vector<std::pair<const ServiceState*, DecisionPointer>> why;
    for (const auto& [service, decision] : decisions)
        if (const auto state = plane.states.find(service); state != plane.states.end())
            why.emplace_back(state->second.get(), decision);
    if (next.empty() && why.empty()) return;
    for (const auto& worker : plane.workers)
        worker->run_on([&] {
            for (const auto& [view, selector] : next)
                worker->steer(*view->state, selector);
            for (const auto& [state, decision] : why)
                worker->explain(*state, decision);
        });
}

void Plane::endpoint_down(const std::string& service, const SocketAddress& address, const std::string& path) {
    const Implementation& plane = *implementation_;
    std::lock_guard lock(plane.mutex);
    const auto state = plane.states.find(service);
    const auto known = plane.endpoints.find({service, address, path});
    if (state == plane.states.end() || known == plane.endpoints.end()) return;
    const std::shared_ptr<EndpointRuntime> endpoint = known->second.lock();
    if (!endpoint) return;
    for (const auto& worker : plane.workers)
        worker->run_on([&] { worker->endpoint_down(*state->second, *endpoint); });
}

// --- the end -------------------------------------------------------------------------------------------------------

void Plane::stop_accepting(bool handed_over) {
    Implementation& plane = *implementation_;
    std::lock_guard lock(plane.mutex);
    plane.accepting = false;
    for (const auto& worker : plane.workers)
        worker->run_on([&] { worker->stop_accepting(handed_over); });
    plane.listeners.clear();
}

uint64_t Plane::active_connections() const {
    const Implementation& plane = *implementation_;
    std::lock_guard lock(plane.mutex);
    uint64_t active = 0;
    for (const auto& worker : plane.workers)
        active += worker->status().active_connections;
    return active;
}

void Plane::end_all(Verdict reason) {
    Implementation& plane = *implementation_;
    std::lock_guard lock(plane.mutex);
    for (const auto& worker : plane.workers)
        worker->run_on([&] { worker->end_all(reason); });
}

std::vector<ListeningSocket> Plane::listeners() const {
    const Implementation& plane = *implementation_;
    std::lock_guard lock(plane.mutex);
    std::vector<ListeningSocket> result;
    for (const auto& [place, descriptors] : plane.listeners)
        for (const int descriptor : descriptors)
            result.push_back({descriptor, place.protocol, place.address});
    return result;
}

// --- what it tells -------------------------------------------------------------------------------------------------

void Plane::Implementation::add_counters(const ServiceState& state, telemetry::ServiceStatus& status) const {
    status.active_connections = state.active.load(std::memory_order_relaxed);
    for (const ServiceSlot& slot : state.slots) {
        for (size_t i = 0; i < verdict_count; ++i)
            status.dropped[i] += slot.dropped[i].get();
        status.failovers += slot.failovers.get();
        status.received_packets += slot.received_datagrams.get();
        status.sent_packets += slot.sent_datagrams.get();
        status.duration += slot.duration.values();
    }
    std::lock_guard lock(state.mutex);
    for (const auto& [name, path] : state.paths) {
        telemetry::PathCounters counters{.path = name};
        for (const PathSlot& slot : path->slots) {
            counters.received_bytes += slot.received_bytes.get();
            counters.sent_bytes += slot.sent_bytes.get();
            counters.decisions += slot.decisions.get();
            for (size_t i = 0; i < verdict_count; ++i)
                counters.ended[i] += slot.ended[i].get();
            counters.connect_latency += slot.connect_latency.values();
        }
        status.paths.push_back(std::move(counters));
    }
}

telemetry::ServiceStatus Plane::Implementation::service_status(const ServiceView& view) const {
    const Service& service = *view.service;
    telemetry::ServiceStatus status{.name = service.name,
                                    .protocol = service.protocol,
                                    .listen = service.listen,
                                    .priority = priority_of(service, snapshot->settings.qos),
                                    .listening = accepting};
    add_counters(*view.state, status);
    if (view.settings->qos.enabled)
        status.qos = telemetry::shown(qos_classes(*view.state), service.qos, view.own().priority);
    for (size_t i = 0; i < view.endpoints.size(); ++i) {
        const EndpointRuntime& endpoint = *view.endpoints[i];
        const int error = endpoint.last_error.load(std::memory_order_relaxed);
        const bool up = endpoint.state->up();
        status.endpoints.push_back({.address = endpoint.origin->endpoint,
                                    .resolved = to_string(endpoint.address),
                                    .path = endpoint.origin->path,
                                    .weight = view.configured[i]->weight,
                                    .up = up,
                                    .draining = endpoint.state->draining(),
                                    .active_connections = endpoint.state->active.load(std::memory_order_relaxed),
                                    .last_error = !up && error ? strerror(error) : ""});
    }
    for (const Endpoint& endpoint : service.endpoints) {
        const bool resolved =
            std::find(view.configured.begin(), view.configured.end(), &endpoint) != view.configured.end();
        if (!resolved && !endpoint.address.is_literal())
            status.endpoints.push_back({.address = to_string(endpoint.address),
                                        .resolved = {},
                                        .path = endpoint.path,
                                        .weight = endpoint.weight,
                                        .up = false,
                                        .last_error = "the name has not resolved"});
    }
    return status;
}

std::vector<std::string> Plane::Implementation::notes() const {
    std::vector<std::string> notes;
    const bool starved = std::any_of(workers.begin(), workers.end(), [](const auto& w) { return w->pipes_starved(); });
    if (starved)
        notes.emplace_back(
            "splice: no pipe of a useful size was to be had, bulk is copied; raise fs.pipe-user-pages-soft or "
            "LimitNOFILE");
    if (descriptors.used() * 10 > descriptors.limit() * 9)
        notes.push_back(fmt::format("descriptors: {} of {} in use; raise LimitNOFILE (ulimit -n)", descriptors.used(),
                                    descriptors.limit()));
    if (snapshot && !snapshot->settings.qos.enabled) {
        const auto resting = std::count_if(snapshot->services.begin(), snapshot->services.end(),
                                           [](const Service& service) { return service.qos != ServiceQos{}; });
        if (resting > 0) notes.push_back(telemetry::resting_qos_note(static_cast<size_t>(resting)));
    }
    return notes;
}

void Plane::measure(TimePoint now) {
    Implementation& plane = *implementation_;
    std::lock_guard lock(plane.mutex);
    const Duration elapsed = now - std::exchange(plane.measured, now);
    if (elapsed <= Duration(0)) return;
    for (const ServiceViewPointer& view : plane.views)
        stream::measure(*view->state, elapsed);
}

std::vector<telemetry::PathTraffic> Plane::traffic() const {
    const Implementation& plane = *implementation_;
    std::lock_guard lock(plane.mutex);
    std::vector<telemetry::PathTraffic> traffic;
    for (const auto& [service, state] : plane.states) {
        std::lock_guard paths_lock(state->mutex);
        for (const auto& [path, counters] : state->paths) {
            telemetry::PathTraffic& sum = traffic.emplace_back(telemetry::PathTraffic{service, path});
            for (const PathSlot& slot : counters->slots) {
                sum.received_bytes += slot.received_bytes.get();
                sum.sent_bytes += slot.sent_bytes.get();
            }
        }
    }
    return traffic;
}

Status Plane::status() const {
    const Implementation& plane = *implementation_;
    std::lock_guard lock(plane.mutex);
    Status status{.services = {},
                  .workers = {},
                  .descriptors_used = plane.descriptors.used(),
                  .descriptors_limit = plane.descriptors.limit(),
                  .accepting = plane.accepting,
                  .notes = plane.notes()};
    std::set<std::string_view> current;
    for (const ServiceViewPointer& view : plane.views) {
        status.services.push_back(plane.service_status(*view));
        current.insert(view->service->name);
    }
    // Removed services go on being counted, so that counters never fall.
    for (const auto& [name, state] : plane.states) {
        if (current.contains(name)) continue;
        telemetry::ServiceStatus removed{
            .name = name, .listen = {}, .plane_reason = "removed by a reload", .listening = false};
        plane.add_counters(*state, removed);
        status.services.push_back(std::move(removed));
    }
    for (const auto& worker : plane.workers)
        status.workers.push_back(worker->status());
    return status;
}

std::vector<flow::Record> Plane::active_flows(const flow::Query& query) const {
    const Implementation& plane = *implementation_;
    std::lock_guard lock(plane.mutex);
    std::vector<flow::Record> records;
    for (const auto& worker : plane.workers)
        worker->run_on([&] { worker->collect_flows(query, records); });
    return records;
}

}  // namespace marchproxy::stream
