// A BPF ring buffer whose records the kernel half writes and one thread takes.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "model/result.h"

struct ring_buffer;

namespace marchproxy::packet {

class RecordRing {
  public:
    using Take = std::function<void(const void*)>;

    RecordRing() = default;  // of no map
    // `map` stays the caller's, and open as long as this lives. Records of another size are passed over.
    static Result<RecordRing> open(int map, size_t record_size);

    // Hands over each waiting record. Returns how many there were.
    Result<size_t> take(const Take& take);
    int descriptor() const;  // readable while records wait

  private:
    struct Free {
        void operator()(ring_buffer* ring) const;
    };
    static int hand_over(void* context, void* data, size_t size);

    // Where the ring buffer finds it.
    struct Taker {
        size_t record_size = 0;
        const Take* take = nullptr;
    };
    std::unique_ptr<Taker> taker_;
    std::unique_ptr<ring_buffer, Free> ring_;
};

}  // namespace marchproxy::packet
