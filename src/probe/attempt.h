// One probe on a socket of its own: TCP, HTTP or UDP. What comes late finds the socket closed, what is not an answer to
// it is not taken for one, and a target that floods is not read for longer than it takes to see that.
//
// One thread.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <ctime>
#include <memory>
#include <string>

#include "probe/target.h"

namespace marchproxy::probe {

struct Outcome {
    enum class Kind : uint8_t {
        pending,
        answered,
        failed,  // an answer, and not the one that was wanted
        unable,  // this machine could not ask: no sign of how the target is
    };
    Kind kind = Kind::pending;
    Duration round_trip{};  // answered: as the kernel measured it, where it did
    std::string why;        // failed and unable

    static Outcome failed(std::string why) { return {Kind::failed, {}, std::move(why)}; }
    static Outcome unable(std::string why) { return {Kind::unable, {}, std::move(why)}; }
    static Outcome answered(Duration round_trip) { return {Kind::answered, round_trip, {}}; }
};

// When what was received last came, by the kernel's time stamp; SO_TIMESTAMPNS is to be set. Now, where there is none.
WallTime came_at(const msghdr& message);
inline constexpr size_t timestamp_space = CMSG_SPACE(sizeof(timespec));

// What an errno of a socket says of the target.
Outcome outcome_of(int error);

class Attempt {
  public:
    explicit Attempt(int descriptor, TimePoint began) : descriptor_(descriptor), began_(began) {}
    virtual ~Attempt();
    Attempt(const Attempt&) = delete;
    Attempt& operator=(const Attempt&) = delete;

    int descriptor() const { return descriptor_; }
    // What epoll is to wait for at first; on_event may change it and returns pending.
    virtual uint32_t events() const = 0;
    virtual Outcome on_event(TimePoint now) = 0;

  protected:
    const int descriptor_;
    const TimePoint began_;
};

struct Begun {
    std::unique_ptr<Attempt> attempt;  // null: it ended at once, with `outcome`
    Outcome outcome;
};

// `token`: random, and another one for each attempt; of kinds that echo it is what must come back.
Begun begin_attempt(const Target& target, uint64_t token, TimePoint now);

}  // namespace marchproxy::probe
