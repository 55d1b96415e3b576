// The kernel's helper functions that the programs in src/bpf call, all of them, so that a kernel which lacks one is
// told from one that refuses the programs. helpers_test.cc compares the list with the programs as they are built.
#pragma once

#include <linux/bpf.h>

#include <cstdint>
#include <string_view>

namespace marchproxy::packet {

// By which programs: a bit for each type (enum bpf_prog_type).
constexpr uint64_t users_of_type(bpf_prog_type type) {
    return uint64_t{1} << type;
}
inline constexpr uint64_t at_xdp = users_of_type(BPF_PROG_TYPE_XDP), at_tc = users_of_type(BPF_PROG_TYPE_SCHED_CLS),
                          in_sweep = users_of_type(BPF_PROG_TYPE_SYSCALL);

struct Helper {
    bpf_func_id id;
    uint64_t users;
    std::string_view use;
};
inline constexpr Helper helpers[] = {
    {BPF_FUNC_map_lookup_elem, at_xdp | at_tc | in_sweep, "every map"},
    {BPF_FUNC_map_update_elem, at_xdp | at_tc, "limits by source, fragments, SYN cookies"},
    {BPF_FUNC_map_delete_elem, in_sweep, "forgetting flows that ended"},
    {BPF_FUNC_ringbuf_reserve, at_xdp | at_tc | in_sweep, "reports to user space"},
    {BPF_FUNC_ringbuf_submit, at_xdp | at_tc | in_sweep, "reports to user space"},
    {BPF_FUNC_ringbuf_discard, in_sweep, "reports to user space"},
    {BPF_FUNC_jiffies64, at_xdp | at_tc | in_sweep, "a cheap clock for flows"},
    {BPF_FUNC_redirect_map, at_xdp, "packets that wait for their turn"},
    {BPF_FUNC_xdp_adjust_meta, at_xdp, "packets that wait for their turn"},
    {BPF_FUNC_ktime_get_ns, at_xdp | at_tc, "a fine clock for limits"},
    {BPF_FUNC_loop, at_xdp | at_tc | in_sweep, "bounded loops"},
    {BPF_FUNC_fib_lookup, at_xdp | at_tc, "next hops from the kernel's routing tables"},
    {BPF_FUNC_redirect, at_xdp | at_tc, "sending packets on"},
    {BPF_FUNC_redirect_neigh, at_tc, "packets whose next hop is yet to be resolved"},
    {BPF_FUNC_csum_diff, at_xdp | at_tc, "ICMP errors"},
    {BPF_FUNC_l4_csum_replace, at_tc, "checksums of rewritten packets"},
    {BPF_FUNC_xdp_load_bytes, at_xdp, "reading headers"},
    {BPF_FUNC_skb_load_bytes, at_tc, "reading headers"},
    {BPF_FUNC_skb_pull_data, at_tc, "reading headers"},
    {BPF_FUNC_xdp_store_bytes, at_xdp, "writing headers"},
    {BPF_FUNC_skb_store_bytes, at_tc, "writing headers"},
    {BPF_FUNC_xdp_adjust_head, at_xdp, "encapsulation and VLAN tags"},
    {BPF_FUNC_skb_change_head, at_tc, "encapsulation"},
    {BPF_FUNC_skb_adjust_room, at_tc, "encapsulation"},
    {BPF_FUNC_skb_vlan_pop, at_tc, "VLAN tags"},
    {BPF_FUNC_xdp_adjust_tail, at_xdp, "answers to ARP, SYN and what cannot be sent on"},
    {BPF_FUNC_skb_change_tail, at_tc, "answers to ARP, SYN and what cannot be sent on"},
};

// By enum bpf_func_id.
#define MARCHPROXY_HELPER_NAME(name) std::string_view("bpf_" #name)
inline constexpr std::string_view helper_names[] = {__BPF_FUNC_MAPPER(MARCHPROXY_HELPER_NAME)};
#undef MARCHPROXY_HELPER_NAME

}  // namespace marchproxy::packet
