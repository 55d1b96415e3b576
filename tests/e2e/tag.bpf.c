// A client in a VLAN, for kernels without VLAN devices: its packets leave with tag 100, and arrive without. ARP and
// neighbour discovery go without, as nobody's kernel would see them there.
#include <linux/pkt_cls.h>

#include "bpf/lib/bpf.h"

enum { number = 100, icmp6_first_discovery = 133 };

SEC("tag") int put_in(struct __sk_buff* skb) {
    __u8 next, type;
    if (skb->protocol != bpf_htons(ETH_P_IP) && skb->protocol != bpf_htons(ETH_P_IPV6)) return TC_ACT_UNSPEC;
    if (skb->protocol == bpf_htons(ETH_P_IPV6) &&
        (bpf_skb_load_bytes(skb, ETH_HLEN + offsetof(struct ipv6hdr, nexthdr), &next, 1) != 0 ||
         bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &type, 1) != 0 ||
         (next == IPPROTO_ICMPV6 && type >= icmp6_first_discovery)))
        return TC_ACT_UNSPEC;
    return bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), number) == 0 ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

// What comes without is taken as well.
SEC("untag") int take_out(struct __sk_buff* skb) {
    return bpf_skb_vlan_pop(skb) == 0 ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "GPL";
