// Batches of datagrams between sockets: recvmmsg in, sendmmsg out, runs of equal datagrams as one segmented send.
// Knows sockets and bytes, nothing of services or sessions.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "model/address.h"

namespace marchproxy::stream {

// One received buffer: a datagram, or a run of them that the kernel joined (GRO).
struct Datagram {
    std::byte* bytes = nullptr;
    uint32_t size = 0;
    uint32_t segment = 0;  // size of each datagram in it, the last may be shorter; equals `size` for a single one
    SocketAddress from;
    IpAddress to;   // our address that was asked, where the socket reports it
    int next = -1;  // the next one of the same session, by index in the batch
    uint32_t count() const { return size == 0 ? 1 : (size + segment - 1) / segment; }
};

// Datagrams of one session in a batch, in order.
struct Chain {
    int first = -1, last = -1;
    bool empty() const { return first < 0; }
};

// What a socket's way out has refused so far.
struct RunLimits {
    uint32_t largest_segment = 65535;  // of a run: beyond, single sends; learnt from EMSGSIZE and EINVAL
};

// Where a run leaves: a connected socket, or one address by way of an unconnected one.
struct Way {
    int descriptor;
    const SocketAddress* to = nullptr;  // null: connected
    const IpAddress* source = nullptr;  // null: the kernel chooses
};

struct SendResult {
    uint64_t datagrams = 0, bytes = 0;  // sent
    uint64_t unsent = 0;                // given up
    int error = 0;                      // why: the last errno
};

class DatagramBatch {
  public:
    static constexpr int capacity = 32;
    static constexpr size_t buffer_size = 65536;

    DatagramBatch();
    ~DatagramBatch();
    DatagramBatch(const DatagramBatch&) = delete;
    DatagramBatch& operator=(const DatagramBatch&) = delete;

    // Reads what is there, at most `capacity` buffers. Returns how many, 0 for none, or -errno.
    int receive(int descriptor);

    Datagram& operator[](int index) { return datagrams_[static_cast<size_t>(index)]; }
    void append(Chain& chain, int index);

    // Sends a chain in order, as few calls as can be.
    SendResult send(const Chain& chain, const Way& way, RunLimits& limits);

    static void enable_runs(int descriptor);                     // UDP_GRO where the kernel has it
    static void report_destination(int descriptor, bool is_v4);  // for sockets bound to all addresses

  private:
    struct Control {
        alignas(cmsghdr) std::array<std::byte, 128> bytes;
    };
    // One message to send: `pieces` consecutive buffers, sent as segments of `segment` bytes if there is more than one.
    struct Run {
        size_t first_piece = 0, pieces = 0;
        uint32_t segment = 0, size = 0, datagrams = 0;
    };

    void plan(const Chain& chain, const RunLimits& limits);
    void add_piece(std::byte* bytes, uint32_t size, uint32_t segment, const RunLimits& limits);
    void prepare(size_t index, const Run& run, const Way& way, sockaddr_storage& to, socklen_t to_size);
    SendResult send_singly(const Run& run, const Way& way, sockaddr_storage& to, socklen_t to_size);

    std::byte* memory_;
    std::array<Datagram, capacity> datagrams_;
    std::array<mmsghdr, capacity> in_{};
    std::array<iovec, capacity> in_pieces_{};
    std::array<sockaddr_storage, capacity> in_names_{};
    std::array<Control, capacity> in_control_{};

    std::vector<Run> runs_;
    std::vector<iovec> pieces_;
    std::vector<mmsghdr> out_;
    std::vector<Control> out_control_;
};

}  // namespace marchproxy::stream
