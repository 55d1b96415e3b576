// Who may send next on one link, in one direction: a hierarchy of link, service, priority and flow.
//
//   1. Services below their guarantee, in turn.
//   2. Priorities below their floor, P1 before P2 before P3.
//   3. What is spare: P0 before P1 before P2 before P3.
//
// Within a priority the services, and within those the flows, take turns by deficit round robin (Shreedhar and
// Varghese, "Efficient Fair Queueing Using Deficit Round Robin", SIGCOMM 1995, in the variant of RFC 8290 that serves
// while the deficit is positive).
//
// No service passes its ceiling, nothing the link's rate. What a service gets of the spare counts for its guarantee,
// and what a priority gets in any way for its floor: both say what is had at least, not what comes on top. Bytes are
// whatever the caller counts; items are never held here, only the flows that have some.
//
// Every operation costs the same with ten services or ten thousand: who takes turns is known many turns ahead and
// fetched by then (qos/turn_queue.h), waiting is a timer wheel (qos/timer_wheel.h), and who no longer belongs among the
// others is only found out when its turn comes.
//
// Neither locks nor reads a clock: one thread at a time, time is passed in.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <optional>
#include <vector>

#include "model/names.h"
#include "model/units.h"
#include "qos/huge_pages.h"
#include "qos/monotonic.h"
#include "qos/ring.h"
#include "qos/timer_wheel.h"
#include "qos/token_bucket.h"
#include "qos/turn_queue.h"

namespace marchproxy::qos {

inline constexpr unsigned priorities = 4;
inline constexpr uint32_t full_packet = 1514;  // bytes: what fills an Ethernet frame, and what turns are counted in

struct LinkLimits {
    std::optional<Rate> rate;              // absent: only ceilings hold anything back
    std::array<Share, priorities> floors;  // of the rate; P0's is not looked at: nothing stands above it
    uint32_t quantum = full_packet;        // bytes a class is given each turn: at least a service's
    bool operator==(const LinkLimits&) const = default;
};

struct ServiceLimits {
    std::optional<Rate> ceiling;
    std::optional<Rate> guarantee;
    std::optional<Bytes> burst;      // of the ceiling; absent: burst_for()
    uint32_t quantum = full_packet;  // bytes a flow is given each turn: at least its largest item
    bool operator==(const ServiceLimits&) const = default;
};

// 5 ms worth, so that one second never shows more than half a percent above the rate, and at least one full packet.
Bytes burst_for(Rate rate);

class TrafficClass;
class ScheduledService;

// Why somebody's turn came.
enum class TurnBy : uint8_t { guarantee, floor, spare };

// What takes turns inside a class: a connection's direction, a session, the packets of one flow. Lies inside its owner,
// who takes it out before it goes.
struct ScheduledFlow : Link<ScheduledFlow> {
    TrafficClass* of = nullptr;
    uint32_t wanted = 0;  // bytes of its next item
    int32_t deficit = 0;
    TurnBy turn_by = TurnBy::spare;  // what its last turn was charged to
    bool is_queue = false;           // of packets, one of qos/packet_queues.h
    bool waiting() const { return linked(); }
};

struct QueuedClass;

// A service's traffic of one priority. A cache line, as is what of a service its turn looks at where it has a ceiling,
// and a third where it has a guarantee: with thousands of classes a packet's cost is that of the lines it touches.
class alignas(64) TrafficClass {
  public:
    ScheduledService& service() const { return *service_; }
    Priority priority() const { return priority_; }
    bool backlogged() const { return !flows_.empty(); }
    QueuedClass* queued = nullptr;  // whose packets wait in it (qos/packet_queues.h)

  private:
    friend class Scheduler;
    friend class ScheduledService;

    Ring<ScheduledFlow> flows_;
    ScheduledService* service_ = nullptr;
    int32_t deficit_ = 0;
    int32_t quantum_ = full_packet;  // of its flows
    Priority priority_ = Priority::p0;
    bool takes_turns_ = false;  // is among those of its priority
    bool limited_ = false;      // its service has a ceiling or a guarantee
    bool guaranteed_ = false;
};
static_assert(sizeof(TrafficClass) == 64);

class alignas(64) ScheduledService : public Timer {
  public:
    ScheduledService();
    TrafficClass& at(Priority priority) { return classes_[static_cast<size_t>(priority)]; }

  private:
    friend class Scheduler;

