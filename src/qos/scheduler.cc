#include "qos/scheduler.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace marchproxy::qos {

namespace {

// What a link, a floor or a guarantee may have saved up: enough for a thread that was held up a moment, too little for
// what waits behind it to notice.
constexpr auto saved = std::chrono::microseconds(1000);
// How far what is had of the spare counts ahead, in bursts of the above: so long it may take until a guarantee or a
// floor holds again.
constexpr int64_t counted_ahead = 4;
// Whoever had to wait goes on with as much at a time as this earns, not item by item.
constexpr auto step = std::chrono::microseconds(20);
// Services are made room for as many at a time as there are, up to so many: 3 MB.
constexpr size_t most_at_once = 8192;

Bytes worth(Rate rate, Duration time) {
    const double bytes = static_cast<double>(rate.bits_per_second) / 8 * std::chrono::duration<double>(time).count();
    return {std::max<uint64_t>(full_packet, static_cast<uint64_t>(std::min(bytes, 1e9)))};
}

uint8_t bit_of(Priority priority) {
    return static_cast<uint8_t>(1U << static_cast<unsigned>(priority));
}

int32_t in_range(uint32_t quantum) {
    return static_cast<int32_t>(std::clamp<uint32_t>(quantum, 1, 1 << 24));
}

}  // namespace

Bytes burst_for(Rate rate) {
    return worth(rate, std::chrono::milliseconds(5));
}

ScheduledService::ScheduledService() {
    for (unsigned priority = 0; priority < priorities; ++priority) {
        classes_[priority].service_ = this;
        classes_[priority].priority_ = static_cast<Priority>(priority);
    }
}

TrafficClass* ScheduledService::first_backlogged() {
    while (backlogged_) {
        TrafficClass& first = probably_first();
        if (first.backlogged()) return &first;
        backlogged_ = static_cast<uint8_t>(backlogged_ & (backlogged_ - 1));
    }
    return nullptr;
}

Scheduler::Scheduler(const LinkLimits& limits, TimePoint now) : clock_(now), timers_(TimePoint{}) {
    configure(limits, now);
}

Scheduler::~Scheduler() {
    assert(waiting_ == 0);
}

// --- configuration -------------------------------------------------------------------------------------------------

void Scheduler::configure(const LinkLimits& limits, TimePoint time) {
    const Duration now = clock_.advance(time);
    quantum_ = in_range(limits.quantum);
    limited_ = limits.rate.has_value();
    if (!limited_) {
        has_floor_ = {};
        return;
    }
    link_.configure(*limits.rate, worth(*limits.rate, saved), now);
    for (unsigned priority = 1; priority < priorities; ++priority) {
        const double share = static_cast<double>(limits.rate->bits_per_second) * limits.floors[priority].fraction;
        const Rate rate{static_cast<uint64_t>(share)};
        has_floor_[priority] = rate.bits_per_second > 0;
        floors_[priority].configure(rate, worth(rate, saved), now);
    }
}

ScheduledService& Scheduler::add(const ServiceLimits& limits, TimePoint now) {
    if (free_services_.empty()) grow();
    ScheduledService& service = *new (free_services_.back()) ScheduledService;
    free_services_.pop_back();
    configure(service, limits, now);
    return service;
}

// Services lie side by side, so that those that take turns one after the other are found without much searching.
void Scheduler::grow() {
    const size_t have = service_count_, more = std::clamp<size_t>(have, 16, most_at_once);
    services_.emplace_back(more);
    service_count_ += more;
    free_services_.reserve(service_count_);
    for (size_t i = more; i-- > 0;)
        free_services_.push_back(&services_.back()[i]);
    below_guarantee_.reserve(service_count_);
    for (TurnQueue<TrafficClass>& classes : spare_)
        classes.reserve(service_count_);
}

