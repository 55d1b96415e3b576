#include "admin/guard.h"

#include <string_view>

#include "model/address.h"

namespace marchproxy::admin {

namespace {

// The time taken tells nothing about where `given` differs, so that a token cannot be found out letter by letter.
bool equal_in_constant_time(std::string_view given, std::string_view expected) {
    unsigned difference = given.size() == expected.size() ? 0 : 1;
    for (size_t i = 0; i < given.size(); ++i)
        difference |= static_cast<unsigned char>(given[i]) ^ static_cast<unsigned char>(expected[i % expected.size()]);
    return difference == 0;
}

std::optional<Refusal> check_token(std::string_view authorization, std::string_view token) {
    constexpr std::string_view scheme = "Bearer ";
    if (!authorization.starts_with(scheme))
        return Refusal{401, "this needs the header `Authorization: Bearer TOKEN` with the token of admin.token"};
    if (!equal_in_constant_time(authorization.substr(scheme.size()), token))
        return Refusal{401, "the bearer token is not that of admin.token"};
    return std::nullopt;
}

// "127.0.0.1:8081" -> "127.0.0.1", "[::1]:8081" -> "::1", "localhost" -> "localhost"
std::string_view without_port(std::string_view host) {
    if (host.starts_with('[')) {
        const size_t end = host.find(']');
        return end == std::string_view::npos ? host : host.substr(1, end - 1);
    }
    return host.substr(0, host.find(':'));
}

bool names_this_machine(std::string_view host) {
    const std::string_view name = without_port(host);
    if (name == "localhost") return true;
    const auto address = IpAddress::parse(name);
    return address.ok() && address->is_loopback();
}

bool is_loopback(const std::string& address) {
    const auto parsed = IpAddress::parse(address);
    return parsed.ok() && parsed->is_loopback();
}

}  // namespace

std::optional<Refusal> refuse_change(const Caller& caller, const std::string& token) {
    if (!token.empty()) return check_token(caller.authorization, token);
    if (!is_loopback(caller.remote_address))
        return Refusal{
            403, "changes are taken from this machine only while no token is set; set admin.token to allow others"};
    if (!names_this_machine(caller.host))
        return Refusal{
            403, "the Host header does not name this machine; use 127.0.0.1, [::1] or localhost, or set admin.token"};
    if (!caller.origin.empty() && caller.origin != "http://" + caller.host)
        return Refusal{403, "the request comes from a page of another origin; set admin.token to allow such"};
    return std::nullopt;
}

}  // namespace marchproxy::admin
