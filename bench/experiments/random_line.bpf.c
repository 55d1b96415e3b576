// The kernel half of random_line.cc.
#include "bench/experiments/random_line.h"

#include "bpf/lib/bpf.h"
#include "bpf/lib/siphash.h"

struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct line);
} whole SEC(".maps");

struct piece_map {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(key_size, sizeof(__u32));
    __uint(value_size, piece_bytes);
};
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, 1);
    __type(key, __u32);
    __array(values, struct piece_map);
} pieces SEC(".maps");

const volatile __u32 line_count = 1, piece_count = 1, alignment = 0;

static __always_inline __u64 drawn(void) {
    return siphash_2(1, 2, bpf_get_prandom_u32(), 0);
}
// A number below `count` by 32 of the hash's bits.
static __always_inline __u32 below(__u32 count, __u64 bits) {
    return (__u32)((bits & 0xffffffff) * count >> 32);
}

static __always_inline int touch_whole(__u64 place) {
    const __u32 index = below(line_count, place);
    struct line* line = bpf_map_lookup_elem(&whole, &index);
    if (!line) return XDP_ABORTED;
    line->word[0] += 64;
    return XDP_DROP;
}

SEC("xdp") int empty(struct xdp_md* context) {
    return XDP_DROP;
}
SEC("xdp") int hash_only(struct xdp_md* context) {
    return drawn() == 1 ? XDP_ABORTED : XDP_DROP;
}
SEC("xdp") int in_whole(struct xdp_md* context) {
    return touch_whole(drawn());
}
SEC("xdp") int in_whole_unhashed(struct xdp_md* context) {
    return touch_whole(bpf_get_prandom_u32());
}
SEC("xdp") int in_pieces(struct xdp_md* context) {
    const __u64 place = drawn();
    const __u32 piece = below(piece_count, place), zero = 0;
    void* inner = bpf_map_lookup_elem(&pieces, &piece);
    __u8* lines = inner ? bpf_map_lookup_elem(inner, &zero) : 0;
    __u64 offset = (__u64)below(piece_lines, place >> 32) * sizeof(struct line) + alignment;
    asm volatile("" : "+r"(offset));
    if (!lines || offset > piece_bytes - sizeof(struct line)) return XDP_ABORTED;
    ((struct line*)(lines + offset))->word[0] += 64;
    return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
