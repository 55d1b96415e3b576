// admit: may this packet begin a flow, or come in at all.
#pragma once

#include "bpf/lib/access_tree.h"
#include "bpf/lib/maps.h"
#include "bpf/lib/packet.h"
#include "bpf/step/account.h"
#include "bpf/step/classify.h"

inlined const struct access_node* access_node_at(__u32 place) {
    const __u32 chunk = place >> access_place_bits, zero = 0;
    void* inner = bpf_map_lookup_elem(&access_nodes, &chunk);
    struct access_chunk* nodes = inner ? bpf_map_lookup_elem(inner, &zero) : 0;
    __u64 at = place & ((1 << access_place_bits) - 1);
    bounded(at);
    return nodes && at < access_chunk_nodes ? &nodes->node[at] : 0;
}

inlined bool may_enter(const struct packet_service* service, __u32 index, const struct packet* p) {
    if (likely(!(service->flags & service_has_access))) return true;
    const __u32 zero = 0;
    void* inner = bpf_map_lookup_elem(&access_roots, &zero);
    struct access_roots* roots = inner ? bpf_map_lookup_elem(inner, &zero) : 0;
    if (!roots) return false;  // user space writes them before any flag
    const struct access_root* root = &roots->of[index & (max_packet_services - 1)];
    __u32 at = p->v6 ? root->v6 : root->v4;
    if (!at) return true;
    struct access_bits left = access_bits_of(&p->source, p->v6);
    for (int depth = 0; depth < access_depth && at > access_passes; ++depth) {
        const struct access_node* node = access_node_at(at);
        if (!node) return false;
        at = access_step(node, &left);
    }
    return at == access_passes;
}

ARRAY_OF(limits, struct packet_limits, max_packet_services);

// Whether flows may begin from there. Two services' addresses as source and destination would have their endpoints
// answer each other for ever.
inlined bool may_be_client(const struct packet* p) {
    return is_one_host(&p->source, p->v6) && !service_at_host(&p->source);
}

// --- rates ---------------------------------------------------------------------------------------------------------

// One event by GCRA. `due`: its one word; the times in the same unit.
inlined bool within_rate(__u64* due, __u64 now, __u64 step, __u64 tolerance) {
    for (int attempt = 0; attempt < 4; ++attempt) {
        const __u64 before = word_read(*due);
        __u64 from = before > now ? before : now;
        // Nothing so far ahead was let in by this rate: it was another, before a reload.
        if (from - now > tolerance + step) from = now + tolerance;
        if (from - now > tolerance) return false;
        if (__sync_val_compare_and_swap(due, before, from + step) == before) return true;
    }
    __sync_fetch_and_add(due, step);  // other CPUs were first in this moment, each admitted within the rate
    return true;
}

// Of addresses that are forgotten for others' sake the burst is whole again; counts of what lives must not be here.
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, rated_sources);
    __type(key, struct source_key);
    __type(value, struct source_rate);
} source_rates SEC(".maps");

inlined struct source_rate* rate_of_source(const struct address* source, __u32 service) {
    const struct source_key key = {*source, service, 0};
    struct source_rate* rate = bpf_map_lookup_elem(&source_rates, &key);
    if (rate) return rate;
    const struct source_rate none = {0};
    bpf_map_update_elem(&source_rates, &key, &none, BPF_NOEXIST);  // fails where another CPU was first
    return bpf_map_lookup_elem(&source_rates, &key);
}

// What a CPU has left of a batch of a service's packets.
PER_CPU_ARRAY_OF(packet_credits, __u64, max_packet_services);

inlined bool within_service_rate(const struct packet_limits* limit, __u32 service, __u64 now) {
    __u64* credit = bpf_map_lookup_elem(&packet_credits, &service);
    struct admission* state = bpf_map_lookup_elem(&admissions, &service);
    if (!credit || !state) return false;
    if (*credit) {
        --*credit;
        return true;
    }
    if (!within_rate(&state->packets_due, now, limit->packet_batch_step, limit->packet_tolerance)) return false;
    *credit = limit->packet_batch - 1;
    return true;
}

// One packet from a client of a service that limits them. The source first: what one sends too much is not to use up
// what the others have.
__noinline int within_packet_rates(const struct address* source, __u32 service) {
    const struct packet_limits* limit = bpf_map_lookup_elem(&limits, &service);
    if (!source || !limit) return 1;
    const __u64 now = bpf_ktime_get_ns();
    if (limit->source_packet_step) {
        struct source_rate* rate = rate_of_source(source, service);
        if (rate && !within_rate(&rate->packets_due, now, limit->source_packet_step, limit->source_packet_tolerance))
            return 0;
    }
    return !limit->packet_batch || within_service_rate(limit, service, now);
}

