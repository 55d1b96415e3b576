// What a worker lends to the steps: its clock, random numbers, log and where finished flows go. One a worker,
// used by its thread only.
#pragma once

#include <cstdint>
#include <vector>

#include "flow/record.h"
#include "model/units.h"
#include "qos/shaper.h"
#include "stream/descriptors.h"
#include "telemetry/log.h"

namespace marchproxy::stream {

// xorshift64* (Vigna 2016): choice among endpoints needs spread, not secrecy.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed | 1) {}
    uint64_t operator()() {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return state_ * 0x2545f4914f6cdd1dULL;
    }

  private:
    uint64_t state_;
};

struct Context {
    unsigned worker;
    int epoll;
    telemetry::Log& log;
    DescriptorBudget& descriptors;
    qos::Shapers& shapers;
    Random random;
    TimePoint now;                       // read once a turn of the loop
    std::vector<flow::Record> finished;  // handed to the flow sink once a turn
};

}  // namespace marchproxy::stream
