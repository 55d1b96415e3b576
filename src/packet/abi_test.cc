// The shapes that kernel and user half share lie in memory alike on both sides: what clang made of abi/packet.h for
// BPF, by the program's BTF, against what the C++ compiler made of it. Opens the program and loads nothing: it needs no
// root.
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "abi/packet.h"

using marchproxy::abi::flow_table_settings;  // the skeleton knows no namespaces
#include "bpf/packet.skel.h"

namespace marchproxy::packet {
namespace {

struct Member {
    std::string name;
    size_t offset, size;
    bool operator==(const Member&) const = default;
    friend void PrintTo(const Member& m, std::ostream* out) { *out << m.name << " at " << m.offset << ", " << m.size; }
};

struct Shape {
    const char* name;
    size_t size;
    std::vector<Member> members;
};

// A member that is missing in this table is a difference too.
#define SHAPE(type, ...)                               \
    [] {                                               \
        using S = abi::type;                           \
        return Shape{#type, sizeof(S), {__VA_ARGS__}}; \
    }()
#define M(member)                                       \
    Member {                                            \
#member, offsetof(S, member), sizeof(S::member) \
    }

const Shape shapes[] = {
    SHAPE(address, M(word)),
    SHAPE(directory_entry, M(address), M(port_be), M(protocol), M(kind), M(index), M(reserved)),
    SHAPE(directory, M(entry)),
    SHAPE(packet_service, M(address), M(port_be), M(protocol), M(forwarding), M(flags), M(ring), M(seed),
          M(idle_seconds), M(opening_seconds), M(connections), M(mss), M(reserved), M(new_flow_step),
          M(new_flow_tolerance)),
    SHAPE(packet_endpoint, M(address), M(port_be), M(protocol), M(flags), M(dnat_service), M(source_first),
          M(source_count), M(reserved), M(gateway)),
    SHAPE(access_node, M(path), M(deeper), M(passes), M(children), M(path_bits), M(beside), M(reserved)),
    SHAPE(access_chunk, M(node)),
    SHAPE(access_root, M(v4), M(v6)),
    SHAPE(access_roots, M(first_chunk), M(chunks), M(of)),
    SHAPE(flow_bucket, M(identity), M(target), M(traffic)),
    SHAPE(flow_chunk, M(buckets), M(passed)),
    SHAPE(flow_table_settings, M(key), M(chunks), M(alignment)),
    SHAPE(flow_client, M(address), M(port_be), M(service), M(reserved)),
    SHAPE(flow_client_chunk, M(cell)),
    SHAPE(sweep, M(first_bucket), M(buckets), M(list_service), M(list_limit), M(live), M(ended), M(kept_back),
          M(listed)),
    SHAPE(flow_report, M(identity), M(target), M(packets), M(bytes), M(client), M(client_port_be), M(service),
          M(idle_seconds), M(ended), M(why), M(reserved), M(age_seconds)),
    SHAPE(packet_counters, M(packets), M(bytes), M(flows), M(ended), M(stateless), M(uncounted), M(cookies), M(proven),
          M(dropped)),
    SHAPE(endpoint_counters, M(packets), M(bytes), M(flows), M(ended)),
    SHAPE(admission, M(due), M(live), M(packets_due), M(reserved)),
    SHAPE(packet_limits, M(connections_per_source), M(proven_from), M(source_flow_step), M(source_flow_tolerance),
          M(source_packet_step), M(source_packet_tolerance), M(packet_batch_step), M(packet_tolerance), M(packet_batch),
          M(reserved)),
    SHAPE(packet_rate, M(bits_per_second), M(burst), M(share)),
    SHAPE(packet_qos, M(rate), M(priorities), M(queues), M(reserved), M(dscp)),
    SHAPE(queued_packet, M(interface), M(flow), M(payload), M(service), M(direction), M(priority)),
    SHAPE(qos_counters, M(left), M(bytes), M(dropped), M(dropped_bytes)),
    SHAPE(qos_buckets, M(word)),
    SHAPE(source_key, M(address), M(service), M(reserved)),
    SHAPE(source_flows, M(live), M(since)),
    SHAPE(source_rate, M(packets_due), M(flows_due)),
    SHAPE(next_hop, M(address), M(until), M(generation), M(interface), M(destination), M(source), M(mtu), M(asked),
          M(xdp_interface), M(xdp_tag)),
    SHAPE(packet_vlan, M(parent), M(tag)),
    SHAPE(packet_interface, M(mac), M(reserved)),
    SHAPE(neighbour_report, M(address), M(interface), M(mac), M(known), M(reserved), M(tag)),
};

std::vector<Member> members_of(const btf* types, const btf_type* type) {
    std::vector<Member> members;
    const btf_member* member = btf_members(type);
    for (uint32_t i = 0; i < btf_vlen(type); ++i)
        members.push_back({btf__name_by_offset(types, member[i].name_off), btf_member_bit_offset(type, i) / 8,
                           static_cast<size_t>(btf__resolve_size(types, member[i].type))});
    return members;
}

TEST(Abi, KernelAndUserHalfSeeTheSameShapes) {
    const std::unique_ptr<packet_bpf, void (*)(packet_bpf*)> skeleton(packet_bpf::open(), packet_bpf::destroy);
    ASSERT_NE(skeleton, nullptr);
    const btf* types = bpf_object__btf(skeleton->obj);
    ASSERT_NE(types, nullptr);
    for (const Shape& shape : shapes) {
        const int id = btf__find_by_name_kind(types, shape.name, BTF_KIND_STRUCT);
        if (id < 0) {
            ADD_FAILURE() << shape.name << " is not in the program's BTF: name it in bpf/packet.bpf.c's `shapes`";
            continue;
        }
        const btf_type* type = btf__type_by_id(types, static_cast<uint32_t>(id));
        EXPECT_EQ(type->size, shape.size) << shape.name;
        EXPECT_EQ(members_of(types, type), shape.members) << shape.name;
    }
}

}  // namespace
}  // namespace marchproxy::packet
