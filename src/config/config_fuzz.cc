// Any bytes as a configuration: problems or a snapshot that prints, never a crash.
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>

#include "config/load.h"
#include "config/print.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    using namespace marchproxy::config;
    const std::string_view yaml(reinterpret_cast<const char*>(data), size);
    const Loaded loaded = load_text(yaml, "fuzz.yaml");
    for (const Problem& problem : loaded.problems)
        if (to_string(problem).empty()) __builtin_trap();
    if (loaded.ok() && to_json(loaded.snapshot).dump().empty()) __builtin_trap();
    return 0;
}
