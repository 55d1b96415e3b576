#include "admin/client.h"

#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <ostream>
#include <thread>

#include "admin/costs.h"
#include "admin/doctor.h"
#include "admin/http_client.h"
#include "admin/reports.h"
#include "admin/table.h"
#include "config/command_line.h"
#include "config/load.h"
#include "flow/store.h"

namespace marchproxy::admin {

namespace {

using Json = nlohmann::json;

constexpr int failed = 1, input_wrong = 2;
constexpr size_t most_top_rows = 40;

struct Options {
    std::string admin = "http://127.0.0.1:8081";
    bool json = false;
    std::string service;                       // services, flows
    std::string source;                        // paths explain
    std::map<std::string, std::string> query;  // costs
    unsigned limit = 100;                      // flows
    std::string sort = "start";
    bool once = false;  // top
    double interval_seconds = 1;
};

// What a command has to write, or why it cannot.
using Outcome = Result<std::string>;
using Command = std::function<Outcome(HttpClient&, const Options&)>;

Json parse(const std::string& body) {
    return Json::parse(body);
}

// An answer as it came for scripts, or as a report for people.
Outcome fetch(HttpClient& client, const std::string& path, const Options& options, std::string (*report)(const Json&)) {
    Result<std::string> body = client.get(path);
    if (!body || options.json) return body;
    return report(parse(*body));
}

Outcome services(HttpClient& client, const Options& options) {
    if (options.service.empty()) return fetch(client, "/api/v1/services", options, services_report);
    Result<std::string> body = client.get("/api/v1/services");
    if (!body) return body;
    for (const Json& service : parse(*body)) {
        if (service.at("name") != options.service) continue;
        return options.json ? service.dump() + '\n' : endpoints_report(service);
    }
    return Error{fmt::format("no service has the name {}; `services` without a name lists them", options.service)};
}

std::string percent_encoded(std::string_view text) {
    std::string result;
    for (char c : text)
        result += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    return result;
}

Outcome flows(HttpClient& client, const Options& options) {
    std::string path = fmt::format("/api/v1/flows?limit={}&sort={}", options.limit, options.sort);
    if (!options.service.empty()) path += "&service=" + percent_encoded(options.service);
    return fetch(client, path, options, flows_report);
}

Outcome explain(HttpClient& client, const Options& options) {
    const std::string path = fmt::format("/api/v1/paths/explain?service={}&source={}", percent_encoded(options.service),
                                         percent_encoded(options.source));
    return fetch(client, path, options, explanation_report);
}

Outcome costs(HttpClient& client, const Options& options) {
    std::string path = "/api/v1/costs";
    for (const auto& [key, value] : options.query)
        if (!value.empty())
            path += fmt::format("{}{}={}", path.ends_with("costs") ? '?' : '&', key, percent_encoded(value));
    return fetch(client, path, options, costs_report);
}

std::string indented(const Json& json) {
    return json.dump(2) + '\n';
}

// Two looks, an interval apart, make a rate.
Outcome look(HttpClient& client, const Options& options) {
    const auto begin = std::chrono::steady_clock::now();
    const Result<std::string> before = client.get("/api/v1/services");
    if (!before) return Error{before.error()};
    std::this_thread::sleep_for(std::chrono::duration<double>(options.interval_seconds));
    const Result<std::string> after = client.get("/api/v1/services");
    if (!after) return Error{after.error()};
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    const Json found = rates(parse(*before), parse(*after), seconds);
    return options.json ? found.dump() + '\n' : rates_report(found, most_top_rows);
}

Outcome top(HttpClient& client, const Options& options, std::ostream& out) {
    const bool screen = isatty(STDOUT_FILENO) == 1 && !options.json && !options.once;
    for (;;) {
        Outcome page = look(client, options);
        if (!page || options.once) return page;
        constexpr std::string_view clear = "\x1b[H\x1b[2J";
        out << (screen ? clear : "") << *page << (screen || options.json ? "" : "\n") << std::flush;
        if (!out) return std::string();  // whoever read it has gone
    }
}

int finish(const Outcome& outcome, std::ostream& out, std::ostream& error) {
    if (outcome)
        out << *outcome << std::flush;
    else
        error << "marchproxy-l3l4: " << printable(outcome.error()) << std::endl;
    return outcome ? 0 : failed;
}

// What `question` makes of the answers of the proxy at `url`.
template <class T>
Result<T> ask(const std::string& url, const std::function<Result<T>(HttpClient&)>& question) {
    Result<HttpClient> client = HttpClient::to(url);
    if (!client) return Error{client.error()};
    try {
        return question(*client);
    } catch (const Json::exception& exception) {
        return Error{
            fmt::format("{} gave an answer that this program does not understand ({}); is it a marchproxy-l3l4 of "
                        "another version?",
                        url, exception.what())};
    }
}

Outcome run(const Command& command, const Options& options) {
    return ask<std::string>(options.admin, [&](HttpClient& client) { return command(client, options); });
}

// --- doctor --------------------------------------------------------------------------------------------------------

struct DoctorOptions {
    config::FlagValues flags;
    std::string admin;  // empty: that of the configuration
    bool json = false;
};

Result<RunningPlane> ask_running(const std::string& url) {
    return ask<RunningPlane>(url, [](HttpClient& client) -> Result<RunningPlane> {
        const Result<std::string> status = client.get("/status");
        if (!status) return Error{status.error()};
        const Result<std::string> configuration = client.get("/api/v1/config");
        if (!configuration) return Error{configuration.error()};
        return running_plane(parse(*status), parse(*configuration));
    });
}

void append(std::vector<Finding>& findings, std::vector<Finding> more) {
    findings.insert(findings.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

std::vector<Finding> examine_all(const Settings& settings, const DoctorOptions& options) {
    const std::string url =
        !options.admin.empty() ? options.admin : "http://" + reachable(settings.admin.address, settings.admin.port);
    const Result<RunningPlane> running = ask_running(url);
    std::vector<Finding> findings = examine(inspect_machine());
    append(findings, examine(packet::probe_capabilities()));
    if (running)
        findings.push_back(examine(*running, url));
    else if (!options.admin.empty())  // asked for on purpose
        findings.push_back({Finding::State::improvable, "running proxy", running.error(),
                            "what follows is how it would be attached, not how it is", "start it, or name another"});
    // Without a configuration, that which runs.
    const bool configured = !settings.packet.interfaces.empty() || !running;
    const PacketSettings& packet = configured ? settings.packet : running->settings;
    if (packet.enabled)
        append(findings,
               examine(packet::survey(packet), running ? running->interfaces : std::vector<packet::InterfaceStatus>()));
    return findings;
}

int doctor(const DoctorOptions& options, std::ostream& out, std::ostream& error) {
    const config::Loaded loaded = config::load(config::sources_of(options.flags));
    for (const config::Problem& problem : loaded.problems)
        error << printable(config::to_string(problem)) << '\n';
    if (!loaded.ok()) return input_wrong;
    const std::vector<Finding> findings = examine_all(loaded.snapshot.settings, options);
    out << (options.json ? findings_json(findings).dump() + '\n' : findings_report(findings)) << std::flush;
    const bool bad = std::any_of(findings.begin(), findings.end(),
                                 [](const Finding& finding) { return finding.state == Finding::State::bad; });
    return bad ? failed : 0;
}

class Commands {
  public:
    Commands(CLI::App& app, std::ostream& out, std::ostream& error, int& exit_status)
        : app_(app), out_(out), error_(error), exit_status_(exit_status) {}

    // The options live as long as the callback that uses them.
    std::pair<CLI::App*, std::shared_ptr<Options>> add(const char* name, const char* about, Command command,
                                                       CLI::App* under = nullptr) {
        CLI::App* added = (under ? under : &app_)->add_subcommand(name, about);
        auto options = std::make_shared<Options>();
        added->add_option("--admin", options->admin, "the admin API of the proxy to ask")->capture_default_str();
        added->add_flag("--json", options->json, "the API's answer as it is, for scripts");
        added->callback(
            [added, command = std::move(command), options, &out = out_, &error = error_, &status = exit_status_] {
                if (!added->get_subcommands().empty()) return;  // it speaks for itself
                status = finish(run(command, *options), out, error);
            });
        return {added, options};
    }

    void add_doctor() {
        CLI::App* added = app_.add_subcommand("doctor", "look at this machine: what holds the proxy back, what to do");
        auto options = std::make_shared<DoctorOptions>();
        config::add_file_flag(*added, options->flags);
        added->add_option("--admin", options->admin, "the admin API of the proxy to ask; without, the configuration's");
        added->add_flag("--json", options->json, "for scripts");
        added->callback(
            [options, &out = out_, &error = error_, &status = exit_status_] { status = doctor(*options, out, error); });
    }

  private:
    CLI::App& app_;
    std::ostream& out_;
    std::ostream& error_;
    int& exit_status_;
};

}  // namespace

void add_read_commands(CLI::App& app, std::ostream& out, std::ostream& error, int& exit_status) {
    Commands commands(app, out, error, exit_status);
    commands.add("status", "how the running proxy is", [](HttpClient& client, const Options& options) {
        return fetch(client, "/status", options, status_report);
    });
    const auto [services_command, services_options] =
        commands.add("services", "its services, or one of them with its endpoints", services);
    services_command->add_option("name", services_options->service, "only this one");
    const auto [paths_command, paths_options] =
        commands.add("paths", "the ways to its endpoints", [](HttpClient& client, const Options& options) {
            return fetch(client, "/api/v1/paths", options, paths_report);
        });
    const auto [explain_command, explain_options] =
        commands.add("explain", "why a new connection would go where it would go", explain, paths_command);
    explain_command->add_option("--service", explain_options->service, "of which service")->required();
    explain_command->add_option("--source", explain_options->source, "from which client's address")->required();
    const auto [costs_command, costs_options] = commands.add("costs", "what paths have carried and cost", costs);
    costs_command->add_option("--by", costs_options->query["by"],
                              "some of day, month, service, path, provider, region, with commas between (path)");
    costs_command->add_option("--since", costs_options->query["since"], "from this day on (the first of the month)");
    costs_command->add_option("--until", costs_options->query["until"], "up to this day (today)");
    for (const char* name : {"service", "path", "provider", "region"})
        costs_command->add_option(fmt::format("--{}", name), costs_options->query[name],
                                  fmt::format("only of this {}", name));
    commands.add("budgets", "what of budgets is spent", [](HttpClient& client, const Options& options) {
        return fetch(client, "/api/v1/budgets", options, budgets_report);
    });
    commands.add(
        "qos", "rates, queues and delays, by service, direction and priority",
        [](HttpClient& client, const Options& options) { return fetch(client, "/api/v1/qos", options, qos_report); });
    const auto [flows_command, flows_options] =
        commands.add("flows", "open and finished connections and sessions", flows);
    flows_command->add_option("--service", flows_options->service, "only of this service");
    flows_command->add_option("--limit", flows_options->limit, "at most so many")
        ->check(CLI::Range(1, 10'000))
        ->capture_default_str();
    flows_command->add_option("--sort", flows_options->sort, "start: newest first; duration: longest; bytes: largest")
        ->check(CLI::IsMember({"start", "duration", "bytes"}))
        ->capture_default_str();
    const auto [top_command, top_options] =
        commands.add("top", "what its services carry, again and again",
                     [&out](HttpClient& client, const Options& options) { return top(client, options, out); });
    top_command->add_flag("--once", top_options->once, "one table, then the end");
    top_command->add_option("--interval", top_options->interval_seconds, "seconds between two looks")
        ->check(CLI::Range(0.1, 3600.0))
        ->capture_default_str();
    commands.add(
        "config", "the configuration that runs, secrets left out",
        [](HttpClient& client, const Options& options) { return fetch(client, "/api/v1/config", options, indented); });
    commands.add_doctor();
}

}  // namespace marchproxy::admin
