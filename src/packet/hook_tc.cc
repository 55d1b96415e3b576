#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/bpf.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "netlink/netlink.h"
#include "packet/hook_ways.h"
#include "packet/libbpf_messages.h"

namespace marchproxy::packet::tc {

namespace {

// Of the kernel's UAPI since Linux 6.6; Debian 12's headers and libbpf 1.1 do not know them.
constexpr uint32_t attach_type_tcx_ingress = 46;  // BPF_TCX_INGRESS
struct CreateTcxLink {                            // union bpf_attr for BPF_LINK_CREATE
    uint32_t program;
    uint32_t interface_index;
    uint32_t attach_type;
    uint32_t flags;
    uint32_t relative;  // 0: behind those that are there
    uint32_t padding;
    uint64_t expected_revision;
};
static_assert(sizeof(CreateTcxLink) == 32);

// Our place among an interface's filters: before those that `tc` adds without a number (from 49152 down), behind what
// an administrator puts first on purpose. "MP".
constexpr uint32_t filter_priority = 0x4d50;
constexpr uint32_t filter_handle = 1;

bpf_tc_hook ingress_of(const Interface& interface) {
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(interface.index), .attach_point = BPF_TC_INGRESS);
    return hook;
}

// The program of the filter in our place; 0: there is none.
uint32_t program_in_our_place(const Interface& interface) {
    const LibbpfMessages quiet;  // it would say that what it was to make is there, or what it was to find is not
    const bpf_tc_hook hook = ingress_of(interface);
    LIBBPF_OPTS(bpf_tc_opts, options, .handle = filter_handle, .priority = filter_priority);
    return bpf_tc_query(&hook, &options) == 0 ? options.prog_id : 0;
}

// Also where that could not be found out: what may be in use stays.
bool has_filters(const Interface& interface, uint32_t side) {
    tcmsg where{};
    where.tcm_ifindex = static_cast<int>(interface.index);
    where.tcm_parent = TC_H_MAKE(TC_H_CLSACT, side);
    netlink::Request request(RTM_GETTFILTER, NLM_F_DUMP);
    request.append(where);
    const netlink::Answer answer = netlink::ask(request);
    if (answer.error != 0) return true;
    netlink::Messages messages(answer.replies);
    while (const auto message = messages.next())
        if (message->type == RTM_NEWTFILTER) return true;
    return false;
}

// Without filters it does nothing, whoever made it. A qdisc of the kind `ingress` is none of ours: the kernel refuses
// to take it away as clsact.
void take_unused_clsact_away(const Interface& interface) {
    if (has_filters(interface, TC_H_MIN_INGRESS) || has_filters(interface, TC_H_MIN_EGRESS)) return;
    const LibbpfMessages quiet;  // it would say that what it was to take away is not there
    bpf_tc_hook whole = ingress_of(interface);
    whole.attach_point = static_cast<bpf_tc_attach_point>(BPF_TC_INGRESS | BPF_TC_EGRESS);
    bpf_tc_hook_destroy(&whole);
}

Result<Descriptor> set_filter(const Interface& interface, int program, uint32_t flags) {
    const LibbpfMessages quiet;  // it would say that what it was to make is there, or what it was to find is not
    bpf_tc_hook hook = ingress_of(interface);
    const int made = bpf_tc_hook_create(&hook);
    if (made != 0 && made != -EEXIST) return Error{explain(look_into(Way::clsact, interface, -made, {}))};
    LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = program, .flags = flags, .handle = filter_handle,
                .priority = filter_priority);
    const int error = bpf_tc_attach(&hook, &options);
    if (error == 0) return Descriptor(::dup(program));
    if (made == 0) take_unused_clsact_away(interface);
    return Error{explain(look_into(Way::clsact, interface, -error, {}))};
}

}  // namespace

Result<Descriptor> put_link(const Interface& interface, int program) {
    CreateTcxLink request{};
    request.program = static_cast<uint32_t>(program);
    request.interface_index = interface.index;
    request.attach_type = attach_type_tcx_ingress;
    const long link = ::syscall(SYS_bpf, BPF_LINK_CREATE, &request, sizeof request);
    if (link >= 0) return Descriptor(static_cast<int>(link));
    return Error{explain(look_into(Way::tcx, interface, errno, {}))};
}

Result<Descriptor> put_filter(const Interface& interface, int program) {
    // A filter in our place that carries our program's name is ours: its pin got lost, the filter did not.
    const uint32_t there = program_in_our_place(interface);
    const bool ours = there != 0 && name_of_program(there) == name_of_program(id_of_program(program));
    return set_filter(interface, program, ours ? BPF_TC_F_REPLACE : 0);
}

Result<Descriptor> put_filter_instead(const Interface& interface, const Descriptor& pinned, int program) {
    if (filter_there(interface, pinned) == 0) return put_filter(interface, program);
    return set_filter(interface, program, BPF_TC_F_REPLACE);
}

// By name and not by id: a process killed between replacing the filter and its pin leaves the older program pinned.
uint32_t filter_there(const Interface& interface, const Descriptor& pinned) {
    const uint32_t there = program_in_our_place(interface);
    const uint32_t own = id_of_program(pinned.get());
    if (there == 0 || own == 0) return 0;
    return there == own || name_of_program(there) == name_of_program(own) ? there : 0;
}

void take_filter_away(const Interface& interface, const Descriptor& pinned) {
    if (filter_there(interface, pinned) != 0) {
        const LibbpfMessages quiet;  // it would say that what it was to find is not there
        const bpf_tc_hook hook = ingress_of(interface);
        LIBBPF_OPTS(bpf_tc_opts, options, .handle = filter_handle, .priority = filter_priority);
        bpf_tc_detach(&hook, &options);
    }
    take_unused_clsact_away(interface);
}

}  // namespace marchproxy::packet::tc
