// Text that came from outside, made safe for formats that demand UTF-8.
#pragma once

#include <string>
#include <string_view>

namespace marchproxy::telemetry {

// The same text; what is no UTF-8 (RFC 3629) becomes U+FFFD.
std::string valid_utf8(std::string_view text);

}  // namespace marchproxy::telemetry
