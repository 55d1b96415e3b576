#include "telemetry/utf8.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace marchproxy::telemetry {

std::string valid_utf8(std::string_view text) {
    if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
        return std::string(text);
    using Json = nlohmann::json;
    return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace)).get<std::string>();
}

}  // namespace marchproxy::telemetry
