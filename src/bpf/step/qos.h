// qos: what a packet is marked with, and whether its service's rate lets it through.
#pragma once

#include "bpf/lib/shared_bucket.h"
#include "bpf/step/forward.h"

// What becomes of a packet.
struct decision {
    struct rewriting to;
    __u32 service, endpoint;
    enum flow_direction direction;
    enum packet_verdict why;  // of decided_drop
    bool has_qos;             // its service, of an endpoint's packet
    bool queues;              // it waits for its turn
    __u8 priority;
};

ARRAY_OF(qos, struct packet_qos, max_packet_services);
ARRAY_OF(qos_buckets, struct qos_buckets, max_packet_services);
PER_CPU_ARRAY_OF(qos_counts, struct qos_counters, max_packet_services);

inlined bool within_bucket(const struct packet_rate* rate, __u64* left, __u64* word, __u32 bytes) {
    if (!rate->bits_per_second) return true;
    const struct bucket bucket = {rate->bits_per_second, (__u64)rate->burst * 8,
                                  bits_carried(rate->bits_per_second, bpf_ktime_get_ns())};
    return bucket_take_by_share(left, word, &bucket, (__u64)rate->share * 8, (__u64)bytes * 8);
}

// Marks by the decision, and counts. What is let through here and has no way to go is counted as well, and has used up
// some of the rate: who floods an endpoint that is not there is held back too.
__noinline int within_qos(const struct packet* p, __u64 direction, struct decision* d) {
    if (!p || !d) return 0;
    const __u32 service = d->service;
    const struct packet_qos* qos_of = bpf_map_lookup_elem(&qos, &service);
    struct qos_buckets* buckets = bpf_map_lookup_elem(&qos_buckets, &service);
    struct qos_counters* counts = bpf_map_lookup_elem(&qos_counts, &service);
    if (!qos_of || !buckets || !counts) return 1;
    __u64 arrived = p->traffic_class >> 2;
    bounded(arrived);
    arrived &= packet_marks - 1;
    d->to.dscp = qos_of->dscp[arrived];
    d->to.marks = d->to.dscp != arrived;
    d->queues = qos_of->queues;
    __u64 priority = d->priority = qos_priority(qos_of, arrived);
    direction &= 1;
    bounded(direction);
    bounded(priority);
    if (direction > 1 || priority >= packet_priorities) return 1;  // for the verifier
    const __u32 bytes = payload_of(p);
    if (!within_bucket(&qos_of->rate[direction], &counts->left[direction], &buckets->word[direction], bytes)) {
        ++counts->dropped[direction][priority];
        counts->dropped_bytes[direction][priority] += bytes;
        return 0;
    }
    counts->bytes[direction][priority] += bytes;
    return 1;
}

// A client's packet.
inlined bool may_pass(const struct packet_service* service, const struct packet* p, struct decision* d) {
    return likely(!(service->flags & service_has_qos)) || within_qos(p, direction_up, d);
}
