#include "packet/capability.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <utility>

#include "model/descriptor.h"
#include "packet/helpers.h"
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

struct ProgramType {
    bpf_prog_type type;
    const char* name;
    const char* where;
    const char* use;
};
constexpr ProgramType program_types[] = {
    {BPF_PROG_TYPE_XDP, "XDP programs", "at XDP", "the packet plane itself"},
    {BPF_PROG_TYPE_SYSCALL, "SYSCALL programs", "in SYSCALL programs", "work on the flow table from user space"},
    {BPF_PROG_TYPE_SCHED_CLS, "TC programs", "at TC", "interfaces where XDP cannot attach"},
};

// Why not even the smallest XDP program may be loaded; 0: it may. libbpf's probe takes a refusal for "the kernel has no
// such program type", and ours would take it for "the helper is there": they can be asked only where loading is allowed
// at all.
int refusal() {
    const bpf_insn pass[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = XDP_PASS}, {.code = BPF_JMP | BPF_EXIT}};
    LIBBPF_OPTS(bpf_prog_load_opts, options);
    const Descriptor program(
        bpf_prog_load(BPF_PROG_TYPE_XDP, "marchproxy_try", "GPL", pass, std::size(pass), &options));
    return program ? 0 : -errno;
}

// Of all the helpers that the programs call, in each type of program that calls them.
std::vector<Capability> judge_helpers() {
    std::vector<Capability> list;
    for (const Helper& helper : helpers)
        for (const ProgramType& type : program_types) {
            if ((helper.users & users_of_type(type.type)) == 0) continue;
            list.push_back(judge_probe(fmt::format("helper {} {}", helper_names[helper.id], type.where),
                                       ask_for_helper(type.type, helper.id), helper.use));
        }
    return list;
}

Capability judge_types() {
    const bool there = ::access(kernel_types, R_OK) == 0;
    if (there) return {"kernel BTF", true, fmt::format("{} can be read", kernel_types), ""};
    return {"kernel BTF", false, fmt::format("{}: {}", kernel_types, std::strerror(errno)),
            "use a kernel built with CONFIG_DEBUG_INFO_BTF=y; in a container, let /sys be visible"};
}

Capability judge_privilege(uint64_t effective, int number, const char* name, const char* use) {
    // CAP_BPF and CAP_PERFMON were cut out of CAP_SYS_ADMIN, which still stands for them. For CAP_NET_ADMIN it does
    // not.
    const bool own = (effective >> number & 1) != 0;
    const bool stands_in = number != CAP_NET_ADMIN && (effective >> CAP_SYS_ADMIN & 1) != 0;
    if (own || stands_in) return {name, true, own ? "effective" : "CAP_SYS_ADMIN stands for it", ""};
    return {name, false, fmt::format("not effective; for {}", use), privilege_advice};
}

}  // namespace

Capability judge_kernel(std::string_view release) {
    int major = 0, minor = 0;
    const bool known = std::sscanf(std::string(release).c_str(), "%d.%d", &major, &minor) == 2;
    const std::string what = fmt::format("kernel {}.{}", oldest_kernel.first, oldest_kernel.second);
    if (known && std::pair(major, minor) >= oldest_kernel) return {what, true, std::string(release), ""};
    return {what, false, release.empty() ? "unknown" : std::string(release), newer_advice};
}

Capability judge_probe(std::string what, int answer, std::string_view use) {
    if (answer == 1) return {std::move(what), true, fmt::format("there; for {}", use), ""};
    if (answer == 0) return {std::move(what), false, fmt::format("the kernel lacks it; for {}", use), newer_advice};
    return {std::move(what), false, fmt::format("could not be asked for: {}", std::strerror(-answer)),
            answer == -EPERM || answer == -EACCES ? privilege_advice : newer_advice};
}

// libbpf has such a probe, which knows the verifier's words of kernels as old as itself only.
int ask_for_helper(uint32_t type, uint32_t helper) {
    const bpf_insn call[] = {{.code = BPF_JMP | BPF_CALL, .imm = static_cast<int>(helper)},
                             {.code = BPF_JMP | BPF_EXIT}};
    std::array<char, 4096> log{};
    LIBBPF_OPTS(bpf_prog_load_opts, options, .log_level = 1, .log_size = log.size(), .log_buf = log.data());
    if (type == BPF_PROG_TYPE_SYSCALL) options.prog_flags = BPF_F_SLEEPABLE;
    const Descriptor program(
        bpf_prog_load(static_cast<bpf_prog_type>(type), "marchproxy_try", "GPL", call, std::size(call), &options));
    const std::string_view words = log.data();
    for (const char* lacking : {"invalid func ", "unknown func ", "program of this type cannot use helper "})
        if (words.find(lacking) != std::string_view::npos) return 0;
    return 1;
}

uint64_t effective_capabilities() {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3]{};
    if (::syscall(SYS_capget, &header, data) != 0) return 0;
    return uint64_t{data[1].effective} << 32 | data[0].effective;
}

std::vector<Capability> judge_privileges(uint64_t effective) {
    return {
        judge_privilege(effective, CAP_BPF, "CAP_BPF", "loading programs and maps"),
        judge_privilege(effective, CAP_NET_ADMIN, "CAP_NET_ADMIN", "attaching programs to interfaces"),
        judge_privilege(effective, CAP_PERFMON, "CAP_PERFMON",
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
        list.push_back(
            judge_probe(type.name, refused != 0 ? refused : libbpf_probe_bpf_prog_type(type.type, nullptr), type.use));
    // Where nothing may be loaded, each of them would say so again.
    if (refused != 0) {
        list.push_back(judge_probe("helpers", refused, "the programs"));
        return list;
    }
    for (Capability& helper : judge_helpers())
        list.push_back(std::move(helper));
    return list;
}

bool usable(const std::vector<Capability>& capabilities) {
    for (const Capability& capability : capabilities)
        if (!capability.available) return false;
    return true;
}

std::string missing(const std::vector<Capability>& capabilities) {
    std::string text;
    for (const Capability& capability : capabilities) {
        if (capability.available) continue;
        text += fmt::format("{}{}: {}", text.empty() ? "" : "; ", capability.what, capability.reason);
    }
    return text;
}

}  // namespace marchproxy::packet