// --- live flows of a source ----------------------------------------------------------------------------------------

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, counted_sources);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct source_key);
    __type(value, struct source_flows);
} source_flows SEC(".maps");

// A flow of a service that may limit them began. One whose source the map has no room for goes uncounted: an attacker
// with many addresses is not to keep everybody else out.
__noinline int count_source(const struct address* source, __u32 service, __u64 seconds) {
    const struct packet_limits* limit = bpf_map_lookup_elem(&limits, &service);
    if (!source || !limit || !limit->connections_per_source) return 0;
    const struct source_key key = {*source, service, 0};
    const struct source_flows none = {0, seconds};
    for (int attempt = 0; attempt < 3; ++attempt) {
        struct source_flows* flows = bpf_map_lookup_elem(&source_flows, &key);
        if (!flows) {
            bpf_map_update_elem(&source_flows, &key, &none, BPF_NOEXIST);
            flows = bpf_map_lookup_elem(&source_flows, &key);
        }
        if (!flows) break;
        __sync_fetch_and_add(&flows->live, 1);
        // The sweep may have removed it between the two, and another source have its memory now.
        if (bpf_map_lookup_elem(&source_flows, &key) == flows) return 0;
        __sync_fetch_and_add(&flows->live, -1);
    }
    struct packet_counters* counts = bpf_map_lookup_elem(&service_counts, &service);
    if (counts) ++counts->uncounted;
    return 0;
}

// A flow ended that began in this second; by the sweep alone, one at a time. What began before its source was counted,
// as when the limit is new, leaves the count alone. Where another flow begins between reading 0 and removing the entry,
// it goes uncounted too.
__noinline int uncount_source(const struct address* source, __u32 service, __u64 began) {
    if (!source) return 0;
    const struct source_key key = {*source, service, 0};
    struct source_flows* flows = bpf_map_lookup_elem(&source_flows, &key);
    if (!flows || began < flows->since || !word_read(flows->live)) return 0;
    if (__sync_fetch_and_add(&flows->live, -1) == 1) bpf_map_delete_elem(&source_flows, &key);
    return 0;
}

// --- new flows -----------------------------------------------------------------------------------------------------

enum { admitted = -1, unproven = -2 };  // no verdicts

// Whether a client at a service under pressure has to prove its address.
inlined bool must_prove(const struct packet_limits* limit, const struct admission* state) {
    return limit->proven_from && (__u64)admission_half_open(word_read(state->live)) + 1 >= limit->proven_from;
}

inlined int within_source_limits(const struct packet_limits* limit, __u32 service, const struct packet* p) {
    const struct source_key key = {p->source, service, 0};
    if (limit->connections_per_source) {
        const struct source_flows* flows = bpf_map_lookup_elem(&source_flows, &key);
        if (flows && word_read(flows->live) >= limit->connections_per_source) return packet_verdict_source_limit;
    }
    if (!limit->source_flow_step) return admitted;
    struct source_rate* rate = rate_of_source(&p->source, service);
    const bool within = !rate || within_rate(&rate->flows_due, bpf_ktime_get_ns(), limit->source_flow_step,
                                             limit->source_flow_tolerance);
    return within ? admitted : packet_verdict_source_rate;
}

// Whether one more flow may begin, or it has to be proven first; else the verdict why not. What takes from a rate comes
// last: who has to prove its address, or finds no place, takes from none.
__noinline int may_begin(const struct packet* p, __u32 index, __u32 proven) {
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    struct admission* state = bpf_map_lookup_elem(&admissions, &index);
    const struct packet_limits* limit = bpf_map_lookup_elem(&limits, &index);
    if (!p || !service || !state || !limit) return packet_verdict_internal_error;
    if (service->connections && admission_live(word_read(state->live)) >= service->connections)
        return packet_verdict_connection_limit;
    if (service->flags & service_limits_flows) {
        if (!proven && p->protocol == IPPROTO_TCP && must_prove(limit, state)) return unproven;
        const int why = within_source_limits(limit, index, p);
        if (why != admitted) return why;
    }
    if (likely(!service->new_flow_step)) return admitted;
    const __u64 microseconds = bpf_ktime_get_ns() / 1000;
    return within_rate(&state->due, microseconds, service->new_flow_step, service->new_flow_tolerance)
               ? admitted
               : packet_verdict_rate_limit;
}
