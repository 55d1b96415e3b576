#include "admin/server.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "admin/costs.h"
#include "admin/dashboard.h"
#include "admin/events.h"
#include "admin/guard.h"
#include "admin/health.h"
#include "admin/http_server.h"
#include "admin/json.h"
#include "admin/metrics.h"
#include "config/print.h"
#include "telemetry/exposition.h"

namespace marchproxy::admin {

namespace {

using httplib::Request;
using httplib::Response;
using Json = nlohmann::json;

constexpr const char* json_type = "application/json";
// What can be drained, and where.
struct DrainPlace {
    std::string_view prefix;
    Drainable what;
    std::string_view listed_at;
};
constexpr std::array drain_places{
    DrainPlace{"/api/v1/endpoints/", Drainable::endpoint, "/api/v1/services"},
    DrainPlace{"/api/v1/paths/", Drainable::path, "/api/v1/paths"},
    DrainPlace{"/api/v1/providers/", Drainable::provider, "/api/v1/paths"},
    DrainPlace{"/api/v1/regions/", Drainable::region, "/api/v1/paths"},
};
constexpr size_t most_flows = 10'000;
constexpr size_t most_reasons = 20;  // listed by /readyz

void answer(Response& response, int status, const Json& body) {
    response.status = status;
    response.set_content(dump(body) + '\n', json_type);
}

void refuse(Response& response, int status, const std::string& message) {
    answer(response, status, {{"error", message}});
}

// For everything but the dashboard, which says itself what it needs.
void add_security_headers(Response& response) {
    response.set_header("X-Content-Type-Options", "nosniff");
    response.set_header("Referrer-Policy", "no-referrer");
    response.set_header("Cache-Control", "no-store");
    if (!response.has_header("Content-Security-Policy"))
        response.set_header("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'");
}

std::string make_nonce() {
    std::array<unsigned char, 16> bytes{};
    if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
        throw std::runtime_error("no random bytes for the dashboard's content security policy");
    std::string nonce;
    for (unsigned char byte : bytes)
        nonce += fmt::format("{:02x}", byte);
    return nonce;
}

std::string replace_all(std::string text, std::string_view what, std::string_view with) {
    for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size()))
        text.replace(at, what.size(), with);
    return text;
}

Result<flow::Query> parse_flow_query(const httplib::Params& parameters) {
    flow::Query query;
    std::set<std::string> seen;
    for (const auto& [name, value] : parameters) {
        if (!seen.insert(name).second) return Error{fmt::format("`{}` is given twice", name)};
        if (name == "service") {
            query.service = value;
        } else if (name == "limit") {
            const char* end = value.data() + value.size();
            const auto [parsed, error] = std::from_chars(value.data(), end, query.limit);
            if (error != std::errc() || parsed != end || query.limit < 1 || query.limit > most_flows)
                return Error{fmt::format("`limit` is \"{}\"; it takes a number from 1 to {}", value, most_flows)};
        } else if (name == "sort") {
            const auto sort = flow::sort_from_name(value);
            if (!sort) return Error{fmt::format("`sort` is \"{}\"; it takes start, duration or bytes", value)};
            query.sort = *sort;
        } else {
            return Error{fmt::format("`{}` is not known here; there are service, limit and sort", name)};
        }
    }
    return query;
}

struct Explained {
    std::string service;
    IpAddress source;
};

Result<Explained> parse_explained(const httplib::Params& parameters) {
    Explained asked;
    for (const auto& [name, value] : parameters) {
        if (name == "service") {
            asked.service = value;
        } else if (name == "source") {
            const Result<IpAddress> source = IpAddress::parse(value);
            if (!source) return Error{fmt::format("`source` is \"{}\"; it takes a client's IP address", value)};
            asked.source = *source;
        } else {
            return Error{fmt::format("`{}` is not known here; there are service and source", name)};
        }
    }
    if (parameters.count("service") != 1 || parameters.count("source") != 1)
        return Error{"say `service` and `source`, each once: for which service, and from which client's address"};
    return asked;
}

struct DrainChange {
    const DrainPlace* place;
    std::string name;
    bool draining = false;
};

// "/api/v1/endpoints/10.0.0.1:80/drain"
std::optional<DrainChange> parse_drain(std::string_view path) {
    const auto* place = std::find_if(drain_places.begin(), drain_places.end(),
                                     [&](const DrainPlace& one) { return path.starts_with(one.prefix); });
    if (place == drain_places.end()) return std::nullopt;
    path.remove_prefix(place->prefix.size());
    const size_t slash = path.rfind('/');
    if (slash == std::string_view::npos || slash == 0) return std::nullopt;
    const std::string_view verb = path.substr(slash + 1);
    if (verb != "drain" && verb != "undrain") return std::nullopt;
    return DrainChange{place, std::string(path.substr(0, slash)), verb == "drain"};
}

}  // namespace

