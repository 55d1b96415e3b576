// The process's descriptors as a budget. A worker reserves before it opens, so that a full table is met at accept,
// where a client can simply wait in the backlog, and not half way through a connection.
#pragma once

#include <sys/resource.h>

#include <atomic>
#include <cstdint>

namespace marchproxy::stream {

class DescriptorBudget {
  public:
    // Kept free for everything that is not a connection: listeners, logs, the admin API, the resolver.
    static constexpr uint64_t reserve = 32;

    DescriptorBudget() {
        rlimit limit{};
        getrlimit(RLIMIT_NOFILE, &limit);
        limit_ = limit.rlim_cur;
    }

    bool take(uint64_t count) {
        const uint64_t used = used_.fetch_add(count, std::memory_order_relaxed) + count;
        if (used + reserve <= limit_) return true;
        used_.fetch_sub(count, std::memory_order_relaxed);
        return false;
    }
    // For what must be opened whatever the budget says; the kernel has the last word.
    void take_always(uint64_t count) { used_.fetch_add(count, std::memory_order_relaxed); }
    void give_back(uint64_t count) { used_.fetch_sub(count, std::memory_order_relaxed); }

    // Pipes only make bulk transfers cheaper: they are left alone once half of the table is in use.
    bool take_for_pipe() {
        if (used_.load(std::memory_order_relaxed) * 2 > limit_) return false;
        return take(2);
    }

    uint64_t used() const { return used_.load(std::memory_order_relaxed); }
    uint64_t limit() const { return limit_; }

  private:
    std::atomic<uint64_t> used_{0};
    uint64_t limit_ = 1024;
};

}  // namespace marchproxy::stream
