#include "packet/access_tree.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "bpf/lib/access_tree.h"
#include "packet/directory.h"

namespace marchproxy::packet {
namespace {

// An entry in its family's own bits: IPv4 has 32.
struct Entry {
    abi::access_bits bits;
    unsigned length;
    bool passes;
};
using Entries = std::vector<Entry>;

// What of an address is left behind `depth` bits.
abi::access_bits behind(abi::access_bits bits, unsigned depth) {
    if (depth >= 64) bits = {bits.low, 0}, depth -= 64;
    abi::access_skip(&bits, depth);
    return bits;
}

unsigned common_bits(const Entry& a, const Entry& b) {
    const __u64 high = a.bits.high ^ b.bits.high, low = a.bits.low ^ b.bits.low;
    return static_cast<unsigned>(high ? std::countl_zero(high) : 64 + std::countl_zero(low));
}

bool is_v4(const Prefix& prefix) {
    return prefix.ip.is_v4() && prefix.length >= 96;
}

// A family's entries, sorted as they were.
Entries entries_of(const AccessEntries& all, bool v4) {
    Entries entries;
    for (const auto& [prefix, passes] : all) {
        const abi::address address = to_abi(prefix.ip);
        if (is_v4(prefix) == v4)
            entries.push_back({abi::access_bits_of(&address, !v4), prefix.length - (v4 ? 96U : 0U), passes});
    }
    return entries;
}

// The verdict on IPv4 addresses that no entry of their own covers: entries around their block mean them here.
bool others_of_v4(const FoldedAccess& access) {
    bool passes = access.others_pass;
    const abi::address inner = to_abi(IpAddress::any_v4());
    for (const auto& [prefix, verdict] : access.entries) {
        if (is_v4(prefix)) continue;
        const abi::address outer = to_abi(prefix.ip);
        const Entry around{abi::access_bits_of(&outer, true), prefix.length, verdict};
        if (common_bits(around, {abi::access_bits_of(&inner, true), 96, verdict}) >= prefix.length) passes = verdict;
    }
    return passes;
}

class Builder {
  public:
    explicit Builder(std::vector<abi::access_node>& nodes) : nodes_(nodes) {}

    void build(const FoldedAccess& access) {
        const Entries v4 = entries_of(access.entries, true), v6 = entries_of(access.entries, false);
        nodes_.resize(2);
        waiting_.push_back({&v4, 0, 0, v4.size(), 0, others_of_v4(access)});
        waiting_.push_back({&v6, 1, 0, v6.size(), 0, access.others_pass});
        for (size_t next = 0; next < waiting_.size(); ++next) {
            const Waiting now = waiting_[next];
            fill(now);
        }
    }

  private:
    // A node to be made: of entries [begin, end), which share their first `depth` bits and have more.
    struct Waiting {
        const Entries* entries;
        size_t node, begin, end;
        unsigned depth;
        bool around;  // the verdict where none of them covers
    };

    // How many bits all of the entries share behind `depth`; one less than the shortest has, which has to be looked at.
    static unsigned path_of(const Waiting& w) {
        if (w.begin == w.end) return 0;
        const Entry &first = (*w.entries)[w.begin], &last = (*w.entries)[w.end - 1];
        if (first.length == 0) return 0;
        const unsigned shared = std::min(common_bits(first, last), first.length - 1);
        return std::min<unsigned>(shared - w.depth, abi::access_most_path);
    }

    void fill(const Waiting& w) {
        abi::access_node node{};
        node.beside = w.around;
        node.path_bits = static_cast<__u8>(path_of(w));
        if (node.path_bits)
            node.path = behind((*w.entries)[w.begin].bits, w.depth).high >> (64 - node.path_bits)
                                                                                << (64 - node.path_bits);
        node.passes = w.around ? ~0ULL : 0;

        const unsigned from = w.depth + node.path_bits, to = from + abi::access_stride;
        const size_t first_child = waiting_.size();
        for (size_t i = w.begin; i < w.end;) {
            const Entry& entry = (*w.entries)[i];
            const unsigned value = value_at(entry, from);
            if (entry.length <= to) {
                cover(node, value, to - entry.length, entry.passes);
                ++i;
                continue;
            }
            size_t end = i + 1;
            while (end < w.end && value_at((*w.entries)[end], from) == value)
                ++end;
            node.deeper |= 1ULL << value;
            waiting_.push_back({w.entries, 0, i, end, to, (node.passes >> value & 1) != 0});
            i = end;
        }
        node.passes &= ~node.deeper;
        node.children = waiting_.size() > first_child ? static_cast<__u32>(nodes_.size()) : 0;
        for (size_t child = first_child; child < waiting_.size(); ++child) {
            waiting_[child].node = nodes_.size();
            nodes_.emplace_back();
        }
        nodes_[w.node] = node;
    }

    static unsigned value_at(const Entry& entry, unsigned depth) {
        return static_cast<unsigned>(behind(entry.bits, depth).high >> (64 - abi::access_stride));
    }
    // The verdict of `passes` for 2^open values from this one.
    static void cover(abi::access_node& node, unsigned value, unsigned open, bool passes) {
        const __u64 values = (open >= abi::access_stride ? ~0ULL : (1ULL << (1U << open)) - 1) << value;
        node.passes = passes ? node.passes | values : node.passes & ~values;
    }

