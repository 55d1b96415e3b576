#include "stream/forward.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstring>

#include "stream/sockets.h"

namespace marchproxy::stream {

namespace {

// A read of this much or more means bulk: the sender is ahead of us.
constexpr size_t bulk_read = 64 << 10;
// Only transfers this long coalesce: the last bytes of a shorter one must not wait.
constexpr uint64_t coalesce_after = 1 << 20;
constexpr int coalesce_bytes = 128 << 10;
// The delay grows with the number of directions that share the worker, since each brings the less the more there are.
constexpr auto coalesce_delay_each = std::chrono::microseconds(50);
constexpr auto shortest_coalesce_delay = std::chrono::microseconds(100);
constexpr auto longest_coalesce_delay = std::chrono::microseconds(2000);
// What a bulk sink may hold that is not on its way yet. Congestion control decides what is on its way; more behind it
// would only lie in the kernel's memory until the caches have forgotten it (docs/decisions/0004-unsent-bytes.md).
constexpr int most_unsent = 256 << 10;
// A bulk direction that found nothing this many times gives its pipe back.
constexpr uint8_t idle_turns_to_leave = 3;

void set_low_water(int descriptor, int bytes) {
    // Raising it never fails; lowering it raises an edge if bytes are waiting (tcp_set_rcvlowat).
    set_option(descriptor, SOL_SOCKET, SO_RCVLOWAT, bytes);
}

bool would_block() {
    return errno == EAGAIN || errno == EWOULDBLOCK;
}

}  // namespace

bool Direction::pending() const {
    return spill || (bulk && bulk->in_pipe > 0);
}

Forwarder::Forwarder(DescriptorBudget& budget, const StreamSettings& settings)
    : pipes_(budget, settings.buffer.count), method_(settings.forward), buffer_size_(settings.buffer.count) {
    void* memory = mmap(nullptr, buffer_size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    buffer_ = static_cast<std::byte*>(memory);
    configure(settings);
}

Forwarder::~Forwarder() {
    munmap(buffer_, buffer_size_);
}

void Forwarder::configure(const StreamSettings& settings) {
    method_ = settings.forward;
    near_leg_.configure(settings.congestion_control);
}

Pumped Forwarder::pump(Connection& connection, bool up, Direction& direction, Leg& source, Leg& sink, TimePoint now,
                       size_t& budget) {
    size_t moved = 0;
    while (true) {
        if (sink.write_failed) return Pumped::sink_failed;
        if (direction.pending()) {
            if (!sink.writable) return Pumped::blocked;
            const Moved flushed = flush(direction, sink);
            if (flushed == Moved::sink_full) return Pumped::blocked;
            if (flushed == Moved::sink_failed) return Pumped::sink_failed;
        }
        if (source.ended) return Pumped::finished;
        if (source.read_failed) return Pumped::source_failed;
        if (!source.readable) break;
        if (budget == 0) return Pumped::again;

        size_t amount = 0;
        const bool splices = direction.bulk && direction.bulk->splices();
        const Moved result = splices ? splice_turn(direction, source, sink, budget, amount)
                                     : copy_turn(direction, source, sink, budget, amount);
        moved += amount;
        budget -= amount;
        if (!splices && amount >= bulk_read && !direction.replay) {
            if (!direction.bulk) start_bulk(connection, up, direction, source, sink);
            start_splicing(*direction.bulk, sink);
        }
        switch (result) {
            case Moved::some:
                break;
            case Moved::drained:
                source.readable = false;
                break;
            case Moved::sink_full:
                sink.writable = false;
                break;
            case Moved::source_failed:
                source.read_failed = true;
                break;
            case Moved::sink_failed:
                sink.write_failed = true;
                break;
            case Moved::end:
                source.ended = true;
                break;
        }
    }
    if (direction.bulk) {
        direction.bulk->idle_turns = moved ? 0 : static_cast<uint8_t>(direction.bulk->idle_turns + 1);
        if (direction.bulk->idle_turns >= idle_turns_to_leave)
            leave_bulk(direction, source);
        else
            coalesce(direction, source, now);
    }
    return Pumped::blocked;
}

void Forwarder::remember(Direction& direction, std::span<const std::byte> bytes) {
    Replay& replay = *direction.replay;
    if (replay.bytes.size() + bytes.size() > replay.most) return direction.replay.reset();
    replay.bytes.insert(replay.bytes.end(), bytes.begin(), bytes.end());
}

Forwarder::Moved Forwarder::copy_turn(Direction& direction, Leg& source, Leg& sink, size_t most, size_t& amount) {
    const size_t asked = std::min(buffer_size_, most);
    const ssize_t got = recv(source.descriptor, buffer_, asked, MSG_DONTWAIT);
    if (got == 0) return Moved::end;
    if (got < 0) return would_block() ? Moved::drained : errno == EINTR ? Moved::some : Moved::source_failed;
    amount = static_cast<size_t>(got);
    if (direction.replay) remember(direction, {buffer_, amount});

    size_t sent = 0;
    while (sent < amount) {
        const ssize_t put = send(sink.descriptor, buffer_ + sent, amount - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put >= 0) {
            sent += static_cast<size_t>(put);
            continue;
        }
        if (errno == EINTR) continue;
        direction.bytes += sent;
        if (!would_block()) return Moved::sink_failed;
        auto rest = std::make_unique<std::byte[]>(amount - sent);
        std::memcpy(rest.get(), buffer_ + sent, amount - sent);
        direction.spill = std::make_unique<Spill>(Spill{.size = amount - sent, .bytes = std::move(rest)});
        spilled_ += amount - sent;
        return Moved::sink_full;
    }
    direction.bytes += sent;
    // A short read emptied the socket (epoll(7)): the next bytes raise an edge. A hang-up that was already announced
    // raises no further one, so then the end has to be read now.
    return amount < asked && !source.hangup ? Moved::drained : Moved::some;
}

Forwarder::Moved Forwarder::splice_turn(Direction& direction, Leg& source, Leg& sink, size_t most, size_t& amount) {
    Bulk& bulk = *direction.bulk;
    const ssize_t got = splice(source.descriptor, nullptr, bulk.pipe.write_end, nullptr,
                               std::min(bulk.pipe.capacity, most), SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (got == 0) return Moved::end;
    if (got < 0) return would_block() ? Moved::drained : errno == EINTR ? Moved::some : Moved::source_failed;
    amount = static_cast<size_t>(got);
    bulk.in_pipe += amount;
    bulk.moved += amount;
    return flush_pipe(direction, sink);
}

Forwarder::Moved Forwarder::flush(Direction& direction, Leg& sink) {
    if (direction.spill) {
        const Moved result = flush_spill(direction, sink);
        if (result != Moved::some) return result;
    }
    return direction.bulk && direction.bulk->in_pipe ? flush_pipe(direction, sink) : Moved::some;
}

Forwarder::Moved Forwarder::flush_spill(Direction& direction, Leg& sink) {
    Spill& spill = *direction.spill;
    while (spill.offset < spill.size) {
        const ssize_t put = send(sink.descriptor, spill.bytes.get() + spill.offset, spill.size - spill.offset,
                                 MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put < 0) {
            if (errno == EINTR) continue;
            sink.writable = false;
            sink.write_failed = !would_block();
            return sink.write_failed ? Moved::sink_failed : Moved::sink_full;
        }
        const size_t before = std::exchange(spill.offset, spill.offset + static_cast<size_t>(put));
        direction.bytes += std::max(spill.offset, spill.uncounted) - std::max(before, spill.uncounted);
    }
    spilled_ -= spill.size;
    direction.spill.reset();
    return Moved::some;
}

Forwarder::Moved Forwarder::flush_pipe(Direction& direction, Leg& sink) {
    Bulk& bulk = *direction.bulk;
    while (bulk.in_pipe > 0) {
        const ssize_t put = splice(bulk.pipe.read_end, nullptr, sink.descriptor, nullptr, bulk.in_pipe,
                                   SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
        if (put <= 0) {
            if (put < 0 && errno == EINTR) continue;
            sink.writable = false;
            sink.write_failed = put < 0 && !would_block();
            return sink.write_failed ? Moved::sink_failed : Moved::sink_full;
        }
        bulk.in_pipe -= static_cast<size_t>(put);
        direction.bytes += static_cast<size_t>(put);
    }
    return Moved::some;
}

void Forwarder::start_bulk(Connection& connection, bool up, Direction& direction, const Leg& source, const Leg& sink) {
    near_leg_.apply(sink.descriptor);
    direction.bulk =
        new Bulk{.connection = &connection, .up = up, .from_this_host = is_from_this_host(source.descriptor)};
    ++bulk_count_;
}

void Forwarder::start_splicing(Bulk& bulk, const Leg& sink) {
    const bool alone = bulk_count_ == 1 && bulk.from_this_host;
    if (method_ == ForwardMethod::copy || (method_ == ForwardMethod::automatic && alone)) return;
    if (!pipes_.borrow(bulk.pipe)) return;
    ++spliced_count_;
    set_option(sink.descriptor, IPPROTO_TCP, TCP_NOTSENT_LOWAT, most_unsent);
}

void Forwarder::leave_bulk(Direction& direction, const Leg& source) {
    if (direction.bulk->low_water_set) set_low_water(source.descriptor, 1);
    end_bulk(direction);
}

void Forwarder::end_bulk(Direction& direction) {
    Bulk* bulk = direction.bulk;
    if (bulk->splices()) {
        if (bulk->in_pipe > 0)
            pipes_.discard(bulk->pipe);
        else
            pipes_.give_back(bulk->pipe);
        --spliced_count_;
    }
    if (bulk->waiting)
        for (Waiting& waiting : waiting_)
            if (waiting.bulk == bulk) waiting.bulk = nullptr;
    delete bulk;
    direction.bulk = nullptr;
    --bulk_count_;
}

void Forwarder::coalesce(Direction& direction, const Leg& source, TimePoint now) {
    Bulk& bulk = *direction.bulk;
    if (bulk.splices() && !direction.shaped && !bulk.low_water_set && bulk.moved >= coalesce_after) {
        set_low_water(source.descriptor, coalesce_bytes);
        bulk.low_water_set = true;
    }
    const Duration delay = coalesce_delay_each * spliced_count_;
    // What is copied is looked at again only to notice that it went quiet.
    bulk.due = now + (bulk.splices() ? std::clamp<Duration>(delay, shortest_coalesce_delay, longest_coalesce_delay)
                                     : longest_coalesce_delay);
    if (bulk.waiting) return;
    bulk.waiting = true;
    waiting_.push_back({bulk.due, &bulk});
}

void Forwarder::pace(Direction& direction, const Leg& source) {
    if (!direction.bulk || !direction.bulk->low_water_set) return;
    set_low_water(source.descriptor, 1);
    direction.bulk->low_water_set = false;
}

void Forwarder::prepend(Direction& direction, std::span<const std::byte> header, std::span<const std::byte> said) {
    assert(!direction.spill && direction.bytes == 0);
    const size_t size = header.size() + said.size();
    if (size == 0) return;
    auto copy = std::make_unique<std::byte[]>(size);
    std::copy(said.begin(), said.end(), std::copy(header.begin(), header.end(), copy.get()));
    direction.spill =
        std::make_unique<Spill>(Spill{.size = size, .uncounted = header.size(), .bytes = std::move(copy)});
    spilled_ += size;
}

void Forwarder::release(Direction& direction) {
    if (direction.spill) {
        spilled_ -= direction.spill->size;
        direction.spill.reset();
    }
    if (direction.bulk) end_bulk(direction);
}

std::optional<TimePoint> Forwarder::next_due() const {
    if (waiting_.empty()) return std::nullopt;
    return waiting_.front().due;
}

Bulk* Forwarder::take_due(TimePoint now) {
    while (!waiting_.empty()) {
        const Waiting next = waiting_.front();
        if (next.due > now) return nullptr;
        waiting_.pop_front();
        if (!next.bulk) continue;
        if (next.bulk->due > now) {  // enough had come before the delay was over, and was read
            waiting_.push_back({next.bulk->due, next.bulk});
            continue;
        }
        next.bulk->waiting = false;
        return next.bulk;
    }
    return nullptr;
}

}  // namespace marchproxy::stream
