// Writes a drawn flow's packet into the frame and hands it to the program under test by a tail call: BPF_PROG_TEST_RUN
// repeats one frame, and every program here changes it. What this costs by itself is the bench's floor.
#include "bench/packet/traffic.h"

#include "bpf/lib/bpf.h"
#include "bpf/lib/checksum.h"

struct {
    __uint(type, BPF_MAP_TYPE_PROG_ARRAY);
    __uint(max_entries, 1);
    __uint(key_size, sizeof(__u32));
    __uint(value_size, sizeof(__u32));
} under_test SEC(".maps");

volatile struct traffic traffic;

SEC("xdp") int empty(struct xdp_md* context) {
    return XDP_DROP;
}

SEC("xdp") int pass(struct xdp_md* context) {
    return XDP_PASS;
}

SEC("xdp") int bounce(struct xdp_md* context) {
    return XDP_TX;
}

// The far end: takes what is for the endpoint and counts it; all else is the stack's.
SEC("xdp") int sink(struct xdp_md* context) {
    const struct frame* frame = (void*)(long)context->data;
    if ((void*)(frame + 1) > (void*)(long)context->data_end) return XDP_PASS;
    if (frame->ip.daddr != traffic.endpoint || frame->udp.dest != traffic.endpoint_port) return XDP_PASS;
    __sync_fetch_and_add(&traffic.arrived, 1);
    return XDP_DROP;
}

inlined __u64 sum_16(const void* from, __u32 size) {
    __u64 sum = 0;
    const __u16* word = from;
#pragma unroll
    for (__u32 i = 0; i < size / 2; ++i)
        sum += word[i];
    return sum;
}

// RFC 791 and 768; the payload is zeros.
inlined void set_checksums(struct frame* frame) {
    frame->ip.check = 0;
    frame->ip.check = ~folded(sum_16(&frame->ip, sizeof(frame->ip)));
    frame->udp.check = 0;
    frame->udp.check = ~folded(sum_16(&frame->ip.saddr, 8) + bpf_htons(IPPROTO_UDP) + frame->udp.len +
                               sum_16(&frame->udp, sizeof(frame->udp)));
}

// Of the size that it came in with, whatever the program before has put in front of it or taken away behind.
inlined struct frame* whole_frame(struct xdp_md* context) {
    const long size = (void*)(long)context->data_end - (void*)(long)context->data;
    const int missing = (int)(sizeof(struct frame) - size);
    if (unlikely(missing < 0) && bpf_xdp_adjust_head(context, -missing) != 0) return 0;
    if (unlikely(missing > 0) && bpf_xdp_adjust_tail(context, missing) != 0) return 0;
    struct frame* frame = (void*)(long)context->data;
    return (void*)(frame + 1) > (void*)(long)context->data_end ? 0 : frame;
}

// A connection's first packet, without options: what it has behind the ports, and its length; the rest is padding.
inlined void write_syn(struct frame* frame, __u32 n) {
    struct tcphdr* tcp = (void*)frame + offsetof(struct frame, udp);
    frame->ip.tot_len = bpf_htons(sizeof(frame->ip) + sizeof(*tcp));
    tcp->seq = n;
    tcp->ack_seq = 0;
    ((__be16*)tcp)[6] = bpf_htons((sizeof(*tcp) / 4) << 12 | 2);  // the header's length, and SYN alone
    tcp->window = bpf_htons(64240);
    tcp->check = 0x5678;
    tcp->urg_ptr = 0;
}

SEC("xdp") int draw(struct xdp_md* context) {
    struct frame* frame = whole_frame(context);
    if (!frame) return XDP_ABORTED;
    __u32 n = traffic.first;
    if (traffic.in_order) {
        n += traffic.next++;
    } else if (traffic.flows > 1) {
        n += (__u32)((__u64)bpf_get_prandom_u32() * traffic.flows >> 32);
    }
    frame->ethernet.h_proto = bpf_htons(ETH_P_IP);
    frame->ip.tot_len = bpf_htons(sizeof(*frame) - sizeof(frame->ethernet));
    frame->ip.ttl = 64;
    frame->ip.check = 0x1234;  // the programs change checksums by difference, whatever they are
    frame->udp.check = 0x5678;
    if (traffic.from_endpoint) {
        frame->ip.saddr = traffic.endpoint;
        frame->ip.daddr = traffic.source;
    } else {
        frame->ip.saddr = client_address_be(n);
        frame->ip.daddr = traffic.service;
        frame->udp.source = client_port_be(n);
        frame->udp.dest = traffic.service_port;
    }
    if (traffic.syn) write_syn(frame, n);
    if (traffic.live) {
        for (int i = 0; i < ETH_ALEN; ++i)
            frame->ethernet.h_dest[i] = traffic.interface[i];
        set_checksums(frame);
    }
    bpf_tail_call(context, &under_test, 0);
    return XDP_ABORTED;
}

char LICENSE[] SEC("license") = "GPL";
