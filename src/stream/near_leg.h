// The congestion control of a near leg.
//
// Hosts that face the Internet often run BBR for every socket. BBR paces: it sends by a timer and not by the arrival of
// acknowledgements, which is right for long paths and costs a timer interrupt each few segments on a leg of some
// microseconds inside a rack or a host. `stream.congestion_control: auto` therefore moves a bulk leg whose smallest
// round trip is below `near_round_trip` to CUBIC and leaves all others with what the system chose.
// Measured in docs/decisions/0002-near-legs.md; `system` turns it off.
#pragma once

#include <chrono>
#include <string>

namespace marchproxy::stream {

class NearLeg {
  public:
    static constexpr auto near_round_trip = std::chrono::milliseconds(1);

    void configure(const std::string& setting);  // stream.congestion_control
    void apply(int descriptor) const;            // when a leg begins to send bulk

  private:
    std::string wanted_;  // empty: leave it alone
    bool only_when_near_ = true;
};

}  // namespace marchproxy::stream
