// cookie: under pressure a client proves its address before anything is kept for it.
//
// A SYN of no flow is answered with a SYN and ACK that acknowledge something the client never sent. It answers that
// with a RST whose sequence number is what was acknowledged (RFC 9293 3.10.7.3, state SYN-SENT) and goes on asking:
// Linux sends its SYN again at once, others when their timer says so. The RST is remembered, whoever sent it; the SYN
// that comes again tells whether it was right, as what was acknowledged depends on its own sequence number and a key.
// Then the flow begins as any other, with the client's own SYN: no number and no option of the connection is ours,
// nothing of it has to be translated later, and the endpoint may answer the client directly.
//
// What is acknowledged lies less than 65,001 bytes before the client's own number. Firewalls and address translators on
// the way that follow connections take acknowledgements for a connection's while they are no further behind than a
// window of 66,000 bytes, also before any window is known (Linux, MAXACKWINCONST in nf_conntrack_proto_tcp.c), and let
// both the answer and its RST pass. So a guess succeeds once in 65,000, for one client's port, and lets one flow begin.
#pragma once

#include "bpf/step/answer_tcp.h"
#include "bpf/step/decide.h"

enum {
    cookie_window = 65000,
    cookie_period_shift = 6,  // of 64 s; the one before counts too
};

// By a client's address, port and service, the sequence number of the RST that came from there last.
struct {
    __uint(type, BPF_MAP_TYPE_LRU_HASH);
    __uint(max_entries, syn_proofs);
    __type(key, struct source_key);  // `reserved`: the port
    __type(value, __u32);
} proofs SEC(".maps");

inlined struct source_key proof_key_of(const struct packet* p, __u32 service) {
    return (struct source_key){p->source, service, p->source_port_be};
}

// Keyed as the flow table, and another function than the ones used there, as it absorbs another number of words.
inlined __u64 cookie_of(const struct packet* p, __u32 service, __u32 sequence, __u64 period) {
    struct siphash s = siphash_begin(flow_table.key[0], flow_table.key[1]);
    siphash_absorb(&s, p->source.word[0]);
    siphash_absorb(&s, p->source.word[1]);
    siphash_absorb(&s, (__u64)p->source_port_be << 32 | service);
    siphash_absorb(&s, period << 32 | sequence);
    return siphash_end(&s, 4);
}

// What is acknowledged of a SYN. From 1 to cookie_window below what would be right.
inlined __u32 acknowledged(__u64 cookie, __u32 sequence) {
    return sequence - (__u32)((cookie & 0xffffffff) * cookie_window >> 32);
}

inlined __u64 cookie_period(void) {
    return now_seconds() >> cookie_period_shift;
}

inlined void count_proof(__u32 service, bool proven) {
    struct packet_counters* counts = bpf_map_lookup_elem(&service_counts, &service);
    if (!counts) return;
    counts->cookies += !proven;
    counts->proven += proven;
}

// A SYN under pressure. A proof stays until others need its place: the client may have to ask again.
inlined int prove_syn(const struct packet* p, struct decision* d, __u32 sequence) {
    const struct source_key key = proof_key_of(p, d->service);
    const __u32* reset = bpf_map_lookup_elem(&proofs, &key);
    bool proven = false;
    if (reset) {
        const __u32 said = *reset;
        const __u64 period = cookie_period();
        for (__u64 ago = 0; ago < 2; ++ago)
            proven |= said == acknowledged(cookie_of(p, d->service, sequence, period - ago), sequence);
    }
    count_proof(d->service, proven);
    return proven ? decided_begin : decided_answer;
}

