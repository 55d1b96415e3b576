// The verdicts of verdicts.def as an enumeration with names.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace marchproxy {

enum class Verdict : uint8_t {
#define MARCHPROXY_VERDICT(name, meaning) name,
#include "abi/verdicts.def"
#undef MARCHPROXY_VERDICT
};

struct VerdictText {
    std::string_view name, meaning;
};

inline constexpr std::array verdict_texts = {
#define MARCHPROXY_VERDICT(name, meaning) VerdictText{#name, meaning},
#include "abi/verdicts.def"
#undef MARCHPROXY_VERDICT
};

inline constexpr size_t verdict_count = verdict_texts.size();
constexpr std::string_view name_of(Verdict verdict) {
    return verdict_texts[static_cast<size_t>(verdict)].name;
}

}  // namespace marchproxy
