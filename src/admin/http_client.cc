#include "admin/http_client.h"

#include <fmt/format.h>
#include <httplib.h>
#include <netinet/in.h>

#include <nlohmann/json.hpp>

#include "admin/table.h"

namespace marchproxy::admin {

namespace {

constexpr std::string_view scheme = "http://";
constexpr uint16_t http_port = 80;
constexpr int connect_seconds = 3, answer_seconds = 30;

// The API's own words where it gave some: {"error": "..."}
std::string reason_in(const std::string& body) {
    const auto json = nlohmann::json::parse(body, nullptr, false);
    return json.is_object() && json.contains("error") && json["error"].is_string() ? json["error"].get<std::string>()
                                                                                   : std::string();
}

Result<HostPort> parse_authority(const std::string& text) {
    const bool has_port =
        text.find(':', text.starts_with('[') ? std::min(text.find(']'), text.size()) : 0) != std::string::npos;
    return HostPort::parse(has_port ? text : fmt::format("{}:{}", text, http_port));
}

}  // namespace

std::string reachable(IpAddress address, uint16_t port) {
    if (address == IpAddress::any_v4()) address = IpAddress::v4(INADDR_LOOPBACK);
    if (address.is_unspecified()) address = IpAddress::parse("::1").value();
    return to_string(SocketAddress{address, port});
}

Result<HttpClient> HttpClient::to(const std::string& url) {
    if (!url.starts_with(scheme))
        return Error{fmt::format("--admin takes a URL such as http://127.0.0.1:8081, not \"{}\"", printable(url))};
    const std::string rest = url.substr(scheme.size());
    const size_t slash = std::min(rest.find('/'), rest.size());
    const Result<HostPort> authority = parse_authority(rest.substr(0, slash));
    if (!authority) return Error{fmt::format("--admin \"{}\": {}", printable(url), authority.error())};
    std::string prefix = rest.substr(slash);
    while (prefix.ends_with('/'))
        prefix.pop_back();
    return HttpClient(url, authority->host, authority->port, prefix);
}

HttpClient::HttpClient(std::string url, const std::string& host, uint16_t port, std::string prefix)
    : url_(std::move(url)), prefix_(std::move(prefix)), client_(std::make_unique<httplib::Client>(host, port)) {
    client_->set_connection_timeout(connect_seconds);
    client_->set_read_timeout(answer_seconds);
}

HttpClient::HttpClient(HttpClient&&) noexcept = default;
HttpClient::~HttpClient() = default;

Result<std::string> HttpClient::get(const std::string& path) {
    const httplib::Result result = client_->Get(prefix_ + path);
    if (!result)
        return Error{
            fmt::format("the proxy's admin API at {} cannot be reached ({}); is the proxy running? --admin URL names "
                        "another",
                        url_, httplib::to_string(result.error()))};
    if (result->status == 200) return result->body;
    const std::string reason = reason_in(result->body);
    return Error{fmt::format("{}{} answered with HTTP status {}{}{}", url_, path, result->status,
                             reason.empty() ? "" : ": ", reason)};
}

}  // namespace marchproxy::admin
