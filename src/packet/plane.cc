#include "packet/plane.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>

#include "packet/maps.h"
#include "packet/plane_state.h"
#include "packet/reconcile.h"

namespace marchproxy::packet {

namespace {

constexpr Duration look_after_interval = std::chrono::seconds(1);
constexpr Duration soon = std::chrono::milliseconds(100);

// An interface that is gone often comes back, as when its driver is loaded anew, and its flows go on then.
constexpr Duration until_given_up = std::chrono::seconds(5);
constexpr Duration until_tried_again = std::chrono::seconds(10);

}  // namespace

// --- taking over ---------------------------------------------------------------------------------------------------

void Plane::Implementation::apply() {
    if (!prepared) return;
    count_queues();
    waiting_.clear();
    current_ = std::move(*prepared);
    prepared.reset();
    assign_again_at_ = TimePoint::max();
    keep_decisions();
    if (!current_->wanted) return end();
    settle();
    if (!paused) interfaces_->attach(*attacher_, *programs_);
    follow_queues();
}

// Brings the maps to where `current_` wants them; called again until it succeeds.
void Plane::Implementation::settle() {
    if (paused) return;
    failure_.clear();
    if (planned_over_ != written_) {
        auto planned = plan(*current_);
        if (!planned.ok())
            failure_ = planned.error();
        else
            planned_ = std::move(*planned);
    }
    if (failure_.empty())
        if (const auto written = write(planned_); !written.ok()) failure_ = written.error();
    if (!failure_.empty()) log_.limited(LogLevel::error, "packet-settle", "packet plane", {{"error", failure_}});
    neighbours_.turn(Clock::now());
}

// A service or endpoint that the plan has and the maps have not is new: nothing of an earlier owner is to be its.
Result<void> Plane::Implementation::clear_newcomers(const Plan& plan) {
    for (const auto& [index, record] : plan.services) {
        if (held_.services.contains(index)) continue;
        counts_.forget_service(index);
        if (auto cleared = programs_->clear_service(index); !cleared.ok()) return cleared;
    }
    for (const auto& [index, record] : plan.endpoints) {
        if (held_.endpoints.contains(index)) continue;
        counts_.forget_endpoint(index);
        if (auto cleared = programs_->clear_endpoint(index); !cleared.ok()) return cleared;
    }
    return {};
}

// The book first: what the maps name, it has to know, whenever the process ends.
Result<void> Plane::Implementation::write(Planned planned) {
    indexes_ = std::move(planned.indexes);
    if (auto kept = pins_->write_book(indexes_.to_text()); !kept.ok()) return kept;
    if (auto cleared = clear_newcomers(planned.plan); !cleared.ok()) return cleared;
    Maps maps(*programs_);
    auto written = packet::apply(reconcile(held_, planned.plan), maps, held_);
    ++written_;
    for (std::string& note : planned.notes)
        if (std::find(notes_.begin(), notes_.end(), note) == notes_.end()) notes_.push_back(std::move(note));
    name_origins();
    count_services();
    std::set<IpAddress> endpoints;
    for (const auto& [index, key] : indexes_.endpoints.owners()) {
        const auto record = held_.endpoints.find(index);
        const IpAddress gateway = record == held_.endpoints.end() ? IpAddress{} : from_abi(record->second.gateway);
        endpoints.insert(gateway.is_unspecified() ? key.address.ip : gateway);
    }
    neighbours_.keep(std::move(endpoints));
    return written;
}

namespace {

ServiceKey key_of(const Service& service) {
    return {service.name, service.protocol, service.listen, forwarding_of(service)};
}

// The number of an owner; 0: it has none.
template <class Key>
uint32_t number_of(const Book<Key>& book, const Key& key) {
    return book.find(key).value_or(0);
}

}  // namespace

void Plane::Implementation::name_origins() {
    const Snapshot& snapshot = *current_->snapshot;
    for (size_t i = 0; i < snapshot.services.size(); ++i) {
        if (!current_->carries(i)) continue;
        const Service& service = snapshot.services[i];
        const uint32_t index = number_of(indexes_.services, key_of(service));
        flow::Origin origin{.service = service.name,
                            .path = {},
                            .endpoint = {},
                            .protocol = service.protocol,
                            .priority = priority_of(service, snapshot.settings.qos),
                            .policy = service.routing.policy};
        origins_.set(index, 0, origin);
        for (const auto& [endpoint, address, path] :
             resolved_endpoints(service, current_->resolution, snapshot.path_table)) {
            origin.path = path;
            origin.endpoint = to_string(endpoint->address);
            const uint32_t number = number_of(indexes_.endpoints, EndpointKey{address, service.protocol});
            if (number != 0) origins_.set(index, number, origin);
        }
    }
    // Those that an earlier process had and a reload, or the start, took away: their flows may live still.
    for (const auto& [index, key] : indexes_.services.owners())
        if (!origins_.find_exactly(index, 0)) origins_.set(index, 0, {.service = key.name, .protocol = key.protocol});
    origins_.keep_only(indexes_);
}

void Plane::Implementation::count_services() {
    std::vector<CountedService> counted;
    for (const auto& [index, key] : indexes_.services.owners())
        counted.push_back({.name = key.name,
                           .index = index,
                           .paths = origins_.paths_of(index),
                           .has_qos = held_.qos.contains(index) && !held_.qos.at(index).queues});
    std::set<uint32_t> others;  // of an earlier process: nobody here knows whose they were
    for (const auto& [index, key] : indexes_.endpoints.owners())
        others.insert(index);
    for (const CountedService& service : counted)
        for (const auto& [index, path] : service.paths)
            others.erase(index);
    counts_.configure(*programs_, std::move(counted), std::move(others));
}

// Leaves what is pinned.
void Plane::Implementation::unload() {
    end_queues();
    interfaces_.reset();
    watch_.reset();
    programs_.reset();
    attacher_.reset();
    pins_.reset();
    pin_lock_.reset();
    unasked_.clear();
    held_ = {};
    ++written_;
}

// No service is the packet plane's: nothing of it is to stay in the packets' way. Once at start too, as an earlier
// process may have left something.
void Plane::Implementation::end() {
    if (paused || (!programs_ && cleared_leftovers_)) return;
    cleared_leftovers_ = true;
    unload();
    failure_.clear();
    notes_.clear();
    counts_.clear_configuration();
    neighbours_.keep({});
    const PacketSettings& settings = current_->snapshot->settings.packet;
    const std::string& pin = settings.pin;
    if (::access(pin.c_str(), W_OK) != 0) return;
    // Who configures no interface has nothing to do with the packet plane; what is there may be another's.
    if (settings.interfaces.empty()) {
        if (PinnedMaps(pin).any())
            notes_.push_back(
                fmt::format("the packet plane of another process, or an earlier one, works from {}; "
                            "`marchproxy-l3l4 detach` removes it",
                            pin));
        return;
    }
    const auto removed = Plane::remove(pin);
    if (!removed.ok())
        return log_.error("packet plane: what another process, or an earlier one, left stays",
                          {{"error", removed.error()}});
    if (removed->interfaces > 0)
        log_.info("packet plane ended: no service is in it", {{"interfaces", removed->interfaces}});
    for (const std::string& left : removed->left)
        log_.warn("packet plane ended, and the machine is not as it was", {{"why", left}});
}

void Plane::Implementation::let_go() {
    paused = true;
    end_queues();  // the other process needs their places
    pin_lock_.reset();
}

// The other process may have changed everything before it failed: this one takes over from it as a new one would.
void Plane::Implementation::resume() {
    if (!std::exchange(paused, false) || !programs_ || !current_) return;
    unload();
    const Subject before = *current_;
    const auto again = prepare(before.snapshot, before.resolution, routing::SharesByService(shares_));
    if (again.ok()) return apply();
    failure_ = again.error();
    log_.error("packet plane not taken back", {{"error", again.error()}});
}

// --- turns ---------------------------------------------------------------------------------------------------------

std::vector<int> Plane::Implementation::descriptors() const {
    if (!works()) return {};
    return {watch_->descriptor(), programs_->neighbours_descriptor()};
}

TimePoint Plane::Implementation::due() const {
    if (!works()) return TimePoint::max();
    return std::min({flows_live_ ? sweeper_.due() : TimePoint::max(), look_after_at_, neighbours_.due()});
}

bool Plane::Implementation::turn() {
    if (!works()) return false;
    const TimePoint now = Clock::now();
    follow_kernel();
    sweep(now);
    bool moved = false;
    if (now >= look_after_at_) {
        moved = addresses_moved();
        look_after(now);
        moved |= attachment_moved(now);
    }
    moved |= std::exchange(assign_for_queues_, false);
    neighbours_.turn(now);
    return moved;
}

void Plane::Implementation::follow_kernel() {
    const Changes changes = watch_->read();
    if (changes.links || changes.everything) tell_vlans();
    if (changes.settings || changes.everything) keep_route_lookups();
    if (changes.any()) programs_->routes_changed();
    if (changes.links || changes.addresses || changes.routes || changes.everything) {
        network_moved_ = true;
        look_after_at_ = std::min(look_after_at_, Clock::now() + soon);
    }
    if (!changes.interfaces.empty()) interfaces_->attach(*attacher_, *programs_);
    const auto taken = programs_->take_neighbours([this](abi::neighbour_report report) {
        // Of a VLAN that the machine is not in, it needs to know nobody.
        report.interface = device_of(watch_->vlans(), report.interface, report.tag);
        if (report.interface != 0) neighbours_.take(report);
    });
    if (!taken.ok()) log_.limited(LogLevel::error, "packet-neighbours", taken.error());
}

// Before the programs ask for routes anew, which may lead by new ones.
void Plane::Implementation::tell_vlans() {
    if (const auto told = programs_->set_vlans(records_of(watch_->vlans())); !told.ok())
        log_.limited(LogLevel::error, "packet-vlans", told.error());
}

// Others may set back what the programs need: `sysctl net.ipv4.ip_forward=0` does so for every interface, and the end
// of another packet plane in this namespace for lo.
void Plane::Implementation::keep_route_lookups() {
    const auto allowed = allow_route_lookups(pins_->directory(), routes_of_ipv6_);
    unasked_ = allowed.ok() ? "" : allowed.error();
    if (!allowed.ok()) log_.limited(LogLevel::error, "packet-lookups", allowed.error());
}

// Whether the machine's addresses, or those by which it speaks to endpoints, are others than the plan has. Asking costs
// some microseconds an endpoint: not with each message of a routing daemon, but soon after.
bool Plane::Implementation::addresses_moved() {
    if (!std::exchange(network_moved_, false)) return false;
    neighbours_.routes_changed();
    interfaces_->tell_addresses(*programs_);
    Subject now{.snapshot = current_->snapshot,
                .resolution = current_->resolution,
                .assignments = {},
                .sources = {},
                .own = own_addresses()};
    find_sources(now);
    return now.own != current_->own || now.sources.by_next_hop != current_->sources.by_next_hop;
}

// Whether others are to carry the services: an interface has come, or all are gone. Asked for again while it cannot be
// done, as when the stream plane cannot listen at an address that no machine has.
bool Plane::Implementation::attachment_moved(TimePoint now) {
    const bool attached = why_unattached().empty();
    if (attached == current_->attached) {
        assign_again_at_ = TimePoint::max();
        was_attached_ |= attached;
        return false;
    }
    if (assign_again_at_ == TimePoint::max()) assign_again_at_ = now + (was_attached_ ? until_given_up : Duration{});
    if (now < assign_again_at_) return false;
    assign_again_at_ = now + until_tried_again;
    was_attached_ = attached;
    return true;
}

void Plane::Implementation::take_report(const abi::flow_report& report, std::vector<flow::Record>& ended,
                                        std::vector<flow::Record>* listed) {
    flow::Record record = origins_.record_of(report, indexes_, std::chrono::system_clock::now());
    if (const auto known = decisions_.find(record.origin->service); known != decisions_.end())
        record.decision = known->second.at(record.start);
    if (!report.ended) {
        if (listed) listed->push_back(std::move(record));
        return;
    }
    if (!record.origin->service.empty())
        counts_.flow_ended(record.origin->service, record.origin->path, record.end_reason, record.duration);
    ended.push_back(std::move(record));
}

void Plane::Implementation::sweep(TimePoint now) {
    if (!flows_live_) return;
    std::vector<flow::Record> ended;
    const auto swept =
        sweeper_.turn(*programs_, now, [&](const abi::flow_report& report) { take_report(report, ended, nullptr); });
    if (!swept.ok()) log_.limited(LogLevel::error, "packet-sweep", swept.error());
    if (!ended.empty()) flows_.finished(ended);
}

void Plane::Implementation::look_after(TimePoint now) {
    look_after_at_ = now + look_after_interval;
    counts_.read(*programs_);
    count_queues();
    counts_.measure(now);
    if (!failure_.empty()) settle();
    if (!interfaces_->complete(*attacher_)) interfaces_->attach(*attacher_, *programs_);
    follow_queues();
    release_numbers();
}

// Those that rest and that no flow carries any more: their records go with the next plan. Of our own addresses it is
// not counted who carries them; they rest until nobody carries any.
void Plane::Implementation::release_numbers() {
    bool released = false;
    flows_live_ = false;
    for (const auto& [index, key] : indexes_.services.owners())
        flows_live_ |= counts_.live_of_service(index) > 0;
    for (const auto& [index, key] : indexes_.services.resting())
        if (counts_.live_of_service(index) == 0) released |= indexes_.services.release(index);
    for (const auto& [index, key] : indexes_.endpoints.resting())
        if (counts_.live_of_endpoint(index) == 0) released |= indexes_.endpoints.release(index);
    for (const auto& [index, address] : indexes_.sources.resting())
        if (!flows_live_) released |= indexes_.sources.release(index);
    if (!released) return;
    ++written_;
    settle();
}

// Of services that are carried here; the others' connections know their own.
void Plane::Implementation::explain(const DecisionsByService& decisions) {
    if (!current_) return;
    const WallTime now = std::chrono::system_clock::now();
    const auto& services = current_->snapshot->services;
    for (size_t i = 0; i < services.size(); ++i) {
        if (!current_->assignments.services[i].packet) continue;
        if (const auto of = decisions.find(services[i].name); of != decisions.end())
            decisions_[of->first].add(now, of->second);
    }
}

void Plane::Implementation::keep_decisions() {
    std::set<std::string_view> names;
    for (const Service& service : current_->snapshot->services)
        names.insert(service.name);
    std::erase_if(decisions_, [&](const auto& of) { return !names.contains(of.first); });
    if (current_->snapshot->settings.multicloud.enabled) return;
    for (auto& [service, log] : decisions_)
        log.add(std::chrono::system_clock::now(), nullptr);
}

void Plane::Implementation::steer(const routing::SharesByService& shares) {
    for (const auto& [service, of] : shares)
        shares_[service] = of;
    if (!works()) return;
    ++written_;
    settle();
}

// --- the interface -------------------------------------------------------------------------------------------------

Plane::Plane(telemetry::Log& log, flow::Sink& flows, qos::Shapers& shapers, routing::EndpointStates& endpoint_states,
             unsigned desk)
    : implementation_(std::make_unique<Implementation>(log, flows, shapers, endpoint_states, desk)) {}
Plane::~Plane() = default;

Result<void> Plane::prepare(SnapshotPointer snapshot, const Resolution& resolution,
                            const routing::SharesByService& shares) {
    std::lock_guard lock(implementation_->mutex);
    return implementation_->prepare(std::move(snapshot), resolution, shares);
}

bool Plane::carries(const std::string& service) const {
    std::lock_guard lock(implementation_->mutex);
    const auto& prepared = implementation_->prepared;
    const Assignment* assignment = prepared ? prepared->assignment_of(service) : nullptr;
    return assignment && assignment->packet;
}

void Plane::apply() {
    std::lock_guard lock(implementation_->mutex);
    implementation_->apply();
}

std::vector<int> Plane::descriptors() const {
    std::lock_guard lock(implementation_->mutex);
    return implementation_->descriptors();
}

TimePoint Plane::due() const {
    std::lock_guard lock(implementation_->mutex);
    return implementation_->due();
}

bool Plane::turn() {
    std::lock_guard lock(implementation_->mutex);
    return implementation_->turn();
}

void Plane::pause(bool paused) {
    std::lock_guard lock(implementation_->mutex);
    if (paused)
        implementation_->let_go();
    else
        implementation_->resume();
}

void Plane::steer(const routing::SharesByService& shares) {
    std::lock_guard lock(implementation_->mutex);
    implementation_->steer(shares);
}

void Plane::explain(const DecisionsByService& decisions) {
    std::lock_guard lock(implementation_->mutex);
    implementation_->explain(decisions);
}

std::vector<telemetry::PathTraffic> Plane::traffic() const {
    std::lock_guard lock(implementation_->mutex);
    return implementation_->traffic();
}

Status Plane::status() const {
    std::lock_guard lock(implementation_->mutex);
    return implementation_->status();
}

std::string Plane::reason(const std::string& service) const {
    std::lock_guard lock(implementation_->mutex);
    return implementation_->reason(service);
}

std::vector<flow::Record> Plane::active_flows(const flow::Query& query) const {
    return implementation_->active_flows(query);
}

Result<Plane::Removed> Plane::remove(const std::string& pin) {
    if (::access(pin.c_str(), F_OK) != 0) return Removed{};
    auto attacher = Attacher::open(pin);
    if (!attacher.ok()) return Error{attacher.error()};
    const auto lock = PinLock::take(pin);
    if (!lock.ok()) return Error{lock.error()};
    Removed removed{.interfaces = attacher->detach_all(), .left = {}};
    PinnedMaps(pin).remove();
    removed.left = end_route_lookups(pin);
    ::rmdir((pin + "/links").c_str());
    ::rmdir(pin.c_str());
    return removed;
}

}  // namespace marchproxy::packet
