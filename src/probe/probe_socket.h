// One probe at a time over a socket of TCP, HTTP or UDP, to one target after the other: making a socket for each probe,
// and having epoll know it, costs more than the probe (`prober_bench`; SocketPool keeps them). What is not an answer to
// the probe that is on its way is not taken for one, and a target that floods is not read for longer than it takes to
// see that.
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

class ProbeSocket {
  public:
    struct Opened;
    // For targets of one kind, family and egress, and not for icmp.
    static Opened open(const Target& target);
    virtual ~ProbeSocket();
    ProbeSocket(const ProbeSocket&) = delete;
    ProbeSocket& operator=(const ProbeSocket&) = delete;

    int descriptor() const { return descriptor_; }
    // What epoll is to wait for, edge-triggered. Events may come that say nothing, also while nobody asks.
    virtual uint32_t events() const = 0;
    // Sends one probe; pending: it is on its way. `token`: random, and another one for each probe; of kinds that echo
    // it is what must come back. The target outlives the probe.
    virtual Outcome ask(const Target& target, uint64_t token, TimePoint now) = 0;
    // Something came, between ask() and its outcome.
    virtual Outcome on_event(TimePoint now) = 0;
    // After an answer: makes it ready for another target, which nothing of this one's can reach. False: it is not.
    virtual bool rest();

    void* user = nullptr;  // who asks; null: nobody

  protected:
    explicit ProbeSocket(int descriptor) : descriptor_(descriptor) {}
    // 0, or errno; EINPROGRESS is 0.
    int connect_to(const SocketAddress& address) const;

    const int descriptor_;
};

struct ProbeSocket::Opened {
    std::unique_ptr<ProbeSocket> socket;  // null: `outcome` says why
    Outcome outcome;
};

}  // namespace marchproxy::probe
