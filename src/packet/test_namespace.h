// For tests: a network namespace and a mount namespace of the test's own, tiny programs loaded from instructions, and
// frames over a veth pair. Needs root and a kernel that takes BPF programs; without them tests are skipped by name.
#pragma once

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <iterator>
#include <string>

#include "model/descriptor.h"

namespace marchproxy::packet::testing {

inline bool run(const std::string& command) {
    return std::system((command + " 2>/dev/null >&2").c_str()) == 0;
}

// A program of one verdict.
inline Descriptor load(bpf_prog_type type, const char* name, int verdict) {
    const bpf_insn code[] = {{.code = BPF_ALU64 | BPF_MOV | BPF_K, .imm = verdict}, {.code = BPF_JMP | BPF_EXIT}};
    LIBBPF_OPTS(bpf_prog_load_opts, options);
    const int program = bpf_prog_load(type, name, "GPL", code, std::size(code), &options);
    return program < 0 ? Descriptor() : Descriptor(program);
}
inline Descriptor load_xdp(int verdict = XDP_PASS, const char* name = "marchproxy_xdp") {
    return load(BPF_PROG_TYPE_XDP, name, verdict);
}
inline Descriptor load_classifier(const char* name = "marchproxy_tc") {
    constexpr int unspecified = -1;  // TC_ACT_UNSPEC: the next one decides
    return load(BPF_PROG_TYPE_SCHED_CLS, name, unspecified);
}

// Interfaces `near` and `far`, joined, up; a BPF file system of the test's own in `bpffs`.
class Namespace : public ::testing::Test {
  protected:
    void SetUp() override {
        if (::geteuid() != 0) GTEST_SKIP() << "needs root";
        own_network_ = Descriptor(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
        own_mounts_ = Descriptor(::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC));
        if (::unshare(CLONE_NEWNET | CLONE_NEWNS) != 0) GTEST_SKIP() << "no namespaces here: " << std::strerror(errno);
        inside_ = true;
        ASSERT_EQ(::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr), 0);
        if (!add_pair()) GTEST_SKIP() << "no veth interfaces here";
    }
    void TearDown() override {
        if (!inside_) return;
        if (!bpffs.empty()) {
            ::umount2(bpffs.c_str(), MNT_DETACH);
            ::rmdir(bpffs.c_str());
        }
        ASSERT_EQ(::setns(own_network_.get(), CLONE_NEWNET), 0);
        ASSERT_EQ(::setns(own_mounts_.get(), CLONE_NEWNS), 0);
    }

    static bool add_pair(const std::string& name = "near", const std::string& options = "") {
        return run("ip link add " + name + " " + options + " type veth peer name far " + options) &&
               run("sysctl -qw net.ipv6.conf." + name + ".disable_ipv6=1 net.ipv6.conf.far.disable_ipv6=1 || true") &&
               run("ip link set " + name + " up") && run("ip link set far up") && run("ip link set lo up");
    }

    void mount_bpffs() {
        std::array<char, 32> name{"/tmp/marchproxy_bpffs_XXXXXX"};
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        bpffs = name.data();
        ASSERT_EQ(::mount("bpf", bpffs.c_str(), "bpf", 0, nullptr), 0) << std::strerror(errno);
    }

    static Descriptor frames_of(const char* interface) {
        const auto protocol = htons(ETH_P_802_EX1);
        Descriptor socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, protocol));
        sockaddr_ll address{};
        address.sll_family = AF_PACKET;
        address.sll_protocol = protocol;
        address.sll_ifindex = static_cast<int>(::if_nametoindex(interface));
        EXPECT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
        return socket;
    }

    // Whether a frame sent at `far` comes up at the other end's stack, past XDP.
    static bool frame_passes(const char* interface = "near") {
        const Descriptor in = frames_of(interface), out = frames_of("far");
        std::array<unsigned char, 64> frame{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5};
        EXPECT_EQ(::send(out.get(), frame.data(), frame.size(), 0), static_cast<ssize_t>(frame.size()));
        pollfd waiting{in.get(), POLLIN, 0};
        constexpr int milliseconds = 300;
        return ::poll(&waiting, 1, milliseconds) > 0;
    }

    std::string bpffs;  // empty until mount_bpffs()

  private:
    Descriptor own_network_, own_mounts_;
    bool inside_ = false;
};

// With a BPF file system, and a kernel that takes maps to pin there.
class PinNamespace : public Namespace {
  protected:
    void SetUp() override {
        Namespace::SetUp();
        if (IsSkipped() || HasFatalFailure()) return;
        if (!load_xdp()) GTEST_SKIP() << "the kernel takes no BPF maps from this process";
        mount_bpffs();
    }
};

}  // namespace marchproxy::packet::testing
