#include "admin/reports.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "abi/verdicts.h"
#include "admin/table.h"

namespace marchproxy::admin {

namespace {

using Json = nlohmann::json;
using Align = Table::Align;

std::string text_of(const Json& value) {
    return value.is_null() ? "-" : value.get<std::string>();
}
std::string number_of(const Json& value) {
    return value.is_null() ? "-" : value.dump();
}
std::string duration_of(const Json& seconds) {
    return seconds.is_null() ? "-" : human_duration(seconds.get<double>());
}

std::string percent_of(const Json& ratio) {
    return ratio.is_null() ? "-" : fmt::format("{:.1f}%", 100 * ratio.get<double>());
}

std::string figure_of(const Json& number) {
    return number.is_null() ? "-" : fmt::format("{:.4g}", number.get<double>());
}

uint64_t sum(const Json& counts) {
    uint64_t result = 0;
    for (const auto& [name, count] : counts.items())
        result += count.get<uint64_t>();
    return result;
}

// Of the results, those that are nobody's ordinary end.
uint64_t failures(const Json& results) {
    uint64_t result = 0;
    for (Verdict verdict :
         {Verdict::connect_refused, Verdict::connect_timeout, Verdict::connect_unreachable, Verdict::endpoint_reset,
          Verdict::no_endpoint, Verdict::local_ports, Verdict::descriptors, Verdict::memory, Verdict::internal_error})
        result += results.value(std::string(name_of(verdict)), uint64_t{0});
    return result;
}

bool is_usable(const Json& endpoint) {
    return endpoint.at("up").get<bool>() && !endpoint.at("draining").get<bool>() &&
           endpoint.at("weight").get<int>() > 0;
}

std::string usable_of(const Json& endpoints) {
    const auto usable = std::count_if(endpoints.begin(), endpoints.end(), is_usable);
    return fmt::format("{}/{} up", usable, endpoints.size());
}

std::string reload_text(const Json& reload) {
    std::string text =
        fmt::format("{} reloads, {} refused", number_of(reload.at("succeeded")), number_of(reload.at("failed")));
    if (!reload.at("last").is_null()) text += ", the last at " + text_of(reload.at("last"));
    return text;
}

std::string planes_table(const Json& services) {
    Table table({{"SERVICE"}, {"PLANE"}, {"LISTENING"}, {"ACTIVE", Align::right}, {"WHY THIS PLANE"}});
    for (const Json& service : services)
        table.add({text_of(service.at("name")), text_of(service.at("plane")),
                   service.at("listening").get<bool>() ? "yes" : "no", number_of(service.at("active_connections")),
                   or_dash(text_of(service.at("plane_reason")))});
    return table.empty() ? "" : '\n' + table.text();
}

std::string workers_table(const Json& workers) {
    Table table({{"WORKER"},
                 {"ACTIVE", Align::right},
                 {"SPLICED", Align::right},
                 {"EVENTS A TURN", Align::right},
                 {"MEMORY", Align::right}});
    for (const Json& worker : workers) {
        const double loops = worker.at("loops").get<double>();
        const double events = loops > 0 ? worker.at("events").get<double>() / loops : 0;
        table.add({number_of(worker.at("index")), number_of(worker.at("active_connections")),
                   number_of(worker.at("bulk_directions")), fmt::format("{:.1f}", events),
                   human_bytes(worker.at("memory_bytes").get<double>())});
    }
    return table.empty() ? "" : '\n' + table.text();
}

std::string packet_report(const Json& plane) {
    if (!plane.at("running").get<bool>()) return fmt::format("\npacket plane off: {}\n", text_of(plane.at("reason")));
    std::string text =
        fmt::format("\npacket plane on: {}; room for {} flows in {}{}\n", text_of(plane.at("reason")),
                    number_of(plane.at("flow_capacity")), human_bytes(plane.at("memory_bytes").get<double>()),
                    plane.at("took_over").get<bool>() ? ", taken over from an earlier process" : "");
    Table table({{"INTERFACE"}, {"ATTACHED AS"}, {"PROGRAM", Align::right}, {"WHY NOT BETTER"}});
    for (const Json& interface : plane.at("interfaces")) {
        const Json& refused = interface.at("refused");
        const std::string why = interface.at("way").is_null() ? text_of(interface.at("problem"))
                                : refused.empty()             ? "-"
                                                              : refused.front().get<std::string>();
        table.add(
            {text_of(interface.at("name")), text_of(interface.at("way")), number_of(interface.at("program_id")), why});
    }
    text += table.text();
    for (const auto& [verdict, count] : plane.at("dropped").items())
        text += fmt::format("packets of no service dropped: {} {}\n", number_of(count), verdict);
    return text;
}

}  // namespace

std::string status_report(const Json& status) {
    const Json& descriptors = status.at("descriptors");
    std::string text =
        fmt::format("marchproxy-l3l4 {} ({}), process {}: {}\n", text_of(status.at("version")),
                    text_of(status.at("commit")), number_of(status.at("pid")), text_of(status.at("state")));
    // A value of several lines, as a refused reload has, keeps them.
    auto line = [&](std::string_view name, std::string_view value) {
        do {
            const size_t end = std::min(value.find('\n'), value.size());
            text += fmt::format("{:<15}{}\n", name, printable(value.substr(0, end)));
            value.remove_prefix(std::min(end + 1, value.size()));
            name = {};
        } while (!value.empty());
    };
    line("up", fmt::format("{}, since {}", human_duration(status.at("uptime_seconds").get<double>()),
                           text_of(status.at("start"))));
    line("configuration",
         fmt::format("version {}, {}", number_of(status.at("config_version")), reload_text(status.at("reload"))));
    line("descriptors", fmt::format("{} of {}", number_of(descriptors.at("used")), number_of(descriptors.at("limit"))));
    line("memory", human_bytes(status.at("memory").at("resident_bytes").get<double>()) + " resident");
    line("CPU time", human_duration(status.at("cpu_seconds").get<double>()));
    if (!status.at("reload").at("last_error").is_null())
        line("reload refused", text_of(status.at("reload").at("last_error")));
    if (!status.at("flows").at("file_error").is_null()) line("flow file", text_of(status.at("flows").at("file_error")));
    for (const Json& note : status.at("notes"))
        line("note", text_of(note));
    return text + planes_table(status.at("services")) + packet_report(status.at("packet_plane")) +
           workers_table(status.at("workers"));
}

std::string services_report(const Json& services) {
    Table table({{"SERVICE"},
                 {"LISTEN"},
                 {"POLICY"},
                 {"ACTIVE", Align::right},
                 {"TOTAL", Align::right},
                 {"RECEIVED", Align::right},
                 {"SENT", Align::right},
                 {"FAILED", Align::right},
                 {"REFUSED", Align::right},
                 {"ENDPOINTS"}});
    for (const Json& service : services)
        table.add({text_of(service.at("name")), text_of(service.at("protocol")) + ' ' + text_of(service.at("listen")),
                   text_of(service.at("policy")), number_of(service.at("active_connections")),
                   number_of(service.at("connections_total")), human_bytes(service.at("received_bytes").get<double>()),
                   human_bytes(service.at("sent_bytes").get<double>()), std::to_string(failures(service.at("results"))),
                   std::to_string(sum(service.at("dropped"))), usable_of(service.at("endpoints"))});
    return table.empty() ? "no service is configured\n" : table.text();
}

std::string endpoints_report(const Json& service) {
    Table table({{"ENDPOINT"},
                 {"RESOLVED"},
                 {"PATH"},
                 {"STATE"},
                 {"WEIGHT", Align::right},
                 {"ACTIVE", Align::right},
                 {"LAST ERROR"}});
    for (const Json& endpoint : service.at("endpoints")) {
        const char* state = endpoint.at("draining").get<bool>() ? "draining"
                            : endpoint.at("up").get<bool>()     ? "up"
                                                                : "down";
        table.add({text_of(endpoint.at("address")), text_of(endpoint.at("resolved")),
                   or_dash(text_of(endpoint.at("path"))), state, number_of(endpoint.at("weight")),
                   number_of(endpoint.at("active_connections")), text_of(endpoint.at("last_error"))});
    }
    std::string text = services_report(Json::array({service}));
    for (const char* kind : {"results", "dropped"})
        for (const auto& [reason, count] : service.at(kind).items())
            text += fmt::format("{:<10}{:<22}{}\n", kind, printable(reason), count.dump());
    return text + (table.empty() ? "" : '\n' + table.text());
}

std::string paths_report(const Json& paths) {
    Table table({{"PATH"},
                 {"PROVIDER"},
                 {"REGION"},
                 {"STATE"},
                 {"ACTIVE", Align::right},
                 {"RECEIVED", Align::right},
                 {"SENT", Align::right},
                 {"RTT", Align::right},
                 {"JITTER", Align::right},
                 {"LOSS", Align::right},
                 {"$/GB", Align::right},
                 {"$ MONTH", Align::right},
                 {"P95 SENT", Align::right},
                 {"SCORE", Align::right}});
    for (const Json& path : paths) {
        const Json& up = path.at("up");
        const char* state = path.at("draining").get<bool>() ? "draining"
                            : up.is_null()                  ? "unused"
                            : up.get<bool>()                ? "up"
                                                            : "down";
        table.add({text_of(path.at("name")), or_dash(text_of(path.at("provider"))), or_dash(text_of(path.at("region"))),
                   state, number_of(path.at("active_connections")),
                   human_bytes(path.at("received_bytes").get<double>()),
                   human_bytes(path.at("sent_bytes").get<double>()), duration_of(path.at("rtt_seconds")),
                   duration_of(path.at("jitter_seconds")), percent_of(path.at("loss_ratio")),
                   number_of(path.at("cost_per_gb")), fmt::format("{:.2f}", path.at("month_dollars").get<double>()),
                   human_rate(path.at("p95_sent_rate").get<double>()), figure_of(path.at("score"))});
    }
    return table.empty() ? "no path is configured\n" : table.text();
}

std::string explanation_report(const Json& explanation) {
    std::string text = fmt::format(
        "service {}, policy {}{}\n", printable(text_of(explanation.at("service"))), text_of(explanation.at("policy")),
        explanation.at("measured").get<bool>() ? "" : "; paths are not probed: set multicloud.enabled: true");
    const Json& chosen = explanation.at("chosen");
    text +=
        chosen.is_null()
            ? "a new connection would find no endpoint\n"
            : fmt::format(
                  "a new connection would go to {}{}\n", printable(text_of(explanation.at("chosen_endpoint"))),
                  chosen == explanation.at("chosen_endpoint") ? std::string() : " by " + printable(text_of(chosen)));
    Table table({{"PATH"},
                 {"ENDPOINT"},
                 {"UP"},
                 {"RTT", Align::right},
                 {"LOSS", Align::right},
                 {"$/GB", Align::right},
                 {"SCORE", Align::right},
                 {"SHARE", Align::right},
                 {"WHY"}});
    for (const Json& candidate : explanation.at("candidates"))
        table.add({or_dash(text_of(candidate.at("path"))), text_of(candidate.at("endpoint")),
                   candidate.at("up").get<bool>() ? "yes" : "no", duration_of(candidate.at("rtt_seconds")),
                   percent_of(candidate.at("loss_ratio")), number_of(candidate.at("cost_per_gb")),
                   figure_of(candidate.at("score")), percent_of(candidate.at("share")),
                   text_of(candidate.at("reason"))});
    return text + (table.empty() ? "" : '\n' + table.text());
}

std::string qos_report(const Json& qos) {
    if (qos.empty()) return "qos is off: set qos.enabled: true, or --enable-qos\n";
    Table table({{"SERVICE"},
                 {"DIRECTION"},
                 {"PRIORITY"},
                 {"RATE", Align::right},
                 {"GUARANTEE", Align::right},
                 {"OFFERED", Align::right},
                 {"DELIVERED", Align::right},
                 {"QUEUED", Align::right},
                 {"DROPPED", Align::right},
                 {"MARKED", Align::right},
                 {"DELAY", Align::right}});
    const auto rate = [](const Json& bits) {
        return bits.is_null() ? std::string("-") : human_rate(bits.get<double>());
    };
    for (const Json& of : qos)
        table.add({text_of(of.at("service")), text_of(of.at("direction")), text_of(of.at("priority")),
                   rate(of.at("rate")), rate(of.at("guarantee")), human_rate(of.at("offered").get<double>()),
                   human_rate(of.at("delivered").get<double>()), human_bytes(of.at("queued_bytes").get<double>()),
                   number_of(of.at("dropped")), number_of(of.at("marked")),
                   human_duration(of.at("delay_seconds").get<double>())});
    return table.text();
}

std::string flows_report(const Json& flows) {
    Table table({{"SERVICE"},
                 {"CLIENT"},
                 {"ENDPOINT"},
                 {"PATH"},
                 {"RECEIVED", Align::right},
                 {"SENT", Align::right},
                 {"DURATION", Align::right},
                 {"STATE"},
                 {"DECISION"}});
    for (const Json& flow : flows) {
        const Json& reason = flow.at("end_reason");
        table.add({text_of(flow.at("service")), text_of(flow.at("client")), text_of(flow.at("endpoint")),
                   or_dash(text_of(flow.at("path"))), human_bytes(flow.at("received_bytes").get<double>()),
                   human_bytes(flow.at("sent_bytes").get<double>()),
                   human_duration(flow.at("duration_seconds").get<double>()),
                   text_of(reason.is_null() ? flow.at("state") : reason), text_of(flow.at("decision"))});
    }
    return table.empty() ? "no flow yet\n" : table.text();
}

Json rates(const Json& before, const Json& after, double seconds) {
    std::map<std::string, const Json*> earlier;
    for (const Json& service : before)
        earlier.emplace(service.at("name").get<std::string>(), &service);
    std::vector<Json> result;
    for (const Json& service : after) {
        const auto found = earlier.find(service.at("name").get<std::string>());
        auto a_second = [&](const char* name) {
            if (found == earlier.end()) return 0.0;
            return std::max(0.0, (service.at(name).get<double>() - found->second->at(name).get<double>()) / seconds);
        };
        result.push_back({{"name", service.at("name")},
                          {"active_connections", service.at("active_connections")},
                          {"connections_per_second", a_second("connections_total")},
                          {"received_bits_per_second", a_second("received_bytes") * 8},
                          {"sent_bits_per_second", a_second("sent_bytes") * 8},
                          {"endpoints", usable_of(service.at("endpoints"))}});
    }
    auto load = [](const Json& service) {
        return service["received_bits_per_second"].get<double>() + service["sent_bits_per_second"].get<double>();
    };
    std::stable_sort(result.begin(), result.end(), [&](const Json& a, const Json& b) { return load(a) > load(b); });
    return result;
}

std::string rates_report(const Json& rates, size_t most_rows) {
    Table table({{"SERVICE"},
                 {"ACTIVE", Align::right},
                 {"NEW/S", Align::right},
                 {"IN", Align::right},
                 {"OUT", Align::right},
                 {"ENDPOINTS"}});
    uint64_t active = 0;
    double fresh = 0, in = 0, out = 0;
    for (const Json& service : rates) {
        active += service.at("active_connections").get<uint64_t>();
        fresh += service.at("connections_per_second").get<double>();
        in += service.at("received_bits_per_second").get<double>();
        out += service.at("sent_bits_per_second").get<double>();
    }
    table.add({"all", std::to_string(active), fmt::format("{:.0f}", fresh), human_rate(in), human_rate(out), ""});
    for (size_t i = 0; i < std::min(most_rows, rates.size()); ++i) {
        const Json& service = rates[i];
        table.add({text_of(service.at("name")), number_of(service.at("active_connections")),
                   fmt::format("{:.0f}", service.at("connections_per_second").get<double>()),
                   human_rate(service.at("received_bits_per_second").get<double>()),
                   human_rate(service.at("sent_bits_per_second").get<double>()), text_of(service.at("endpoints"))});
    }
    return table.text();
}

}  // namespace marchproxy::admin
