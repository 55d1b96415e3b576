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
      flows_(packets),
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

// A flow has at least one packet, so there are enough flows for all packets.
PacketQueues::FlowQueue& PacketQueues::find_or_make(QueuedClass& owner, uint32_t hash) {
    uint32_t& head = buckets_[bucket_of(*owner.of, hash)];
    for (uint32_t at = head; at != none; at = flows_[at].next)
        if (flows_[at].hash == hash && flows_[at].of == owner.of) return flows_[at];
    const uint32_t index = free_flow_;
    FlowQueue& flow = flows_[index];
    free_flow_ = flow.next;
    flow.of = owner.of;
    flow.hash = hash;
    flow.next = head;
    if (flow.looked_at) flow.codel = {};
    flow.looked_at = flow.watched = false;
    head = index;
    return flow;
}

void PacketQueues::release(FlowQueue& flow) {
    const auto index = static_cast<uint32_t>(&flow - flows_.data());
    uint32_t* place = &buckets_[bucket_of(*flow.of, flow.hash)];
    while (*place != index)
        place = &flows_[*place].next;
    *place = flow.next;
    flow.next = free_flow_;
    free_flow_ = index;
}

// --- packets -------------------------------------------------------------------------------------------------------

bool PacketQueues::enqueue(QueuedClass& to, uint32_t flow_hash, const QueuedPacket& packet, TimePoint now) {
    QueueCounters& counters = to.counters;
    FlowQueue* flow = free_count_ && packet.bytes <= free_bytes_ ? &find_or_make(to, flow_hash) : nullptr;
    const uint32_t share = room[static_cast<size_t>(to.of->priority())];
    const bool full = !flow || flow->packets >= uint64_t{free_count_} * share;
    if (full || (flow->packets > 0 && counters.queued_bytes > free_bytes_ * share)) {
        ++counters.dropped_full;
        counters.dropped_bytes += packet.bytes;
        return false;
    }
    const uint32_t index = free_packet_;
    Packet& place = packets_[index];
    free_packet_ = place.next;
    --free_count_;
    free_bytes_ -= packet.bytes;
    place = {packet.handle, scheduler_.time(now), packet.bytes, none, packet.ecn};
    if (flow->packets++ == 0) {
        flow->first = index;
        to.of->queued = &to;
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
    QueuedClass& owner = *flow.of->queued;
    fetch_ahead();
    const Duration now = scheduler_.time(time);
    const bool drop = signals(flow, owner, packets_[flow.first], now);
    const Packet& head = pop(flow, owner);
    packet = {.handle = head.handle, .bytes = head.bytes, .ecn = head.ecn};
    owner.counters.waited(now - head.arrived);
    if (drop) {
        ++owner.counters.dropped_late;
        owner.counters.dropped_bytes += packet.bytes;
        scheduler_.give_back(flow, packet.bytes);
    } else {
        ++owner.counters.sent_packets;
        owner.counters.sent_bytes += packet.bytes;
    }
    if (flow.packets)
        scheduler_.resume(flow, packets_[flow.first].bytes);
    else
        release(flow);
    return !drop;
}

void PacketQueues::fetch_ahead() const {
    const ScheduledFlow* const next = scheduler_.upcoming();
    if (!next || !next->is_queue) return;
    const auto& flow = static_cast<const FlowQueue&>(*next);
    __builtin_prefetch(&packets_[flow.first], 1);
    if (flow.packets == 1) __builtin_prefetch(&buckets_[bucket_of(*flow.of, flow.hash)], 1);
}

// Marks the packet at the head where its sender is to be told; true: it is to be dropped for that.
bool PacketQueues::signals(FlowQueue& flow, QueuedClass& owner, Packet& head, Duration now) {
    const Duration sojourn = now - head.arrived;
    if (sojourn < owner.unremarkable && !flow.watched) return false;
    const AqmSettings& aqm = owner.aqm;
    const bool last = flow.packets == 1 || owner.counters.queued_bytes <= full_packet;
    const bool late = flow.codel.signals(sojourn, last, now, aqm.codel);
    flow.looked_at = true;
    flow.watched = !flow.codel.idle();
    if (sojourn > aqm.longest && !last) return true;
    const bool shallow = head.ecn == Ecn::l4s && aqm.ecn && !last && sojourn > aqm.l4s_threshold;
    if (!late && !shallow) return false;
    if (!aqm.ecn || head.ecn == Ecn::not_capable) return true;
    if (head.ecn != Ecn::congested) ++owner.counters.marked;
    head.ecn = Ecn::congested;
    return false;
}

PacketQueues::Packet& PacketQueues::pop(FlowQueue& flow, QueuedClass& owner) {
    const uint32_t index = flow.first;
    Packet& packet = packets_[index];
    flow.first = packet.next;
    --flow.packets;
    packet.next = free_packet_;
    free_packet_ = index;
    ++free_count_;
    free_bytes_ += packet.bytes;
    --owner.counters.queued_packets;
    owner.counters.queued_bytes -= packet.bytes;
    return packet;
}

void PacketQueues::clear(QueuedClass& of, std::vector<QueuedPacket>& dropped) {
    for (size_t i = 0; i < packets_.size() && of.counters.queued_packets > 0; ++i) {
        FlowQueue& flow = flows_[i];
        if (flow.packets == 0 || flow.of != of.of) continue;
        scheduler_.stop(flow);
        while (flow.packets) {
            const Packet& packet = pop(flow, of);
            dropped.push_back({.handle = packet.handle, .bytes = packet.bytes, .ecn = packet.ecn});
        }
        release(flow);
    }
}

}  // namespace marchproxy::qos
