#include "packet/helpers.h"

#include <bpf/libbpf.h>
#include <gmock/gmock.h>
#include <unistd.h>

#include <memory>
#include <set>
#include <span>
#include <string>

#include "abi/packet.h"
#include "packet/capability.h"
#include "packet/libbpf_messages.h"
#include "packet/test_namespace.h"

using marchproxy::abi::flow_table_settings;  // the skeleton knows no namespaces
#include "bpf/packet.skel.h"

namespace marchproxy::packet {
namespace {

using ::testing::UnorderedElementsAreArray;

std::string name_of(const bpf_insn& call) {
    const auto id = static_cast<size_t>(call.imm);
    return std::string(id < std::size(helper_names) ? helper_names[id] : std::to_string(id));
}

// After loading: its own instructions and those of every function that it reaches.
std::set<std::string> called_by(const bpf_program* program) {
    std::set<std::string> names;
    for (const bpf_insn& one : std::span(bpf_program__insns(program), bpf_program__insn_cnt(program)))
        if (one.code == (BPF_JMP | BPF_CALL) && one.src_reg == 0) names.insert(name_of(one));
    return names;
}

std::set<std::string> listed_for(bpf_prog_type type) {
    std::set<std::string> names;
    for (const Helper& helper : helpers)
        if (helper.users & users_of_type(type)) names.insert(std::string(helper_names[helper.id]));
    return names;
}

// A kernel is asked for what the programs call, and refused for nothing else.
TEST(Helpers, AreThoseThatTheProgramsCall) {
    if (::geteuid() != 0 || !testing::load_xdp()) GTEST_SKIP() << "needs root and a kernel that takes BPF programs";
    const LibbpfMessages messages;
    const std::unique_ptr<packet_bpf, decltype(&packet_bpf::destroy)> skeleton(packet_bpf::open(), packet_bpf::destroy);
    ASSERT_TRUE(skeleton);
    ASSERT_EQ(packet_bpf::load(skeleton.get()), 0) << messages.last();
    std::set<bpf_prog_type> types;
    bpf_program* program = nullptr;
    bpf_object__for_each_program(program, skeleton->obj) {
        const bpf_prog_type type = bpf_program__type(program);
        EXPECT_TRUE(types.insert(type).second) << "list them by program then, no longer by type";
        EXPECT_THAT(called_by(program), UnorderedElementsAreArray(listed_for(type))) << bpf_program__name(program);
    }
    EXPECT_THAT(types, UnorderedElementsAreArray({BPF_PROG_TYPE_XDP, BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_SYSCALL}));
}

TEST(Helpers, AreAskedForByTypeOfProgram) {
    if (::geteuid() != 0 || !testing::load_xdp()) GTEST_SKIP() << "needs root and a kernel that takes BPF programs";
    struct Row {
        bpf_prog_type type;
        uint32_t helper;
        int answer;
    };
    constexpr uint32_t none = 100'000;
    const Row rows[] = {
        {BPF_PROG_TYPE_XDP, BPF_FUNC_fib_lookup, 1},         {BPF_PROG_TYPE_XDP, BPF_FUNC_xdp_adjust_head, 1},
        {BPF_PROG_TYPE_XDP, BPF_FUNC_skb_vlan_pop, 0},       {BPF_PROG_TYPE_XDP, none, 0},
        {BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_skb_vlan_pop, 1}, {BPF_PROG_TYPE_SCHED_CLS, BPF_FUNC_xdp_adjust_head, 0},
        {BPF_PROG_TYPE_SYSCALL, BPF_FUNC_loop, 1},           {BPF_PROG_TYPE_SYSCALL, BPF_FUNC_redirect_neigh, 0},
    };
    for (const Row& row : rows)
        EXPECT_EQ(ask_for_helper(row.type, row.helper), row.answer) << row.type << ' ' << row.helper;
}

}  // namespace
}  // namespace marchproxy::packet
