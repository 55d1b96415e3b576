#include "config/command_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>

#include "config/options.h"

namespace marchproxy::config {

void add_file_flag(CLI::App& command, FlagValues& values) {
    command.add_option("-c,--config", values.file, "Configuration file. Environment: MARCHPROXY_CONFIG")
        ->type_name("FILE");
}

void add_run_flags(CLI::App& command, FlagValues& values) {
    add_file_flag(command, values);
    for (const Option& option : options()) {
        if (option.flag.empty()) continue;
        const std::string help = fmt::format("{} Environment: {}", option.documentation, option.environment);
        const auto keep = [&values, key = option.key](const std::string& text) { values.flags[key] = text; };
        // A flag of CLI11 takes its value only as --name=VALUE, so that --name alone can mean true.
        CLI::Option* const added = option.boolean ? command.add_flag(std::string(option.flag), help)
                                                  : command.add_option(std::string(option.flag), help);
        added->each(keep);
        if (!option.boolean) added->type_name(option.type);
    }
}

Sources sources_of(const FlagValues& values) {
    Sources sources;
    for (char** variable = environ; variable && *variable; ++variable) {
        const std::string_view entry = *variable;
        const size_t equals = entry.find('=');
        if (equals != std::string_view::npos)
            sources.environment.emplace(entry.substr(0, equals), entry.substr(equals + 1));
    }
    sources.flags = values.flags;
    const auto by_environment = sources.environment.find("MARCHPROXY_CONFIG");
    sources.file = values.file;
    if (sources.file.empty() && by_environment != sources.environment.end()) sources.file = by_environment->second;
    return sources;
}

}  // namespace marchproxy::config
