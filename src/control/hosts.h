// The hosts file, hosts(5): lines of an address and names; '#' starts a comment. Names compare without case.
// Pure: text in, value out.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "model/address.h"

namespace marchproxy::control {

using Hosts = std::map<std::string, std::vector<IpAddress>>;  // by name in lower case; addresses in the file's order

Hosts parse_hosts(std::string_view text);  // lines that are none of the format are skipped, as libc does
std::string lower_case(std::string_view name);

}  // namespace marchproxy::control