void Scheduler::configure(ScheduledService& service, const ServiceLimits& limits, TimePoint time) {
    const Duration now = clock_.advance(time);
    const auto set = [now](TokenBucket& bucket, bool& has, const std::optional<Rate>& rate, Bytes burst) {
        if (rate && has) bucket.configure(*rate, burst, now);
        if (rate && !has) bucket = TokenBucket(*rate, burst, now);
        has = rate.has_value();
    };
    const Rate ceiling = limits.ceiling.value_or(Rate{}), guarantee = limits.guarantee.value_or(Rate{});
    set(service.ceiling_, service.has_ceiling_, limits.ceiling, limits.burst.value_or(burst_for(ceiling)));
    set(service.guarantee_, service.has_guarantee_, limits.guarantee, worth(guarantee, saved));
    service.backlogged_ = 0;
    for (TrafficClass& of : service.classes_) {
        of.quantum_ = in_range(limits.quantum);
        of.limited_ = service.has_ceiling_ || service.has_guarantee_;
        of.guaranteed_ = service.has_guarantee_;
        if (of.backlogged()) service.backlogged_ |= bit_of(of.priority_);
    }
    wake(service, now);
}

void Scheduler::remove(ScheduledService& service) {
    assert(!service.first_backlogged());
    timers_.disarm(service);
    if (service.takes_turns_) below_guarantee_.remove(service);
    for (TrafficClass& of : service.classes_)
        if (of.takes_turns_) spare_[static_cast<size_t>(of.priority_)].remove(of);
    free_services_.push_back(&service);
}

// --- flows ---------------------------------------------------------------------------------------------------------

void Scheduler::start(ScheduledFlow& flow, TrafficClass& of, uint32_t bytes) {
    assert(!flow.waiting());
    flow.of = &of;
    flow.wanted = bytes;
    flow.deficit = of.quantum_;
    of.flows_.push_back(flow);
    ++waiting_;
    enlist(of);
}

void Scheduler::resume(ScheduledFlow& flow, uint32_t bytes) {
    assert(!flow.waiting());
    flow.wanted = bytes;
    if (flow.deficit > 0)
        flow.of->flows_.push_front(flow);
    else
        flow.of->flows_.push_back(flow);
    ++waiting_;
    enlist(*flow.of);
}

void Scheduler::stop(ScheduledFlow& flow) {
    if (!flow.waiting()) return;
    flow.unlink();
    --waiting_;
}

// A class that has something and may send takes its place among those of its priority, its service among those below
// their guarantee. They leave when they are found there with nothing to send, not before.
void Scheduler::enlist(TrafficClass& of) {
    if (of.limited_) {
        ScheduledService& service = of.service();
        service.backlogged_ |= bit_of(of.priority_);
        if (service.throttled_) return;
        watch_guarantee(service, clock_.elapsed());
    }
    if (of.takes_turns_) return;
    of.takes_turns_ = true;
    of.deficit_ = quantum_;
    spare_[static_cast<size_t>(of.priority_)].push_back(of);
}

void Scheduler::watch_guarantee(ScheduledService& service, Duration now) {
    if (!service.has_guarantee_ || service.takes_turns_ || service.armed()) return;
    service.guarantee_.refill(now);
    if (!service.guarantee_.ready()) return arm(service, service.guarantee_.ready_at(step));
    service.takes_turns_ = true;
    below_guarantee_.push_back(service);
}

// The time is there that the service waited for, or its limits are others.
void Scheduler::wake(ScheduledService& service, Duration now) {
    timers_.disarm(service);
    service.ceiling_.refill(now);
    service.throttled_ = service.has_ceiling_ && !service.ceiling_.ready();
    if (service.throttled_) return arm(service, service.ceiling_.ready_at(step));
    for (unsigned left = service.backlogged_; left; left &= left - 1) {
        TrafficClass& of = service.classes_[static_cast<size_t>(std::countr_zero(left))];
        if (of.backlogged()) enlist(of);
    }
}

