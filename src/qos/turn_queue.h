// Who takes turns, in order: an array that goes around. Unlike in a list whose links lie in its members, who comes
// how many turns later is known without looking at anybody before, so that what they need can be fetched in time.
#pragma once

#include <bit>
#include <cstddef>
#include <vector>

namespace marchproxy::qos {

template <class Member>
class TurnQueue {
  public:
    // Makes room for so many at once. Only this allocates; nobody may be put in beyond.
    void reserve(size_t members) {
        if (members <= places_.size()) return;
        std::vector<Member*> larger(std::bit_ceil(members));
        for (size_t i = 0; i < count_; ++i)
            larger[i] = at(i);
        places_.swap(larger);
        first_ = 0;
    }

    bool empty() const { return count_ == 0; }
    Member& front() { return *at(0); }
    // Whose turn comes so many after the first; null: nobody's.
    Member* ahead(size_t turns) const { return turns < count_ ? at(turns) : nullptr; }

    void push_back(Member& member) { at(count_++) = &member; }
    Member& pop_front() {
        Member& first = front();
        first_ = (first_ + 1) & (places_.size() - 1);
        --count_;
        return first;
    }
    void front_to_back() { push_back(pop_front()); }

    // Looks through all: for a member that goes for good.
    void remove(const Member& member) {
        size_t kept = 0;
        for (size_t i = 0; i < count_; ++i)
            if (at(i) != &member) at(kept++) = at(i);
        count_ = kept;
    }

  private:
    Member*& at(size_t index) { return places_[(first_ + index) & (places_.size() - 1)]; }
    Member* at(size_t index) const { return places_[(first_ + index) & (places_.size() - 1)]; }

    std::vector<Member*> places_;  // as many as a power of two
    size_t first_ = 0, count_ = 0;
};

}  // namespace marchproxy::qos
