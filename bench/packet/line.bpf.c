// What any table of flows would pay at least: the packet's flow hashed, and one line of memory read where the hash
// says. The memory is the flow table's own, in its pieces; nothing is found there, and the packet is dropped.
#include "bench/packet/traffic.h"
#include "bpf/lib/bpf.h"
#include "bpf/lib/flow_table.h"

struct piece {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, 1);
    __uint(key_size, sizeof(__u32));
    __uint(value_size, sizeof(struct flow_chunk));
};
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, 1);
    __type(key, __u32);
    __array(values, struct piece);
} client_flows SEC(".maps");

const volatile struct flow_table_settings settings = {{1, 2}, 1, 0};
__u64 seen;

SEC("xdp") int line(struct xdp_md* context) {
    const struct frame* frame = (void*)(long)context->data;
    if ((void*)(frame + 1) > (void*)(long)context->data_end) return XDP_ABORTED;
    const __u64 identity = (__u64)bpf_ntohl(frame->ip.saddr) << 30 | (__u64)bpf_ntohs(frame->udp.source) << 14 | 1;
    const struct flow_place place = flow_place_of(identity, &settings);
    const __u32 zero = 0;
    void* piece = bpf_map_lookup_elem(&client_flows, &place.chunk);
    struct flow_chunk* chunk = piece ? bpf_map_lookup_elem(piece, &zero) : 0;
    struct flow_bucket* bucket = chunk ? flow_bucket_at(chunk, place.bucket, settings.alignment) : 0;
    if (!bucket) return XDP_ABORTED;
    // The next packet does not begin before this line is there, as it would not behind a whole program.
    __sync_fetch_and_add(&seen, word_read(bucket->identity[0]) == identity);
    return XDP_DROP;
}

char LICENSE[] SEC("license") = "GPL";