    TrafficClass* first_backlogged();
    TrafficClass& probably_first() {
        return classes_[static_cast<size_t>(std::countr_zero(backlogged_ | 1U << (priorities - 1)))];
    }

    uint8_t backlogged_ = 0;  // bit: a priority whose class may have something, where the service has limits
    bool has_ceiling_ = false, has_guarantee_ = false;
    bool throttled_ = false;    // above its ceiling: the timer says until when
    bool takes_turns_ = false;  // is among those below their guarantee
    TokenBucket ceiling_;
    alignas(64) TokenBucket guarantee_;
    std::array<TrafficClass, priorities> classes_;
};
static_assert(sizeof(ScheduledService) == size_t{64} * (2 + priorities));

class Scheduler {
  public:
    Scheduler(const LinkLimits& limits, TimePoint now);
    ~Scheduler();  // no flow may wait

    // Take effect with the next turn; nothing that waits is lost.
    void configure(const LinkLimits& limits, TimePoint now);
    void configure(ScheduledService& service, const ServiceLimits& limits, TimePoint now);

    ScheduledService& add(const ServiceLimits& limits, TimePoint now);
    void remove(ScheduledService& service);  // none of its flows may wait

    // The flow has an item of so many bytes, after having had none: it goes behind the others.
    void start(ScheduledFlow& flow, TrafficClass& of, uint32_t bytes);
    // It has another one after the one it was given a turn for: it stays in front while its deficit lasts.
    void resume(ScheduledFlow& flow, uint32_t bytes);
    // It has none any more, or its next is another one now.
    void stop(ScheduledFlow& flow);

    // Whose turn it is: that flow's next item is charged, and it waits no more. Null: nobody's, until due().
    ScheduledFlow* next(TimePoint now);

    // Whose turn probably comes two after the one that next() found last, itself fetched; for fetching what it needs.
    const ScheduledFlow* upcoming() const { return upcoming_; }
    // For a caller who is going to start() a flow of the class, itself fetched: what that needs.
    void fetch(const TrafficClass& of) const {
        __builtin_prefetch(&of.flows_.back(), 1);
        if (of.limited_) __builtin_prefetch(of.service_, 1);
    }

    // The flow did not use all that it was charged.
    void give_back(ScheduledFlow& flow, uint32_t bytes);

    // Time since the start by the clock that the scheduler goes by, which does not go back.
    Duration time(TimePoint now) { return clock_.advance(now); }

    // When next() may have somebody, unless a flow starts before. TimePoint::max(): not before one does.
    TimePoint due() const;

  private:
    using Tick = std::chrono::duration<int64_t, std::ratio<1024, 1'000'000'000>>;
    struct Turn {
        TrafficClass* of = nullptr;
        TurnBy by = TurnBy::spare;
    };

    Turn choose(Duration now);
    TrafficClass* first_below_guarantee();
    TrafficClass* first_of(unsigned priority);
    void fetch_ahead(const TurnQueue<TrafficClass>& classes);
    void fetch_ahead(const TurnQueue<ScheduledService>& services);
    void fetch_flows(TrafficClass& of);
    void arm(ScheduledService& service, Duration time);
    ScheduledFlow& take_first_flow(TrafficClass& of);
    void charge(const Turn& turn, uint32_t bytes, Duration now);
    void charge_service(const Turn& turn, uint32_t bytes, Duration now);
    void enlist(TrafficClass& of);
    void watch_guarantee(ScheduledService& service, Duration now);
    void wake(ScheduledService& service, Duration now);
    void wake_due(Duration now);
    void grow();

    Monotonic clock_;
    TimerWheel<Tick> timers_;
    Duration first_timer_ = Duration::max();  // no timer goes before
    int32_t quantum_ = full_packet;
    size_t waiting_ = 0;  // flows
    const ScheduledFlow* upcoming_ = nullptr;
    bool limited_ = false;  // the link is
    TokenBucket link_;
    std::array<TokenBucket, priorities> floors_;
    std::array<bool, priorities> has_floor_{};
    std::array<TurnQueue<TrafficClass>, priorities> spare_;
    TurnQueue<ScheduledService> below_guarantee_;
    std::vector<ScheduledService*> woken_;  // one turn's
    std::vector<LargeArray<ScheduledService>> services_;
    std::vector<ScheduledService*> free_services_;
    size_t service_count_ = 0;  // there is room for
};

}  // namespace marchproxy::qos
