#include "packet/hook.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <net/if.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "packet/device.h"
#include "packet/hook_ways.h"

namespace marchproxy::packet {

namespace {

constexpr auto no_classifier = "no classifier program is loaded for TC";
constexpr auto no_xdp = "no XDP program is loaded";

std::optional<bpf_link_info> look_at_link(const Descriptor& link) {
    bpf_link_info info{};
    uint32_t size = sizeof info;
    if (!link || bpf_obj_get_info_by_fd(link.get(), &info, &size) != 0) return std::nullopt;
    return info;
}

std::string explain_occupied(const Refusal& refusal) {
    const auto& [id, name] = refusal.other;
    const std::string other =
        id == 0 ? "another program"
                : fmt::format("another XDP program, id {}{}", id, name.empty() ? "" : fmt::format(" '{}'", name));
    if (!is_xdp(refusal.way))
        return fmt::format("{} holds this place at TC: see `tc filter show dev {} ingress` and `bpftool net`", other,
                           refusal.interface);
    return fmt::format(
        "{} is attached to {}: `bpftool net` shows it; stop what it belongs to, or remove it with "
        "`ip link set dev {} xdp off`, or use packet.mode: tc, which works beside it",
        other, refusal.interface, refusal.interface);
}

std::string explain_driver(const Refusal& refusal) {
    const std::string words = refusal.kernel_words.empty() ? std::string(std::strerror(refusal.error))
                                                           : fmt::format("\"{}\"", refusal.kernel_words);
    return fmt::format(
        "the driver refused: {}. Often it is the MTU, {} here, which must leave room in a page (about "
        "{} bytes), or the number of queues, or receive offloads: `ip link set dev {} mtu 1500`, "
        "`ethtool -L`, `ethtool -K {} lro off gro-hw off`",
        words, refusal.mtu, usual_xdp_mtu, refusal.interface, refusal.interface);
}

}  // namespace

Interface find_interface(const std::string& name) {
    return {name, ::if_nametoindex(name.c_str())};
}

uint32_t id_of_program(int program) {
    bpf_prog_info info{};
    uint32_t size = sizeof info;
    return program >= 0 && bpf_obj_get_info_by_fd(program, &info, &size) == 0 ? info.id : 0;
}

std::string name_of_program(uint32_t id) {
    const Descriptor program(id == 0 ? -1 : bpf_prog_get_fd_by_id(id));
    bpf_prog_info info{};
    uint32_t size = sizeof info;
    if (!program || bpf_obj_get_info_by_fd(program.get(), &info, &size) != 0) return {};
    return {info.name, ::strnlen(info.name, sizeof info.name)};
}

Result<Descriptor> put_there(Way way, const Interface& interface, const Attachable& programs) {
    if (is_xdp(way) && programs.xdp < 0) return Error{no_xdp};
    if (!is_xdp(way) && programs.classifier < 0) return Error{no_classifier};
    switch (way) {
        case Way::dispatcher:
            return dispatcher::put(interface, programs);
        case Way::native:
        case Way::generic:
            return xdp::put(way, interface, programs.xdp);
        case Way::tcx:
            return tc::put_link(interface, programs.classifier);
        case Way::clsact:
            return tc::put_filter(interface, programs.classifier);
    }
    return Error{"no such way"};
}

Result<Descriptor> put_instead(Way way, const Interface& interface, const Descriptor& pinned,
                               const Attachable& programs) {
    const int program = is_xdp(way) ? programs.xdp : programs.classifier;
    if (program < 0) return Error{is_xdp(way) ? no_xdp : no_classifier};
    if (way == Way::dispatcher) return dispatcher::put_instead(interface, pinned, programs);
    if (way == Way::clsact) return tc::put_filter_instead(interface, pinned, program);
    if (bpf_link_update(pinned.get(), program, nullptr) != 0)
        return Error{fmt::format("the program on {} ({}) cannot be replaced in place: {}", interface.name,
                                 title_of(way), std::strerror(errno))};
    return Descriptor();
}

uint32_t program_there(Way way, const Interface& interface, const Descriptor& pinned) {
    if (interface.index == 0 || !pinned) return 0;
    if (way == Way::dispatcher) return dispatcher::program_there(interface, pinned);
    if (way == Way::clsact) return tc::filter_there(interface, pinned);
    const auto link = look_at_link(pinned);
    return link && link->xdp.ifindex == interface.index ? link->prog_id : 0;
}

unsigned index_of_link(const Descriptor& link) {
    // The interface's index is the first field for XDP and for tcx alike; 0 once the interface is gone.
    const auto info = look_at_link(link);
    return info ? info->xdp.ifindex : 0;
}

void take_away(Way way, const Interface& interface, const Descriptor& pinned) {
    if (!pinned) return;
    // By its link, and not only by removing the pin: another process may hold the link open.
    if (is_link(way)) bpf_link_detach(pinned.get());
    if (interface.index == 0) return;
    if (way == Way::dispatcher) dispatcher::take_away(interface, pinned);
    if (way == Way::clsact) tc::take_filter_away(interface, pinned);
}

XdpProgram xdp_program_on(const Interface& interface) {
    LIBBPF_OPTS(bpf_xdp_query_opts, there);
    if (bpf_xdp_query(static_cast<int>(interface.index), 0, &there) != 0) return {};
    for (const uint32_t id : {there.drv_prog_id, there.skb_prog_id, there.hw_prog_id, there.prog_id})
        if (id != 0) return {id, name_of_program(id)};
    return {};
}

Refusal look_into(Way way, const Interface& interface, int error, std::string kernel_words) {
    Refusal refusal{way, error, std::move(kernel_words), interface.name, mtu_of(interface.name), {}};
    if (is_xdp(way)) refusal.other = xdp_program_on(interface);
    return refusal;
}

std::string explain(const Refusal& refusal) {
    switch (refusal.error) {
        case EPERM:
        case EACCES:
            return "not permitted: the process needs CAP_BPF and CAP_NET_ADMIN, as root has; in systemd "
                   "AmbientCapabilities=CAP_BPF CAP_NET_ADMIN, in docker --cap-add BPF --cap-add NET_ADMIN";
        case ENODEV:
        case ENXIO:
            return fmt::format("interface {} is gone", refusal.interface);
        case EBUSY:
        case EEXIST:
            return explain_occupied(refusal);
        default:
            break;
    }
    if (refusal.way == Way::tcx && refusal.error == EINVAL) return "the kernel is older than Linux 6.6 and has no tcx";
    if (!is_xdp(refusal.way))
        return fmt::format("the kernel refused: {}",
                           refusal.kernel_words.empty() ? std::strerror(refusal.error) : refusal.kernel_words);
    if (refusal.error == EOPNOTSUPP)
        return fmt::format(
            "the driver of {} has no XDP of its own, or not as the interface is set up{}: `ethtool -i {}` "
            "names it",
            refusal.interface, refusal.kernel_words.empty() ? "" : fmt::format(" (\"{}\")", refusal.kernel_words),
            refusal.interface);
    // Not only the driver has a say there: the dispatcher's object and libxdp's own BPF file system have, too.
    if (refusal.way == Way::dispatcher)
        return fmt::format("libxdp cannot set up its dispatcher: {}", std::strerror(refusal.error));
    return explain_driver(refusal);
}

}  // namespace marchproxy::packet
