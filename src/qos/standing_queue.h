// How large a receive buffer is to be from which bytes are taken in turns. They wait there, and a sender who is given a
// megabyte of it fills it: at 10 Mbit/s what it sends then arrives a second later, as long as it sends.
//
// So the buffer holds what its rate carries in a round trip, which keeps the sender busy, and in `target`. Where more
// than the latter waits on average, room is taken away; where the buffer ran dry and little waits, its sender may have
// had too little, and it gets room. (Not the least that waits, as in CoDel: a segment of 64 KB leaves room when its
// last byte is taken, so that a buffer of two of them runs dry as often as it is full.)
//
// What was promised to a sender far away is under way, and lost where it finds no room. So no more room is taken away
// than what is free, which works off as much of the queue as was under way; a quarter more where that is a packet or
// two. Sizes are the kernel's, which counts about twice the bytes.
//
// State of one buffer, one thread; time is passed in.
#pragma once

#include <algorithm>
#include <cstdint>

#include "model/units.h"

namespace marchproxy::qos {

class StandingQueue {
  public:
    static constexpr Duration target = std::chrono::milliseconds(5);

    // What the kernel says of a buffer.
    struct Buffer {
        uint64_t size = 0, used = 0;
        Duration round_trip{0};
        uint32_t segment = 1448;
    };

    // The size to begin with, for a sender who may have the whole rate: no less than what it was promised already.
    uint64_t first_size(double bytes_per_second, const Buffer& buffer) {
        interval_ = interval_for(buffer);
        return std::max(size_for(bytes_per_second, buffer), buffer.size);
    }

    void took(uint64_t bytes, TimePoint now) {
        if (now - last_ >= interval_) begin(now);  // nothing is known of a pause
        last_ = now;
        taken_ += bytes;
    }
    // So much was there, and of it this is the next turn's.
    void found(uint64_t bytes, uint64_t turn) {
        dry_ |= bytes < turn;
        ++looks_;
        waited_ += bytes - std::min(bytes, turn);
    }

    bool due(TimePoint now) const { return now - began_ >= interval_ && last_ == now && looks_ > 0; }

    // The size that the buffer is to have from now on. To be asked when due.
    uint64_t size_after(const Buffer& buffer, TimePoint now) {
        const double rate = static_cast<double>(taken_) / std::chrono::duration<double>(now - began_).count();
        const double wanted = rate * std::chrono::duration<double>(target).count();
        const double waits = static_cast<double>(waited_) / static_cast<double>(looks_);
        const bool dry = dry_;
        begin(now);
        interval_ = interval_for(buffer);
        const uint64_t size = size_for(rate, buffer);
        if (waits > wanted && size < buffer.size) return std::clamp(room_for(rate, buffer), size, buffer.size);
        if (waits < wanted / 2 && dry) return std::max(buffer.size, std::min(2 * buffer.size, size * 5 / 4));
        return buffer.size;
    }

  private:
    // Of what is in use, as much as can be taken away without loss.
    static uint64_t room_for(double rate, const Buffer& buffer) {
        const double under_way = rate * std::chrono::duration<double>(buffer.round_trip).count();
        return under_way < 2.0 * buffer.segment ? buffer.used * 3 / 4 : buffer.used;
    }

    // Long enough for what was changed to show.
    static Duration interval_for(const Buffer& buffer) {
        return std::max<Duration>(std::chrono::milliseconds(100), 2 * buffer.round_trip);
    }

    static constexpr double overhead = 2;
    static uint64_t size_for(double bytes_per_second, const Buffer& buffer) {
        const double time = std::chrono::duration<double>(buffer.round_trip + target).count();
        return std::max(static_cast<uint64_t>(std::min(overhead * bytes_per_second * time, 1e12)), least_size(buffer));
    }
    static uint64_t least_size(const Buffer& buffer) { return uint64_t{12} * buffer.segment; }

    void begin(TimePoint now) {
        began_ = now;
        taken_ = waited_ = looks_ = 0;
        dry_ = false;
    }

    Duration interval_ = interval_for({});
    TimePoint began_{}, last_{};
    uint64_t taken_ = 0, waited_ = 0;  // bytes since; of each look together
    uint32_t looks_ = 0;
    bool dry_ = false;
};

}  // namespace marchproxy::qos
