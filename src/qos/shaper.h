// Where the bytes of all threads of both planes take turns for one direction of the link: a scheduler (qos/scheduler.h)
// that they share under a lock.
//
// A connection's direction asks before it reads and reads what it was given, so that what must wait waits in the
// sender's and the kernel's buffers, and TCP itself slows the sender down: nothing is dropped. Packets wait in queues
// (qos/packet_queues.h). Whoever asks runs the scheduler; what it finds for another thread goes to that one's desk, and
// wakes it. When all must wait, the thread that found that comes back when the first need not any longer.
//
// Threads: each has a desk, and calls what takes a desk with its own; the control thread the rest.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "model/snapshot.h"
#include "qos/packet_queues.h"

namespace marchproxy::qos {

// A direction of a connection that takes turns. Its owner withdraws it before it goes.
struct ShapedFlow : ScheduledFlow {
    explicit ShapedFlow(unsigned at) : desk(at) {}

    // Its thread's:
    unsigned desk;
    bool asked = false;    // and was not answered yet
    uint32_t granted = 0;  // bytes it may read
    // Under the shaper's lock, while it has asked:
    bool on_desk = false;  // it was given its turn, and its thread has not looked yet
    uint32_t backlog = 0;  // bytes that wait, while it does
    QueuedClass* counted = nullptr;
    TimePoint since;
};

// A packet that takes turns, or some of equal size together. Its owner keeps it until it comes back.
struct ShapedPacket {
    unsigned desk = 0;  // to which it comes back
    uint32_t bytes = 0;
    uint32_t flow_hash = 0;
    QueuedClass* of = nullptr;
    Ecn ecn = Ecn::not_capable;  // marked meanwhile, where that was due
};

// What is for one thread.
struct Turns {
    std::vector<ShapedFlow*> flows;
    std::vector<ShapedPacket*> packets;
    std::vector<ShapedPacket*> dropped;  // waited too long
    void clear() {
        flows.clear();
        packets.clear();
        dropped.clear();
    }
};

class Shaper;

// A service's place in a shaper.
class ShapedService {
  public:
    ShapedService(Shaper& shaper, const ServiceLimits& limits, const AqmSettings& aqm);
    ~ShapedService();  // none of its TCP flows may wait; what packets do is given up
    ShapedService(const ShapedService&) = delete;
    ShapedService& operator=(const ShapedService&) = delete;

    void configure(const ServiceLimits& limits, const AqmSettings& aqm);
    // Its packets wait no more; they are appended, uncounted.
    void give_up(std::vector<ShapedPacket*>& packets);
    QueueCounters counters(Priority priority);  // any thread
    QueuedClass& at(Priority priority) { return queued_[static_cast<size_t>(priority)]; }
    // What it has at most: its own rate, or the link's. Infinite: all there is.
    double bytes_per_second() const;
    // The most a flow may ask for at once.
    uint32_t quantum() const { return quantum_.load(std::memory_order_relaxed); }

  private:
    Shaper& shaper_;
    ScheduledService& scheduled_;
    std::array<QueuedClass, priorities> queued_;  // under the shaper's lock
    std::atomic<uint32_t> quantum_;
    std::atomic<double> ceiling_;  // bytes a second
};

class Shaper {
  public:
    explicit Shaper(unsigned desks);

    // `wake` gets the desk's thread to look at it; called under the lock, from any thread. Null: nobody is there.
    void attend(unsigned desk, std::function<void()> wake);

    void configure(const LinkLimits& limits);

    // How much of `backlog`, at most `quantum`, the flow may read now. 0: it waits, and comes to its desk. To
    // be asked only by a flow that neither waits nor has something left.
    uint32_t request(ShapedFlow& flow, QueuedClass& of, uint32_t backlog, uint32_t quantum, TimePoint now);
    // Of its last turn, what the flow did not read.
    void give_back(ShapedFlow& flow, uint32_t unused);
    // It does not want any more, or not as it did.
    void withdraw(ShapedFlow& flow);

    // Queues the packets, in order. Those for which there was no room are left in `packets`; the others are no longer
    // the caller's. Fills `turns` with what is for the desk, but flows.
    void put(unsigned desk, std::vector<ShapedPacket*>& packets, TimePoint now, Turns& turns);

    // Gives turns to those whose time has come. Fills `turns` with what is for the desk.
    void run(unsigned desk, TimePoint now, Turns& turns);
    // When the desk's thread is to call run(): at once where something lies there.
    TimePoint due(unsigned desk) const {
        const Desk& own = desks_[desk];
        return own.filled.load(std::memory_order_acquire) ? TimePoint{} : own.due;
    }

  private:
    friend class ShapedService;

    struct alignas(64) Desk {
        std::atomic<bool> filled{false};
        TimePoint due = TimePoint::max();  // its thread's own
        Turns turns;                       // under the lock
        std::function<void()> wake;        // the same
    };

    void look_again();
    void filled(unsigned whose, unsigned desk);
    static void waits_no_more(ShapedFlow& flow);
    bool give_turns(ShapedFlow* asking, unsigned desk, TimePoint now);

    std::unique_ptr<Desk[]> desks_;

    std::atomic<double> link_{std::numeric_limits<double>::infinity()};  // bytes a second

    std::mutex mutex_;  // over all below
    Scheduler scheduler_;
    std::unique_ptr<PacketQueues> queues_;  // made by the first packet: room that only datagrams need
    TimePoint watched_ = TimePoint::max();  // when the first thread comes back by itself
};

inline double ShapedService::bytes_per_second() const {
    return std::min(ceiling_.load(std::memory_order_relaxed), shaper_.link_.load(std::memory_order_relaxed));
}

// Both directions: up is client to endpoint.
struct Shapers {
    explicit Shapers(unsigned desks) : up(desks), down(desks) {}
    Shaper& at(bool is_up) { return is_up ? up : down; }
    void attend(unsigned desk, const std::function<void()>& wake) {
        up.attend(desk, wake);
        down.attend(desk, wake);
    }
    void configure(const QosSettings& settings);

    Shaper up, down;
};

// Where a service's bytes take turns in one direction: `place` made, or configured anew; null where nothing holds them
// back. What was made stays in `place`, with what it has counted.
ShapedService* place_in(Shapers& shapers, bool up, std::unique_ptr<ShapedService>& place, const ServiceQos& wanted,
                        const QosSettings& settings);

}  // namespace marchproxy::qos