struct Server::Implementation {
    Implementation(View& view_, telemetry::Log& log_)
        : view(view_),
          log(log_),
          events(most_subscribers, std::chrono::seconds(1), [this] { return dump(totals_json(view)); }),
          http(
              request_threads + most_subscribers, HttpLimits{}, "/api/v1/events",
              [this](const Request& request, Response& response) {
                  route(request, response);
                  add_security_headers(response);
              },
              log) {}

    void route(const Request& request, Response& response);

    void get_dashboard(const Request& request, Response& response);
    void get_health(const Request& request, Response& response);
    void get_readiness(const Request& request, Response& response);
    void get_metrics(const Request& request, Response& response);
    void get_status(const Request& request, Response& response);
    void get_services(const Request& request, Response& response);
    void get_paths(const Request& request, Response& response);
    void get_explanation(const Request& request, Response& response);
    void get_costs(const Request& request, Response& response);
    void get_budgets(const Request& request, Response& response);
    void get_qos(const Request& request, Response& response);
    void get_flows(const Request& request, Response& response);
    void get_config(const Request& request, Response& response);
    void get_events(const Request& request, Response& response);
    void post_reload(const Request& request, Response& response);
    void post_drain(const DrainChange& change, Response& response);

    bool allowed(const Request& request, Response& response);

    View& view;
    telemetry::Log& log;
    Events events;
    HttpServer http;
};

void Server::Implementation::route(const Request& request, Response& response) {
    struct Page {
        std::string_view path;
        void (Implementation::*get)(const Request&, Response&);
    };
    static constexpr Page pages[] = {
        {"/", &Implementation::get_dashboard},           {"/healthz", &Implementation::get_health},
        {"/readyz", &Implementation::get_readiness},     {"/metrics", &Implementation::get_metrics},
        {"/status", &Implementation::get_status},        {"/api/v1/services", &Implementation::get_services},
        {"/api/v1/paths", &Implementation::get_paths},   {"/api/v1/flows", &Implementation::get_flows},
        {"/api/v1/config", &Implementation::get_config}, {"/api/v1/events", &Implementation::get_events},
        {"/api/v1/qos", &Implementation::get_qos},       {"/api/v1/paths/explain", &Implementation::get_explanation},
        {"/api/v1/costs", &Implementation::get_costs},   {"/api/v1/budgets", &Implementation::get_budgets},
    };
    const auto page = std::find_if(std::begin(pages), std::end(pages),
                                   [&](const Page& candidate) { return candidate.path == request.path; });
    const auto change = parse_drain(request.path);
    const bool changes = change || request.path == "/api/v1/reload";
    if (page == std::end(pages) && !changes)
        return refuse(response, 404, fmt::format("there is nothing at {}", request.path));

    const bool reads = request.method == "GET" || request.method == "HEAD";
    if (changes ? request.method != "POST" : !reads) {
        response.set_header("Allow", changes ? "POST" : "GET, HEAD");
        return refuse(response, 405, fmt::format("{} takes {} only", request.path, changes ? "POST" : "GET"));
    }
    if (!changes) return (this->*page->get)(request, response);
    if (!allowed(request, response)) return;
    if (change)
        post_drain(*change, response);
    else
        post_reload(request, response);
}

void Server::Implementation::get_dashboard(const Request&, Response& response) {
    const std::string nonce = make_nonce();
    response.set_header("Content-Security-Policy",
                        fmt::format("default-src 'none'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; "
                                    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                                    "frame-ancestors 'none'",
                                    nonce));
    response.set_content(replace_all(std::string(dashboard_page()), "NONCE", nonce), "text/html; charset=utf-8");
}

void Server::Implementation::get_health(const Request&, Response& response) {
    answer(response, 200, {{"status", "alive"}});
}

void Server::Implementation::get_readiness(const Request&, Response& response) {
    const ProcessStatus process = view.process();
    const SnapshotPointer snapshot = view.snapshot();
    std::vector<std::string> reasons = not_ready_because(process, view.status(), snapshot.get());
    const bool ready = reasons.empty();
    const size_t count = reasons.size();
    if (count > most_reasons) {
        reasons.resize(most_reasons);
        reasons.push_back(fmt::format("and {} more", count - most_reasons));
    }
    answer(response, ready ? 200 : 503,
           {{"status", ready ? "ready" : "not ready"}, {"state", name_of(process.state)}, {"reasons", reasons}});
}

void Server::Implementation::get_metrics(const Request& request, Response& response) {
    const SnapshotPointer snapshot = view.snapshot();
    if (snapshot && !snapshot->settings.telemetry.metrics)
        return refuse(response, 404, "metrics are off; set telemetry.metrics.enabled to true to have them");
    telemetry::MetricSet set;
    fill(set, view);
    const auto format = telemetry::negotiate_exposition(request.get_header_value("Accept"));
    response.set_content(telemetry::expose(set.take_families(), format), std::string(telemetry::content_type(format)));
}

