// Services of the packet plane whose packets wait for their turn.
#include <fmt/format.h>

#include "packet/plane_state.h"
#include "packet/qos_records.h"

namespace marchproxy::packet {

std::map<uint32_t, const Service*> Plane::Implementation::waiting_services() const {
    std::map<uint32_t, const Service*> waiting;
    const Snapshot& snapshot = *current_->snapshot;
    for (size_t i = 0; i < snapshot.services.size(); ++i) {
        const Service& service = snapshot.services[i];
        if (!current_->carries(i) || !needs_queue(service, snapshot.settings.qos)) continue;
        const ServiceKey key{service.name, service.protocol, service.listen, forwarding_of(service)};
        if (const auto number = indexes_.services.find(key)) waiting.emplace(*number, &service);
    }
    return waiting;
}

// Brings the shaper to what services and interfaces need. Where it cannot be had, the next turn() has it decided anew
// who carries the services; what comes meanwhile goes without waiting.
void Plane::Implementation::follow_queues() {
    if (paused || !programs_ || !interfaces_) return;
    std::map<uint32_t, const Service*> waiting = waiting_services();
    if (waiting.empty()) return end_queues();
    std::vector<QueuedInterface> wanted;
    for (const std::string& name : interfaces_->attached())
        wanted.push_back(queued_interface(name));
    if (wanted.empty()) return;
    std::string problem = interfaces_->why_no_queues();
    if (problem.empty() && (!shaper_ || shaper_->interfaces() != wanted)) problem = begin_queues(wanted);
    if (!problem.empty()) end_queues();
    if (shaper_ && waiting != waiting_) {
        shaper_->configure(waiting, current_->snapshot->settings.qos);
        waiting_ = std::move(waiting);
    }
    if (problem == no_queues_) return;
    no_queues_ = problem;
    assign_for_queues_ = true;
    if (!problem.empty()) log_.warn("packets cannot wait for their turns", {{"why", problem}});
}

// Why not; empty: the shaper is there.
std::string Plane::Implementation::begin_queues(const std::vector<QueuedInterface>& interfaces) {
    end_queues();
    auto started = Shaper::start(shapers_, desk_, interfaces);
    if (!started.ok()) return started.error();
    if (const auto told = programs_->set_queues((*started)->places()); !told.ok()) return told.error();
    shaper_ = std::move(*started);
    log_.info("packets wait for their turns",
              {{"sockets", shaper_->places().size()}, {"zero_copy", shaper_->zero_copy()}});
    return {};
}

void Plane::Implementation::end_queues() {
    if (!shaper_) return;
    if (programs_)
        if (const auto told = programs_->set_queues({}); !told.ok())
            log_.limited(LogLevel::error, "packet-queues", told.error());
    shaper_.reset();
    waiting_.clear();
}

void Plane::Implementation::tell_queues(Status& status) const {
    if (!no_queues_.empty()) status.notes.push_back("packet plane: qos: " + no_queues_);
    if (!shaper_) return;
    for (InterfaceStatus& interface : status.interfaces)
        if (interface.problem.empty()) interface.queues = shaper_->zero_copy() ? "AF_XDP zero-copy" : "AF_XDP copy";
    if (const uint64_t lost = shaper_->lost())
        status.notes.push_back(fmt::format(
            "packet plane: qos: {} packets found no room where they were to wait, or could not be sent", lost));
    if (const std::string refused = shaper_->refused(); !refused.empty())
        status.notes.push_back("packet plane: qos: packets cannot leave: " + refused);
}

// The counters of what waits, under the services' names.
void Plane::Implementation::count_queues() const {
    if (!shaper_) return;
    for (const auto& [number, service] : waiting_)
        for (const bool up : {true, false})
            for (unsigned i = 0; i < abi::packet_priorities; ++i) {
                const auto priority = static_cast<Priority>(i);
                counts_.read_queue(service->name, up, priority, shaper_->counters(number, up, priority));
            }
}

}  // namespace marchproxy::packet
