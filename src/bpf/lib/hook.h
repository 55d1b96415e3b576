// One source for two hooks: what XDP and TC do differently. `hook` is a constant wherever these are inlined, so that
// the other hook's code is gone from each program.
#pragma once

#include <linux/pkt_cls.h>

#include "bpf/lib/cursor.h"

enum hook { hook_xdp, hook_tc };

// Set by user space. The driver veth leaves what XDP_TX gives it lying until something else comes by, where its peer
// has no XDP program (drivers/net/veth.c, veth_xdp_flush); a redirect to the same interface goes at once.
volatile __u32 bounce_by_redirect = 0;

enum outcome {
    outcome_pass,  // to the machine's own stack
    outcome_drop,
    outcome_bounce,    // out of the interface it came in by
    outcome_redirect,  // out of another, given to bpf_redirect
};

// At TC it may end before the packet does.
inlined struct cursor frame_of(void* context, enum hook hook) {
    if (hook == hook_xdp) {
        const struct xdp_md* xdp = context;
        return (struct cursor){(void*)(long)xdp->data, (void*)(long)xdp->data_end};
    }
    const struct __sk_buff* skb = context;
    return (struct cursor){(void*)(long)skb->data, (void*)(long)skb->data_end};
}

// Written out: the compiler would share the member's address between places that ask for it, and the verifier takes a
// context only as it was given.
#define CONTEXT_WORD(context, type, member)                                                              \
    ({                                                                                                   \
        __u32 word;                                                                                      \
        asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(word) : "r"(context), "i"(offsetof(type, member))); \
        word;                                                                                            \
    })

inlined __u32 ingress_interface(void* context, enum hook hook) {
    return hook == hook_xdp ? CONTEXT_WORD(context, struct xdp_md, ingress_ifindex)
                            : CONTEXT_WORD(context, struct __sk_buff, ingress_ifindex);
}

// The same, of which at least `size` bytes can be seen if it has them. Ends every pointer into the frame.
inlined struct cursor frame_up_to(void* context, enum hook hook, __u32 size) {
    if (hook == hook_tc) bpf_skb_pull_data(context, size);
    return frame_of(context, hook);
}

// Bytes of the frame, wherever they lie. Storing ends every pointer into it.
inlined long load_bytes(void* context, enum hook hook, __u32 at, void* to, __u32 size) {
    return hook == hook_xdp ? bpf_xdp_load_bytes(context, at, to, size) : bpf_skb_load_bytes(context, at, to, size);
}
inlined long store_bytes(void* context, enum hook hook, __u32 at, const void* from, __u32 size) {
    return hook == hook_xdp ? bpf_xdp_store_bytes(context, at, (void*)from, size)
                            : bpf_skb_store_bytes(context, at, from, size, 0);
}

// Makes a frame of `size` bytes one of `wanted`. Ends every pointer into it.
inlined bool resize(void* context, enum hook hook, __u32 size, __u32 wanted) {
    if (size == wanted) return true;
    if (hook == hook_tc) return bpf_skb_change_tail(context, wanted, 0) == 0;
    return bpf_xdp_adjust_tail(context, (int)(wanted - size)) == 0;
}

// Back out of the interface it came in by.
inlined enum outcome bounce(void* context, enum hook hook) {
    if (hook == hook_xdp && !bounce_by_redirect) return outcome_bounce;
    bpf_redirect(ingress_interface(context, hook), 0);
    return outcome_redirect;
}

inlined int hook_code(enum hook hook, enum outcome outcome) {
    if (outcome == outcome_pass)
        return hook == hook_xdp ? (int)XDP_PASS : TC_ACT_UNSPEC;  // to the next program, if any
    if (outcome == outcome_drop) return hook == hook_xdp ? (int)XDP_DROP : TC_ACT_SHOT;
    if (outcome == outcome_bounce && hook == hook_xdp) return XDP_TX;
    return hook == hook_xdp ? (int)XDP_REDIRECT : TC_ACT_REDIRECT;
}
