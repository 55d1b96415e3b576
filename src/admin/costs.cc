#include "admin/costs.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "admin/json.h"
#include "admin/table.h"

namespace marchproxy::admin {

namespace {

using Json = nlohmann::json;
using costs::BookColumn;
using costs::BookQuery;
using Align = Table::Align;

std::string column_names() {
    std::string names;
    for (const auto& [column, name] : Names<BookColumn>::table)
        names += fmt::format("{}{}", names.empty() ? "" : ", ", name);
    return names;
}

Result<std::vector<BookColumn>> parse_columns(std::string_view text) {
    std::vector<BookColumn> by;
    while (!text.empty()) {
        const size_t comma = text.find(',');
        const std::string_view word = text.substr(0, comma);
        text = comma == std::string_view::npos ? "" : text.substr(comma + 1);
        const auto column = from_name<BookColumn>(word);
        if (!column)
            return Error{
                fmt::format("`by` has \"{}\"; it takes some of {}, with commas between them", word, column_names())};
        if (std::find(by.begin(), by.end(), *column) != by.end()) return Error{fmt::format("`by` has {} twice", word)};
        by.push_back(*column);
    }
    return by;
}

std::string dollars_of(const Json& dollars) {
    const double value = dollars.get<double>();
    return value > 0 && value < 1 ? fmt::format("{:.4f}", value) : fmt::format("{:.2f}", value);
}

}  // namespace

Result<BookQuery> parse_cost_query(const std::multimap<std::string, std::string>& parameters) {
    BookQuery query{.by = {BookColumn::path}, .since = {}, .until = {}, .scope = {}, .limit = most_cost_rows + 1};
    const std::map<std::string_view, std::string*> names{{"service", &query.scope.service},
                                                         {"path", &query.scope.path},
                                                         {"provider", &query.scope.provider},
                                                         {"region", &query.scope.region}};
    for (const auto& [key, value] : parameters) {
        if (parameters.count(key) > 1) return Error{fmt::format("`{}` is given twice", key)};
        if (key == "by") {
            auto columns = parse_columns(value);
            if (!columns) return Error{columns.error()};
            query.by = std::move(*columns);
        } else if (key == "since" || key == "until") {
            const auto day = costs::day_from(value);
            if (!day) return Error{fmt::format("`{}` is \"{}\"; it takes a day such as 2026-11-30", key, value)};
            (key == "since" ? query.since : query.until) = *day;
        } else if (const auto name = names.find(key); name != names.end()) {
            *name->second = value;
        } else {
            return Error{fmt::format(
                "`{}` is not known here; there are by, since, until, service, path, provider and region", key)};
        }
    }
    if (query.since && query.until && *query.since > *query.until)
        return Error{fmt::format("`since` is {}, which is after `until`, {}", costs::text_of(*query.since),
                                 costs::text_of(*query.until))};
    return query;
}

Json costs_json(const BookQuery& query, const std::vector<costs::BookRow>& rows) {
    Json result = Json::array();
    for (const costs::BookRow& row : rows) {
        Json entry = {{"received_bytes", row.received},
                      {"sent_bytes", row.sent},
                      {"billed_bytes", row.billed},
                      {"dollars", row.dollars}};
        for (size_t i = 0; i < query.by.size(); ++i)
            entry[std::string(marchproxy::name_of(query.by[i]))] = row.by[i];
        result.push_back(std::move(entry));
    }
    return result;
}

Json budgets_json(const std::vector<costs::BudgetReading>& readings) {
    Json result = Json::array();
    for (const costs::BudgetReading& reading : readings) {
        const Budget& budget = reading.budget;
        result.push_back({{"name", budget.name},
                          {"service", text_or_null(budget.scope.service)},
                          {"path", text_or_null(budget.scope.path)},
                          {"provider", text_or_null(budget.scope.provider)},
                          {"region", text_or_null(budget.scope.region)},
                          {"dollars", budget.dollars},
                          {"spent", reading.spent},
                          {"state", reading.is_spent()    ? "spent"
                                    : reading.is_warned() ? "warned"
                                                          : "within"},
                          {"at_limit", name_of(budget.at_limit)},
                          {"period", name_of(budget.period)},
                          {"since", costs::text_of(reading.since)},
                          {"ends", costs::text_of(reading.ends)}});
    }
    return result;
}

std::string costs_report(const Json& rows) {
    if (rows.empty()) return "nothing has passed by a path in that time\n";
    std::vector<Table::Column> columns;
    std::vector<std::string> keys;
    for (const auto& [column, name] : Names<BookColumn>::table) {
        if (!rows.front().contains(name)) continue;
        std::string title(name);
        std::transform(title.begin(), title.end(), title.begin(), [](unsigned char c) { return std::toupper(c); });
        columns.push_back({title});
        keys.emplace_back(name);
    }
    for (const char* title : {"RECEIVED", "SENT", "BILLED", "DOLLARS"})
        columns.push_back({title, Align::right});
    Table table(columns);
    double dollars = 0;
    for (const Json& row : rows) {
        std::vector<std::string> cells;
        cells.reserve(keys.size() + 4);
        for (const std::string& key : keys)
            cells.push_back(or_dash(row.at(key).get<std::string>()));
        for (const char* bytes : {"received_bytes", "sent_bytes", "billed_bytes"})
            cells.push_back(human_bytes(row.at(bytes).get<double>()));
        cells.push_back(dollars_of(row.at("dollars")));
        dollars += row.at("dollars").get<double>();
        table.add(std::move(cells));
    }
    return table.text() + (rows.size() > 1 ? fmt::format("together {} dollars\n", dollars_of(dollars)) : std::string());
}

std::string budgets_report(const Json& budgets) {
    if (budgets.empty()) return "no budget is configured (multicloud.budgets), or multicloud is off\n";
    Table table({{"BUDGET"},
                 {"COVERS"},
                 {"PERIOD"},
                 {"DOLLARS", Align::right},
                 {"SPENT", Align::right},
                 {"", Align::right},
                 {"STATE"},
                 {"AT LIMIT"},
                 {"ENDS"}});
    for (const Json& budget : budgets) {
        std::string covers;
        for (const char* key : {"service", "path", "provider", "region"})
            if (!budget.at(key).is_null())
                covers += fmt::format("{}{} {}", covers.empty() ? "" : ", ", key, budget.at(key).get<std::string>());
        table.add({budget.at("name").get<std::string>(), covers.empty() ? "everything" : covers,
                   budget.at("period").get<std::string>(), dollars_of(budget.at("dollars")),
                   dollars_of(budget.at("spent")),
                   fmt::format("{:.0f}%", 100 * budget.at("spent").get<double>() / budget.at("dollars").get<double>()),
                   budget.at("state").get<std::string>(), budget.at("at_limit").get<std::string>(),
                   budget.at("ends").get<std::string>()});
    }
    return table.text();
}

}  // namespace marchproxy::admin
