// What changes in the kernel's network state: the packet plane caches next hops and attaches to interfaces, and both go
// stale when routes, neighbours, addresses or interfaces change. Thread: the control thread; nothing here blocks but
// NetworkWatch::open and resolve_neighbour (at most two seconds each, in practice microseconds).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "model/address.h"
#include "model/descriptor.h"
#include "model/result.h"
#include "netlink/netlink.h"
#include "packet/vlans.h"

namespace marchproxy::packet {

struct InterfaceChange {
    enum class Kind : uint8_t { appeared, vanished };
    Kind kind = Kind::appeared;
    unsigned index = 0;
    std::string name;
    bool operator==(const InterfaceChange&) const = default;
};

// What changed since the last look. A renamed interface vanished under one name and appeared under the other.
struct Changes {
    bool links = false;  // any attribute of any interface: up, down, MTU, hardware address
    bool addresses = false;
    bool routes = false;  // routes, routing rules, next-hop objects
    bool neighbours = false;
    bool settings = false;    // of an interface, such as forwarding
    bool everything = false;  // the kernel dropped messages: all of the above may have changed
    std::vector<InterfaceChange> interfaces;

    bool any() const { return links || addresses || routes || neighbours || settings || everything; }
};

// The interfaces known so far: the kernel reports a new interface and a changed one with the same message.
using InterfaceNames = std::map<unsigned, std::string>;

// Adds what one datagram of the routing socket says to `changes` and brings `names` up to date. Pure; takes any bytes.
void note_changes(netlink::Bytes datagram, InterfaceNames& names, Changes& changes);

class NetworkWatch {
  public:
    // Watches the network namespace of the calling thread.
    static Result<NetworkWatch> open();

    int descriptor() const { return socket_.get(); }  // readable: read() has something to say
    // Everything that waits, at most `datagrams_at_once` datagrams; what is left keeps the descriptor readable.
    Changes read();
    const InterfaceNames& interfaces() const { return names_; }
    const Vlans& vlans() const { return vlans_; }

  private:
    static constexpr int datagrams_at_once = 256;

    explicit NetworkWatch(Descriptor socket) : socket_(std::move(socket)) {}
    void list_again(Changes& changes);

    Descriptor socket_;
    InterfaceNames names_;
    Vlans vlans_;
};

struct NextHop {
    unsigned interface_index = 0;
    IpAddress address;                  // of the gateway, or the destination itself on a connected network
    bool local = false;                 // an address of this host: there is no neighbour to resolve
    std::optional<IpAddress> source{};  // from which this host would speak
};

// The next hop that the kernel's routing tables give for a destination. Error: there is no route.
Result<NextHop> find_next_hop(const IpAddress& destination);

// Makes the kernel find the hardware address of the next hop by itself (ARP, neighbour discovery), as if a packet had
// to be sent there but without one; NetworkWatch reports when the neighbour is known. Needs CAP_NET_ADMIN. Returns the
// next hop asked for.
Result<NextHop> resolve_neighbour(const IpAddress& destination);

// Tells the kernel of a neighbour that has shown itself, as its own ARP and neighbour discovery do: one that is known
// already stays as it is.
void learn_neighbour(unsigned interface_index, const IpAddress& address, std::span<const uint8_t, 6> hardware_address);

}  // namespace marchproxy::packet
