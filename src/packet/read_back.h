// What the maps hold, as a plan: a process that goes on with the maps of an earlier one makes its changes from there.
#pragma once

#include "packet/plan.h"

namespace marchproxy::packet {

// Reads the maps themselves, some ten thousand entries in batches: tens of milliseconds. Thread: the control thread.
Result<Plan> read_back(const Programs& programs);

}  // namespace marchproxy::packet
