// `doctor` on the interfaces of the packet plane.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "admin/doctor.h"

namespace marchproxy::admin {

namespace {

using State = Finding::State;
using packet::Attempt;
using packet::InterfaceStatus;
using packet::Survey;
using packet::Way;

bool has(const std::vector<Way>& ways, Way way) {
    return std::find(ways.begin(), ways.end(), way) != ways.end();
}

std::string text_of(const Attempt& attempt) {
    return fmt::format("{}: {}", title_of(attempt.way), attempt.reason);
}

std::string device(const Survey& survey) {
    if (!survey.exists) return "not in this network namespace";
    return survey.driver.empty() ? fmt::format("MTU {}", survey.mtu)
                                 : fmt::format("driver {}, MTU {}", survey.driver, survey.mtu);
}

// --- where the running proxy tells ---------------------------------------------------------------------------------

// Why it is not in the driver, where it tried to be; null: it is, or did not try.
const std::string* why_slower(const Survey& survey, const InterfaceStatus& status) {
    if (!has(survey.candidates.ways, Way::native)) return nullptr;
    const std::string native = fmt::format("{}: ", title_of(Way::native));
    const auto found = std::find_if(status.refused.begin(), status.refused.end(),
                                    [&](const std::string& refused) { return refused.starts_with(native); });
    return found == status.refused.end() ? nullptr : &*found;
}

void tell_running(const Survey& survey, const InterfaceStatus& status, Finding& finding) {
    if (status.way.empty()) {
        finding.state = State::improvable;
        finding.found = fmt::format("{}; the running proxy has not attached to it", device(survey));
        finding.meaning = "its packets do not come to the packet plane";
        finding.advice = status.problem;
        return;
    }
    finding.found = fmt::format("{}; the running proxy is attached as {}, program {}", device(survey), status.way,
                                status.program_id);
    finding.meaning = !status.refused.empty() ? fmt::format("no better: {}", fmt::join(status.refused, "; "))
                      : status.adopted
                          ? "taken over as an earlier process had attached it; `detach` and a start try anew"
                          : "no better way was refused";
    if (const std::string* why = why_slower(survey, status)) {
        finding.state = State::improvable;
        finding.advice = *why;
    }
}

// --- where only the machine tells ----------------------------------------------------------------------------------

std::string presence(const Survey& survey) {
    if (survey.own)
        return fmt::format("attached as {}, program {}, by a process that has ended or answers elsewhere",
                           title_of(survey.own->way), survey.own->program_id);
    const std::string unseen =
        survey.unseen.empty() ? "" : fmt::format(" (whose is not to be seen: {})", survey.unseen);
    if (survey.other.id == 0) return unseen.empty() ? "nothing is attached" : fmt::format("no XDP program{}", unseen);
    const std::string name = survey.other.name.empty() ? "" : fmt::format(" '{}'", survey.other.name);
    return fmt::format("{} XDP program, id {}{}, is there{}", unseen.empty() ? "another" : "an", survey.other.id, name,
                       unseen);
}

std::string prospect(const Survey& survey) {
    if (survey.own && has(survey.candidates.ways, survey.own->way)) return "a start goes on with it";
    const auto expected = survey.expected();
    if (!expected) return "a start could not attach";
    const bool first = *expected == survey.candidates.ways.front();
    return fmt::format("a start would {} {}", first ? "first try" : "come to", title_of(*expected));
}

std::string order(const Survey& survey) {
    std::vector<std::string_view> titles;
    for (const Way way : survey.candidates.ways)
        titles.push_back(title_of(way));
    std::string text = fmt::format("tried in this order: {}", fmt::join(titles, "; "));
    for (const Attempt& attempt : survey.candidates.passed_over)
        text += fmt::format(". Not {}", text_of(attempt));
    return text;
}

void tell_prospect(const Survey& survey, Finding& finding) {
    if (!survey.exists) {
        finding.state = State::improvable;
        finding.found = "there is none of this name in this network namespace";
        finding.meaning = "it is attached to when it appears";
        finding.advice = "`ip link` lists them; packet.interfaces names those to attach to";
        return;
    }
    finding.found = fmt::format("{}; {}; {}", device(survey), presence(survey), prospect(survey));
    finding.meaning = order(survey);
    const std::vector<Attempt> vain = survey.vain();
    if (survey.own || vain.empty() || survey.expected() == survey.candidates.ways.front()) return;
    finding.state = State::improvable;
    finding.advice = text_of(vain.front());
}

}  // namespace

std::vector<Finding> examine(const std::vector<Survey>& surveys, const std::vector<InterfaceStatus>& running) {
    std::vector<Finding> findings;
    for (const Survey& survey : surveys) {
        Finding& finding = findings.emplace_back(Finding{.name = "packet plane, interface " + survey.name});
        const auto told = std::find_if(running.begin(), running.end(),
                                       [&](const InterfaceStatus& status) { return status.name == survey.name; });
        if (told != running.end())
            tell_running(survey, *told, finding);
        else
            tell_prospect(survey, finding);
    }
    return findings;
}

Finding examine(const RunningPlane& running, const std::string& url) {
    return {State::good, "running proxy",
            fmt::format("answers at {}; its packet plane is {}: {}", url, running.on ? "on" : "off", running.reason),
            "what it says of its interfaces goes before what a start would do", ""};
}

RunningPlane running_plane(const nlohmann::json& status, const nlohmann::json& configuration) {
    const auto text = [](const nlohmann::json& value) { return value.is_null() ? "" : value.get<std::string>(); };
    const nlohmann::json &plane = status.at("packet_plane"), &settings = configuration.at("packet");
    RunningPlane running{.on = plane.at("running"), .reason = plane.at("reason")};
    for (const nlohmann::json& one : plane.at("interfaces"))
        running.interfaces.push_back({.name = one.at("name"),
                                      .way = text(one.at("way")),
                                      .problem = text(one.at("problem")),
                                      .program_id = one.at("program_id"),
                                      .adopted = one.at("adopted"),
                                      .refused = one.at("refused")});
    running.settings.enabled = settings.at("enabled");
    running.settings.interfaces = settings.at("interfaces");
    running.settings.mode =
        from_name<PacketMode>(settings.at("mode").get<std::string>()).value_or(PacketMode::automatic);
    running.settings.pin = settings.at("pin");
    return running;
}

}  // namespace marchproxy::admin
