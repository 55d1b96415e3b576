// Who has this address? Of a service's address the packet plane says so, as no interface of the machine has it: by ARP
// and by neighbour discovery. The kernel does not see who asked, and will need that neighbour to answer: user space is
// told.
#pragma once

#include "bpf/lib/checksum.h"
#include "bpf/step/account.h"
#include "bpf/step/classify.h"
#include "bpf/step/forward.h"
#include "bpf/step/tags.h"

inlined const struct packet_interface* interface_of(void* context, enum hook hook) {
    const __u32 index = ingress_interface(context, hook);
    return bpf_map_lookup_elem(&interfaces, &index);
}

// To everybody, or to us: what others ask of others may come by too, and another node may have the same services.
inlined bool is_for(const struct ethhdr* ethernet, const struct packet_interface* own) {
    __u8 differ = 0;
#pragma unroll
    for (int i = 0; i < ETH_ALEN; ++i)
        differ |= ethernet->h_dest[i] ^ own->mac[i];
    return ethernet->h_dest[0] & 1 || !differ;
}

inlined bool is_multicast(const struct address* a) {
    return (a->word[0] & 0xff) == 0xff;
}

// The one tag by which the frame came, if any, as it lies in a frame. False: it came by more.
inlined bool only_tag(void* context, enum hook hook, const struct packet* p, __u32* tag) {
    *tag = 0;
    const __u32 within = tags_within(p);
    if (!(within | tag_beside(context, hook))) return true;
    if (tag_beside(context, hook)) {
        const __u16 number = CONTEXT_WORD(context, struct __sk_buff, vlan_tci) & vlan_number_mask;
        *tag = vlan_tag(CONTEXT_WORD(context, struct __sk_buff, vlan_proto), bpf_htons(number));
        return !within;
    }
    if (within != sizeof(*tag) || load_bytes(context, hook, tag_at, tag, sizeof(*tag)) != 0) return false;
    *tag &= vlan_tag(0xffff, bpf_htons(vlan_number_mask));
    return true;
}

// User space knows which VLAN device it is by which the kernel will send, where there is one.
inlined void tell_who_asked(void* context, enum hook hook, const struct packet* p, const struct address* asker,
                            const __u8* mac) {
    __u32 tag;
    if (!only_tag(context, hook, p, &tag)) return;
    const __u32 slot = hop_slot_of_client(asker);
    struct next_hop* place = bpf_map_lookup_elem(&next_hops, &slot);
    if (place) tell(place, asker, ingress_interface(context, hook), tag, mac);
}

// --- ARP -----------------------------------------------------------------------------------------------------------

// RFC 826, of Ethernet and IPv4.
struct arp {
    __be16 hardware, protocol;
    __u8 hardware_size, protocol_size;
    __be16 operation;
    __u8 sender[ETH_ALEN];
    __be32 sender_address;
    __u8 target[ETH_ALEN];
    __be32 target_address;
} __attribute__((packed, aligned(2)));
enum { arp_ethernet = 1, arp_request = 1, arp_reply = 2 };

// Not one by which a host says that the address is its own now, as sender and target.
inlined bool is_request(const struct arp* arp) {
    return arp->hardware == bpf_htons(arp_ethernet) && arp->protocol == bpf_htons(ETH_P_IP) &&
           arp->hardware_size == ETH_ALEN && arp->protocol_size == 4 && arp->operation == bpf_htons(arp_request) &&
           !(arp->sender[0] & 1) && arp->sender_address != arp->target_address;
}

inlined enum outcome answer_arp(void* context, enum hook hook, const struct packet* p) {
    const struct packet_interface* own = interface_of(context, hook);
    if (!own) return outcome_pass;
    const struct cursor frame = frame_up_to(context, hook, p->network + sizeof(struct arp));
    struct ethhdr* ethernet = header_at(frame, 0, sizeof(*ethernet));
    struct arp* arp = header_at(frame, p->network, sizeof(*arp));
    if (!ethernet || !arp || !is_request(arp) || !is_for(ethernet, own)) return outcome_pass;
    const struct address asker = mapped(arp->sender_address), target = mapped(arp->target_address);
    if (!service_at_host(&target)) return outcome_pass;

    __u8 mac[ETH_ALEN];
    __builtin_memcpy(mac, arp->sender, ETH_ALEN);
    __builtin_memcpy(ethernet->h_dest, mac, ETH_ALEN);
    __builtin_memcpy(ethernet->h_source, own->mac, ETH_ALEN);
    arp->operation = bpf_htons(arp_reply);
    __builtin_memcpy(arp->target, mac, ETH_ALEN);
    arp->target_address = unmapped(&asker);
    __builtin_memcpy(arp->sender, own->mac, ETH_ALEN);
    arp->sender_address = unmapped(&target);
    if (unmapped(&asker)) tell_who_asked(context, hook, p, &asker, mac);  // 0: whether the address is free (RFC 5227)
    return bounce(context, hook);
}

