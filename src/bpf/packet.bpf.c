// The packet plane's programs: the five steps, at XDP and at TC.
//
//   parse    the frame becomes a struct packet                                                       lib/packet.h
//   decide   classify, admit, choose: who it is, and what it is to become; no access to the frame   step/decide.h
//   forward  the frame is rewritten, or put inside another, and sent   step/forward.h, encapsulate.h, tags.h, send.h
//   queue    what is to wait for its turn goes to user space, which sends it    step/queue.h
//   reset    who goes on with a connection whose endpoint is dead is told      step/reset.h
//   cookie   under pressure a client proves its address                                             step/cookie.h
//   parts    of datagrams go where the first of them went                                        step/fragments.h
//   errors   ICMP's about what was forwarded go to who sent it            step/icmp_error.h, step/tunnel_error.h
//   tell     the sender of a packet that it was too large, or had come too far              step/tell_sender.h
//   answer   what is asked of a service's address itself: is it there, and where     step/echo.h, step/resolve.h
//
// What does not happen to every packet is a function of its own, which the verifier goes through once for any packet,
// and whose stack lies beside the others': a chain of calls has 512 bytes. They are not programs reached by tail calls:
// the kernel empties the array of those when no process holds it any more, and packets have to go on without us.
#include "bpf/step/cookie.h"
#include "bpf/step/echo.h"
#include "bpf/step/fragments.h"
#include "bpf/step/icmp_error.h"
#include "bpf/step/reset.h"
#include "bpf/step/resolve.h"
#include "bpf/step/send.h"
#include "bpf/sweep.h"

// The shapes that no map's type and no function names: by this pointer, which nobody reads, BTF has them too, and
// packet/abi_test.cc can compare them.
union shapes {
    struct directory directory;
    struct access_chunk access;
    struct access_roots roots;
    struct flow_bucket bucket;
    struct flow_chunk chunk;
    struct flow_client_chunk clients;
    struct flow_report report;
    struct neighbour_report neighbour;
    struct queued_packet queued;
};
const volatile union shapes* const volatile shapes = 0;

// What is no flow's, and yet may be asked of a service's address. Functions of their own, for the stack's sake.
inlined enum outcome answer(void* context, enum hook hook, enum parsed what, const struct packet* p) {
    if (what == parsed_echo) return answer_echo(context, hook, p);
    if (what == parsed_arp) return answer_arp(context, hook, p);
    return answer_solicitation(context, hook, p, p->network + p->room);
}
__noinline int answer_at_xdp(struct xdp_md* context, const struct packet* p, __u32 what) {
    return p ? (int)answer(context, hook_xdp, what, p) : outcome_pass;
}
__noinline int answer_at_tc(struct __sk_buff* context, const struct packet* p, __u32 what) {
    return p ? (int)answer(context, hook_tc, what, p) : outcome_pass;
}

// Of a later part whose first is not known, only what is for a service's address is surely ours: the others may be the
// machine's own.
inlined enum outcome refuse_part(const struct packet* p) {
    const __u32 service = service_at_host(&p->destination);
    return service ? refuse(service, packet_verdict_fragment) : outcome_pass;
}

inlined enum outcome process_other(void* context, enum hook hook, enum parsed what, const struct packet* p,
                                   struct decision* d) {
    if (what == parsed_malformed) return refuse(0, packet_verdict_malformed);
    if (what == parsed_other) return outcome_pass;
    if (what == parsed_fragment) return refuse_part(p);
    if (what == parsed_icmp_error) return hook == hook_xdp ? error_at_xdp(context, p, d) : error_at_tc(context, p, d);
    return hook == hook_xdp ? answer_at_xdp(context, p, what) : answer_at_tc(context, p, what);
}

// A flow's packet that does not go on.
inlined enum outcome end_here(void* context, enum hook hook, const struct packet* p, const struct decision* d,
                              int decided) {
    if (decided == decided_pass) return outcome_pass;
    if (decided == decided_answer)
        return hook == hook_xdp ? answer_syn_at_xdp(context, p, d->service) : answer_syn_at_tc(context, p, d->service);
    if (decided == decided_reset) return hook == hook_xdp ? reset_at_xdp(context, p, d) : reset_at_tc(context, p, d);
    if (d->why == packet_verdict_hop_limit) return refuse_and_tell(context, hook, p, d, d->why, 0);
    return refuse(d->service, d->why);
}

// What is known of the packet in hand, a CPU and a hook: on a CPU a program ends before it begins again. Not on the
// stack: of what a map holds the verifier assumes nothing, so that after any way through the headers it has the same
// before it, and follows what comes next once.
struct in_hand {
    struct packet packet;
    struct decision decision;
};
PER_CPU_ARRAY_OF(in_hand, struct in_hand, 2);

inlined struct in_hand* begin_packet(__u32 hook) {
    struct in_hand* here = bpf_map_lookup_elem(&in_hand, &hook);
    if (!here) return 0;
    here->packet = (struct packet){0};
    here->decision = (struct decision){0};
    return here;
}

inlined enum outcome process(void* context, enum hook hook, __u32 size) {
    struct in_hand* here = begin_packet(hook);
    if (!here) return outcome_pass;
    struct packet* p = &here->packet;
    struct decision* d = &here->decision;
    const enum parsed what = parse(frame_of(context, hook), size, p);
    if (unlikely(what != parsed_flow) && (what != parsed_fragment || !recall_ports(p)))
        return process_other(context, hook, what, p, d);
    int decided = decide(p, d);
    if (unlikely(decided != decided_forward || p->fragment)) {
        if (decided == decided_begin || decided == decided_anew || decided == decided_prove)
            decided = welcome(context, hook, p, d, decided);
        if (p->fragment) decided = decide_part(p, d, decided);
        if (decided != decided_forward) return end_here(context, hook, p, d, decided);
    }
    return forward(context, hook, p, d);
}

SEC("xdp") int packet_xdp(struct xdp_md* context) {
    const struct cursor frame = frame_of(context, hook_xdp);
    return hook_code(hook_xdp, process(context, hook_xdp, frame.end - frame.at));
}

SEC("tc") int packet_tc(struct __sk_buff* context) {
    return hook_code(hook_tc, process(context, hook_tc, context->len));
}

char LICENSE[] SEC("license") = "GPL";
