// clamp: the largest segment that both sides of a TCP connection tell each other as it begins (RFC 9293 3.7.1) is
// lowered on its way to what the service says, so that what they send fits a way that neither of them knows.
#pragma once

#include "bpf/lib/checksum.h"
#include "bpf/lib/hook.h"
#include "bpf/lib/maps.h"
#include "bpf/lib/packet.h"

enum { most_tcp_options = 40, option_end = 0, option_none = 1, option_segment = 2, option_segment_size = 4 };

struct options {
    __u8 byte[most_tcp_options];
    __u32 size, at;
    __u32 found;  // where the option is, counted from 1; 0: nowhere yet
};

static long pass_option(__u32 i, void* options) {
    struct options* o = options;
    __u64 at = o->at;
    bounded(at);
    if (at > most_tcp_options - option_segment_size || at + option_segment_size > o->size) return 1;
    const __u8 kind = o->byte[at], size = o->byte[at + 1];
    if (kind == option_end) return 1;
    if (kind == option_segment && size == option_segment_size) o->found = at + 1;
    if (o->found || (kind != option_none && size < 2)) return 1;
    o->at = at + (kind == option_none ? 1 : size);
    return 0;
}

// Where in the frame a SYN's segment size is; 0: it has none.
inlined __u32 find_segment_size(void* context, enum hook hook, const struct packet* p) {
    struct options o = {.size = p->transport_header - sizeof(struct tcphdr)};
    if (!o.size || o.size > most_tcp_options) return 0;
    __u32 size = between_1_and_64(o.size);
    bounded(size);
    if (size > most_tcp_options) return 0;
    if (load_bytes(context, hook, p->transport + sizeof(struct tcphdr), o.byte, size) != 0) return 0;
    bpf_loop(most_tcp_options, pass_option, &o, 0);
    return o.found ? p->transport + sizeof(struct tcphdr) + o.found - 1 + 2 : 0;
}

// Where the number does not lie on an even byte, the checksum has its bytes the other way round.
inlined bool lower_segment_size(void* context, enum hook hook, const struct packet* p, __u16 most) {
    const __u32 at = find_segment_size(context, hook, p), check_at = p->transport + offsetof(struct tcphdr, check);
    __u16 told = 0, check;
    if (!at || load_bytes(context, hook, at, &told, sizeof(told)) != 0 || bpf_ntohs(told) <= most) return true;
    const __u16 lowered = bpf_htons(most);
    if (store_bytes(context, hook, at, &lowered, sizeof(lowered)) != 0) return false;
    const bool odd = (at - p->transport) & 1;
    const __u16 from = odd ? bpf_ntohs(told) : told, to = odd ? most : lowered;
    if (hook == hook_tc) return bpf_l4_csum_replace(context, check_at, from, to, sizeof(to)) == 0;
    if (load_bytes(context, hook, check_at, &check, sizeof(check)) != 0) return false;
    check = checksum_changed(check, difference_16(0, from, to));
    return store_bytes(context, hook, check_at, &check, sizeof(check)) == 0;
}

// Ends every pointer into the frame.
inlined bool clamp(void* context, enum hook hook, const struct packet* p, __u32 index) {
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    return !service || !service->mss || p->fragment || lower_segment_size(context, hook, p, service->mss);
}
__noinline int clamp_at_xdp(struct xdp_md* context, const struct packet* p, __u32 service) {
    return p && clamp(context, hook_xdp, p, service);
}
__noinline int clamp_at_tc(struct __sk_buff* context, const struct packet* p, __u32 service) {
    return p && clamp(context, hook_tc, p, service);
}
