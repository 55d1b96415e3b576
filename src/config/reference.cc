// docs/reference/configuration.md, from the options table.
#include <fmt/format.h>

#include "config/features.h"
#include "config/options.h"

namespace marchproxy::config {
namespace {

constexpr std::string_view introduction =
    R"(<!-- Written by `marchproxy-l3l4 config-reference` from src/config/options.def; do not edit. -->
# Configuration reference

Every key, in the order of `src/config/options.def`. Flags win over environment variables, those over the file
(`-c FILE`, or `MARCHPROXY_CONFIG`), the file over the defaults. `marchproxy-l3l4 check -c FILE` lists everything that
is wrong with a configuration at once, each as `file:line:column: key: message`; nothing starts, and no reload happens,
with a configuration that has a problem.

**File.** YAML in UTF-8, at most 64 MiB, nested at most 64 deep. Anchors, aliases, tags, second documents and keys given
twice are refused. Words such as `tcp` or `INFO` may be written in any case.

**Units.** Rates take `bps`, `Kbps`, `Mbps`, `Gbps` (bits, powers of 1000); sizes `B`, `KB`, `MB`, `GB` (1000) and `KiB`,
`MiB`, `GiB` (1024); durations `us`, `ms`, `s`, `m`, `h`; percentages `%`; frequencies `/s`. A number alone is refused
where a unit is needed.

**Environment.** Every key can be set as `MARCHPROXY_` and its path in capitals, with `__` between levels:
`stream.idle_timeout` is `MARCHPROXY_STREAM__IDLE_TIMEOUT`. Elements of a list are numbered from 0, and the number after
the last one adds an element: `MARCHPROXY_SERVICES__0__LISTEN`. Lists of single values are comma separated. Where a key
has a short variable too, the `MARCHPROXY_` one wins; an empty short variable counts as unset. `true` may be `1`, `false`
`0`. An unknown `MARCHPROXY_` variable is an error.

**Reload** (SIGHUP, or `POST /api/v1/reload`) says when a changed value takes effect: *live*: for running connections too;
*new connections*: running ones keep what they began with; *restart*: in a new process, by SIGUSR2 or a restart.
)";

std::string_view reload_words(Reload reload) {
    switch (reload) {
        case Reload::live:
            return "live";
        case Reload::new_connections:
            return "new connections";
        case Reload::restart:
            break;
    }
    return "restart";
}

std::string escaped(std::string_view text) {
    std::string out;
    for (const char c : text) {
        if (c == '|') out += '\\';
        out += c;
    }
    return out;
}

// "stream" of "stream.workers", "services" of "services[].endpoints[].weight".
std::string_view section_of(std::string_view key) {
    return key.substr(0, key.find_first_of(".["));
}

std::string row(const Option& option) {
    std::string type(option.type);
    // A range repeats what a type of words says already.
    if (!option.range.empty()) type += ": " + option.range;
    std::string text(option.documentation);
    for (const auto& [title, names] : {std::pair("Flag", option.flag), std::pair("Environment", option.environment)}) {
        if (names.empty()) continue;
        std::string list;
        for (const char c : names)
            list += c == ',' ? std::string("`, `") : std::string(1, c);
        text += fmt::format(" {}: `{}`.", title, list);
    }
    if (option.secret) text += " Never printed.";
    const Feature* feature = find_feature(option.feature);
    if (feature && !feature->built)
        text += fmt::format(" *Needs {} ({}), not in this version.*", feature->title, feature->name);
    const std::string standard = option.required ? "required" : "`" + option.default_text + "`";
    return fmt::format("| `{}` | {} | {} | {} | {} |\n", option.key, escaped(type), escaped(standard),
                       reload_words(option.reload), escaped(text));
}

}  // namespace

std::string reference_markdown() {
    std::string page(introduction);
    std::string_view section;
    const std::vector<Option> all = options();
    for (const Option& option : all) {
        const std::string_view here = section_of(option.key);
        if (here != section) {
            page += fmt::format("\n## `{}`\n\n| key | value | default | reload | |\n|---|---|---|---|---|\n", here);
            section = here;
        }
        page += row(option);
    }
    return page;
}

}  // namespace marchproxy::config