// --- neighbour discovery -------------------------------------------------------------------------------------------

// RFC 4861 4.3 and 4.4: a solicitation, or an advertisement with its one option.
struct neighbour_message {
    struct icmp_header icmp;  // its rest: flags
    struct in6_addr target;
    __u8 option, option_length;  // in 8 bytes
    __u8 mac[ETH_ALEN];
};
enum { solicitation_size = offsetof(struct neighbour_message, option), target_link_layer_address = 2 };
enum { advertisement_solicited = 1 << 30, advertisement_overrides = 1 << 29 };

// As RFC 4861 7.1.1 has it. Behind extension headers nobody's lies, and the answer would have to leave them out.
inlined bool is_solicitation(const struct packet* p) {
    return p->hop_limit == 255 && p->transport == p->network + sizeof(struct ipv6hdr) &&
           p->length >= sizeof(struct ipv6hdr) + solicitation_size && !is_multicast(&p->source);
}

// Whether somebody asks for an address only to see that nobody has it (RFC 4862 5.4): from no address, to all whose
// address may be that one.
inlined bool is_probe(const struct packet* p) {
    return !p->source.word[0] && !p->source.word[1];
}

// The answer in place of the question: RFC 4861 7.2.4. To a probe it goes to all nodes, as it has no sender.
inlined bool write_advertisement(struct cursor frame, const struct packet* p, const struct address* target,
                                 const struct packet_interface* own, const __u8* asker) {
    struct ethhdr* ethernet = header_at(frame, 0, sizeof(*ethernet));
    struct ipv6hdr* ip = header_at(frame, p->network, sizeof(*ip));
    struct neighbour_message* message = header_at(frame, p->transport, sizeof(*message));
    if (!ethernet || !ip || !message) return false;
    const bool probe = is_probe(p);
    const struct address to = probe ? (struct address){{0x02ff, 1ULL << 56}} : p->source;  // ff02::1
    const __u8 all_nodes[ETH_ALEN] = {0x33, 0x33, 0, 0, 0, 1};
    __builtin_memcpy(ethernet->h_dest, probe ? all_nodes : asker, ETH_ALEN);
    __builtin_memcpy(ethernet->h_source, own->mac, ETH_ALEN);
    ip->payload_len = bpf_htons(sizeof(*message));
    write_address(&ip->saddr, target);
    write_address(&ip->daddr, &to);
    message->icmp.type = icmp6_advertisement;
    message->icmp.rest = bpf_htonl(advertisement_overrides | (probe ? 0 : advertisement_solicited));
    message->option = target_link_layer_address;
    message->option_length = 1;
    __builtin_memcpy(message->mac, own->mac, ETH_ALEN);

    // Over the pseudo header (RFC 8200 8.1) and the message, in which the target comes again.
    __u64 sum = bpf_htonl(sizeof(*message)) + (__u64)bpf_htonl(IPPROTO_ICMPV6);
    sum = sum_128(sum_128(sum_128(sum, target), target), &to);
    sum +=
        bpf_htons(icmp6_advertisement << 8) + (__u64)message->icmp.rest + bpf_htons(target_link_layer_address << 8 | 1);
#pragma unroll
    for (int i = 0; i < ETH_ALEN; i += 2)
        sum += own->mac[i] | own->mac[i + 1] << 8;
    message->icmp.checksum = ~folded(sum);
    return true;
}

// `size`: of the frame.
inlined enum outcome answer_solicitation(void* context, enum hook hook, const struct packet* p, __u32 size) {
    const struct packet_interface* own = interface_of(context, hook);
    if (!own || !is_solicitation(p) || (is_probe(p) && !is_multicast(&p->destination))) return outcome_pass;
    struct cursor frame = frame_up_to(context, hook, p->transport + solicitation_size);
    const struct ethhdr* ethernet = header_at(frame, 0, sizeof(*ethernet));
    const struct neighbour_message* message = header_at(frame, p->transport, solicitation_size);
    if (!ethernet || !message || !is_for(ethernet, own)) return outcome_pass;
    const struct address target = address_of(&message->target);
    __u8 mac[ETH_ALEN];
    __builtin_memcpy(mac, ethernet->h_source, ETH_ALEN);
    if (same_address(&target, &p->source) || !service_at_host(&target)) return outcome_pass;

    if (!resize(context, hook, size, p->transport + sizeof(*message))) return outcome_pass;
    frame = frame_of(context, hook);
    if (!write_advertisement(frame, p, &target, own, mac)) return refuse(0, packet_verdict_internal_error);
    if (!is_probe(p)) tell_who_asked(context, hook, p, &p->source, mac);
    return bounce(context, hook);
}