void Server::Implementation::get_status(const Request&, Response& response) {
    answer(response, 200, status_json(view));
}

void Server::Implementation::get_services(const Request&, Response& response) {
    const SnapshotPointer snapshot = view.snapshot();
    answer(response, 200, services_json(view.status(), snapshot.get()));
}

void Server::Implementation::get_paths(const Request&, Response& response) {
    const SnapshotPointer snapshot = view.snapshot();
    answer(response, 200, paths_json(view, snapshot.get()));
}

void Server::Implementation::get_explanation(const Request& request, Response& response) {
    const Result<Explained> asked = parse_explained(request.params);
    if (!asked) return refuse(response, 400, asked.error());
    const Result<Explanation> explanation = view.explain(asked->service, asked->source);
    if (!explanation) return refuse(response, 404, explanation.error() + "; /api/v1/services lists them");
    answer(response, 200, explanation_json(*explanation));
}

void Server::Implementation::get_costs(const Request& request, Response& response) {
    const Result<costs::BookQuery> query = parse_cost_query(request.params);
    if (!query) return refuse(response, 400, query.error());
    const auto rows = view.costs(*query);
    if (!rows) return refuse(response, 503, rows.error());
    if (rows->size() > most_cost_rows)
        return refuse(response, 400,
                      fmt::format("that is more than {} rows; ask for fewer days, or by less", most_cost_rows));
    answer(response, 200, costs_json(*query, *rows));
}

void Server::Implementation::get_budgets(const Request&, Response& response) {
    answer(response, 200, budgets_json(view.budgets()));
}

void Server::Implementation::get_qos(const Request&, Response& response) {
    answer(response, 200, qos_json(view.status()));
}

void Server::Implementation::get_flows(const Request& request, Response& response) {
    const Result<flow::Query> query = parse_flow_query(request.params);
    if (!query) return refuse(response, 400, query.error());
    answer(response, 200, flows_json(view, *query));
}

void Server::Implementation::get_config(const Request&, Response& response) {
    const SnapshotPointer snapshot = view.snapshot();
    if (!snapshot) return refuse(response, 503, "the proxy is starting: there is no configuration yet");
    answer(response, 200, config::to_json(*snapshot));
}

void Server::Implementation::get_events(const Request&, Response& response) {
    const auto subscription = events.subscribe();
    if (!subscription)
        return refuse(response, 503, fmt::format("all {} event streams are taken; close one", most_subscribers));
    response.status = 200;
    response.set_content_provider("text/event-stream", [subscription](size_t, httplib::DataSink& sink) {
        const std::optional<std::string> event = subscription->next();
        return event && sink.is_writable() && sink.write(event->data(), event->size());
    });
}

// The token is read at each request: a reload may have changed it.
bool Server::Implementation::allowed(const Request& request, Response& response) {
    const SnapshotPointer snapshot = view.snapshot();
    const Caller caller{request.remote_addr, request.get_header_value("Authorization"),
                        request.get_header_value("Host"), request.get_header_value("Origin")};
    const auto refusal = refuse_change(caller, snapshot ? snapshot->settings.admin.token : std::string());
    if (!refusal) return true;
    if (refusal->status == 401) response.set_header("WWW-Authenticate", "Bearer");
    log.limited(LogLevel::warn, "admin refused " + request.remote_addr, "a change by the admin API was refused",
                {{"client", request.remote_addr}, {"path", request.path}, {"reason", refusal->message}});
    refuse(response, refusal->status, refusal->message);
    return false;
}

void Server::Implementation::post_reload(const Request&, Response& response) {
    const Result<void> result = view.reload();
    if (!result) return refuse(response, 422, result.error());
    const SnapshotPointer snapshot = view.snapshot();
    answer(response, 200, {{"reloaded", true}, {"config_version", snapshot ? Json(snapshot->version) : Json()}});
}

void Server::Implementation::post_drain(const DrainChange& change, Response& response) {
    const auto& [prefix, what, listed_at] = *change.place;
    const std::string_view word = marchproxy::name_of(what);
    if (!view.drain(what, change.name, change.draining))
        return refuse(response, 404, fmt::format("there is no {} {}; {} lists them", word, change.name, listed_at));
    log.info(change.draining ? "drains" : "takes connections again", {{"what", word}, {"name", change.name}});
    const std::string_view key = what == Drainable::endpoint ? "address" : word;
    answer(response, 200, {{key, change.name}, {"draining", change.draining}});
}

Server::Server(View& view, telemetry::Log& log) : implementation_(std::make_unique<Implementation>(view, log)) {}

Server::~Server() {
    stop();
}

Result<void> Server::start(const IpAddress& address, uint16_t port) {
    return implementation_->http.start(SocketAddress{address, port});
}

uint16_t Server::port() const {
    return implementation_->http.port();
}

void Server::stop() {
    implementation_->events.stop();
    implementation_->http.stop();
}

}  // namespace marchproxy::admin
