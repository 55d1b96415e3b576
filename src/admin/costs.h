// The cost book and budgets in the API and in commands.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "costs/report.h"
#include "model/result.h"

namespace marchproxy::admin {

inline constexpr size_t most_cost_rows = 10'000;

// Of `by=path,day`, `since=2026-11-01`, `until=2026-11-30`, `service=`, `path=`, `provider=`, `region=`.
Result<costs::BookQuery> parse_cost_query(const std::multimap<std::string, std::string>& parameters);

nlohmann::json costs_json(const costs::BookQuery& query, const std::vector<costs::BookRow>& rows);
nlohmann::json budgets_json(const std::vector<costs::BudgetReading>& readings);

// For people. Throw nlohmann::json::exception where an answer is not of the expected shape.
std::string costs_report(const nlohmann::json& rows);
std::string budgets_report(const nlohmann::json& budgets);

}  // namespace marchproxy::admin
