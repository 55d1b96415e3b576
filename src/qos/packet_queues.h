// Packets that wait for their turn: a queue for each flow that has some, in front of the scheduler, kept short by
// CoDel.
//
// Flows are told apart by a hash that the caller makes of what it likes, best keyed; two flows of one class with the
// same hash share a queue. What can carry a mark (ECN) is marked where another packet would be dropped; L4S traffic,
// ECT(1), is marked as soon as it waits longer than a threshold of its own (RFC 9331; the shallow queue of RFC 9332,
// which here is each flow's own).
//
// Room is shared by dynamic thresholds (Choudhury and Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet
// Switches", IEEE/ACM ToN 1998): no flow may hold more packets, and no class more bytes, than are free, times a
// factor of the priority. So there is room for a new flow however many flood.
//
// Allocates nothing after it was made. One thread at a time; time is passed in.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "qos/codel.h"
#include "qos/huge_pages.h"
#include "qos/scheduler.h"

namespace marchproxy::qos {

enum class Ecn : uint8_t {
    not_capable = 0,
    l4s = 1,
    classic = 2,
    congested = 3
};  // the bits: Not-ECT, ECT(1), ECT(0), CE

struct QueuedPacket {
    uint64_t handle = 0;  // the caller's
    uint32_t bytes = 0;
    Ecn ecn = Ecn::not_capable;
};

struct AqmSettings {
    CoDelSettings codel;
    Duration l4s_threshold = std::chrono::milliseconds(1);
    // What waited longer is dropped, marked or not: CoDel alone takes many seconds to tame a sender that does not
    // listen.
    Duration longest = std::chrono::milliseconds(100);
    bool ecn = true;  // false: dropped, whatever could be marked
};

// What packets of a class went through, since it was made; offered is what was sent, dropped and waits.
struct QueueCounters {
    uint64_t sent_packets = 0, sent_bytes = 0;
    uint64_t queued_packets = 0, queued_bytes = 0;
    Duration delay{0};          // of what was sent lately: the mean, the latest counting for an eighth
    uint64_t marked = 0;        // CE
    uint64_t dropped_late = 0;  // by CoDel
    uint64_t dropped_full = 0;  // no room
    uint64_t dropped_bytes = 0;

    void waited(Duration time) { delay += (time - delay) / 8; }
};

// A class as these queues see it: the scheduler's, how delay is held, and what was counted. What each packet touches
// comes first, in a cache line.
struct alignas(64) QueuedClass {
    QueuedClass() = default;
    QueuedClass(TrafficClass& traffic, const AqmSettings& settings) : of(&traffic) { configure(settings); }
    void configure(const AqmSettings& settings) {
        aqm = settings;
        unremarkable = std::min({aqm.codel.target, aqm.l4s_threshold, aqm.longest});
    }

    TrafficClass* of = nullptr;
    Duration unremarkable{0};  // a packet that waited no longer is sent without a look at the rest
    QueueCounters counters;
    AqmSettings aqm;
};

class PacketQueues {
  public:
    // Room for `packets` of together `bytes`.
    PacketQueues(Scheduler& scheduler, uint32_t packets, uint64_t bytes);
    ~PacketQueues();  // drops what is left

    // For a caller with several packets in hand: before it enqueues the first, one step after the other for all of
    // them, so that what they need is on its way.
    static void fetch_class(const QueuedClass& to) { __builtin_prefetch(&to, 1); }
    void fetch_bucket(const QueuedClass& to, uint32_t flow_hash) const {
        __builtin_prefetch(to.of, 1);
        __builtin_prefetch(&buckets_[bucket_of(*to.of, flow_hash)], 1);
    }
    void fetch_flow(const QueuedClass& to, uint32_t flow_hash) const {
        scheduler_.fetch(*to.of);
        const uint32_t first = buckets_[bucket_of(*to.of, flow_hash)];
        if (first != none) __builtin_prefetch(&flows_[first], 1);
    }

    // False: there was no room, and it was counted; the packet stays the caller's.
    bool enqueue(QueuedClass& to, uint32_t flow_hash, const QueuedPacket& packet, TimePoint now);

    // The packet whose turn it is, marked where that is due; none: nobody's, until the scheduler's due(). What had to
    // be dropped is appended to `dropped`.
    bool dequeue(TimePoint now, QueuedPacket& packet, std::vector<QueuedPacket>& dropped);

    // The same for a flow of these queues that scheduler.next() gave its turn, where other things take turns beside
    // them. False: the packet was dropped.
    bool take(ScheduledFlow& turn, TimePoint now, QueuedPacket& packet);

    // Drops all of a class, uncounted: it is going.
    void clear(QueuedClass& of, std::vector<QueuedPacket>& dropped);

    uint32_t free() const { return free_count_; }

  private:
    static constexpr uint32_t none = ~uint32_t{0};

    struct alignas(32) Packet {
        uint64_t handle = 0;
        Duration arrived{0};
        uint32_t bytes = 0;
        uint32_t next = none;  // in its flow, or among the free
        Ecn ecn = Ecn::not_capable;
    };
    struct alignas(64) FlowQueue : ScheduledFlow {
        uint32_t hash = 0;
        uint32_t first = none, last = none;  // packets
        uint32_t packets = 0;
        uint32_t next = none;    // in its bucket, or among the free
        bool looked_at = false;  // `codel` was, since the flow began
        bool watched = false;    // CoDel found it too long; else its state need not be looked at
        alignas(64) CoDel codel;
    };
    static_assert(sizeof(FlowQueue) == 128);

    size_t bucket_of(const TrafficClass& of, uint32_t hash) const {
        const uint64_t mixed = (reinterpret_cast<uintptr_t>(&of) ^ hash) * 0x9e3779b97f4a7c15ULL;
        return (mixed >> 32) & (buckets_.size() - 1);
    }
    FlowQueue& find_or_make(QueuedClass& owner, uint32_t hash);
    bool signals(FlowQueue& flow, QueuedClass& owner, Packet& head, Duration now);
    Packet& pop(FlowQueue& flow, QueuedClass& owner);
    void release(FlowQueue& flow);
    void fetch_ahead() const;

    Scheduler& scheduler_;
    LargeArray<Packet> packets_;
    LargeArray<FlowQueue> flows_;
    LargeArray<uint32_t> buckets_;  // the first flow of each
    uint32_t free_packet_ = 0, free_flow_ = 0, free_count_;
    uint64_t free_bytes_;
};

}  // namespace marchproxy::qos
