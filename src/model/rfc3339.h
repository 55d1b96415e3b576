// Wall-clock times as people and machines read them (RFC 3339, UTC, milliseconds): "2026-01-31T09:05:00.042Z".
#pragma once

#include <string>

#include "model/units.h"

namespace marchproxy {

std::string rfc3339(WallTime time);

}  // namespace marchproxy
