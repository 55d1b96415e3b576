#include "stream/shaper.h"

#include <algorithm>
#include <cassert>

namespace marchproxy::stream {

namespace {

constexpr auto turn = std::chrono::microseconds(200);
constexpr double smallest_quantum = 1448;  // a full segment of most networks
constexpr double largest_quantum = 256 << 10;

}  // namespace

uint32_t quantum_for(const std::optional<Rate>& rate) {
    if (!rate) return static_cast<uint32_t>(largest_quantum);
    const double bytes = static_cast<double>(rate->bits_per_second) / 8 * std::chrono::duration<double>(turn).count();
    return static_cast<uint32_t>(std::clamp(bytes, smallest_quantum, largest_quantum));
}

ShapedService::ShapedService(Shaper& shaper, const qos::ServiceLimits& limits)
    : shaper_(shaper),
      scheduled_([&]() -> qos::ScheduledService& {
          std::lock_guard lock(shaper.mutex_);
          return shaper.scheduler_.add(limits, Clock::now());
      }()),
      quantum_(limits.quantum) {}

ShapedService::~ShapedService() {
    std::lock_guard lock(shaper_.mutex_);
    shaper_.scheduler_.remove(scheduled_);
}

void ShapedService::configure(const qos::ServiceLimits& limits) {
    std::lock_guard lock(shaper_.mutex_);
    shaper_.scheduler_.configure(scheduled_, limits, Clock::now());
    quantum_.store(limits.quantum, std::memory_order_relaxed);
    shaper_.look_again();
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

uint32_t Shaper::request(ShapedFlow& flow, qos::TrafficClass& of, uint32_t wanted, TimePoint now) {
    assert(wanted > 0 && flow.granted == 0 && !flow.on_desk);
    flow.asked = now;
    std::lock_guard lock(mutex_);
    scheduler_.start(flow, of, wanted);
    return give_turns(&flow, flow.worker, now) ? flow.wanted : 0;
}

// True: `asking` was given a turn too.
bool Shaper::give_turns(ShapedFlow* asking, unsigned worker, TimePoint now) {
    bool given = false;
    while (qos::ScheduledFlow* next = scheduler_.next(now)) {
        auto& flow = static_cast<ShapedFlow&>(*next);
        if (&flow == asking) {
            given = true;
            continue;
        }
        Desk& desk = desks_[flow.worker];
        flow.on_desk = true;
        desk.granted.push_back(&flow);
        if (!desk.filled.exchange(true, std::memory_order_release) && flow.worker != worker) wake_(flow.worker);
    }
    const TimePoint due = scheduler_.due();
    if (due < watched_) desks_[worker].due = watched_ = due;
    return given;
}

void Shaper::give_back(ShapedFlow& flow, uint32_t unused) {
    std::lock_guard lock(mutex_);
    scheduler_.give_back(flow, unused);
}

void Shaper::withdraw(ShapedFlow& flow) {
    std::lock_guard lock(mutex_);
    scheduler_.stop(flow);
    if (flow.on_desk) {
        std::erase(desks_[flow.worker].granted, &flow);
        flow.on_desk = false;
        scheduler_.give_back(flow, flow.wanted);
    }
    if (flow.granted) scheduler_.give_back(flow, std::exchange(flow.granted, 0));
}

void Shaper::run(unsigned worker, TimePoint now, std::vector<ShapedFlow*>& granted) {
    std::lock_guard lock(mutex_);
    Desk& desk = desks_[worker];
    if (desk.due <= now) {
        if (watched_ == desk.due) watched_ = TimePoint::max();
        desk.due = TimePoint::max();
    }
    give_turns(nullptr, worker, now);
    desk.filled.store(false, std::memory_order_relaxed);
    for (ShapedFlow* flow : desk.granted) {
        flow->on_desk = false;
        flow->granted = flow->wanted;
        granted.push_back(flow);
    }
    desk.granted.clear();
}

}  // namespace marchproxy::stream
