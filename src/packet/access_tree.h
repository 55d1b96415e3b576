// A service's access lists as the tree that packets ask (bpf/lib/access_tree.h), and all services' trees as they lie in
// the kernel's maps. Pure.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "abi/packet.h"
#include "model/address.h"
#include "model/result.h"
#include "packet/access_entries.h"

namespace marchproxy::packet {

// The roots, IPv4's and IPv6's, then level by level. Their `children` are places in here.
struct AccessTree {
    std::vector<abi::access_node> nodes;

    bool passes(const IpAddress& address) const;
    bool operator==(const AccessTree& other) const;
};
// The same entries make the same tree, node by node.
std::shared_ptr<const AccessTree> access_tree(const FoldedAccess& access);
// Null: the lists say nothing, and everybody may pass.
std::shared_ptr<const AccessTree> access_tree(const Access& access);

using AccessTrees = std::map<uint32_t, std::shared_ptr<const AccessTree>>;  // by index of the service; none null
bool same(const AccessTrees& a, const AccessTrees& b);

// What the maps are to hold: `chunks` from chunk number roots.first_chunk on.
struct PackedAccess {
    std::unique_ptr<abi::access_roots> roots;
    std::vector<abi::access_chunk> chunks;
};
// Fails where there is no room in `most` chunks.
Result<PackedAccess> pack(const AccessTrees& trees, uint32_t first_chunk, uint32_t most);

// The same back. nullopt: this is nothing that pack() made.
std::optional<AccessTrees> unpack(PackedAccess& packed);

}  // namespace marchproxy::packet
