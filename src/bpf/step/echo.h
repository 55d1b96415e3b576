// Echo requests to a service's address are answered here, where the address is: ping says that the packet plane lives.
#pragma once

#include "bpf/lib/checksum.h"
#include "bpf/step/account.h"
#include "bpf/step/classify.h"

// Source and destination change places, which no checksum notices; so do the two of Ethernet.
inlined bool turn_round(struct cursor frame, const struct packet* p) {
    struct ethhdr* ethernet = header_at(frame, 0, sizeof(*ethernet));
    if (!ethernet) return false;
    __u8 asker[ETH_ALEN];
    __builtin_memcpy(asker, ethernet->h_source, ETH_ALEN);
    __builtin_memcpy(ethernet->h_source, ethernet->h_dest, ETH_ALEN);
    __builtin_memcpy(ethernet->h_dest, asker, ETH_ALEN);
    if (p->v6) {
        struct ipv6hdr* ip = header_at(frame, p->network, sizeof(*ip));
        if (!ip) return false;
        write_address(&ip->saddr, &p->destination);
        write_address(&ip->daddr, &p->source);
        ip->hop_limit = own_hop_limit;
        return true;
    }
    struct iphdr* ip = header_at(frame, p->network, sizeof(*ip));
    if (!ip) return false;
    ip->saddr = unmapped(&p->destination);
    ip->daddr = unmapped(&p->source);
    ip->check = checksum_changed(ip->check, difference_16(0, bpf_htons(ip->ttl << 8), bpf_htons(own_hop_limit << 8)));
    ip->ttl = own_hop_limit;
    return true;
}

inlined enum outcome answer_echo(void* context, enum hook hook, const struct packet* p) {
    const __u32 service = service_at_host(&p->destination);
    if (!service) return outcome_pass;
    const struct cursor frame = frame_of(context, hook);
    struct icmp_header* icmp = header_at(frame, p->transport, sizeof(*icmp));
    if (!icmp || !turn_round(frame, p)) return refuse(service, packet_verdict_internal_error);
    const __u8 reply = p->v6 ? icmp6_echo_reply : icmp4_echo_reply;
    icmp->checksum =
        checksum_changed(icmp->checksum, difference_16(0, bpf_htons(icmp->type << 8), bpf_htons(reply << 8)));
    icmp->type = reply;
    count_packet(service, 0, direction_up, p->length);
    count_packet(service, 0, direction_down, p->length);
    return bounce(context, hook);
}
