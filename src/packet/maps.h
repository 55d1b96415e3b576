// The maps of loaded programs, as reconcile.h writes them. Thread: as Programs.
#pragma once

#include "packet/directory.h"
#include "packet/programs.h"
#include "packet/reconcile.h"

namespace marchproxy::packet {

class Maps final : public MapTarget {
  public:
    explicit Maps(Programs& programs) : programs_(programs) {}

    Result<void> set_source(uint32_t index, const abi::address& address) override {
        return programs_.set_source(index, address);
    }
    Result<void> set_endpoint(uint32_t index, const abi::packet_endpoint& endpoint) override {
        return programs_.set_endpoint(index, endpoint);
    }
    Result<void> set_ring(uint32_t first, std::span<const uint32_t> endpoints) override {
        return programs_.set_ring(first, endpoints);
    }
    Result<void> set_access(const AccessTrees& trees) override { return programs_.set_access(trees); }
    Result<void> set_limits(uint32_t service, const abi::packet_limits& limits) override {
        return programs_.set_limits(service, limits);
    }
    Result<void> set_qos(uint32_t service, const abi::packet_qos& qos) override {
        return programs_.set_qos(service, qos);
    }
    Result<void> set_service(uint32_t index, const abi::packet_service& service) override {
        return programs_.set_service(index, service);
    }
    Result<void> set_directory(std::span<const abi::directory_entry> entries) override {
        const auto table = build_directory(entries);
        return table.ok() ? programs_.set_directory(**table) : Result<void>(Error{table.error()});
    }

  private:
    Programs& programs_;
};

}  // namespace marchproxy::packet
