// A packet taken apart: where its headers lie and what the five steps want to know of it.
#pragma once

#include "bpf/lib/hook.h"

enum fragment {
    fragment_none,
    fragment_first,  // the datagram's begin, its transport header whole
    fragment_later,
};

enum parsed {
    parsed_flow,        // TCP or UDP with ports
    parsed_echo,        // ICMP or ICMPv6 echo request
    parsed_icmp_error,  // ICMP or ICMPv6, about another packet
    parsed_arp,
    parsed_solicitation,  // of a neighbour: IPv6's ARP
    parsed_other,         // nothing the packet plane takes: let it pass
    parsed_malformed,     // a header that contradicts itself or is cut short
    parsed_fragment,      // a later part of a datagram, whose first has the ports
};

// No pointers into the frame: what is between the first and the last step is verified on its own, for any packet.
struct packet {
    struct address source, destination;
    __u16 source_port_be, destination_port_be;
    __u8 protocol;   // IPPROTO_TCP or IPPROTO_UDP
    __u8 tcp_flags;  // tcp_fin | …
    __u8 hop_limit;
    bool v6;
    __u8 traffic_class;     // DSCP and ECN
    __u8 fragment;          // enum fragment
    __u8 transport_header;  // bytes of it, with TCP's options
    __u16 tcp_number;       // low bits of what a SYN wants acknowledged, and of what others acknowledge
    __u32 identification;   // of the datagram that it is a part of
    __u32 length;           // from the IP header on
    __u32 room;             // what the frame has from the IP header on, of which the cursor may see the beginning only
    __u16 network, transport;  // where in the frame the headers begin
};

// Without headers, which a later part of a datagram does not have beyond the network's.
inlined __u32 payload_of(const struct packet* p) {
    return p->length - (p->transport - p->network) - p->transport_header;
}

inlined __u32 end_of_packet(const struct packet* p) {
    return p->network + p->length;
}

// Whether an address is one host's that can be met on a link: none, everybody, a group, or the machine that it is said
// on (RFC 1122 3.2.1.3, RFC 4291 2.5 and 2.7).
inlined bool is_one_host(const struct address* a, bool v6) {
    const __u8 first = v6 ? (__u8)a->word[0] : (__u8)unmapped(a);
    if (!v6) return first && first != 127 && first < 224;
    return first != 0xff && (a->word[0] || a->word[1] & ~bpf_cpu_to_be64(1));
}

enum { own_hop_limit = 64 };  // of packets made here: RFC 1700's default

enum { tcp_fin = 1, tcp_syn = 2, tcp_rst = 4, tcp_ack = 16 };

// The first packet of a TCP connection.
inlined bool is_first_syn(__u8 tcp_flags) {
    return (tcp_flags & (tcp_syn | tcp_rst | tcp_ack)) == tcp_syn;
}

struct vlan_header {
    __be16 tag, protocol;
};

// Only ETH_P_IP and ETH_P_IPV6 concern us; up to two VLAN tags (802.1Q in 802.1ad) before them.
inlined __be16 parse_ethernet(struct cursor* c) {
    struct ethhdr* ethernet = TAKE(c, struct ethhdr);
    if (!ethernet) return 0;
    __be16 protocol = ethernet->h_proto;
#pragma unroll
    for (int tag = 0; tag < 2; ++tag) {
        if (protocol != bpf_htons(ETH_P_8021Q) && protocol != bpf_htons(ETH_P_8021AD)) break;
        struct vlan_header* vlan = TAKE(c, struct vlan_header);
        if (!vlan) return 0;
        protocol = vlan->protocol;
    }
    return protocol;
}

// Ethernet's header and its tags, kept while what is around them changes. Their size is 14, 18 or 22, as an offset that
// parse_ethernet found; the mask shows the verifier that it is not much more. Linux 6.1 forgets comparisons with what
// waits on the stack, and wants all that may be read set before.
struct ethernet_bytes {
    __u8 byte[ETH_HLEN + 12];
};
inlined __u32 ethernet_size(__u32 size) {
    size -= ETH_HLEN;
    bounded(size);
    return ETH_HLEN + (size & 12);
}
inlined bool take_ethernet(void* context, enum hook hook, __u32 at, __u32 size, struct ethernet_bytes* taken) {
    *taken = (struct ethernet_bytes){0};
    return load_bytes(context, hook, at, taken, ethernet_size(size)) == 0;
}
inlined bool put_ethernet(void* context, enum hook hook, __u32 size, const struct ethernet_bytes* taken) {
    return store_bytes(context, hook, 0, taken, ethernet_size(size)) == 0;
}

// `size` bytes of them to before the room that was made in front of them.
inlined bool move_to_front(void* context, enum hook hook, __u32 size, __u32 room) {
    struct ethernet_bytes ethernet;
    return take_ethernet(context, hook, room, size, &ethernet) && put_ethernet(context, hook, size, &ethernet);
}

