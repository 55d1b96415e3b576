// The API's answers as text for people. Throw nlohmann::json::exception where an answer is not of the expected shape.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace marchproxy::admin {

std::string status_report(const nlohmann::json& status);
std::string services_report(const nlohmann::json& services);
std::string endpoints_report(const nlohmann::json& service);  // of one service
std::string paths_report(const nlohmann::json& paths);
std::string explanation_report(const nlohmann::json& explanation);
std::string qos_report(const nlohmann::json& qos);
std::string flows_report(const nlohmann::json& flows);

// Two answers of /api/v1/services, so many seconds apart, as rates; the busiest services first.
nlohmann::json rates(const nlohmann::json& before, const nlohmann::json& after, double seconds);
std::string rates_report(const nlohmann::json& rates, size_t most_rows);

}  // namespace marchproxy::admin
