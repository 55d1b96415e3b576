// For tests: the flow tables as the kernel holds them, found by the maps that a program uses.
#pragma once

#include <bpf/bpf.h>

#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "abi/packet.h"
#include "model/descriptor.h"
#include "packet/programs.h"

namespace marchproxy::packet::testing {

struct Cell {
    uint64_t identity, target, traffic;

    abi::flow_state state() const { return static_cast<abi::flow_state>(target >> flow_state_shift); }
    uint64_t packets() const { return abi::traffic_packets(traffic); }
    uint64_t bytes() const { return abi::traffic_bytes(traffic); }
};

// The table's first chunk, which with a capacity of one flow is all of it.
class Chunks {
  public:
    // `alignment`: where its first bucket begins, in bytes.
    Chunks(Descriptor chunk, uint32_t alignment) : chunk_(std::move(chunk)), first_(alignment / sizeof(__u64)) {}

    void clear() { write(abi::flow_chunk{}); }
    // An identity is the first of its cell's words, and no other cell's words look like it in the tests.
    std::optional<Cell> find(uint64_t identity) const {
        const auto chunk = read();
        const std::span<const __u64> words = chunk->buckets;
        for (size_t i = 0; i + 2 * abi::flow_cells < words.size(); ++i)
            if (words[i] == identity) return Cell{identity, words[i + abi::flow_cells], words[i + 2 * abi::flow_cells]};
        return {};
    }

    // Lets every cell have been silent for so much longer.
    void age(uint32_t seconds) {
        change_traffic([seconds](__u64 word) {
            return abi::traffic_of(abi::traffic_bytes(word), abi::traffic_packets(word),
                                   abi::traffic_seen(word) - seconds);
        });
    }
    // Lets every cell have carried so much.
    void carry(uint64_t bytes, uint64_t packets) {
        change_traffic([=](__u64 word) { return abi::traffic_of(bytes, packets, abi::traffic_seen(word)); });
    }

  private:
    // Of a cell that was removed the identity alone is 0.
    void change_traffic(const auto& changed) {
        const auto chunk = read();
        constexpr size_t bucket = 3 * abi::flow_cells;
        const std::span<__u64> words = chunk->buckets;
        for (size_t i = first_; i + bucket <= words.size(); i += bucket)
            for (size_t slot = i; slot < i + abi::flow_cells; ++slot)
                if (words[slot] != 0) words[slot + 2 * abi::flow_cells] = changed(words[slot + 2 * abi::flow_cells]);
        write(*chunk);
    }
    std::unique_ptr<abi::flow_chunk> read() const {
        auto chunk = std::make_unique<abi::flow_chunk>();
        const uint32_t zero = 0;
        bpf_map_lookup_elem(chunk_.get(), &zero, chunk.get());
        return chunk;
    }
    void write(const abi::flow_chunk& chunk) {
        const uint32_t zero = 0;
        bpf_map_update_elem(chunk_.get(), &zero, &chunk, BPF_ANY);
    }

    Descriptor chunk_;
    size_t first_;
};

inline Descriptor map_of(const Programs& programs, std::string_view name) {
    std::array<uint32_t, 64> ids{};
    bpf_prog_info program{};
    program.nr_map_ids = ids.size();
    program.map_ids = reinterpret_cast<uintptr_t>(ids.data());
    uint32_t size = sizeof program;
    if (bpf_obj_get_info_by_fd(programs.xdp(), &program, &size) != 0) return {};
    for (uint32_t i = 0; i < program.nr_map_ids; ++i) {
        Descriptor map(bpf_map_get_fd_by_id(ids[i]));
        bpf_map_info info{};
        size = sizeof info;
        if (bpf_obj_get_info_by_fd(map.get(), &info, &size) == 0 && name == info.name) return map;
    }
    return {};
}

inline Chunks chunks_of(const Programs& programs, std::string_view table) {
    const Descriptor outer = map_of(programs, table);
    const uint32_t first = 0;
    uint32_t id = 0;
    bpf_map_lookup_elem(outer.get(), &first, &id);
    return Chunks(Descriptor(bpf_map_get_fd_by_id(id)), programs.flow_alignment());
}

}  // namespace marchproxy::packet::testing
