// Timers in hierarchical wheels (Varghese and Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987, scheme 7):
// arming and disarming cost the same whether there are ten timers or a million, and a timer is 24 bytes inside what it
// is for.
//
// `Tick` is the wheel's resolution, a std::chrono duration: milliseconds for timeouts, about a microsecond for packets.
// A timer never fires early, and late by less than a tick plus the caller's own delay. Single thread.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "model/units.h"

namespace marchproxy::qos {

// Lies inside its owner, which must disarm it before it goes. Not copied, not moved while armed.
struct Timer {
    Timer* next = nullptr;  // null: not armed
    Timer* previous = nullptr;
    uint64_t tick = 0;
    bool armed() const { return next != nullptr; }
};
static_assert(sizeof(Timer) == 24);

template <class Tick>
class TimerWheel {
  public:
    // `start`: no later than any time given afterwards.
    explicit TimerWheel(TimePoint start) : start_(start) {
        for (unsigned wheel = 0; wheel < wheels; ++wheel) {
            for (unsigned index = 0; index < slots; ++index) {
                Timer& head = heads_[wheel][index];
                head = {&head, &head, wheel << bits | index};
            }
        }
    }
    TimerWheel(const TimerWheel&) = delete;
    TimerWheel& operator=(const TimerWheel&) = delete;

    // Fires at `expiry`, or at the next tick where that is already past. An armed timer is moved.
    void arm(Timer& timer, TimePoint expiry) {
        disarm(timer);
        timer.tick = std::max(tick_after(expiry), current_ + 1);
        insert(timer);
        ++armed_;
    }

    // Does nothing to a timer that is not armed.
    void disarm(Timer& timer) {
        if (!timer.armed()) return;
        unlink(timer);
        --armed_;
    }

    // Fires all timers that expire up to `now`, in the order of their ticks: callback(Timer&), the timer being disarmed
    // before. The callback may arm and disarm any timer and free the owner of the one that fired.
    template <class Callback>
    void advance(TimePoint now, Callback&& callback) {
        const uint64_t target = tick_before(now);
        while (const std::optional<Slot> slot = next_slot()) {
            if (slot->tick > target) break;
            current_ = slot->tick;
            Timer& head = heads_[slot->level][slot->index];
            while (head.next != &head) {
                Timer& timer = *head.next;
                __builtin_prefetch(timer.next, 1);
                unlink(timer);
                if (timer.tick > current_) {
                    insert(timer);  // from a far wheel to a nearer one
                    continue;
                }
                --armed_;
                callback(timer);
            }
        }
        current_ = std::max(current_, target);
    }

    // When advance() has something to do next: for the wait of the event loop. At most as late as the first timer's
    // expiry; earlier where that is far off, since far timers move to nearer wheels on their way. None: no timer is
    // armed.
    std::optional<TimePoint> next_expiry() const {
        const std::optional<Slot> slot = next_slot();
        if (!slot) return std::nullopt;
        return start_ + Tick(slot->tick);
    }

    size_t armed() const { return armed_; }

  private:
    // 64 slots a wheel, so that one word tells which have timers. 9 wheels are 2^54 ticks, 570 years of microseconds:
    // with that nothing wraps.
    static constexpr unsigned bits = 6, slots = 1 << bits, wheels = 9;
    static constexpr uint64_t last_tick = (uint64_t{1} << (bits * wheels)) - 1;

    struct Slot {
        unsigned level, index;
        uint64_t tick;  // where it begins
    };

    uint64_t tick_before(TimePoint time) const {
        if (time <= start_) return 0;
        return static_cast<uint64_t>(std::chrono::floor<Tick>(time - start_).count());
    }
    uint64_t tick_after(TimePoint time) const {
        if (time <= start_) return 0;
        return std::min(static_cast<uint64_t>(std::chrono::ceil<Tick>(time - start_).count()), last_tick);
    }

    // A timer lies in the wheel of the highest digit (base 64) in which its tick differs from the current one. So
    // within a wheel all slots in use come after the current one, and all of a nearer wheel before all of a farther
    // one.
    void insert(Timer& timer) {
        const auto highest = static_cast<unsigned>(std::bit_width((timer.tick ^ current_) | 1) - 1);
        const unsigned wheel = highest / bits;
        const uint64_t index = (timer.tick >> (bits * wheel)) % slots;
        occupied_[wheel] |= uint64_t{1} << index;
        Timer& head = heads_[wheel][index];
        timer.next = &head;
        timer.previous = head.previous;
        head.previous->next = &timer;
        head.previous = &timer;
    }

    // A timer between twice the same neighbour was alone with its slot's head, whose `tick` says where the slot is.
    void unlink(Timer& timer) {
        timer.previous->next = timer.next;
        timer.next->previous = timer.previous;
        if (timer.next == timer.previous) {
            const uint64_t place = timer.next->tick;
            occupied_[place >> bits] &= ~(uint64_t{1} << (place % slots));
        }
        timer.next = timer.previous = nullptr;
    }

    std::optional<Slot> next_slot() const {
        for (unsigned wheel = 0; wheel < wheels; ++wheel) {
            const uint64_t occupied = occupied_[wheel];
            if (occupied == 0) continue;
            const auto index = static_cast<unsigned>(std::countr_zero(occupied));
            const unsigned shift = bits * wheel;
            const uint64_t above = current_ >> (shift + bits) << (shift + bits);
            return Slot{wheel, index, above | static_cast<uint64_t>(index) << shift};
        }
        return std::nullopt;
    }

    TimePoint start_;
    uint64_t current_ = 0;
    size_t armed_ = 0;
    std::array<uint64_t, wheels> occupied_{};  // bit i: heads_[wheel][i] has timers
    std::array<std::array<Timer, slots>, wheels> heads_;
};

}  // namespace marchproxy::qos