// A RST of no flow: it may be a proof. It is dropped all the same.
inlined int note_reset(const struct packet* p, struct decision* d, __u32 sequence) {
    const __u32 index = d->service;
    const struct packet_service* service = bpf_map_lookup_elem(&services, &index);
    const struct admission* state = bpf_map_lookup_elem(&admissions, &index);
    const struct packet_limits* limit = bpf_map_lookup_elem(&limits, &index);
    if (!service || !state || !limit || !(service->flags & service_limits_flows) || !must_prove(limit, state))
        return decided_drop;
    const struct source_key key = proof_key_of(p, index);
    bpf_map_update_elem(&proofs, &key, &sequence, BPF_ANY);
    return decided_drop;
}

// What becomes of a SYN or RST of no flow under pressure. A part of a packet proves nothing.
inlined int prove(struct cursor frame, const struct packet* p, struct decision* d) {
    const struct tcphdr* tcp = header_at(frame, p->transport, sizeof(*tcp));
    if (!tcp) return drop(d, packet_verdict_internal_error);
    if (p->fragment) return drop(d, packet_verdict_fragment);
    const __u32 sequence = bpf_ntohl(tcp->seq);
    d->why = packet_verdict_no_flow;
    if (p->tcp_flags & tcp_rst) return note_reset(p, d, sequence);
    return is_first_syn(p->tcp_flags) ? prove_syn(p, d, sequence) : decided_drop;
}
__noinline int prove_at_xdp(struct xdp_md* context, const struct packet* p, struct decision* d) {
    return p && d ? prove(frame_of(context, hook_xdp), p, d) : decided_pass;
}
__noinline int prove_at_tc(struct __sk_buff* context, const struct packet* p, struct decision* d) {
    return p && d ? prove(frame_of(context, hook_tc), p, d) : decided_pass;
}

// May a packet of no flow begin one, and if so what does it become?
inlined int welcome(void* context, enum hook hook, const struct packet* p, struct decision* d, int decided) {
    if (p->fragment == fragment_later) return decided_pass;
    if (!may_be_client(p)) return drop(d, packet_verdict_spoofed_source);
    // A client whose flow is kept already was let in once. Its RST would be taken for the flow's, and prove nothing.
    int why = decided == decided_prove ? (int)unproven : may_begin(p, d->service, decided == decided_anew);
    if (why == unproven && decided == decided_begin && !is_first_syn(p->tcp_flags)) return pass_by(p, d);
    if (why == unproven) {
        decided = hook == hook_xdp ? prove_at_xdp(context, p, d) : prove_at_tc(context, p, d);
        if (decided != decided_begin) return decided;
        why = may_begin(p, d->service, true);
    }
    return why == admitted ? begin(p, d) : drop(d, why);
}

// --- the answer ----------------------------------------------------------------------------------------------------

// SYN and ACK in the place of the SYN.
inlined bool accept_for_now(void* context, enum hook hook, struct cursor frame, const struct packet* p, __u32 service) {
    struct tcphdr* tcp = header_at(frame, p->transport, sizeof(*tcp));
    if (!tcp) return false;
    const __u32 sequence = bpf_ntohl(tcp->seq);
    const __u64 cookie = cookie_of(p, service, sequence, cookie_period());
    return write_answer(context, hook, tcp, p, bpf_htonl(cookie >> 32), bpf_htonl(acknowledged(cookie, sequence)),
                        tcp_syn | tcp_ack);
}

inlined enum outcome answer_syn(void* context, enum hook hook, const struct packet* p, __u32 service) {
    struct cursor frame;
    if (!make_answer(context, hook, p, &frame) || !accept_for_now(context, hook, frame, p, service))
        return refuse(service, packet_verdict_internal_error);
    return bounce(context, hook);
}
__noinline int answer_syn_at_xdp(struct xdp_md* context, const struct packet* p, __u32 service) {
    return p ? (int)answer_syn(context, hook_xdp, p, service) : outcome_pass;
}
__noinline int answer_syn_at_tc(struct __sk_buff* context, const struct packet* p, __u32 service) {
    return p ? (int)answer_syn(context, hook_tc, p, service) : outcome_pass;
}
