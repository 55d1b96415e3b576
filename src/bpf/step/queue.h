// queue: a packet that is to wait for its turn is handed to user space, which sends it (packet/shaper.h).
#pragma once

#include "bpf/step/decide.h"

// The sockets of the queues that packets come in by: an interface's first, and the others behind it.
struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, queue_sockets_most);
    __type(key, __u32);
    __type(value, __u32);
} queue_sockets SEC(".maps");
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, queue_interfaces_most);
    __type(key, __u32);  // interface
    __type(value, __u32);
} queue_places SEC(".maps");

// The frame is as it is to leave. False: nobody is there who would send it; it goes without waiting, so that flows go
// on while no process runs. Ends every pointer into the frame.
__noinline int queue_at_xdp(struct xdp_md* context, const struct packet* p, const struct decision* d, __u32 interface) {
    if (!p || !d) return 0;
    const __u32 ingress = ingress_interface(context, hook_xdp),
                queue = CONTEXT_WORD(context, struct xdp_md, rx_queue_index);
    const __u32* first = bpf_map_lookup_elem(&queue_places, &ingress);
    if (!first || bpf_xdp_adjust_meta(context, -(int)sizeof(struct queued_packet)) != 0) return 0;
    struct queued_packet* about = (void*)(long)context->data_meta;
    if ((void*)(about + 1) > (void*)(long)context->data) return 0;
    about->interface = interface;
    about->flow = spread_of(p);
    about->payload = payload_of(p);
    about->service = d->service;
    about->direction = d->direction;
    about->priority = d->priority;
    return bpf_redirect_map(&queue_sockets, *first + queue, 0) == XDP_REDIRECT;
}
