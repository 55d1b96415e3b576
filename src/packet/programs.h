// The packet plane's programs and maps in the kernel: loading them, and writing what a configuration sets.
//
// One object, used by the control thread only. Everything it writes is seen by packets at once; the order of writing
// that keeps every packet right is the caller's (endpoints and rings before the services that name them, those before
// the directory).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "abi/packet.h"
#include "model/address.h"
#include "model/result.h"

struct packet_bpf;
struct ring_buffer;

namespace marchproxy::packet {

// What the maps are made for. It cannot grow while they live.
struct Capacity {
    uint64_t flows = 10'000'000;
    uint32_t services = 1024;     // indexes below this
    uint32_t endpoints = 16'384;  // indexes below this
    uint32_t ring_slots = 1 << 22;
    uint32_t report_bytes = 1 << 22;  // of flows that ended and were not taken yet; a power of 2
    bool ipv6_clients = true;
    uint16_t nat_port_first = 1024;  // the ports taken at our source addresses
    uint16_t nat_ports = 64'512;
};

class Programs {
  public:
    // Loads and verifies; attaches nothing. Fails with the kernel's reason.
    static Result<Programs> load(const Capacity& capacity);
    Programs(Programs&&) noexcept;
    Programs& operator=(Programs&&) noexcept;
    ~Programs();

    Result<void> set_service(uint32_t index, const abi::packet_service& service);
    Result<void> set_endpoint(uint32_t index, const abi::packet_endpoint& endpoint);
    Result<void> set_source(uint32_t index, const abi::address& address);
    Result<void> set_ring(uint32_t first, std::span<const uint32_t> endpoints);
    Result<void> set_access(uint32_t service, const Prefix& prefix, bool allowed);  // the longest prefix decides
    Result<void> remove_access(uint32_t service, const Prefix& prefix);
    Result<void> set_directory(const abi::directory& directory);

    // Makes every CPU ask for its next hops anew.
    void routes_changed();

    int xdp() const;  // descriptors, owned by this
    int tc() const;
    int map(const char* name) const;  // as the program names it; negative: no such map

    // Sums over CPUs.
    Result<abi::packet_counters> service_counters(uint32_t index) const;  // 0: packets of no service
    Result<abi::endpoint_counters> endpoint_counters(uint32_t index) const;

    // Ends the flows whose time is over in cells [first, first + cells) of the clients' table, counts the others, and
    // lists those of a service. What ended or is listed waits in the reports.
    Result<abi::sweep> sweep(uint32_t first, uint32_t cells, uint32_t list_service = 0, uint32_t list_limit = 0);
    // Hands over each waiting report. Returns how many there were.
    Result<size_t> take_reports(const std::function<void(const abi::flow_report&)>& take);
    // Flows of a service that the sweep has met since this was last asked.
    Result<uint64_t> take_live(uint32_t service);

    uint64_t flow_cells() const { return flow_cells_; }  // of each direction

  private:
    struct Destroy {
        void operator()(packet_bpf* skeleton) const;
    };
    struct Free {
        void operator()(ring_buffer* ring) const;
    };
    explicit Programs(std::unique_ptr<packet_bpf, Destroy> skeleton) : skeleton_(std::move(skeleton)) {}

    std::unique_ptr<packet_bpf, Destroy> skeleton_;
    std::unique_ptr<ring_buffer, Free> reports_;
    std::unique_ptr<std::function<void(const abi::flow_report&)>> taker_;  // where the ring buffer finds it
    uint64_t flow_cells_ = 0;
};

}  // namespace marchproxy::packet
