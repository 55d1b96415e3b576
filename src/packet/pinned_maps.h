// The packet plane's maps in the BPF file system, so that flows outlive the process: `<packet.pin>/maps/<map>`, and
// beside them what they were made for. That is written last: maps without it are half made, and are made anew.
// Thread: the control thread.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "abi/packet.h"
#include "model/descriptor.h"
#include "model/result.h"

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
    bool operator==(const Capacity&) const = default;
};

// With what a program has to be loaded to go on with maps that are there.
struct MapsMade {
    Capacity capacity;
    abi::flow_table_settings table{};  // its key is secret

    std::string to_text() const;
    // Nothing: not readable, or of another revision of abi/packet.h.
    static std::optional<MapsMade> from_text(std::string_view text);
};

// One process at a time works with what is pinned in a directory; two would undo each other's. Held until it is let go
// or the process ends, however it does.
class PinLock {
  public:
    // Error: another process has it.
    static Result<PinLock> take(const std::string& directory);

  private:
    explicit PinLock(Descriptor directory) : directory_(std::move(directory)) {}
    Descriptor directory_;
};

class PinnedMaps {
  public:
    // `directory`: packet.pin, on a BPF file system (pins.h, ensure_on_bpffs).
    explicit PinnedMaps(std::string directory) : directory_(std::move(directory)) {}

    const std::string& directory() const { return directory_; }
    std::string path_of(std::string_view map) const;
    Result<void> make_directory() const;

    std::optional<MapsMade> read_made() const;
    Result<void> write_made(const MapsMade& made) const;

    // The book of indexes (indexes.h), which the maps are to be read with.
    std::optional<std::string> read_book() const;
    Result<void> write_book(std::string_view text) const;

    // Of everything. Programs that use the maps go on with them until they are replaced.
    void remove() const;
    bool any() const;

  private:
    std::string directory_;
};

}  // namespace marchproxy::packet
