// How fast each client address may begin connections, over all workers. Only consulted for services with
// limits.new_connections_per_source. An address is remembered while it has used of its burst; where more than there is
// room for do at once, all of a shard are forgotten and have their burst whole again.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "model/address.h"
#include "model/units.h"

namespace marchproxy::stream {

class SourceRates {
  public:
    static constexpr size_t most = 1 << 18;  // some 20 MB, as in the packet plane

    // One more from there, by GCRA (as qos/rate_limit.h) with a burst of a second's worth, at least 1; or it is refused
    // and nothing is counted.
    bool admit(const IpAddress& source, const Frequency& limit, TimePoint now) {
        const auto step = Duration(static_cast<int64_t>(std::max(std::ceil(1e9 / limit.per_second), 1.0)));
        const Duration tolerance = std::max(Duration(std::chrono::seconds(1)) - step, Duration::zero());
        Shard& shard = shard_of(source);
        std::lock_guard lock(shard.mutex);
        if (shard.due.size() >= most / shards_.size() && !shard.due.contains(source)) make_room(shard, now);
        TimePoint& due = shard.due.try_emplace(source, now).first->second;
        TimePoint from = std::max(due, now);
        if (from - now > tolerance + step) from = now + tolerance;  // of another limit, before a reload
        if (from - now > tolerance) return false;
        due = from + step;
        return true;
    }

    size_t remembered() const {
        size_t sum = 0;
        for (const Shard& shard : shards_) {
            std::lock_guard lock(shard.mutex);
            sum += shard.due.size();
        }
        return sum;
    }

  private:
    struct alignas(64) Shard {
        mutable std::mutex mutex;
        std::unordered_map<IpAddress, TimePoint> due;  // when the next is, were all to come at the rate
    };

    // Half of the room at least, so that it is not looked for at every connection.
    static void make_room(Shard& shard, TimePoint now) {
        const size_t before = shard.due.size();
        std::erase_if(shard.due, [now](const auto& one) { return one.second <= now; });
        if (shard.due.size() > before / 2) shard.due.clear();
    }
    // The low bits of an address choose the bucket inside the shard too, so the shard takes others.
    Shard& shard_of(const IpAddress& source) {
        return shards_[(std::hash<IpAddress>{}(source) >> 48) % shards_.size()];
    }

    std::array<Shard, 16> shards_;
};

}  // namespace marchproxy::stream