// All whose time is there, so that what they need is fetched at once.
void Scheduler::wake_due(Duration now) {
    first_timer_ = Duration::max();
    timers_.advance(TimePoint(now), [&](Timer& timer) {
        auto& service = static_cast<ScheduledService&>(timer);
        __builtin_prefetch(&service.probably_first(), 1);
        if (service.has_guarantee_) __builtin_prefetch(&service.guarantee_, 1);
        woken_.push_back(&service);
    });
    for (ScheduledService* service : woken_)
        wake(*service, now);
    woken_.clear();
    if (const auto next = timers_.next_expiry()) first_timer_ = std::min(first_timer_, next->time_since_epoch());
}

// --- turns ---------------------------------------------------------------------------------------------------------

ScheduledFlow* Scheduler::next(TimePoint time) {
    const Duration now = clock_.advance(time);
    if (now >= first_timer_) wake_due(now);
    if (waiting_ == 0) return nullptr;
    if (limited_) {
        link_.refill(now);
        if (!link_.ready()) return nullptr;
    }
    upcoming_ = nullptr;
    const Turn turn = choose(now);
    if (!turn.of) return nullptr;
    ScheduledFlow& flow = take_first_flow(*turn.of);
    flow.turn_by = turn.by;
    flow.deficit -= static_cast<int32_t>(flow.wanted);
    charge(turn, flow.wanted, now);
    return &flow;
}

Scheduler::Turn Scheduler::choose(Duration now) {
    if (TrafficClass* of = first_below_guarantee()) return {of, TurnBy::guarantee};
    for (unsigned priority = 1; priority < priorities; ++priority) {
        if (!has_floor_[priority] || spare_[priority].empty()) continue;
        floors_[priority].refill(now);
        if (!floors_[priority].ready()) continue;
        if (TrafficClass* of = first_of(priority)) return {of, TurnBy::floor};
    }
    for (unsigned priority = 0; priority < priorities; ++priority)
        if (TrafficClass* of = first_of(priority)) return {of, TurnBy::spare};
    return {};
}

TrafficClass* Scheduler::first_below_guarantee() {
    while (!below_guarantee_.empty()) {
        ScheduledService& service = below_guarantee_.front();
        TrafficClass* of = service.has_guarantee_ && !service.throttled_ ? service.first_backlogged() : nullptr;
        if (of) {
            fetch_ahead(below_guarantee_);
            return of;
        }
        below_guarantee_.pop_front().takes_turns_ = false;
    }
    return nullptr;
}

TrafficClass* Scheduler::first_of(unsigned priority) {
    TurnQueue<TrafficClass>& classes = spare_[priority];
    while (!classes.empty()) {
        TrafficClass& of = classes.front();
        if (!of.backlogged() || (of.limited_ && of.service().throttled_)) {
            classes.pop_front().takes_turns_ = false;
        } else if (of.deficit_ <= 0) {
            of.deficit_ += quantum_;
            classes.front_to_back();
        } else {
            fetch_ahead(classes);
            return &of;
        }
    }
    return nullptr;
}

// Whose turns come next is known: by then, what they need is in the cache. What a pointer leads to is fetched two turns
// after the pointer; the last step is the caller's, who knows what a flow leads to (upcoming()).
void Scheduler::fetch_ahead(const TurnQueue<TrafficClass>& classes) {
    if (TrafficClass* const sixth = classes.ahead(6)) __builtin_prefetch(sixth, 1);
    if (TrafficClass* const fourth = classes.ahead(4)) {
        __builtin_prefetch(&fourth->flows_.front(), 1);
        __builtin_prefetch(fourth->queued, 1);
        if (fourth->limited_) __builtin_prefetch(fourth->service_, 1);
        if (fourth->guaranteed_) __builtin_prefetch(&fourth->service_->guarantee_, 1);
    }
    if (TrafficClass* const second = classes.ahead(2)) fetch_flows(*second);
}