// `offset` in 8 bytes. A part that would overwrite some of the TCP header before it may be taken for another one's when
// it is put together behind a filter (RFC 1858, RFC 3128); nobody makes one in earnest.
inlined enum parsed parse_fragment(struct packet* p, __u32 identification, __u32 offset, bool more) {
    if (!offset && !more) return parsed_flow;  // RFC 6946: all of it
    p->identification = identification;
    p->fragment = offset ? fragment_later : fragment_first;
    if (!offset) return parsed_flow;
    return p->protocol == IPPROTO_TCP && offset * 8 < sizeof(struct tcphdr) ? parsed_malformed : parsed_fragment;
}

enum { fragment_offset_4 = 0x1fff, more_fragments_4 = 0x2000, dont_fragment_4 = 0x4000, more_fragments_6 = 1 };
inlined enum parsed parse_fragment_4(struct packet* p, const struct iphdr* ip) {
    const __u16 word = bpf_ntohs(ip->frag_off);
    return parse_fragment(p, bpf_ntohs(ip->id), word & fragment_offset_4, word & more_fragments_4);
}

// The kernel merges TCP segments to more than a length field can tell, and writes 0 there (BIG TCP): then the frame has
// nothing else.
inlined bool is_merged(const struct packet* p, __u32 told) {
    return unlikely(!told && p->room > 0xffff);
}

// RFC 791. The total length must hold the header and lie within the frame; what follows it is padding.
inlined enum parsed parse_ipv4(struct cursor* c, struct packet* p) {
    struct iphdr* ip = TAKE(c, struct iphdr);
    if (!ip || ip->version != 4 || ip->ihl < 5) return parsed_malformed;
    __u32 options = (ip->ihl - 5) * 4;
    bounded(options);
    options &= 0x3c;  // what it is anyway: Linux 6.1 has forgotten what ihl was compared with
    const __u32 told = bpf_ntohs(ip->tot_len);
    const __u32 length = is_merged(p, told) ? p->room : told;
    if (options && !take(c, options)) return parsed_malformed;
    if (length < sizeof(*ip) + options || length > p->room) return parsed_malformed;
    p->length = length;
    p->protocol = ip->protocol;
    p->hop_limit = ip->ttl;
    p->traffic_class = ip->tos;
    p->source = mapped(ip->saddr);
    p->destination = mapped(ip->daddr);
    return parse_fragment_4(p, ip);
}

struct ipv6_extension {
    __u8 next, length;         // in 8 bytes, this not counted
    __u8 type, segments_left;  // of a routing header
    __u8 more[4];
};
struct ipv6_fragment {
    __u8 next, reserved;
    __be16 offset;  // 13 bits, in 8 bytes; the last bit: more follow
    __be32 identification;
};

inlined struct address address_of(const struct in6_addr* a) {
    // Two halves of 32 bits each: a packet's addresses are aligned to 2 bytes only.
    const __u32* w = (const __u32*)a;
    return (struct address){{w[0] | (__u64)w[1] << 32, w[2] | (__u64)w[3] << 32}};
}

inlined void write_address(struct in6_addr* at, const struct address* a) {
    __u32* w = (__u32*)at;
    w[0] = (__u32)a->word[0];
    w[1] = (__u32)(a->word[0] >> 32);
    w[2] = (__u32)a->word[1];
    w[3] = (__u32)(a->word[1] >> 32);
}

// RFC 8200. Hop-by-hop options, routing, fragment and destination options are passed over (4.1 has each at most once,
// destination options twice). Not ours is what has a routing header and is not at its end: its checksum is for another
// destination (8.1). Behind the fragment header of a later part there are no headers.
inlined enum parsed parse_extensions(struct cursor* c, struct packet* p, __u8 next) {
#pragma unroll
    for (int i = 0; i < 5; ++i) {
        p->protocol = next;
        if (next == IPPROTO_FRAGMENT) {
            struct ipv6_fragment* part = TAKE(c, struct ipv6_fragment);
            if (!part) return parsed_malformed;
            if (p->fragment) return parsed_other;
            const __u16 word = bpf_ntohs(part->offset);
            p->protocol = next = part->next;
            const enum parsed what = parse_fragment(p, part->identification, word >> 3, word & more_fragments_6);
            if (what != parsed_flow) return what;
            continue;
        }
        if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS) return parsed_flow;
        struct ipv6_extension* extension = TAKE(c, struct ipv6_extension);
        if (!extension) return parsed_malformed;
        if (next == IPPROTO_ROUTING && extension->segments_left) return parsed_other;
        const __u64 rest = (__u64)extension->length * 8;
        next = extension->next;
        if (!take(c, rest)) return parsed_malformed;
    }
    p->protocol = next;
    return parsed_flow;
}

