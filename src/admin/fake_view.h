// A view for tests: whatever they put into it.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "admin/view.h"

namespace marchproxy::admin {

struct FakeView final : View {
    FakeView() : store(flow::StoreOptions{}) {
        process_status.state = ProcessState::ready;
        process_status.version = "1.2.3";
        process_status.commit = "abcdef";
        process_status.uptime = std::chrono::seconds(90);
        publish(Snapshot());
    }

    ProcessStatus process() const override { return locked(process_status); }
    SnapshotPointer snapshot() const override { return locked(published); }
    Status status() const override { return locked(plane); }
    std::vector<flow::Record> active_flows(const flow::Query& query) const override {
        std::vector<flow::Record> result;
        for (const flow::Record& record : locked(active))
            if (query.service.empty() || record.origin->service == query.service) result.push_back(record);
        return result;
    }
    const flow::Store& flows() const override { return store; }
    Result<void> reload() override {
        ++reloads;
        return locked(reload_error).empty() ? Result<void>() : Result<void>(Error{locked(reload_error)});
    }
    bool drain(Drainable what, const std::string& name, bool draining) override {
        if (name == "10.9.9.9:80" || name == "nowhere") return false;
        last_drained = std::string(marchproxy::name_of(what)) + ' ' + name + (draining ? " drains" : " is back");
        return true;
    }
    std::vector<PathReading> path_readings() const override { return locked(readings); }
    Result<Explanation> explain(const std::string& service, const IpAddress& client) const override {
        if (service != explanation.service) return Error{"there is no service " + service};
        last_asked = to_string(client);
        return explanation;
    }

    Result<std::vector<costs::BookRow>> costs(const costs::BookQuery& query) override {
        last_query = query;
        return locked(cost_rows);
    }
    std::vector<costs::BudgetReading> budgets() const override { return locked(budget_readings); }

    void publish(const Snapshot& next) {
        auto numbered = std::make_shared<Snapshot>(next);
        std::lock_guard lock(mutex);
        numbered->version = ++version;
        numbered->path_table = PathTable(numbered->paths);
        published = numbered;
    }

    // A service with one endpoint that is up, in the plane's status and in the snapshot.
    telemetry::ServiceStatus& add_service(const std::string& name, const std::string& path = "aws-us-east-1") {
        Snapshot next = *published;
        next.services.push_back({.name = name});
        if (next.find_path(path) == nullptr)
            next.paths.push_back({.name = path, .provider = "aws", .region = "us-east-1"});
        publish(next);
        telemetry::ServiceStatus service;
        service.name = name;
        service.listen = SocketAddress{IpAddress::any_v4(), 8080};
        service.plane_reason = "it accepts the PROXY protocol";
        service.listening = true;
        service.endpoints.push_back(
            {.address = "10.1.0.10:80", .resolved = "10.1.0.10:80", .path = path, .weight = 100});
        service.paths.push_back({.path = path});
        plane.services.push_back(service);
        return plane.services.back();
    }

    template <class T>
    T locked(const T& value) const {
        std::lock_guard lock(mutex);
        return value;
    }

    mutable std::mutex mutex;
    ProcessStatus process_status;
    SnapshotPointer published;
    Status plane;
    std::vector<flow::Record> active;
    flow::Store store;
    std::string reload_error;
    std::atomic<int> reloads = 0;
    std::string last_drained;
    std::vector<PathReading> readings;
    Explanation explanation;
    mutable std::string last_asked;
    std::vector<costs::BookRow> cost_rows;
    costs::BookQuery last_query;
    std::vector<costs::BudgetReading> budget_readings;
    uint64_t version = 0;
};

inline flow::Record flow_record(const std::string& service, uint64_t bytes, flow::State state) {
    auto origin = std::make_shared<flow::Origin>();
    origin->service = service;
    origin->endpoint = "10.1.0.10:80";
    flow::Record record;
    record.origin = origin;
    record.client = SocketAddress{IpAddress::v4(0x7f000001), 40000};
    record.endpoint = SocketAddress{IpAddress::v4(0x0a01000a), 80};
    record.received_bytes = bytes;
    record.start = WallTime{std::chrono::seconds(1'000'000 + bytes)};
    record.state = state;
    return record;
}

}  // namespace marchproxy::admin
