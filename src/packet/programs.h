// The packet plane's programs and maps in the kernel: loading them, and writing what a configuration sets.
//
// One object, used by the control thread only. Everything it writes is seen by packets at once; the order of writing
// that keeps every packet right is the caller's (endpoints and rings before the services that name them, those before
// the directory).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>

#include "abi/packet.h"
#include "model/address.h"
#include "model/result.h"
#include "packet/access_tree.h"
#include "packet/pinned_maps.h"
#include "packet/queue_sockets.h"
#include "packet/record_ring.h"

struct packet_bpf;
struct bpf_object;

namespace marchproxy::packet {

class Programs {
  public:
    // Loads and verifies; attaches nothing. Fails with the kernel's reason. With `pins` the maps are pinned, and those
    // that are there already are gone on with: made for what they were made for, whatever is asked for now.
    static Result<Programs> load(const Capacity& capacity, const PinnedMaps* pins = nullptr);
    Programs(Programs&&) noexcept;
    Programs& operator=(Programs&&) noexcept;
    ~Programs();

    Result<void> set_service(uint32_t index, const abi::packet_service& service);
    // Where connections_per_source begins to hold, counting begins anew, with the flows that begin from now on.
    Result<void> set_limits(uint32_t service, const abi::packet_limits& limits);
    // A rate that changes begins with neither burst nor debt.
    Result<void> set_qos(uint32_t service, const abi::packet_qos& qos);
    Result<void> set_endpoint(uint32_t index, const abi::packet_endpoint& endpoint);
    Result<void> set_source(uint32_t index, const abi::address& address);
    Result<void> set_ring(uint32_t first, std::span<const uint32_t> endpoints);
    // All services' lists, in place of those before. Returns when no packet is under way that saw those.
    Result<void> set_access(const AccessTrees& trees);
    Result<void> set_directory(const abi::directory& directory);
    // By which the packet plane answers for the services' addresses on an interface; without, the stack is asked.
    Result<void> set_interface(uint32_t index, const std::array<uint8_t, 6>& mac);

    // The VLAN devices that there are by now, by index.
    Result<void> set_vlans(const std::map<unsigned, abi::packet_vlan>& vlans);

    // The sockets of the queues by which packets come that wait for their turn.
    Result<void> set_queues(const std::vector<QueueSockets::Place>& places);

    // For interfaces whose driver needs it; see bpf/lib/hook.h.
    void bounce_by_redirect();

    // Makes every CPU ask for its next hops anew.
    void routes_changed();

    int xdp() const;  // descriptors, owned by this
    int tc() const;
    int map(const char* name) const;  // as the program names it; negative: no such map

    // Sums over CPUs. What is counted as begun and not as ended lives.
    Result<abi::packet_counters> service_counters(uint32_t index) const;  // 0: packets of no service
    Result<abi::endpoint_counters> endpoint_counters(uint32_t index) const;
    Result<abi::qos_counters> qos_counters(uint32_t service) const;
    // Nothing is known of the index any more: counters, and of a service what its limits are measured by. No flow may
    // carry it, and no packet find it.
    Result<void> clear_service(uint32_t index);
    Result<void> clear_endpoint(uint32_t index);

    // Ends the flows whose time is over in buckets [first, first + buckets) of the clients' table, counts the others,
    // and lists those of a service. At most sweep_buckets at once. What ended or is listed waits in the reports.
    Result<abi::sweep> sweep(uint32_t first, uint32_t buckets, uint32_t list_service = 0, uint32_t list_limit = 0);
    // Hands over each waiting report. Returns how many there were.
    Result<size_t> take_reports(const std::function<void(const abi::flow_report&)>& take);
    // Neighbours to be resolved, and such as have asked for a service's address.
    Result<size_t> take_neighbours(const std::function<void(const abi::neighbour_report&)>& take);
    int neighbours_descriptor() const { return neighbours_.descriptor(); }  // readable while some wait

    // Lets services have IPv6 clients, where load() was told that there are none.
    Result<void> make_room_for_ipv6_clients(const PinnedMaps& pins);

    // Kernel memory that a table for so many flows takes.
    static uint64_t flow_table_bytes(uint64_t flows, bool ipv6_clients);

    // For libxdp's dispatcher, see Attachable.
    bpf_object* open_again() const;

    const Capacity& capacity() const { return made_.capacity; }
    bool took_over() const { return took_over_; }  // the maps of an earlier process
    uint32_t flow_buckets() const;                 // of each direction
    uint64_t flow_cells() const { return uint64_t{flow_buckets()} * abi::flow_cells; }
    uint32_t flow_alignment() const { return made_.table.alignment; }
    uint64_t table_bytes() const;  // of kernel memory for flows

  private:
    struct Destroy {
        void operator()(packet_bpf* skeleton) const;
    };
    Result<void> prepare_pins(const PinnedMaps& pins);
    Result<void> fill(const PinnedMaps* pins);
    void forget_sources(uint32_t service);
    Result<void> open_rings();

    explicit Programs(std::unique_ptr<packet_bpf, Destroy> skeleton) : skeleton_(std::move(skeleton)) {}

    std::unique_ptr<packet_bpf, Destroy> skeleton_;
    RecordRing reports_, neighbours_;
    MapsMade made_;
    bool took_over_ = false;
};

}  // namespace marchproxy::packet
