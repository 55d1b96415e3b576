#include "packet/capability.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <utility>

#include "model/descriptor.h"
#include "packet/libbpf_messages.h"

namespace marchproxy::packet {

namespace {

// Linux 6.1: the oldest with all helpers below, and the one of Debian 12.
constexpr auto oldest_kernel = std::pair(6, 1);

constexpr const char* kernel_types = "/sys/kernel/btf/vmlinux";

constexpr auto privilege_advice =
    "run as root, or grant it: AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON in the systemd unit, docker's "
    "--cap-add BPF --cap-add NET_ADMIN --cap-add PERFMON";
constexpr auto newer_advice = "use a kernel of Linux 6.1 or newer that is built with it, as Debian 12's is";

struct Helper {
    bpf_func_id id;
    const char* name;
    const char* use;
};
constexpr Helper helpers[] = {
    {BPF_FUNC_loop, "bpf_loop", "bounded loops over rules and headers"},
    {BPF_FUNC_fib_lookup, "bpf_fib_lookup", "next hops from the kernel's routing tables"},
    {BPF_FUNC_tcp_raw_gen_syncookie_ipv4, "bpf_tcp_raw_gen_syncookie_ipv4", "SYN cookies against floods"},
    {BPF_FUNC_xdp_adjust_head, "bpf_xdp_adjust_head", "encapsulation"},
    {BPF_FUNC_ktime_get_coarse_ns, "bpf_ktime_get_coarse_ns", "a cheap clock for flows"},
};

struct ProgramType {
    bpf_prog_type type;
    const char* name;
    bool needed;
    const char* use;
};
constexpr ProgramType program_types[] = {
    {BPF_PROG_TYPE_XDP, "XDP programs", true, "the packet plane itself"},
    {BPF_PROG_TYPE_SYSCALL, "SYSCALL programs", true, "work on the flow table from user space"},
    {BPF_PROG_TYPE_SCHED_CLS, "TC programs", false, "interfaces where XDP cannot attach"},
};

// `answer` is of libbpf's probes: 1 there, 0 not, below 0 the errno of asking.
Capability judge_probe(std::string what, bool needed, int answer, const char* use) {
    if (answer == 1) return {std::move(what), true, needed, fmt::format("there; for {}", use), ""};
    if (answer == 0)
        return {std::move(what), false, needed, fmt::format("the kernel lacks it; for {}", use), newer_advice};
    return {std::move(what), false, needed, fmt::format("could not be asked for: {}", std::strerror(-answer)),
            answer == -EPERM || answer == -EACCES ? privilege_advice : newer_advice};
}

// Why not even the smallest XDP program may be loaded; 0: it may. libbpf's probes take a refusal for "the kernel has no
// such program type" and for "the helper is there": they can be asked only where loading is allowed at all.
int refusal() {
    const bpf_insn pass[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = XDP_PASS}, {.code = BPF_JMP | BPF_EXIT}};
    LIBBPF_OPTS(bpf_prog_load_opts, options);
    const Descriptor program(
        bpf_prog_load(BPF_PROG_TYPE_XDP, "marchproxy_try", "GPL", pass, std::size(pass), &options));
    return program ? 0 : -errno;
}

Capability judge_types() {
    const bool there = ::access(kernel_types, R_OK) == 0;
    if (there) return {"kernel BTF", true, true, fmt::format("{} can be read", kernel_types), ""};
    return {"kernel BTF", false, true, fmt::format("{}: {}", kernel_types, std::strerror(errno)),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y; in a container, let /sys be visible"};
}

Capability judge_privilege(uint64_t effective, int number, const char* name, bool needed, const char* use) {
    // CAP_BPF and CAP_PERFMON were cut out of CAP_SYS_ADMIN, which still stands for them. For CAP_NET_ADMIN it does
    // not.
    const bool own = (effective >> number & 1) != 0;
    const bool stands_in = number != CAP_NET_ADMIN && (effective >> CAP_SYS_ADMIN & 1) != 0;
    if (own || stands_in) return {name, true, needed, own ? "effective" : "CAP_SYS_ADMIN stands for it", ""};
    return {name, false, needed, fmt::format("not effective; for {}", use), privilege_advice};
}

}  // namespace

Capability judge_kernel(std::string_view release) {
    int major = 0, minor = 0;
    const bool known = std::sscanf(std::string(release).c_str(), "%d.%d", &major, &minor) == 2;
    const std::string what = fmt::format("kernel {}.{}", oldest_kernel.first, oldest_kernel.second);
    if (known && std::pair(major, minor) >= oldest_kernel) return {what, true, true, std::string(release), ""};
    return {what, false, true, release.empty() ? "unknown" : std::string(release), newer_advice};
}

uint64_t effective_capabilities() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3]{};
    if (::syscall(SYS_capget, &header, data) != 0) return 0;
    return uint64_t{data[1].effective} << 32 | data[0].effective;
}

std::vector<Capability> judge_privileges(uint64_t effective) {
    return {
        judge_privilege(effective, CAP_BPF, "CAP_BPF", true, "loading programs and maps"),
        judge_privilege(effective, CAP_NET_ADMIN, "CAP_NET_ADMIN", true, "attaching programs to interfaces"),
        judge_privilege(effective, CAP_PERFMON, "CAP_PERFMON", true,
                        "the arithmetic with pointers that the flow table takes"),
    };
}

std::vector<Capability> probe_capabilities() {
    utsname system{};
    ::uname(&system);
    std::vector<Capability> list{judge_kernel(system.release), judge_types()};
    for (Capability& privilege : judge_privileges(effective_capabilities()))
        list.push_back(std::move(privilege));

    // What the kernel refuses a probe is said in the list; libbpf would say it on stderr as well.
    const LibbpfMessages quiet;
    const int refused = refusal();
    for (const ProgramType& type : program_types)
        list.push_back(judge_probe(type.name, type.needed,
                                   refused != 0 ? refused : libbpf_probe_bpf_prog_type(type.type, nullptr), type.use));
    for (const Helper& helper : helpers)
        list.push_back(judge_probe(
            fmt::format("helper {}", helper.name), true,
            refused != 0 ? refused : libbpf_probe_bpf_helper(BPF_PROG_TYPE_XDP, helper.id, nullptr), helper.use));
    return list;
}

bool usable(const std::vector<Capability>& capabilities) {
    for (const Capability& capability : capabilities)
        if (capability.needed && !capability.available) return false;
    return true;
}

std::string missing(const std::vector<Capability>& capabilities) {
    std::string text;
    for (const Capability& capability : capabilities) {
        if (capability.available || !capability.needed) continue;
        text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", capability.what, capability.reason);
    }
    return text;
}

}  // namespace marchproxy::packet
