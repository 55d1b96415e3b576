#include "qos/shaper.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <utility>

namespace marchproxy::qos {

namespace {

constexpr auto turn = std::chrono::microseconds(200);
constexpr double smallest_quantum = 1448;  // a full segment of most networks
constexpr double largest_quantum = 256 << 10;

// Of packets that wait for their turns, in one direction.
constexpr uint32_t most_packets = 16384;
constexpr uint64_t most_bytes = 64 << 20;

// What is given at a time at a rate: enough to be worth a system call, little enough that who waits behind it does not
// notice.
uint32_t quantum_for(const std::optional<Rate>& rate) {
    if (!rate) return static_cast<uint32_t>(largest_quantum);
    const double bytes = static_cast<double>(rate->bits_per_second) / 8 * std::chrono::duration<double>(turn).count();
    return static_cast<uint32_t>(std::clamp(bytes, smallest_quantum, largest_quantum));
}

double in_bytes(const std::optional<Rate>& rate) {
    return rate ? static_cast<double>(rate->bits_per_second) / 8 : std::numeric_limits<double>::infinity();
}

}  // namespace

void Shapers::configure(const QosSettings& settings) {
    const LinkLimits limits{.rate = settings.enabled ? settings.link_rate : std::nullopt,
                            .floors = {Share{}, settings.floor_p1, settings.floor_p2, settings.floor_p3},
                            .quantum = quantum_for(settings.link_rate)};
    up.configure(limits);
    down.configure(limits);
}

ShapedService* place_in(Shapers& shapers, bool is_up, std::unique_ptr<ShapedService>& place, const ServiceQos& wanted,
                        const QosSettings& settings) {
    const std::optional<Rate>& rate = is_up ? wanted.rate.up : wanted.rate.down;
    if (!settings.enabled || (!rate && !settings.link_rate)) return nullptr;
    const ServiceLimits limits{.ceiling = rate,
                               .guarantee = is_up ? wanted.guarantee.up : wanted.guarantee.down,
                               .burst = wanted.burst,
                               .quantum = std::min(quantum_for(rate), quantum_for(settings.link_rate))};
    const AqmSettings aqm{.ecn = wanted.ecn};
    if (place)
        place->configure(limits, aqm);
    else
        place = std::make_unique<ShapedService>(shapers.at(is_up), limits, aqm);
    return place.get();
}

ShapedService::ShapedService(Shaper& shaper, const ServiceLimits& limits, const AqmSettings& aqm)
    : shaper_(shaper),
      scheduled_([&]() -> ScheduledService& {
          std::lock_guard lock(shaper.mutex_);
          return shaper.scheduler_.add(limits, Clock::now());
      }()),
      quantum_(limits.quantum),
      ceiling_(in_bytes(limits.ceiling)) {
    for (size_t i = 0; i < queued_.size(); ++i)
        queued_[i] = {scheduled_.at(static_cast<Priority>(i)), aqm};
}

ShapedService::~ShapedService() {
    std::lock_guard lock(shaper_.mutex_);
    std::vector<QueuedPacket> dropped;
    if (shaper_.queues_)
        for (QueuedClass& queued : queued_)
            shaper_.queues_->clear(queued, dropped);
    shaper_.scheduler_.remove(scheduled_);
}

void ShapedService::configure(const ServiceLimits& limits, const AqmSettings& aqm) {
    std::lock_guard lock(shaper_.mutex_);
    shaper_.scheduler_.configure(scheduled_, limits, Clock::now());
    quantum_.store(limits.quantum, std::memory_order_relaxed);
    ceiling_.store(in_bytes(limits.ceiling), std::memory_order_relaxed);
    for (QueuedClass& queued : queued_)
        queued.configure(aqm);
    shaper_.look_again();
}

void ShapedService::give_up(std::vector<ShapedPacket*>& packets) {
    std::lock_guard lock(shaper_.mutex_);
    std::vector<QueuedPacket> waited;
    if (shaper_.queues_)
        for (QueuedClass& queued : queued_)
            shaper_.queues_->clear(queued, waited);
    for (const QueuedPacket& packet : waited)
        packets.push_back(std::bit_cast<ShapedPacket*>(packet.handle));
}

QueueCounters ShapedService::counters(Priority priority) {
    std::lock_guard lock(shaper_.mutex_);
    return at(priority).counters;
}

Shaper::Shaper(unsigned desks) : desks_(std::make_unique<Desk[]>(desks)), scheduler_({}, Clock::now()) {}

void Shaper::attend(unsigned desk, std::function<void()> wake) {
    std::lock_guard lock(mutex_);
    desks_[desk].wake = std::move(wake);
}

void Shaper::configure(const LinkLimits& limits) {
    std::lock_guard lock(mutex_);
    scheduler_.configure(limits, Clock::now());
    link_.store(in_bytes(limits.rate), std::memory_order_relaxed);
    look_again();
}

// What waits may go earlier now.
void Shaper::look_again() {
    constexpr unsigned any = 0, none = ~0U;
    filled(any, none);
}

uint32_t Shaper::request(ShapedFlow& flow, QueuedClass& of, uint32_t backlog, uint32_t quantum, TimePoint now) {
    assert(backlog > 0 && flow.granted == 0 && !flow.asked);
    flow.since = now;
    flow.backlog = backlog;
    flow.counted = &of;
    std::lock_guard lock(mutex_);
    scheduler_.start(flow, *of.of, std::min(backlog, quantum));
    of.counters.queued_bytes += backlog;
    const bool given = give_turns(&flow, flow.desk, now);
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
bool Shaper::give_turns(ShapedFlow* asking, unsigned desk, TimePoint now) {
    bool given = false;
    while (ScheduledFlow* next = scheduler_.next(now)) {
        if (next == asking) {
            given = true;
        } else if (next->is_queue) {
            QueuedPacket taken;
            const bool sent = queues_->take(*next, now, taken);
            auto& packet = *std::bit_cast<ShapedPacket*>(taken.handle);
            packet.ecn = taken.ecn;
            Turns& turns = desks_[packet.desk].turns;
            (sent ? turns.packets : turns.dropped).push_back(&packet);
            filled(packet.desk, desk);
        } else {
            auto& flow = static_cast<ShapedFlow&>(*next);
            flow.on_desk = true;
            waits_no_more(flow);
            flow.counted->counters.waited(now - flow.since);
            desks_[flow.desk].turns.flows.push_back(&flow);
            filled(flow.desk, desk);
        }
    }
    const TimePoint due = scheduler_.due();
    if (due < watched_) desks_[desk].due = watched_ = due;
    return given;
}

// Something lies on the desk `whose`: gets its thread, unless it is the one that is here anyway.
void Shaper::filled(unsigned whose, unsigned desk) {
    Desk& there = desks_[whose];
    if (!there.filled.exchange(true, std::memory_order_release) && whose != desk && there.wake) there.wake();
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
        std::erase(desks_[flow.desk].turns.flows, &flow);
        flow.on_desk = false;
        scheduler_.give_back(flow, flow.wanted);
    }
    flow.asked = false;
    if (flow.granted) scheduler_.give_back(flow, std::exchange(flow.granted, 0));
}

void Shaper::put(unsigned desk, std::vector<ShapedPacket*>& packets, TimePoint now, Turns& turns) {
    std::lock_guard lock(mutex_);
    if (!queues_) queues_ = std::make_unique<PacketQueues>(scheduler_, most_packets, most_bytes);
    for (const ShapedPacket* packet : packets)
        PacketQueues::fetch_class(*packet->of);
    for (const ShapedPacket* packet : packets)
        queues_->fetch_bucket(*packet->of, packet->flow_hash);
    for (const ShapedPacket* packet : packets)
        queues_->fetch_flow(*packet->of, packet->flow_hash);
    size_t refused = 0;
    for (ShapedPacket* packet : packets) {
        const QueuedPacket queued{
            .handle = std::bit_cast<uint64_t>(packet), .bytes = std::max(packet->bytes, 1U), .ecn = packet->ecn};
        if (!queues_->enqueue(*packet->of, packet->flow_hash, queued, now)) packets[refused++] = packet;
    }
    packets.resize(refused);
    give_turns(nullptr, desk, now);
    Turns& own = desks_[desk].turns;
    turns.packets.swap(own.packets);
    turns.dropped.swap(own.dropped);
}

void Shaper::run(unsigned desk, TimePoint now, Turns& turns) {
    std::lock_guard lock(mutex_);
    Desk& own = desks_[desk];
    if (own.due <= now) {
        if (watched_ == own.due) watched_ = TimePoint::max();
        own.due = TimePoint::max();
    }
    give_turns(nullptr, desk, now);
    own.filled.store(false, std::memory_order_relaxed);
    std::swap(turns, own.turns);
    for (ShapedFlow* flow : turns.flows) {
        flow->on_desk = flow->asked = false;
        flow->granted = flow->wanted;
    }
}

}  // namespace marchproxy::qos
