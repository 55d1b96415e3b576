#include "packet/capability.h"

#include <gmock/gmock.h>
#include <linux/capability.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>

#include "packet/test_namespace.h"

namespace marchproxy::packet {
namespace {

using ::testing::HasSubstr;

const Capability* find(const std::vector<Capability>& list, std::string_view what) {
    for (const Capability& capability : list)
        if (capability.what == what) return &capability;
    return nullptr;
}

TEST(Capability, JudgesTheKernelsVersion) {
    struct Row {
        const char* release;
        bool available;
    };
    for (const Row row : {Row{"6.1.0-18-amd64", true}, Row{"6.0.19", false}, Row{"5.15.0", false}, Row{"7.0", true},
                          Row{"10.0.1", true}, Row{"", false}, Row{"six", false}}) {
        const Capability judged = judge_kernel(row.release);
        EXPECT_EQ(judged.available, row.available) << row.release;
        EXPECT_EQ(judged.advice.empty(), row.available) << row.release;
        EXPECT_FALSE(judged.reason.empty()) << row.release;
    }
}

TEST(Capability, JudgesPrivileges) {
    constexpr uint64_t bpf = 1ULL << CAP_BPF, net = 1ULL << CAP_NET_ADMIN, admin = 1ULL << CAP_SYS_ADMIN,
                       perf = 1ULL << CAP_PERFMON;
    struct Row {
        uint64_t effective;
        bool usable;
    };
    for (const Row row : {Row{0, false}, Row{bpf, false}, Row{net, false}, Row{bpf | net, false},
                          Row{bpf | net | perf, true}, Row{admin, false}, Row{admin | net, true}})
        EXPECT_EQ(usable(judge_privileges(row.effective)), row.usable) << row.effective;
    EXPECT_THAT(missing(judge_privileges(bpf)), HasSubstr("CAP_NET_ADMIN"));
    EXPECT_THAT(missing(judge_privileges(bpf | net)), HasSubstr("CAP_PERFMON"));
    EXPECT_EQ(missing(judge_privileges(bpf | net | perf)), "");
}

TEST(Capability, SaysOfAHelperThatIsNotThereWhatItIsForAndWhatToDo) {
    const Capability absent = judge_probe("helper bpf_fib_lookup at XDP", 0, "next hops");
    EXPECT_FALSE(absent.available);
    EXPECT_EQ(absent.reason, "the kernel lacks it; for next hops");
    EXPECT_THAT(absent.advice, HasSubstr("kernel of Linux 6.1 or newer"));
    EXPECT_EQ(missing({absent}), "helper bpf_fib_lookup at XDP: the kernel lacks it; for next hops");
    EXPECT_FALSE(usable({absent}));

    const Capability refused = judge_probe("helper bpf_fib_lookup at XDP", -EPERM, "next hops");
    EXPECT_FALSE(refused.available);
    EXPECT_THAT(refused.reason, HasSubstr("could not be asked for: Operation not permitted"));
    EXPECT_THAT(refused.advice, HasSubstr("CAP_BPF"));

    const Capability there = judge_probe("helper bpf_fib_lookup at XDP", 1, "next hops");
    EXPECT_TRUE(there.available);
    EXPECT_EQ(there.reason, "there; for next hops");
    EXPECT_EQ(there.advice, "");
}

TEST(Capability, SaysOfEverythingWhatWasFoundAndWhatToDo) {
    const auto list = probe_capabilities();
    for (const char* what :
         {"kernel 6.1", "kernel BTF", "CAP_BPF", "CAP_NET_ADMIN", "XDP programs", "TC programs", "SYSCALL programs"})
        EXPECT_NE(find(list, what), nullptr) << what;
    for (const Capability& capability : list) {
        EXPECT_FALSE(capability.reason.empty()) << capability.what;
        EXPECT_EQ(capability.advice.empty(), capability.available) << capability.what;
    }
    EXPECT_EQ(usable(list), missing(list).empty());
}

TEST(Capability, IsUsableWhereProgramsCanBeLoaded) {
    if (::geteuid() != 0 || !testing::load_xdp()) GTEST_SKIP() << "needs root and a kernel that takes BPF programs";
    const auto list = probe_capabilities();
    EXPECT_TRUE(usable(list)) << missing(list);
}

// A process without rights must not be told that everything is there, which is what libbpf's probes say then.
TEST(Capability, WithoutRightsNothingIsClaimed) {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root, to give it up";
    const pid_t process = ::fork();
    if (process == 0) {
        if (::setresuid(65534, 65534, 65534) != 0) std::_Exit(2);
        const auto list = probe_capabilities();
        bool right = !usable(list);
        for (const char* what : {"CAP_BPF", "CAP_NET_ADMIN", "XDP programs", "helpers"}) {
            const Capability* capability = find(list, what);
            const bool said = capability != nullptr && !capability->available &&
                              capability->advice.find("CAP_NET_ADMIN") != std::string::npos;
            if (!said) std::fprintf(stderr, "%s: %s\n", what, capability == nullptr ? "" : capability->reason.c_str());
            right = right && said;
        }
        std::_Exit(right ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(process, &status, 0), process);
    EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace marchproxy::packet
