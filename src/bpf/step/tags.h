// tags: a frame has the VLAN tag of the link that it leaves by, and no other, whichever it came with.
#pragma once

#include "bpf/lib/hook.h"
#include "bpf/lib/packet.h"

// Where the frame's first tag is, if it has any; behind Ethernet's addresses.
enum { tag_at = 2 * ETH_ALEN, tags_at_most = 2 * sizeof(struct vlan_header) };

// `within`: bytes of tags that the frame has. What is behind them stays where it is; the addresses, which move, are the
// next link's and written afterwards.
__noinline int change_tags_at_xdp(struct xdp_md* context, __u32 within, __u32 tag) {
    const __u32 wanted = tag ? sizeof(tag) : 0;
    if (within > tags_at_most) return false;
    if (within != wanted && bpf_xdp_adjust_head(context, (int)within - (int)wanted) != 0) return false;
    return !tag || store_bytes(context, hook_xdp, tag_at, &tag, sizeof(tag)) == 0;
}

// The kernel has taken the outermost out of the frame before. Removing it, it takes out the next; where there is none
// left it does nothing.
__noinline int remove_tags_at_tc(struct __sk_buff* context) {
#pragma unroll
    for (int tag = 0; tag < 3; ++tag)
        if (bpf_skb_vlan_pop(context) != 0) return false;
    return true;
}

// Bytes of tags in the frame.
inlined __u32 tags_within(const struct packet* p) {
    return p->network - ETH_HLEN;
}
// Whether the outermost is beside the frame.
inlined __u32 tag_beside(void* context, enum hook hook) {
    return hook == hook_tc ? CONTEXT_WORD(context, struct __sk_buff, vlan_present) : 0;
}

// `tag`: the next link's, as it lies in a frame; 0: none. Ends every pointer into the frame, whose offsets are others.
inlined bool change_tags(void* context, enum hook hook, const struct packet* p, __u32 tag) {
    const __u32 within = tags_within(p);
    if (likely(!(within | tag_beside(context, hook) | tag))) return true;
    return hook == hook_xdp ? change_tags_at_xdp(context, within, tag) : remove_tags_at_tc(context);
}