void Scheduler::fetch_ahead(const TurnQueue<ScheduledService>& services) {
    if (ScheduledService* const eighth = services.ahead(8)) __builtin_prefetch(eighth, 1);
    if (ScheduledService* const sixth = services.ahead(6)) {
        __builtin_prefetch(&sixth->guarantee_, 1);
        __builtin_prefetch(&sixth->probably_first(), 1);
    }
    if (ScheduledService* const fourth = services.ahead(4)) {
        TrafficClass& of = fourth->probably_first();
        __builtin_prefetch(&of.flows_.front(), 1);
        __builtin_prefetch(of.queued, 1);
    }
    if (ScheduledService* const second = services.ahead(2)) fetch_flows(second->probably_first());
}

void Scheduler::fetch_flows(TrafficClass& of) {
    if (!of.backlogged()) return;
    upcoming_ = &of.flows_.front();
    __builtin_prefetch(of.flows_.after(of.flows_.front()), 1);
}

void Scheduler::arm(ScheduledService& service, Duration time) {
    timers_.arm(service, TimePoint(time));
    first_timer_ = std::min(first_timer_, time);
}

ScheduledFlow& Scheduler::take_first_flow(TrafficClass& of) {
    while (of.flows_.front().deficit <= 0) {
        of.flows_.front().deficit += of.quantum_;
        of.flows_.front_to_back();
    }
    --waiting_;
    return of.flows_.pop_front();
}

void Scheduler::charge(const Turn& turn, uint32_t bytes, Duration now) {
    TrafficClass& of = *turn.of;
    if (limited_) link_.take(bytes);
    const auto priority = static_cast<size_t>(of.priority_);
    if (has_floor_[priority]) {
        TokenBucket& floor = floors_[priority];
        floor.refill(now);
        if (turn.by == TurnBy::floor)
            floor.take(bytes);
        else
            floor.take_within(bytes, counted_ahead);
    }
    if (turn.by != TurnBy::guarantee) of.deficit_ -= static_cast<int32_t>(bytes);
    charge_service(turn, bytes, now);
}

void Scheduler::charge_service(const Turn& turn, uint32_t bytes, Duration now) {
    if (!turn.of->limited_) return;
    ScheduledService& service = turn.of->service();
    if (service.has_guarantee_) {
        service.guarantee_.refill(now);
        if (turn.by == TurnBy::guarantee) {
            service.guarantee_.take(bytes);
            below_guarantee_.pop_front().takes_turns_ = false;
            watch_guarantee(service, now);  // behind the others, or from when it is below again
        } else {
            service.guarantee_.take_within(bytes, counted_ahead);
        }
    }
    if (service.has_ceiling_) {
        service.ceiling_.refill(now);
        service.ceiling_.take(bytes);
        if (service.ceiling_.ready()) return;
        service.throttled_ = true;
        arm(service, service.ceiling_.ready_at(step));
    }
}

void Scheduler::give_back(ScheduledFlow& flow, uint32_t bytes) {
    TrafficClass& of = *flow.of;
    ScheduledService& service = of.service();
    flow.deficit += static_cast<int32_t>(bytes);
    if (limited_) link_.give_back(bytes);
    service.ceiling_.give_back(bytes);
    if (flow.turn_by == TurnBy::guarantee)
        service.guarantee_.give_back(bytes);
    else
        of.deficit_ += static_cast<int32_t>(bytes);
    if (flow.turn_by == TurnBy::floor) floors_[static_cast<size_t>(of.priority_)].give_back(bytes);
    if (service.throttled_) wake(service, clock_.elapsed());
}

TimePoint Scheduler::due() const {
    if (waiting_ == 0) return TimePoint::max();
    if (limited_ && !link_.ready()) return clock_.at(link_.ready_at(step));
    return clock_.at(first_timer_);
}

}  // namespace marchproxy::qos
