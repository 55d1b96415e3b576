#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>

#include <cerrno>

#include "netlink/netlink.h"
#include "packet/hook_ways.h"

namespace marchproxy::packet::xdp {

namespace {

constexpr uint32_t flags_of(Way way) {
    return way == Way::native ? XDP_FLAGS_DRV_MODE : XDP_FLAGS_SKB_MODE;
}

netlink::Answer set_without_link(const Interface& interface, int program, uint32_t flags) {
    ifinfomsg link{};
    link.ifi_index = static_cast<int>(interface.index);
    netlink::Request request(RTM_SETLINK);
    request.append(link);
    const size_t start = request.open_nested(IFLA_XDP);
    request.attribute(IFLA_XDP_FD, program).attribute(IFLA_XDP_FLAGS, flags);
    request.close_nested(start);
    return netlink::ask(request);
}

// A refused link says an errno and no more; the same asked for over netlink brings the driver's own words, such as
// "Peer MTU is too large to set XDP".
std::string ask_for_words(Way way, const Interface& interface, int program) {
    const netlink::Answer answer = set_without_link(interface, program, flags_of(way) | XDP_FLAGS_UPDATE_IF_NOEXIST);
    constexpr int none = -1;
    if (answer.error == 0) set_without_link(interface, none, flags_of(way));
    return answer.message;
}

}  // namespace

Result<Descriptor> put(Way way, const Interface& interface, int program) {
    LIBBPF_OPTS(bpf_link_create_opts, options, .flags = flags_of(way));
    const int link = bpf_link_create(program, static_cast<int>(interface.index), BPF_XDP, &options);
    if (link >= 0) return Descriptor(link);
    const int error = errno;
    const bool plain = error == EPERM || error == EBUSY || error == EEXIST || error == ENODEV;
    const std::string words = plain ? "" : ask_for_words(way, interface, program);
    return Error{explain(look_into(way, interface, error, words))};
}

}  // namespace marchproxy::packet::xdp
