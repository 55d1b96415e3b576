// For tests: the flow table in ordinary memory, used as the programs use it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "bpf/lib/flow_table.h"

namespace marchproxy::abi::testing {

enum class Insertion { done, exists, full };

class Table {
  public:
    explicit Table(uint32_t chunks, uint32_t alignment = 0, __u64 key = 0x0123456789abcdef)
        : chunks_(chunks), settings_{{key, ~key}, chunks, alignment} {}

    flow_place place_of(uint64_t identity) const { return flow_place_of(identity, &settings_); }

    // As insert_cell() of bpf/lib/flows.h, and published.
    Insertion insert(uint64_t identity, uint64_t target, uint64_t traffic = 0) {
        const flow_place place = place_of(identity);
        flow_chunk* chunk = &chunks_[place.chunk];
        flow_cell* cell = flow_claim(chunk, identity, place, settings_.alignment, target, traffic);
        if (!cell) return Insertion::full;
        if (flow_count_of(chunk, identity, place, settings_.alignment) != 1) {
            flow_remove(chunk, place, cell, settings_.alignment);
            return Insertion::exists;
        }
        flow_publish(cell, identity);
        return Insertion::done;
    }

    flow_cell* cell_of(uint64_t identity, __u64* target) {
        const flow_place place = place_of(identity);
        return flow_find_in(&chunks_[place.chunk], identity, place, settings_.alignment, target);
    }
    std::optional<uint64_t> find(uint64_t identity) {
        __u64 target = 0;
        return cell_of(identity, &target) ? std::optional<uint64_t>(target) : std::nullopt;
    }

    // One thread at a time, as the sweep.
    bool remove(uint64_t identity) {
        __u64 target = 0;
        flow_cell* cell = cell_of(identity, &target);
        if (!cell) return false;
        const flow_place place = place_of(identity);
        flow_remove(&chunks_[place.chunk], place, cell, settings_.alignment);
        return true;
    }

    uint32_t index_of(uint64_t identity) {
        __u64 target = 0;
        flow_cell* cell = cell_of(identity, &target);
        const flow_place place = place_of(identity);
        return flow_cell_index(place, &chunks_[place.chunk], cell, settings_.alignment);
    }

    // While nobody else uses it: how often each identity lies in it, marks included.
    std::map<uint64_t, int> contents() {
        std::map<uint64_t, int> found;
        for (flow_chunk& chunk : chunks_)
            for (uint32_t bucket = 0; bucket < flow_buckets; ++bucket)
                for (const uint64_t identity : flow_bucket_at(&chunk, bucket, settings_.alignment)->identity)
                    if (identity) ++found[identity];
        return found;
    }
    // Cells that passed a bucket by, of all buckets: 0 once all are gone.
    uint64_t passed() const {
        uint64_t sum = 0;
        for (const flow_chunk& chunk : chunks_)
            for (uint32_t bucket = 0; bucket < flow_buckets; ++bucket)
                sum += flow_passed(&chunk, bucket);
        return sum;
    }
    uint32_t most_passed() const {
        uint32_t most = 0;
        for (const flow_chunk& chunk : chunks_)
            for (uint32_t bucket = 0; bucket < flow_buckets; ++bucket)
                most = std::max(most, flow_passed(&chunk, bucket));
        return most;
    }
    uint64_t cells() const { return chunks_.size() * uint64_t{flow_chunk_cells}; }

  private:
    struct alignas(64) Chunk : flow_chunk {};
    std::vector<Chunk> chunks_;
    flow_table_settings settings_;
};

}  // namespace marchproxy::abi::testing
