// What the kernel's own map for prefixes would cost: a packet's source looked up in it, and nothing else.
#include "bench/packet/traffic.h"
#include "bpf/lib/bpf.h"

struct listed {
    __u32 length;  // in bits, of what follows
    __u32 service_be;
    struct address address;
};
struct {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, most_access_prefixes);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    __type(key, struct listed);
    __type(value, __u8);
} listed SEC(".maps");

SEC("xdp") int lpm_trie(struct xdp_md* context) {
    const struct frame* frame = (void*)(long)context->data;
    if ((void*)(frame + 1) > (void*)(long)context->data_end) return XDP_ABORTED;
    const struct listed key = {32 + 128, bpf_htonl(1), mapped(frame->ip.saddr)};
    const __u8* passes = bpf_map_lookup_elem(&listed, &key);
    return passes && !*passes ? XDP_DROP : XDP_PASS;
}

char LICENSE[] SEC("license") = "GPL";
