// How many connections each client address holds, over all workers. Only consulted for services with
// limits.connections_per_source; sharded so that workers seldom meet on a lock.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "model/address.h"

namespace marchproxy::stream {

class SourceTable {
  public:
    // Counts one more unless the address already holds `limit`.
    bool acquire(const IpAddress& source, uint64_t limit) {
        Shard& shard = shard_of(source);
        std::lock_guard lock(shard.mutex);
        uint64_t& held = shard.held[source];
        if (held >= limit) return false;
        ++held;
        return true;
    }

    void release(const IpAddress& source) {
        Shard& shard = shard_of(source);
        std::lock_guard lock(shard.mutex);
        auto found = shard.held.find(source);
        if (found == shard.held.end()) return;
        if (--found->second == 0) shard.held.erase(found);
    }

  private:
    struct alignas(64) Shard {
        std::mutex mutex;
        std::unordered_map<IpAddress, uint64_t> held;
    };
    // The low bits of an address choose the bucket inside the shard too, so the shard takes others.
    Shard& shard_of(const IpAddress& source) {
        return shards_[(std::hash<IpAddress>{}(source) >> 48) % shards_.size()];
    }

    std::array<Shard, 16> shards_;
};

}  // namespace marchproxy::stream
