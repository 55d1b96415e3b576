// Where the bytes of all workers take turns for one direction of the link: a scheduler (qos/scheduler.h) that they
// share under a lock.
//
// A TCP direction asks before it reads and reads what it was given, so that what must wait waits in the sender's and
// the kernel's buffers, and TCP itself slows the sender down: nothing is dropped. Whoever asks runs the scheduler; what
// it finds for another worker goes to that one's desk, and wakes it. When all must wait, the worker that found that
// comes back when the first need not any longer.
//
// Threads: workers call what takes a worker's index, each with its own; the control thread the rest.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "qos/packet_queues.h"

namespace marchproxy::stream {

struct Connection;

// A direction of a connection that takes turns. Its owner withdraws it before it goes.
struct ShapedFlow : qos::ScheduledFlow {
    ShapedFlow(Connection& owner, bool is_up, unsigned at) : connection(&owner), up(is_up), worker(at) {}

    Connection* connection;
    bool up;
    // Its worker's:
    unsigned worker;
    bool asked = false;    // and was not answered yet
    uint32_t granted = 0;  // bytes it may read
    // Under the shaper's lock, while it has asked:
    bool on_desk = false;  // it was given its turn, and its worker has not looked yet
    uint32_t backlog = 0;  // bytes that wait, while it does
    qos::QueuedClass* counted = nullptr;
    TimePoint since;
};

// A datagram that takes turns, or some of equal size together. Its owner keeps it until it comes back.
struct ShapedPacket {
    unsigned worker = 0;  // whose desk it comes to
    uint32_t bytes = 0;
    uint32_t flow_hash = 0;
    qos::QueuedClass* of = nullptr;
    qos::Ecn ecn = qos::Ecn::not_capable;  // marked meanwhile, where that was due
};

// What is for one worker.
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
    ShapedService(Shaper& shaper, const qos::ServiceLimits& limits, const qos::AqmSettings& aqm);
    ~ShapedService();  // none of its TCP flows may wait; what packets do is given up
    ShapedService(const ShapedService&) = delete;
    ShapedService& operator=(const ShapedService&) = delete;

    void configure(const qos::ServiceLimits& limits, const qos::AqmSettings& aqm);
    qos::QueueCounters counters(Priority priority);  // any thread
    qos::QueuedClass& at(Priority priority) { return queued_[static_cast<size_t>(priority)]; }
    // The most a flow may ask for at once.
    uint32_t quantum() const { return quantum_.load(std::memory_order_relaxed); }

  private:
    Shaper& shaper_;
    qos::ScheduledService& scheduled_;
    std::array<qos::QueuedClass, qos::priorities> queued_;  // under the shaper's lock
    std::atomic<uint32_t> quantum_;
};

class Shaper {
  public:
    // `wake(worker)` gets a worker to look at its desk; called under the lock, from any worker.
    Shaper(unsigned workers, std::function<void(unsigned)> wake);

    void configure(const qos::LinkLimits& limits);

    // How much of `backlog`, at most `quantum`, the flow may read now. 0: it waits, and comes to the worker's desk. To
    // be asked only by a flow that neither waits nor has something left.
    uint32_t request(ShapedFlow& flow, qos::QueuedClass& of, uint32_t backlog, uint32_t quantum, TimePoint now);
    // Of its last turn, what the flow did not read.
    void give_back(ShapedFlow& flow, uint32_t unused);
    // It does not want any more, or not as it did.
    void withdraw(ShapedFlow& flow);

    // Queues the packets, in order. Those for which there was no room are left in `packets`; the others are no longer
    // the caller's. Fills `turns` with what is for the worker, but flows.
    void put(unsigned worker, std::vector<ShapedPacket*>& packets, TimePoint now, Turns& turns);

    // Gives turns to those whose time has come. Fills `turns` with what is for the worker.
    void run(unsigned worker, TimePoint now, Turns& turns);
    // When the worker is to call run(): at once where something lies on its desk.
    TimePoint due(unsigned worker) const {
        const Desk& desk = desks_[worker];
        return desk.filled.load(std::memory_order_acquire) ? TimePoint{} : desk.due;
    }

  private:
    friend class ShapedService;

    struct alignas(64) Desk {
        std::atomic<bool> filled{false};
        TimePoint due = TimePoint::max();  // its worker's own
        Turns turns;                       // under the lock
    };

    void look_again();
    void filled(unsigned whose, unsigned worker);
    static void waits_no_more(ShapedFlow& flow);
    bool give_turns(ShapedFlow* asking, unsigned worker, TimePoint now);

    const std::function<void(unsigned)> wake_;
    std::unique_ptr<Desk[]> desks_;

    std::mutex mutex_;  // over all below
    qos::Scheduler scheduler_;
    std::unique_ptr<qos::PacketQueues> queues_;  // made by the first packet: room that only datagrams need
    TimePoint watched_ = TimePoint::max();       // when the first worker comes back by itself
};

// Both directions: up is client to endpoint.
struct Shapers {
    Shaper up, down;
    Shaper& at(bool is_up) { return is_up ? up : down; }
};

// What is given at a time at a rate: enough to be worth a system call, little enough that who waits behind it does not
// notice.
uint32_t quantum_for(const std::optional<Rate>& rate);

}  // namespace marchproxy::stream
