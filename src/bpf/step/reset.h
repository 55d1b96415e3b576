// reset: the client of a TCP flow whose endpoint is dead hears so with the next thing it says, as the endpoint's host
// would tell it if it were there (RFC 9293 3.5.2): a RST with the number that the client expects. It is in the
// service's name whatever the forwarding.
#pragma once

#include "bpf/step/answer_tcp.h"
#include "bpf/step/decide.h"

inlined bool write_reset(void* context, enum hook hook, struct cursor frame, const struct packet* p) {
    struct tcphdr* tcp = header_at(frame, p->transport, sizeof(*tcp));
    return tcp && write_answer(context, hook, tcp, p, tcp->ack_seq, 0, tcp_rst);
}

// The packet itself is dropped, and counted as that.
inlined enum outcome reset(void* context, enum hook hook, const struct packet* p, const struct decision* d) {
    struct cursor frame;
    const enum outcome dropped = refuse(d->service, d->why);
    if (!make_answer(context, hook, p, &frame) || !write_reset(context, hook, frame, p)) return dropped;
    return bounce(context, hook);
}
__noinline int reset_at_xdp(struct xdp_md* context, const struct packet* p, const struct decision* d) {
    return p && d ? (int)reset(context, hook_xdp, p, d) : outcome_pass;
}
__noinline int reset_at_tc(struct __sk_buff* context, const struct packet* p, const struct decision* d) {
    return p && d ? (int)reset(context, hook_tc, p, d) : outcome_pass;
}
