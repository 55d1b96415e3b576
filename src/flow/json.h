// Flow records as the API, the flow file and the command line show them: the contract's fields.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "flow/record.h"

namespace marchproxy::flow {

std::string_view name_of(State state);

// How the endpoint was chosen, in one short sentence.
std::string decision_of(const Record& record);

// `end_reason` is null while the flow is open; `endpoint` is the address that was reached, or else the configured one.
nlohmann::json to_json(const Record& record);

}  // namespace marchproxy::flow
