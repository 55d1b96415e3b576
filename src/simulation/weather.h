// How a scenario's paths behave at a time: what is configured, and on top of it the events that have begun and are not
// over, the later over the earlier. Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "simulation/scenario.h"

namespace marchproxy::simulation {

class Weather {
  public:
    explicit Weather(const Scenario& scenario);

    // `time`: since the beginning. Answers are for times in order: what is over is forgotten.
    Behaviour at(const std::string& path, Duration time);

    // When a path went dark, or began to refuse, and when that was over (the end: it was not).
    struct Outage {
        std::string path;
        Duration from, to;
    };
    std::vector<Outage> outages() const;

  private:
    struct Spell {  // one time that an event is there
        const Event* event;
        Duration from, to;
    };
    struct Sky {
        Behaviour base;
        std::vector<Spell> spells;  // in the order in which they begin
        size_t first = 0;           // of those not over; later ones may be
    };
    std::map<std::string, Sky> skies_;
};

}  // namespace marchproxy::simulation
