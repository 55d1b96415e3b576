#include "packet/record_ring.h"

#include <bpf/libbpf.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstring>

namespace marchproxy::packet {

void RecordRing::Free::operator()(ring_buffer* ring) const {
    ring_buffer__free(ring);
}

int RecordRing::hand_over(void* context, void* data, size_t size) {
    const auto& taker = *static_cast<const Taker*>(context);
    if (size == taker.record_size && taker.take) (*taker.take)(data);
    return 0;
}

Result<RecordRing> RecordRing::open(int map, size_t record_size) {
    RecordRing made;
    made.taker_ = std::make_unique<Taker>(Taker{.record_size = record_size});
    made.ring_.reset(ring_buffer__new(map, hand_over, made.taker_.get(), nullptr));
    if (made.ring_) return made;
    return Error{fmt::format("packet plane: opening a ring buffer: {}", strerror(errno))};
}

Result<size_t> RecordRing::take(const Take& take) {
    taker_->take = &take;
    const int taken = ring_buffer__consume(ring_.get());
    taker_->take = nullptr;
    if (taken < 0) return Error{fmt::format("packet plane: reading a ring buffer: {}", strerror(-taken))};
    return static_cast<size_t>(taken);
}

int RecordRing::descriptor() const {
    return ring_buffer__epoll_fd(ring_.get());
}

}  // namespace marchproxy::packet
