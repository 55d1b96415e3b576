// What the admin API answers, made from the view's plain values. The contract's names; units: seconds, bytes.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "admin/view.h"

namespace marchproxy::admin {

std::string_view name_of(ProcessState state);

nlohmann::json status_json(const View& view);
nlohmann::json services_json(const Status& status, const Snapshot* snapshot);
nlohmann::json paths_json(const View& view, const Snapshot* snapshot);
nlohmann::json explanation_json(const Explanation& explanation);

// By service, direction (up: client to endpoint) and priority; empty where qos is off.
nlohmann::json qos_json(const Status& status);

// Open flows first, then finished ones, each sorted as asked; together at most `query.limit`.
nlohmann::json flows_json(const View& view, const flow::Query& query);

// One line a second for the dashboard: counters since the start, for the reader to take differences of.
nlohmann::json totals_json(const View& view);

nlohmann::json text_or_null(const std::string& text);  // null: it is empty

// Bytes that are no UTF-8 become U+FFFD.
std::string dump(const nlohmann::json& json);

}  // namespace marchproxy::admin
