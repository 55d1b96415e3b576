#include "qos/packet_queues.h"

#include <bit>
#include <cassert>

namespace marchproxy::qos {

namespace {

// Of what is free a flow may take so many times: P0 finds room where P3 finds none.
constexpr std::array<uint32_t, priorities> room{8, 4, 2, 1};

}  // namespace

PacketQueues::PacketQueues(Scheduler& scheduler, uint32_t packets, uint64_t bytes)
    : scheduler_(scheduler),
      packets_(packets),
      flows_(std::make_unique<FlowQueue[]>(packets)),
      buckets_(std::bit_ceil(packets * 2), none),
      free_count_(packets),
      free_bytes_(bytes) {
    assert(packets > 0);
    for (uint32_t i = 0; i < packets; ++i)
        flows_[i].is_queue = true;
    for (uint32_t i = 0; i + 1 < packets; ++i)
        packets_[i].next = flows_[i].next = i + 1;
}

PacketQueues::~PacketQueues() {
    for (size_t i = 0; i < packets_.size(); ++i)
        scheduler_.stop(flows_[i]);
}

// --- flows ---------------------------------------------------------------------------------------------------------

uint32_t& PacketQueues::bucket_of(const QueuedClass& owner, uint32_t hash) {
    const uint64_t mixed = (reinterpret_cast<uintptr_t>(&owner) ^ hash) * 0x9e3779b97f4a7c15ULL;
    return buckets_[(mixed >> 32) & (buckets_.size() - 1)];
}

// A flow has at least one packet, so there are enough flows for all packets.
PacketQueues::FlowQueue& PacketQueues::find_or_make(QueuedClass& owner, uint32_t hash) {
    uint32_t& head = bucket_of(owner, hash);
    for (uint32_t at = head; at != none; at = flows_[at].next)
        if (flows_[at].hash == hash && flows_[at].owner == &owner) return flows_[at];
    const uint32_t index = free_flow_;
    FlowQueue& flow = flows_[index];
    free_flow_ = flow.next;
    flow.owner = &owner;
    flow.hash = hash;
    flow.next = head;
    flow.codel = {};
    head = index;
    return flow;
}

void PacketQueues::release(FlowQueue& flow) {
    const auto index = static_cast<uint32_t>(&flow - flows_.get());
    uint32_t* place = &bucket_of(*flow.owner, flow.hash);
    while (*place != index)
        place = &flows_[*place].next;
    *place = flow.next;
    flow.next = free_flow_;
    free_flow_ = index;
}

// --- packets -------------------------------------------------------------------------------------------------------

bool PacketQueues::enqueue(QueuedClass& to, uint32_t flow_hash, const QueuedPacket& packet, TimePoint now) {
    QueueCounters& counters = to.counters;
    ++counters.offered_packets;
    counters.offered_bytes += packet.bytes;
    FlowQueue* flow = free_count_ && packet.bytes <= free_bytes_ ? &find_or_make(to, flow_hash) : nullptr;
    const uint32_t share = room[static_cast<size_t>(to.of->priority())];
    if (!flow || flow->packets >= uint64_t{free_count_} * share || flow->bytes > free_bytes_ * share) {
        ++counters.dropped_full;
        counters.dropped_bytes += packet.bytes;
        return false;
    }
    const uint32_t index = free_packet_;
    Packet& place = packets_[index];
    free_packet_ = place.next;
    --free_count_;
    free_bytes_ -= packet.bytes;
    flow->bytes += packet.bytes;
    place = {.queued = packet, .arrived = scheduler_.time(now), .next = none};
    if (flow->packets++ == 0) {
        flow->first = index;
        scheduler_.start(*flow, *to.of, packet.bytes);
    } else {
        packets_[flow->last].next = index;
    }
    flow->last = index;
    ++counters.queued_packets;
    counters.queued_bytes += packet.bytes;
    return true;
}

bool PacketQueues::dequeue(TimePoint now, QueuedPacket& packet, std::vector<QueuedPacket>& dropped) {
    while (ScheduledFlow* turn = scheduler_.next(now)) {
        if (take(*turn, now, packet)) return true;
        dropped.push_back(packet);
    }
    return false;
}

bool PacketQueues::take(ScheduledFlow& turn, TimePoint time, QueuedPacket& packet) {
    auto& flow = static_cast<FlowQueue&>(turn);
    QueueCounters& counters = flow.owner->counters;
    Packet& head = packets_[flow.first];
    const Duration now = scheduler_.time(time);
    const bool drop = signals(flow, head, now);
    counters.waited(now - head.arrived);
    packet = pop(flow);
    if (drop) {
        ++counters.dropped_late;
        counters.dropped_bytes += packet.bytes;
        scheduler_.give_back(flow, packet.bytes);
    } else {
        ++counters.sent_packets;
        counters.sent_bytes += packet.bytes;
    }
    if (flow.packets)
        scheduler_.resume(flow, packets_[flow.first].queued.bytes);
    else
        release(flow);
    return !drop;
}

// Marks the packet at the head where its sender is to be told; true: it is to be dropped for that.
bool PacketQueues::signals(FlowQueue& flow, Packet& head, Duration now) {
    const AqmSettings& aqm = flow.owner->aqm;
    const Duration sojourn = now - head.arrived;
    const bool last = flow.packets == 1 || flow.owner->counters.queued_bytes <= full_packet;
    const bool late = flow.codel.signals(sojourn, last, now, aqm.codel);
    if (sojourn > aqm.longest && !last) return true;
    const bool shallow = head.queued.ecn == Ecn::l4s && aqm.ecn && !last && sojourn > aqm.l4s_threshold;
    if (!late && !shallow) return false;
    if (!aqm.ecn || head.queued.ecn == Ecn::not_capable) return true;
    if (head.queued.ecn != Ecn::congested) ++flow.owner->counters.marked;
    head.queued.ecn = Ecn::congested;
    return false;
}

QueuedPacket PacketQueues::pop(FlowQueue& flow) {
    const uint32_t index = flow.first;
    Packet& packet = packets_[index];
    flow.first = packet.next;
    --flow.packets;
    packet.next = free_packet_;
    free_packet_ = index;
    ++free_count_;
    free_bytes_ += packet.queued.bytes;
    flow.bytes -= packet.queued.bytes;
    --flow.owner->counters.queued_packets;
    flow.owner->counters.queued_bytes -= packet.queued.bytes;
    return packet.queued;
}

void PacketQueues::clear(QueuedClass& of, std::vector<QueuedPacket>& dropped) {
    for (size_t i = 0; i < packets_.size() && of.counters.queued_packets > 0; ++i) {
        FlowQueue& flow = flows_[i];
        if (flow.packets == 0 || flow.owner != &of) continue;
        scheduler_.stop(flow);
        while (flow.packets)
            dropped.push_back(pop(flow));
        release(flow);
    }
}

}  // namespace marchproxy::qos
