#include "stream/shaper.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <utility>

namespace marchproxy::stream {

namespace {

constexpr auto turn = std::chrono::microseconds(200);
constexpr double smallest_quantum = 1448;  // a full segment of most networks
constexpr double largest_quantum = 256 << 10;

// Of datagrams that wait for their turns, in one direction.
constexpr uint32_t most_packets = 16384;
constexpr uint64_t most_bytes = 64 << 20;

}  // namespace

uint32_t quantum_for(const std::optional<Rate>& rate) {
    if (!rate) return static_cast<uint32_t>(largest_quantum);
    const double bytes = static_cast<double>(rate->bits_per_second) / 8 * std::chrono::duration<double>(turn).count();
    return static_cast<uint32_t>(std::clamp(bytes, smallest_quantum, largest_quantum));
}

ShapedService::ShapedService(Shaper& shaper, const qos::ServiceLimits& limits, const qos::AqmSettings& aqm)
    : shaper_(shaper),
      scheduled_([&]() -> qos::ScheduledService& {
          std::lock_guard lock(shaper.mutex_);
          return shaper.scheduler_.add(limits, Clock::now());
      }()),
      quantum_(limits.quantum) {
    for (size_t i = 0; i < queued_.size(); ++i)
        queued_[i] = {scheduled_.at(static_cast<Priority>(i)), aqm};
}

ShapedService::~ShapedService() {
    std::lock_guard lock(shaper_.mutex_);
    std::vector<qos::QueuedPacket> dropped;
    if (shaper_.queues_)
        for (qos::QueuedClass& queued : queued_)
            shaper_.queues_->clear(queued, dropped);
    shaper_.scheduler_.remove(scheduled_);
}

void ShapedService::configure(const qos::ServiceLimits& limits, const qos::AqmSettings& aqm) {
    std::lock_guard lock(shaper_.mutex_);
    shaper_.scheduler_.configure(scheduled_, limits, Clock::now());
    quantum_.store(limits.quantum, std::memory_order_relaxed);
    for (qos::QueuedClass& queued : queued_)
        queued.configure(aqm);
    shaper_.look_again();
}

qos::QueueCounters ShapedService::counters(Priority priority) {
    std::lock_guard lock(shaper_.mutex_);
    return at(priority).counters;
}

Shaper::Shaper(unsigned workers, std::function<void(unsigned)> wake)
    : wake_(std::move(wake)), desks_(std::make_unique<Desk[]>(workers)), scheduler_({}, Clock::now()) {}

void Shaper::configure(const qos::LinkLimits& limits) {
    std::lock_guard lock(mutex_);
    scheduler_.configure(limits, Clock::now());
    look_again();
}

// What waits may go earlier now.
void Shaper::look_again() {
    if (!desks_[0].filled.exchange(true, std::memory_order_release)) wake_(0);
}

uint32_t Shaper::request(ShapedFlow& flow, qos::QueuedClass& of, uint32_t backlog, uint32_t quantum, TimePoint now) {
    assert(backlog > 0 && flow.granted == 0 && !flow.asked);
    flow.since = now;
    flow.backlog = backlog;
    flow.counted = &of;
    std::lock_guard lock(mutex_);
    scheduler_.start(flow, *of.of, std::min(backlog, quantum));
    of.counters.queued_bytes += backlog;
    const bool given = give_turns(&flow, flow.worker, now);
    flow.asked = !given;
    if (!given) return 0;
    waits_no_more(flow);
    of.counters.waited(Duration(0));
    return flow.wanted;
}

void Shaper::waits_no_more(ShapedFlow& flow) {
    flow.counted->counters.queued_bytes -= std::exchange(flow.backlog, 0);
}

// True: `asking` was given a turn too.
bool Shaper::give_turns(ShapedFlow* asking, unsigned worker, TimePoint now) {
    bool given = false;
    while (qos::ScheduledFlow* next = scheduler_.next(now)) {
        if (next == asking) {
            given = true;
        } else if (next->is_queue) {
            qos::QueuedPacket taken;
            const bool sent = queues_->take(*next, now, taken);
            auto& packet = *std::bit_cast<ShapedPacket*>(taken.handle);
            packet.ecn = taken.ecn;
            Turns& turns = desks_[packet.worker].turns;
            (sent ? turns.packets : turns.dropped).push_back(&packet);
            filled(packet.worker, worker);
        } else {
            auto& flow = static_cast<ShapedFlow&>(*next);
            flow.on_desk = true;
            waits_no_more(flow);
            flow.counted->counters.waited(now - flow.since);
            desks_[flow.worker].turns.flows.push_back(&flow);
            filled(flow.worker, worker);
        }
    }
    const TimePoint due = scheduler_.due();
    if (due < watched_) desks_[worker].due = watched_ = due;
    return given;
}

// Something lies on the desk of `whose`: gets that worker, unless it is the one that is here anyway.
void Shaper::filled(unsigned whose, unsigned worker) {
    if (!desks_[whose].filled.exchange(true, std::memory_order_release) && whose != worker) wake_(whose);
}

void Shaper::give_back(ShapedFlow& flow, uint32_t unused) {
    std::lock_guard lock(mutex_);
    scheduler_.give_back(flow, unused);
}

void Shaper::withdraw(ShapedFlow& flow) {
    std::lock_guard lock(mutex_);
    if (flow.waiting()) waits_no_more(flow);
    scheduler_.stop(flow);
    if (flow.on_desk) {
        std::erase(desks_[flow.worker].turns.flows, &flow);
        flow.on_desk = false;
        scheduler_.give_back(flow, flow.wanted);
    }
    flow.asked = false;
    if (flow.granted) scheduler_.give_back(flow, std::exchange(flow.granted, 0));
}

void Shaper::put(unsigned worker, std::vector<ShapedPacket*>& packets, TimePoint now, Turns& turns) {
    std::lock_guard lock(mutex_);
    if (!queues_) queues_ = std::make_unique<qos::PacketQueues>(scheduler_, most_packets, most_bytes);
    size_t refused = 0;
    for (ShapedPacket* packet : packets) {
        const qos::QueuedPacket queued{
            .handle = std::bit_cast<uint64_t>(packet), .bytes = std::max(packet->bytes, 1U), .ecn = packet->ecn};
        if (!queues_->enqueue(*packet->of, packet->flow_hash, queued, now)) packets[refused++] = packet;
    }
    packets.resize(refused);
    give_turns(nullptr, worker, now);
    Turns& own = desks_[worker].turns;
    turns.packets.swap(own.packets);
    turns.dropped.swap(own.dropped);
}

void Shaper::run(unsigned worker, TimePoint now, Turns& turns) {
    std::lock_guard lock(mutex_);
    Desk& desk = desks_[worker];
    if (desk.due <= now) {
        if (watched_ == desk.due) watched_ = TimePoint::max();
        desk.due = TimePoint::max();
    }
    give_turns(nullptr, worker, now);
    desk.filled.store(false, std::memory_order_relaxed);
    std::swap(turns, desk.turns);
    for (ShapedFlow* flow : turns.flows) {
        flow->on_desk = flow->asked = false;
        flow->granted = flow->wanted;
    }
}

}  // namespace marchproxy::stream
