// For tests: real frames at the peers of the tests' interfaces, and the programs attached.
#pragma once

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sys/socket.h>

#include "packet/plane_rows.h"

namespace marchproxy::packet::testing {

// Sees frames with their outermost tag, which the kernel has beside them; not those that it sends.
class Wire {
  public:
    explicit Wire(const char* interface) : socket_(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETH_P_ALL))) {
        sockaddr_ll address{};
        address.sll_family = AF_PACKET;
        address.sll_protocol = htons(ETH_P_ALL);
        address.sll_ifindex = static_cast<int>(::if_nametoindex(interface));
        EXPECT_EQ(::bind(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0) << interface;
        const int on = 1;
        EXPECT_EQ(::setsockopt(socket_.get(), SOL_PACKET, PACKET_AUXDATA, &on, sizeof on), 0);
        EXPECT_EQ(::setsockopt(socket_.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on), 0);
    }
    void send(const Bytes& frame) const {
        EXPECT_EQ(::send(socket_.get(), frame.data(), frame.size(), 0), static_cast<ssize_t>(frame.size()))
            << std::strerror(errno);
    }
    // The next frame; empty: none came in this time.
    Bytes next(int milliseconds = 2000) const {
        pollfd waiting{.fd = socket_.get(), .events = POLLIN, .revents = 0};
        return ::poll(&waiting, 1, milliseconds) == 1 ? receive() : Bytes();
    }
    // The next frame to this address; empty after two seconds.
    Bytes next_to(const Mac& mac) const {
        for (int frames = 0; frames < 100; ++frames) {
            Bytes frame = next();
            if (frame.empty()) return {};
            if (frame.size() >= mac.size() && std::equal(mac.begin(), mac.end(), frame.begin())) return frame;
        }
        return {};
    }

  private:
    Bytes receive() const {
        Bytes frame(2000);
        iovec part{frame.data(), frame.size()};
        alignas(cmsghdr) std::array<char, 128> control{};
        msghdr message{};
        message.msg_iov = &part;
        message.msg_iovlen = 1;
        message.msg_control = control.data();
        message.msg_controllen = control.size();
        frame.resize(static_cast<size_t>(std::max<ssize_t>(::recvmsg(socket_.get(), &message, 0), 0)));
        for (cmsghdr* one = CMSG_FIRSTHDR(&message); one; one = CMSG_NXTHDR(&message, one)) {
            tpacket_auxdata beside{};
            if (one->cmsg_level != SOL_PACKET || one->cmsg_type != PACKET_AUXDATA) continue;
            std::memcpy(&beside, CMSG_DATA(one), sizeof beside);
            if (!(beside.tp_status & TP_STATUS_VLAN_VALID) || frame.size() < 12) continue;
            Bytes tag(4);
            put16(tag, 0, beside.tp_vlan_tpid);
            put16(tag, 2, beside.tp_vlan_tci);
            frame.insert(frame.begin() + 12, tag.begin(), tag.end());
        }
        return frame;
    }

    Descriptor socket_;
};

inline void attach_xdp(int program, const char* interface) {
    constexpr uint32_t by_the_driver = 1U << 2;  // XDP_FLAGS_DRV_MODE
    ASSERT_EQ(bpf_xdp_attach(static_cast<int>(::if_nametoindex(interface)), program, by_the_driver, nullptr), 0);
}
// `behind`: another program that is there already and goes on to the next.
inline void attach_tc(int program, const char* interface, bool behind = false) {
    LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = static_cast<int>(::if_nametoindex(interface)),
                .attach_point = BPF_TC_INGRESS);
    LIBBPF_OPTS(bpf_tc_opts, options, .prog_fd = program, .priority = behind ? 2U : 1U);
    ASSERT_TRUE(behind || bpf_tc_hook_create(&hook) == 0);
    ASSERT_EQ(bpf_tc_attach(&hook, &options), 0);
}
inline void attach(const Programs& programs, Hook hook, const char* interface) {
    if (hook == Hook::xdp)
        attach_xdp(programs.xdp(), interface);
    else
        attach_tc(programs.tc(), interface);
}

}  // namespace marchproxy::packet::testing
