// Batches of datagrams between sockets: recvmmsg in, sendmmsg out, runs of equal datagrams as one segmented send, with
// the traffic class (DSCP and ECN) of each.
// Knows sockets and bytes, nothing of services or sessions.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "model/address.h"

namespace marchproxy::stream {

// Bytes to send: a datagram, or a run of them.
struct Piece {
    std::byte* bytes = nullptr;
    uint32_t size = 0;
    uint32_t segment = 0;       // size of each datagram in it, the last may be shorter; equals `size` for a single one
    uint8_t traffic_class = 0;  // as in the IP header: DSCP in the upper six bits, ECN in the lower two
    uint32_t count() const { return size == 0 ? 1 : (size + segment - 1) / segment; }
};

// One received buffer, which the kernel may have joined of several datagrams (GRO). Its traffic class is 0 where the
// socket was not asked to report it.
struct Datagram : Piece {
    SocketAddress from;
    IpAddress to;   // our address that was asked, where the socket reports it
    int next = -1;  // the next one of the same session, by index in the batch
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
    bool is_v4 = true;
    bool marked = false;  // with the traffic class of each piece; else with the socket's
};

struct SendResult {
    uint64_t datagrams = 0, bytes = 0;  // sent
    uint64_t unsent = 0;                // given up
    int error = 0;                      // why: the last errno
};

struct DatagramControl {
    alignas(cmsghdr) std::array<std::byte, 128> bytes;
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
    // The chain's, in order. Valid until the next receive() or pieces().
    std::span<const Piece> pieces(const Chain& chain);

    static void enable_runs(int descriptor);                     // UDP_GRO where the kernel has it
    static void report_destination(int descriptor, bool is_v4);  // for sockets bound to all addresses

  private:
    std::byte* memory_;
    std::array<Datagram, capacity> datagrams_;
    std::array<mmsghdr, capacity> in_{};
    std::array<iovec, capacity> in_pieces_{};
    std::array<sockaddr_storage, capacity> in_names_{};
    std::array<DatagramControl, capacity> in_control_{};
    std::vector<Piece> chained_;
};

class DatagramSender {
  public:
    // Sends the pieces in order, in as few calls as can be.
    SendResult send(std::span<const Piece> pieces, const Way& way, RunLimits& limits);

  private:
    // One message to send: `pieces` consecutive buffers, sent as segments of `segment` bytes if there is more than one.
    struct Run {
        size_t first_piece = 0, pieces = 0;
        uint32_t segment = 0, size = 0, datagrams = 0;
        uint8_t traffic_class = 0;
    };

    void plan(std::span<const Piece> pieces, const RunLimits& limits);
    void add_piece(const Piece& piece, const RunLimits& limits);
    void prepare(size_t index, const Run& run, const Way& way, sockaddr_storage& to, socklen_t to_size);
    SendResult send_singly(const Run& run, const Way& way, sockaddr_storage& to, socklen_t to_size);

    std::vector<Run> runs_;
    std::vector<iovec> pieces_;
    std::vector<mmsghdr> out_;
    std::vector<DatagramControl> out_control_;
};

}  // namespace marchproxy::stream
