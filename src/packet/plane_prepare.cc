// The packet plane before it is changed: what it can carry, and what that takes.
#include <fmt/format.h>

#include <algorithm>

#include "packet/capability.h"
#include "packet/plane_state.h"
#include "packet/read_back.h"

namespace marchproxy::packet {

namespace {

bool may_want(const Service& service) {
    return service.plane != PlaneChoice::stream;
}

// Half of what the machine can spare: more for flows would be less for everything else.
uint64_t flows_in_memory(uint64_t wanted, bool ipv6_clients, uint64_t available) {
    constexpr uint64_t step = 1000;
    const uint64_t each = Programs::flow_table_bytes(step * 1000, ipv6_clients) / step;
    return available == 0 ? wanted : std::min(wanted, std::max<uint64_t>(available / 2 / each * 1000, 1000));
}

bool any(const Assignments& assignments) {
    return std::any_of(assignments.services.begin(), assignments.services.end(),
                       [](const Assignment& assignment) { return assignment.packet; });
}

bool ipv6_among(const Snapshot& snapshot, const Assignments& assignments) {
    for (size_t i = 0; i < snapshot.services.size(); ++i)
        if (assignments.services[i].packet && !snapshot.services[i].listen.ip.is_v4()) return true;
    return false;
}

}  // namespace

void Plane::Implementation::Subject::number_services() {
    for (size_t i = 0; i < snapshot->services.size(); ++i)
        numbers.emplace(snapshot->services[i].name, i);
}

const Assignment* Plane::Implementation::Subject::assignment_of(std::string_view service) const {
    const auto found = numbers.find(service);
    return found == numbers.end() ? nullptr : &assignments.services[found->second];
}

// The machine is asked once, and only if somebody may want the answer.
const std::string& Plane::Implementation::why_unavailable() {
    if (!unavailable_) unavailable_ = missing(probe_capabilities());
    return *unavailable_;
}

// The address from which the kernel itself would speak to an endpoint: networks that check sources let it pass.
void Plane::Implementation::find_sources(Subject& subject) const {
    for (const Path& path : subject.snapshot->paths)
        if (path.source) subject.sources.by_path[path.name] = {*path.source};
    for (const Service& service : subject.snapshot->services) {
        if (!may_want(service)) continue;
        for (const Target& target : targets_of(service, subject.resolution, *subject.snapshot)) {
            const IpAddress ip = target.gateway.value_or(target.address.ip);
            if (subject.sources.by_next_hop.contains(ip)) continue;
            const auto hop = find_next_hop(ip);
            if (hop.ok() && !hop->local && hop->source) subject.sources.by_next_hop.emplace(ip, *hop->source);
        }
    }
}

void Plane::Implementation::find_states(Subject& subject) const {
    for (const Service& service : subject.snapshot->services) {
        if (!may_want(service)) continue;
        for (const Target& target : targets_of(service, subject.resolution, *subject.snapshot))
            subject.states[{service.name, target.address}] =
                endpoint_states_.of(service.name, target.address, target.path);
    }
}

Surroundings Plane::Implementation::surroundings_of(const Subject& subject) {
    const Settings& settings = subject.snapshot->settings;
    Surroundings around{.settings = &settings,
                        .resolution = subject.resolution,
                        .sources = subject.sources,
                        .own = subject.own,
                        .snapshot = subject.snapshot.get(),
                        .unavailable = refused_,
                        .no_queues = no_queues_};
    const auto& services = subject.snapshot->services;
    const bool asked = settings.packet.enabled && !settings.packet.interfaces.empty() &&
                       std::any_of(services.begin(), services.end(), may_want);
    if (asked && around.unavailable.empty()) around.unavailable = why_unavailable();
    return around;
}

Result<void> Plane::Implementation::prepare(SnapshotPointer snapshot, const Resolution& resolution,
                                            const routing::SharesByService& shares) {
    shares_ = shares;
    prepared.reset();
    // What was refused is tried again with another snapshot, not whenever a name or a route moves: it takes seconds.
    if (!current_ || current_->snapshot != snapshot) {
        refused_.clear();
        no_queues_.clear();
    }
    Subject next{
        .snapshot = std::move(snapshot), .resolution = resolution, .assignments = {}, .sources = {}, .own = {}};
    const PacketSettings& settings = next.snapshot->settings.packet;
    if (settings.enabled && !settings.interfaces.empty()) {
        next.own = own_addresses();
        find_sources(next);
        find_states(next);
    }
    next.assignments = assign(*next.snapshot, surroundings_of(next));
    const bool loaded_before = programs_.has_value();
    if (any(next.assignments) && next.assignments.errors.empty())
        if (const auto loaded = load(next); !loaded.ok()) {
            log_.error("packet plane not loaded", {{"error", loaded.error()}});
            refused_ = loaded.error();
            next.assignments = assign(*next.snapshot, surroundings_of(next));
        }
    next.wanted = any(next.assignments);
    const std::string unattached = why_unattached();
    next.attached = unattached.empty();
    if (next.wanted && !next.attached) {
        Surroundings around = surroundings_of(next);
        around.unattached = unattached;
        next.assignments = assign(*next.snapshot, around);
    }
    if (!next.assignments.errors.empty()) return Error{fmt::format("{}", fmt::join(next.assignments.errors, "; "))};
    if (next.wanted) {
        auto planned = plan(next);
        if (!planned.ok()) {
            if (!loaded_before) forget_loaded();
            return Error{planned.error()};
        }
        planned_ = std::move(*planned);
        planned_over_ = written_;
    }
    next.number_services();
    prepared = std::move(next);
    return {};
}

// --- loading -------------------------------------------------------------------------------------------------------

Result<void> Plane::Implementation::load(const Subject& subject) {
    const Settings& settings = subject.snapshot->settings;
    const bool ipv6 = ipv6_among(*subject.snapshot, subject.assignments);
    if (programs_) return ipv6 ? serve_ipv6() : Result<void>();

    const PortRange ports = free_ports();
    Capacity capacity;
    capacity.flows = flows_in_memory(settings.packet.max_flows, ipv6, available_memory());
    capacity.ipv6_clients = ipv6;
    capacity.nat_port_first = ports.first;
    capacity.nat_ports = ports.count;
    auto attacher = Attacher::open(settings.packet.pin);
    if (!attacher.ok()) return Error{attacher.error()};
    auto lock = PinLock::take(settings.packet.pin);
    if (!lock.ok()) return Error{lock.error()};
    PinnedMaps pins(settings.packet.pin);
    if (auto allowed = allow_route_lookups(pins.directory(), ipv6); !allowed.ok()) return allowed;
    routes_of_ipv6_ = ipv6;
    const TimePoint begin = Clock::now();
    auto programs = Programs::load(capacity, &pins);
    if (!programs.ok()) return Error{programs.error()};
    pin_lock_ = std::move(*lock);
    attacher_ = std::move(*attacher);
    pins_ = std::move(pins);
    programs_ = std::move(*programs);
    const Capacity& made = programs_->capacity();
    log_.info("packet plane loaded", {{"flows", made.flows},
                                      {"memory_bytes", programs_->table_bytes()},
                                      {"took_over", programs_->took_over()},
                                      {"seconds", std::chrono::duration<double>(Clock::now() - begin).count()}});
    notes_.clear();
    if (made.flows != settings.packet.max_flows)
        notes_.push_back(
            programs_->took_over() && made.flows != capacity.flows
                ? fmt::format("packet.max_flows is {}; the flow table of an earlier process goes on with room for {}; "
                              "`marchproxy-l3l4 detach` and a restart make it anew, and end its flows",
                              settings.packet.max_flows, made.flows)
                : fmt::format("packet.max_flows is {}, which would take more than half of this machine's free memory; "
                              "the flow table has room for {}",
                              settings.packet.max_flows, made.flows));
    // The process before may have had no service with IPv6.
    auto taken = ipv6 ? programs_->make_room_for_ipv6_clients(*pins_) : Result<void>();
    if (taken.ok()) taken = take_over(subject);
    if (!taken.ok()) unload();
    return taken;
}

// The first service with IPv6 comes after others.
Result<void> Plane::Implementation::serve_ipv6() {
    if (auto allowed = allow_route_lookups(pins_->directory(), true); !allowed.ok()) return allowed;
    routes_of_ipv6_ = true;
    return programs_->make_room_for_ipv6_clients(*pins_);
}

// Loaded for nothing: flows of an earlier process stay where they are, and maps made just now go.
void Plane::Implementation::forget_loaded() {
    if (!programs_->took_over()) pins_->remove();
    unload();
}

// What an earlier process left in the maps, and the book to read it with.
Result<void> Plane::Implementation::take_over(const Subject& subject) {
    const Capacity& made = programs_->capacity();
    indexes_ = Indexes::within(made.services, made.endpoints);
    held_ = {};
    ++written_;
    if (programs_->took_over()) {
        auto held = read_back(*programs_);
        if (!held.ok()) return Error{held.error()};
        held_ = std::move(*held);
        const auto text = pins_->read_book();
        auto book =
            text ? Indexes::from_text(*text, made.services, made.endpoints) : Result<Indexes>(Error{"there is none"});
        if (book.ok())
            indexes_ = std::move(*book);
        else
            log_.warn("the packet plane's book of an earlier process is lost; its services are found by address",
                      {{"error", book.error()}});
    }
    interfaces_.emplace(log_, subject.snapshot->settings.packet.interfaces, subject.snapshot->settings.packet.mode);
    auto watch = NetworkWatch::open();
    if (!watch.ok()) return Error{watch.error()};
    watch_ = std::move(*watch);
    tell_vlans();
    keep_route_lookups();  // while loading took seconds nobody watched
    return {};
}

// --- the plan ------------------------------------------------------------------------------------------------------

std::vector<Target> Plane::Implementation::targets_now(const Service& service, const Subject& subject) const {
    std::vector<Target> targets = targets_of(service, subject.resolution, *subject.snapshot);
    for (Target& target : targets)
        if (const auto state = subject.states.find({service.name, target.address}); state != subject.states.end()) {
            target.draining = state->second->draining();
            target.up = state->second->up();
        }
    if (const auto shares = shares_.find(service.name); shares != shares_.end())
        share_out(shares->second, service, subject, targets);
    lose_dead(service, subject, targets);
    return targets;
}

// Whose packets nobody takes any more: datagrams, and connections that the service lets be reset. Where nobody is up,
// all are tried, and nobody is given up.
void Plane::Implementation::lose_dead(const Service& service, const Subject& subject, std::vector<Target>& targets) {
    const auto takes = [](const Target& target) { return target.up && !target.draining && target.weight > 0; };
    if (service.protocol == Protocol::tcp && service.routing.on_down == OnDown::keep) return;
    if (std::none_of(targets.begin(), targets.end(), takes)) return;
    for (Target& target : targets)
        if (const auto state = subject.states.find({service.name, target.address}); state != subject.states.end())
            target.lost = state->second->closed.load() & routing::closed_by_probe;
}

// Of an endpoint that several paths lead to, its shares are one.
void Plane::Implementation::share_out(const routing::Shares& shares, const Service& service, const Subject& subject,
                                      std::vector<Target>& targets) {
    const auto candidates = resolved_endpoints(service, subject.resolution, subject.snapshot->path_table);
    if (candidates.size() != shares.of.size()) return;  // of another resolution: others will come
    std::map<SocketAddress, uint32_t> by_address;
    for (size_t i = 0; i < candidates.size(); ++i)
        by_address[candidates[i].address] += shares.of[i];
    for (Target& target : targets) {
        target.share = by_address[target.address];
        target.up |= !shares.trust_health;
    }
}

Result<Planned> Plane::Implementation::plan(const Subject& subject) {
    PlanInput input{.services = {},
                    .stream = subject.snapshot->settings.stream,
                    .qos = subject.snapshot->settings.qos,
                    .sources = subject.sources,
                    .own = subject.own,
                    .capacity = programs_->capacity(),
                    .cpus = possible_cpus()};
    for (size_t i = 0; i < subject.snapshot->services.size(); ++i) {
        const Service& service = subject.snapshot->services[i];
        if (subject.carries(i))
            input.services.push_back({&service, targets_now(service, subject), access_.of(subject.snapshot, service)});
    }
    return make_plan(input, indexes_, held_);
}

}  // namespace marchproxy::packet
