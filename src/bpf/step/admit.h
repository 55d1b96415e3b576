// admit: may this packet begin a flow, or come in at all.
#pragma once

#include "bpf/lib/maps.h"
#include "bpf/lib/packet.h"

// One trie for all services. User space folds allow and deny lists into it: an entry's value is what the lists say of
// that prefix as a whole, so that the longest match is the answer.
struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, 1 << 20);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct access_key);
    __type(value, __u8);  // 1: may pass
} access SEC(".maps");

inlined bool may_enter(const struct packet_service* service, __u32 index, const struct packet* p) {
    if (likely(!(service->flags & service_has_access))) return true;
    const struct access_key key = {32 + 128, bpf_htonl(index), p->source};
    const __u8* allowed = bpf_map_lookup_elem(&access, &key);
    return allowed ? *allowed : service->flags & service_access_allows;
}

ARRAY_OF(admissions, struct admission, max_packet_services);

inlined bool within_rate(const struct packet_service* service, struct admission* state) {
    if (likely(!service->new_flow_step)) return true;
    const __u64 now = bpf_ktime_get_ns() / 1000;
    for (int attempt = 0; attempt < 4; ++attempt) {
        const __u64 due = flow_read(state->due);
        const __u64 from = due > now ? due : now;
        if (from - now > service->new_flow_tolerance) return false;
        if (__sync_val_compare_and_swap(&state->due, due, from + service->new_flow_step) == due) return true;
    }
    return false;  // four other CPUs began flows in this moment
}

enum { admitted = -1 };  // no verdict

// Whether one more flow may begin; else the verdict why not.
inlined int may_begin(const struct packet_service* service, __u32 index) {
    struct admission* state = bpf_map_lookup_elem(&admissions, &index);
    if (!state) return packet_verdict_internal_error;
    if (service->connections && flow_read(state->live) >= service->connections) return packet_verdict_connection_limit;
    return within_rate(service, state) ? admitted : packet_verdict_rate_limit;
}

// Two CPUs may both see the last free place: the limit can be passed by as many flows as there are CPUs.
inlined void count_live(__u32 index, __s64 by) {
    struct admission* state = bpf_map_lookup_elem(&admissions, &index);
    if (state) __sync_fetch_and_add(&state->live, by);
}
