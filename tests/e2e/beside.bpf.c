// Somebody else's XDP program: counts what comes by, before ours (whose priority is 50), and lets it pass.
#include "bpf/lib/bpf.h"
// They use what comes before.
#include <xdp/xdp_helpers.h>

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} beside_count SEC(".maps");

struct {
    __uint(priority, 10);
    __uint(XDP_PASS, 1);  // the next one goes on
} XDP_RUN_CONFIG(count_frames);

SEC("xdp") int count_frames(struct xdp_md* context) {
    const __u32 zero = 0;
    __u64* count = bpf_map_lookup_elem(&beside_count, &zero);
    if (count) __sync_fetch_and_add(count, 1);
    return XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
