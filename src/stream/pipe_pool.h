// A worker's pipes for splicing. A direction borrows one while it moves bulk and gives it back empty.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "stream/descriptors.h"

namespace marchproxy::stream {

struct Pipe {
    int read_end = -1, write_end = -1;
    size_t capacity = 0;
};

class PipePool {
  public:
    // `capacity`: bytes a pipe should hold; the kernel may grant less to an unprivileged user who holds many
    // (/proc/sys/fs/pipe-user-pages-soft).
    PipePool(DescriptorBudget& budget, size_t capacity) : budget_(budget), capacity_(capacity) {}
    ~PipePool();
    PipePool(const PipePool&) = delete;
    PipePool& operator=(const PipePool&) = delete;

    bool borrow(Pipe& pipe);    // false: none to be had, copy instead
    void give_back(Pipe pipe);  // empty
    void discard(Pipe pipe);    // still holding bytes of a connection that ended
    bool starved() const { return starved_; }

  private:
    static constexpr size_t keep = 64;  // idle ones
    // Below this a pipe moves less at a time than a copy would, and costs more.
    static constexpr size_t smallest_useful = 256 << 10;

    DescriptorBudget& budget_;
    size_t capacity_;
    std::vector<Pipe> idle_;
    bool starved_ = false;
};

}  // namespace marchproxy::stream
