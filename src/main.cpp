// The command line, nothing else: each command is a few lines here and lives in a room.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>

#include "admin/client.h"
#include "admin/http_client.h"
#include "config/command_line.h"
#include "config/load.h"
#include "config/options.h"
#include "control/daemon.h"
#include "gateways/gateways.h"
#include "packet/plane.h"
#include "simulation/command.h"
#include "version.h"

namespace {

using namespace marchproxy;

constexpr int fine = 0, failed = 1, input_wrong = 2;

void welcome(const Snapshot& snapshot) {
    const Settings& settings = snapshot.settings;
    fmt::print(R"(
marchproxy-l3l4 {version} serves its embedded default: no service is configured,
so that four simulated clouds inside this process stand behind one listener.

  curl http://{proxy}/                    which cloud answered; ask again for the next one
  curl http://{proxy}/bytes/10000000000 -o /dev/null     ten gigabytes through the proxy
  curl http://{proxy}/echo --data-binary @FILE           the file back
  curl http://{proxy}/delay/500                          an answer after half a second

  http://{admin}/             the dashboard
  http://{admin}/status       also /metrics /api/v1/services /api/v1/flows /readyz
  marchproxy-l3l4 top                     the same in this terminal; or status, services, flows

A configuration of your own: marchproxy-l3l4 run -c FILE. Control-C drains and ends it.

)",
               fmt::arg("version", MARCHPROXY_VERSION),
               fmt::arg("proxy", admin::reachable(settings.listen_address, settings.listen_port)),
               fmt::arg("admin", admin::reachable(settings.admin.address, settings.admin.port)));
    std::fflush(stdout);
}

int run(config::Sources sources, std::vector<std::string> arguments) {
    control::Daemon daemon({std::move(sources), std::move(arguments), welcome});
    return daemon.run();
}

int check(const config::Sources& sources) {
    if (sources.file.empty()) {
        fmt::print(stderr, "marchproxy-l3l4 check: no configuration is named; use -c FILE or MARCHPROXY_CONFIG\n");
        return input_wrong;
    }
    const config::Loaded loaded = config::load(sources);
    for (const config::Problem& problem : loaded.problems)
        fmt::print(stderr, "{}\n", config::to_string(problem));
    if (!loaded.ok()) return input_wrong;
    size_t endpoints = 0;
    for (const Service& service : loaded.snapshot.services)
        endpoints += service.endpoints.size();
    fmt::print("OK: {} services, {} endpoints\n", loaded.snapshot.services.size(), endpoints);
    return fine;
}

int detach(const config::Sources& sources) {
    const config::Loaded loaded = config::load(sources);
    for (const config::Problem& problem : loaded.problems)
        fmt::print(stderr, "{}\n", config::to_string(problem));
    if (!loaded.ok()) return input_wrong;
    const auto gateways = gateways::remove_all();
    if (gateways.ok() && *gateways > 0) fmt::print("rules and routes of {} gateways removed\n", *gateways);
    if (!gateways.ok()) fmt::print(stderr, "marchproxy-l3l4 detach: {}\n", gateways.error());
    const std::string& pin = loaded.snapshot.settings.packet.pin;
    const auto removed = packet::Plane::remove(pin);
    if (!removed.ok()) {
        fmt::print(stderr, "marchproxy-l3l4 detach: {}\n", removed.error());
        return failed;
    }
    fmt::print("{}: {}\n", pin,
               removed->interfaces == 0 ? std::string("nothing was attached")
                                        : fmt::format("detached from {} interfaces", removed->interfaces));
    for (const std::string& left : removed->left)
        fmt::print(stderr, "marchproxy-l3l4 detach: {}\n", left);
    return removed->left.empty() && gateways.ok() ? fine : failed;
}

}  // namespace

int main(int count, char** values) {
    const std::string version = fmt::format("marchproxy-l3l4 {} ({})", MARCHPROXY_VERSION, MARCHPROXY_COMMIT);
    CLI::App app("An L3/L4 proxy for TCP and UDP services over many paths.", "marchproxy-l3l4");
    app.set_version_flag("--version", version);
    app.require_subcommand(0, 1);
    app.footer("Without a command: run. Exit status: 0 fine, 1 it failed, 2 the input is wrong.");

    config::FlagValues flags;
    config::add_run_flags(app, flags);
    for (const auto& [name, text] : {std::pair{"run", "serve, until SIGTERM; the default"},
                                     {"check", "read a configuration and name every problem in it"},
                                     {"detach", "take the packet plane's programs, maps and flows out of the kernel"},
                                     {"demo", "serve the embedded default, whatever configuration there is"}})
        config::add_run_flags(*app.add_subcommand(name, text), flags);
    app.add_subcommand("version", "print the version and the commit");
    app.add_subcommand("config-reference", "print the reference of all configuration keys, in Markdown")->group("");
    int exit_status = fine;
    admin::add_read_commands(app, std::cout, std::cerr, exit_status);
    simulation::Command simulation;
    CLI::App* simulate =
        app.add_subcommand("simulate", "play paths' latencies, losses, costs and outages on a fast clock");
    simulate->add_option("--scenario", simulation.scenario, "what to play: examples/scenarios/*.yaml")->required();
    simulate->add_option("--plot", simulation.plot, "file to draw it into, as SVG");
    simulate->add_option("--seed", simulation.seed, "instead of the scenario's");
    simulate->add_flag("--json", simulation.json, "for scripts");

    try {
        app.parse(count, values);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? fine : input_wrong;
    }

    const auto chosen = app.get_subcommands();
    const std::string command = chosen.empty() ? "run" : chosen.front()->get_name();
    config::Sources sources = config::sources_of(flags);
    if (command == "demo") sources.file.clear();
    if (command == "run" || command == "demo") return run(std::move(sources), {values, values + count});
    if (command == "check") return check(sources);
    if (command == "detach") return detach(sources);
    if (command == "simulate") return simulation::run(simulation, std::cout, std::cerr);
    if (command == "version") fmt::print("{}\n", version);
    if (command == "config-reference") fmt::print("{}", config::reference_markdown());
    return exit_status;
}
