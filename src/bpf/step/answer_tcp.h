// A bare TCP header in the place of the packet in hand, back to its sender.
#pragma once

#include "bpf/step/echo.h"

// Its length, which is that of bare headers. What came before the transport's header stays, options and extensions as
// they were.
inlined bool shorten(struct cursor frame, const struct packet* p) {
    const __u32 headers = p->transport - p->network;
    if (p->v6) {
        struct ipv6hdr* ip = header_at(frame, p->network, sizeof(*ip));
        if (!ip) return false;
        ip->payload_len = bpf_htons(headers - sizeof(*ip) + sizeof(struct tcphdr));
        return true;
    }
    struct iphdr* ip = header_at(frame, p->network, sizeof(*ip));
    if (!ip) return false;
    const __u16 before = ip->tot_len;
    ip->tot_len = bpf_htons(headers + sizeof(struct tcphdr));
    ip->check = checksum_changed(ip->check, difference_16(0, before, ip->tot_len));
    return true;
}

// All but the TCP header. Ends every pointer into the frame but `frame`.
inlined bool make_answer(void* context, enum hook hook, const struct packet* p, struct cursor* frame) {
    if (!resize(context, hook, p->network + p->room, p->transport + sizeof(struct tcphdr))) return false;
    *frame = frame_of(context, hook);
    return turn_round(*frame, p) && shorten(*frame, p);
}

// The sum of a header that is its ports, `words` and nothing else; see write_answer.
inlined __u64 sum_of_answer(const struct packet* p, const __be32* words) {
    return (__u64)p->source_port_be + p->destination_port_be + words[0] + words[1] + words[2];
}

inlined __u64 sum_of_pseudo_header(const struct packet* p) {
    const __u64 sum = bpf_htons(sizeof(struct tcphdr)) + (__u64)bpf_htons(IPPROTO_TCP);
    return sum_128(sum_128(sum, &p->source), &p->destination);
}

// Without options, with a window of 0. At TC the packet's checksum may have been one that the kernel or the card was
// yet to compute, and the answer's is then one too: it holds the sum of the pseudo header. A helper that changes the
// others' checksums and leaves those alone makes of that the whole one.
inlined bool write_answer(void* context, enum hook hook, struct tcphdr* tcp, const struct packet* p, __be32 sequence,
                          __be32 acknowledged, __u8 flags) {
    const __be32 words[3] = {sequence, acknowledged, bpf_htonl(sizeof(*tcp) / 4 << 28 | (__u32)flags << 16)};
    const __u64 pseudo = sum_of_pseudo_header(p), sum = sum_of_answer(p, words);
    tcp->source = p->destination_port_be;
    tcp->dest = p->source_port_be;
    tcp->seq = words[0];
    tcp->ack_seq = words[1];
    ((__be32*)tcp)[3] = words[2];
    tcp->urg_ptr = 0;
    tcp->check = hook == hook_xdp ? (__u16)~folded(pseudo + sum) : folded(pseudo);
    if (hook == hook_xdp) return true;
    const __u32 at = p->transport + offsetof(struct tcphdr, check);
    return bpf_l4_csum_replace(context, at, 0, folded_32(2 * (__u64)folded(pseudo) + sum), 0) == 0;
}
