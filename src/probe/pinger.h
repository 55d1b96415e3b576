// Echo requests of ICMP and ICMPv6 (RFC 792, RFC 4443), all on one socket a family: a ping socket (icmp(7)) where
// net.ipv4.ping_group_range lets this process have one, else a raw one with CAP_NET_RAW.
//
// One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "model/egress.h"
#include "model/result.h"
#include "model/units.h"
#include "probe/flood_guard.h"

namespace marchproxy::probe {

class Pinger {
  public:
    // Error: neither socket is to be had; says what would help.
    static Result<Pinger> open(bool v4);
    Pinger(Pinger&& other) noexcept;
    ~Pinger();

    int descriptor() const { return descriptor_; }
    // Returns errno, 0 when it is on its way. `token` comes back with the answer.
    int send(const IpAddress& to, const Egress& egress, uint64_t token, TimePoint now);
    // Answers that have come, at most so many as one turn may take. Anybody can send anything here: who it was and what
    // token it had is the caller's to check, who says whether that was an answer. `came` is the kernel's time stamp: no
    // delay of this thread is in it. Returns who has sent too much that was none, and is not heard for a while; or why
    // the kernel has it heard all the same.
    using Answered = std::function<bool(const IpAddress& from, uint64_t token, WallTime came)>;
    struct Flooder {
        IpAddress from;
        int error;  // errno; 0: it is not heard
    };
    std::vector<Flooder> receive(const Answered& answered, TimePoint now);
    bool shuts_out(const IpAddress& from) const { return guard_.shuts_out(from); }

  private:
    Pinger(int descriptor, bool v4, bool raw, uint16_t identifier)
        : descriptor_(descriptor), v4_(v4), raw_(raw), identifier_(identifier), guard_(descriptor, v4) {}

    int descriptor_;
    bool v4_, raw_;
    uint16_t identifier_;  // of a raw socket; a ping socket's is the kernel's affair
    uint16_t sequence_ = 0;
    FloodGuard guard_;
};

}  // namespace marchproxy::probe
