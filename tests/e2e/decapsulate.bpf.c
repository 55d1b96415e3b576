// An endpoint's side of direct server return, for kernels without ipip, ip6_tunnel and fou: takes packets out of IP in
// IP and GUE as they come in.
#include <linux/pkt_cls.h>

#include "bpf/lib/bpf.h"

enum { gue_port = 6080 };

SEC("tc") int decapsulate(struct __sk_buff* skb) {
    const bool v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
    const __u32 ip = v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr);
    __u8 protocol;
    struct udphdr udp;
    if (bpf_skb_load_bytes(skb, ETH_HLEN + (v6 ? 6 : 9), &protocol, 1) != 0) return TC_ACT_UNSPEC;
    __u32 outer = ip;
    if (protocol == IPPROTO_UDP) {
        if (bpf_skb_load_bytes(skb, ETH_HLEN + ip, &udp, sizeof(udp)) != 0 || udp.dest != bpf_htons(gue_port))
            return TC_ACT_UNSPEC;
        outer += sizeof(udp);
    } else if (protocol != (v6 ? IPPROTO_IPV6 : IPPROTO_IPIP)) {
        return TC_ACT_UNSPEC;
    }
    return bpf_skb_adjust_room(skb, -(__s32)outer, BPF_ADJ_ROOM_MAC, 0) == 0 ? TC_ACT_UNSPEC : TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "GPL";