// Not ours are IPv4 addresses written as IPv6: on the wire they stand for nothing (RFC 4291, 2.5.5.2), and further on
// they would be taken for IPv4 and pass by its access lists.
inlined enum parsed parse_ipv6(struct cursor* c, struct packet* p) {
    struct ipv6hdr* ip = TAKE(c, struct ipv6hdr);
    if (!ip || ip->version != 6) return parsed_malformed;
    const __u32 payload = bpf_ntohs(ip->payload_len), length = is_merged(p, payload) ? p->room : sizeof(*ip) + payload;
    if (length > p->room) return parsed_malformed;
    p->length = length;
    p->hop_limit = ip->hop_limit;
    p->traffic_class = (__u8)(bpf_ntohs(*(__u16*)ip) >> 4);
    p->source = address_of(&ip->saddr);
    p->destination = address_of(&ip->daddr);
    if (is_mapped(&p->source) || is_mapped(&p->destination)) return parsed_other;
    return parse_extensions(c, p, ip->nexthdr);
}

// RFC 792, RFC 4443: type, code and checksum are where both have them.
struct icmp_header {
    __u8 type, code;
    __be16 checksum;
    __be32 rest;
};
enum { icmp4_echo_request = 8, icmp4_echo_reply = 0, icmp6_echo_request = 128, icmp6_echo_reply = 129 };
enum { icmp6_solicitation = 135, icmp6_advertisement = 136 };  // RFC 4861, of neighbours

enum { icmp4_unreachable = 3, icmp4_time_exceeded = 11, icmp4_parameter_problem = 12, icmp4_fragmentation_needed = 4 };
enum { icmp6_too_big = 2, icmp6_time_exceeded = 3, icmp6_last_error = 4 };

// Those about a packet that was sent: a redirect is for its router's neighbours alone, and nobody heeds a source quench
// (RFC 6633).
inlined bool is_icmp_error(__u8 type, bool v6) {
    if (v6) return type && type <= icmp6_last_error;
    return type == icmp4_unreachable || type == icmp4_time_exceeded || type == icmp4_parameter_problem;
}

inlined enum parsed parse_icmp(struct cursor* c, const struct packet* p, __u32 room) {
    const struct icmp_header* icmp = TAKE(c, struct icmp_header);
    if (!icmp || room < sizeof(*icmp)) return parsed_malformed;
    if (p->fragment) return parsed_other;
    if (is_icmp_error(icmp->type, p->v6)) return parsed_icmp_error;
    if (icmp->code) return parsed_other;
    if (icmp->type == (p->v6 ? icmp6_echo_request : icmp4_echo_request)) return parsed_echo;
    return p->v6 && icmp->type == icmp6_solicitation ? parsed_solicitation : parsed_other;
}

// Its header, and with UDP all of it, must lie within the network's total length; of a datagram in parts, the header
// within the first.
inlined enum parsed parse_transport(struct cursor* c, struct packet* p) {
    const __u32 before = p->transport - p->network;
    if (before > p->length) return parsed_malformed;
    const __u32 room = p->length - before;
    if (p->protocol == IPPROTO_UDP) {
        struct udphdr* udp = TAKE(c, struct udphdr);
        if (!udp) return parsed_malformed;
        const __u32 length = bpf_ntohs(udp->len);
        if (length < sizeof(*udp) || room < sizeof(*udp) || (length > room && !p->fragment)) return parsed_malformed;
        p->source_port_be = udp->source;
        p->destination_port_be = udp->dest;
        p->tcp_flags = 0;
        p->transport_header = sizeof(*udp);
        return parsed_flow;
    }
    if (p->protocol == (p->v6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP)) return parse_icmp(c, p, room);
    if (p->protocol != IPPROTO_TCP) return parsed_other;
    struct tcphdr* tcp = TAKE(c, struct tcphdr);
    if (!tcp || tcp->doff < 5 || tcp->doff * 4 > room) return parsed_malformed;
    p->source_port_be = tcp->source;
    p->destination_port_be = tcp->dest;
    p->tcp_flags = ((__u8*)tcp)[13];
    const __u32 wanted = bpf_ntohl(tcp->seq) + 1, acknowledged = bpf_ntohl(tcp->ack_seq);
    p->tcp_number = p->tcp_flags & tcp_syn ? wanted : acknowledged;
    p->transport_header = tcp->doff * 4;
    return parsed_flow;
}

// `size`: of the whole frame, of which the cursor may see no more than the headers.
inlined enum parsed parse(struct cursor c, __u32 size, struct packet* p) {
    void* begin = c.at;
    const __be16 protocol = parse_ethernet(&c);
    p->network = c.at - begin;
    p->room = size - p->network;
    enum parsed what = parsed_other;
    if (protocol == bpf_htons(ETH_P_IP)) {
        p->v6 = false;
        what = parse_ipv4(&c, p);
    } else if (protocol == bpf_htons(ETH_P_IPV6)) {
        p->v6 = true;
        what = parse_ipv6(&c, p);
    } else if (protocol == bpf_htons(ETH_P_ARP)) {
        what = parsed_arp;
    }
    p->transport = c.at - begin;
    if (what == parsed_flow) return parse_transport(&c, p);
    // IPv6's headers are all taken from the frame; they must lie within the payload.
    if (what == parsed_fragment && p->transport - p->network > p->length) return parsed_malformed;
    return what;
}
