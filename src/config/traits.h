// What a row of options.def says about a key beside its name, member and range.
#pragma once

#include <stdexcept>
#include <string_view>

#include "config/features.h"
#include "config/options.h"

namespace marchproxy::config {

// Which values of a key need which feature.
struct Needs {
    const Feature* feature = nullptr;  // null: none does
    std::string_view words;            // comma separated values
    bool words_need = false;           // true: only those words need it; false: every other value does
};

struct Traits {
    Reload reload;
    std::string_view flag = {}, environment = {};
    Needs need = {};
    bool is_required = false, is_secret = false;

    constexpr Traits given_as(std::string_view flag_names, std::string_view environment_names) const {
        Traits traits = *this;
        traits.flag = flag_names;
        traits.environment = environment_names;
        return traits;
    }
    constexpr Traits required() const {
        Traits traits = *this;
        traits.is_required = true;
        return traits;
    }
    constexpr Traits secret() const {
        Traits traits = *this;
        traits.is_secret = true;
        return traits;
    }
    constexpr Traits needs(std::string_view feature) const { return with_need(feature, {}, false); }
    constexpr Traits needs_unless(std::string_view feature, std::string_view words) const {
        return with_need(feature, words, false);
    }
    constexpr Traits needs_for(std::string_view feature, std::string_view words) const {
        return with_need(feature, words, true);
    }

  private:
    constexpr Traits with_need(std::string_view name, std::string_view words, bool words_need) const {
        Traits traits = *this;
        traits.need = {find_feature(name), words, words_need};
        if (!traits.need.feature) throw std::logic_error("a row names a feature that features.h does not have");
        return traits;
    }
};

inline constexpr Traits live{Reload::live};
inline constexpr Traits new_connections{Reload::new_connections};
inline constexpr Traits restart{Reload::restart};

}  // namespace marchproxy::config