    std::vector<abi::access_node>& nodes_;
    std::vector<Waiting> waiting_;
};

unsigned children_of(const abi::access_node& node) {
    return static_cast<unsigned>(std::popcount(node.deeper));
}

// Puts siblings side by side in one chunk, tree by tree; and finds them again.
class Packing {
  public:
    Packing(PackedAccess& packed, uint32_t most) : packed_(packed), most_(most) {}

    // False: there is no room.
    bool put(uint32_t service, const AccessTree& tree) {
        std::vector<__u32> places(tree.nodes.size());
        if (!take(places, 0, 2)) return false;
        for (size_t i = 0; i < places.size(); ++i) {
            abi::access_node node = tree.nodes[i];
            if (const unsigned count = children_of(node)) {
                if (!take(places, node.children, count)) return false;
                node.children = places[node.children];
            }
            at(places[i]) = node;
        }
        packed_.roots->of[service] = {places[0], places[1]};
        return true;
    }

    bool get(const abi::access_root& root, AccessTree& tree) {
        std::vector<__u32> places{root.v4, root.v6};
        for (size_t i = 0; i < places.size(); ++i) {
            if (!is_place(places[i]) || places.size() > 2 * abi::most_access_prefixes + 2) return false;
            abi::access_node node = at(places[i]);
            const __u32 first = node.children;
            if (children_of(node)) node.children = static_cast<__u32>(places.size());
            for (__u32 child = 0; child < children_of(node); ++child)
                places.push_back(first + child);
            tree.nodes.push_back(node);
        }
        return true;
    }

  private:
    bool take(std::vector<__u32>& places, size_t first, unsigned count) {
        if (packed_.chunks.empty() || used_ + count > abi::access_chunk_nodes) {
            if (packed_.chunks.size() == most_) return false;
            packed_.chunks.emplace_back();
            used_ = 0;
        }
        const auto chunk = static_cast<__u32>(packed_.roots->first_chunk + packed_.chunks.size() - 1);
        for (unsigned i = 0; i < count; ++i)
            places[first + i] = chunk << abi::access_place_bits | used_++;
        return true;
    }
    bool is_place(__u32 place) const {
        const __u32 chunk = place >> abi::access_place_bits, in_it = place & ((1U << abi::access_place_bits) - 1);
        return chunk >= packed_.roots->first_chunk && chunk - packed_.roots->first_chunk < packed_.chunks.size() &&
               in_it < abi::access_chunk_nodes;
    }
    abi::access_node& at(__u32 place) {
        return packed_.chunks[(place >> abi::access_place_bits) - packed_.roots->first_chunk]
            .node[place & ((1U << abi::access_place_bits) - 1)];
    }

    PackedAccess& packed_;
    size_t most_;
    __u32 used_ = 0;  // of the last chunk
};

}  // namespace

std::shared_ptr<const AccessTree> access_tree(const FoldedAccess& access) {
    const auto tree = std::make_shared<AccessTree>();
    Builder(tree->nodes).build(access);
    return tree;
}

std::shared_ptr<const AccessTree> access_tree(const Access& access) {
    const FoldedAccess folded = fold_access(access);
    return folded.entries.empty() && folded.others_pass ? nullptr : access_tree(folded);
}

bool same(const AccessTrees& a, const AccessTrees& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
        return x.first == y.first && (x.second == y.second || *x.second == *y.second);
    });
}

bool AccessTree::passes(const IpAddress& address) const {
    const abi::address a = to_abi(address);
    abi::access_bits left = abi::access_bits_of(&a, !address.is_v4());
    __u32 at = abi::access_step(&nodes[address.is_v4() ? 0 : 1], &left);
    while (at > abi::access_passes)
        at = abi::access_step(&nodes[at], &left);
    return at == abi::access_passes;
}

bool AccessTree::operator==(const AccessTree& other) const {
    return nodes.size() == other.nodes.size() &&
           std::memcmp(nodes.data(), other.nodes.data(), nodes.size() * sizeof(abi::access_node)) == 0;
}

Result<PackedAccess> pack(const AccessTrees& trees, uint32_t first_chunk, uint32_t most) {
    PackedAccess packed;
    packed.roots = std::make_unique<abi::access_roots>();
    packed.roots->first_chunk = first_chunk;
    Packing packing(packed, most);
    for (const auto& [service, tree] : trees)
        if (!packing.put(service, *tree))
            return Error{
                fmt::format("the access lists need more than {} pieces of {} nodes; fold them into larger "
                            "networks",
                            most, uint32_t{abi::access_chunk_nodes})};
    packed.roots->chunks = static_cast<__u32>(packed.chunks.size());
    return packed;
}

std::optional<AccessTrees> unpack(PackedAccess& packed) {
    AccessTrees trees;
    Packing packing(packed, 0);  // makes no more
    for (uint32_t service = 0; service < abi::max_packet_services; ++service) {
        const abi::access_root& root = packed.roots->of[service];
        if (!root.v4 && !root.v6) continue;
        const auto tree = std::make_shared<AccessTree>();
        if (!packing.get(root, *tree)) return std::nullopt;
        trees.emplace(service, tree);
    }
    return trees;
}

}  // namespace marchproxy::packet
