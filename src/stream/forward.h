// Step 4, forward: carries the bytes of one direction of a TCP connection from one socket to the other.
//
// Two ways behind one interface. Small transfers are copied through a buffer that belongs to the worker. A direction
// that brings much at a time moves on to splice(2): a borrowed pipe passes page references from socket to socket.
// Measured (docs/decisions/0001-copy-and-splice.md): the copy wins below some 64 KiB a turn, the splice halves the CPU
// above. The exception is a lone transfer from this very host: nobody waits for the CPU that the copy takes, and it
// gives the sender its pages back while they are warm (docs/decisions/0005-lone-local-transfers.md).
//
// A long splice also coalesces: it asks the kernel to wake it only for `coalesce_bytes` (SO_RCVLOWAT) or after a
// delay, whichever is first, so that the worker moves much at a time and sleeps in between.
//
// Single thread: a worker's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/snapshot.h"
#include "qos/shaper.h"
#include "qos/standing_queue.h"
#include "stream/near_leg.h"
#include "stream/pipe_pool.h"

namespace marchproxy::stream {

struct Connection;

// A direction of a connection that takes turns.
struct ShapedDirection : qos::ShapedFlow {
    ShapedDirection(Connection& whose, unsigned at) : ShapedFlow(at), connection(whose) {}
    Connection& connection;
    qos::StandingQueue standing;  // in its source's receive buffer
};

// One of a connection's two sockets, and what epoll's edges have said of it.
struct Leg {
    int descriptor = -1;
    bool readable = false;      // from an edge until EAGAIN or a short read
    bool writable = true;       // until EAGAIN
    bool hangup = false;        // the peer will send no more: read on to the end, whatever came short
    bool reset = false;         // the peer is gone, whatever is still to be read
    bool ended = false;         // its end of input was read
    bool shut = false;          // its end of output was sent
    bool read_failed = false;   // reset, or another error: nothing more will come
    bool write_failed = false;  // takes no more; what it sent before may still wait to be read
};

// Bytes read and not yet written because the sink was full. At most one worker buffer.
struct Spill {
    size_t offset = 0, size = 0;
    size_t uncounted = 0;  // at its beginning: a PROXY header
    std::unique_ptr<std::byte[]> bytes;
    bool has_payload() const { return size > uncounted; }
};

// What a client has said so far, while it may have to be said again to another endpoint.
struct Replay {
    size_t most;  // bytes; with more it is given up
    std::vector<std::byte> bytes;
};

struct Bulk;

// One direction's progress. Idle directions hold nothing but this.
struct Direction {
    uint64_t bytes = 0;  // written to the sink
    std::unique_ptr<Spill> spill;
    std::unique_ptr<Replay> replay;
    Bulk* bulk = nullptr;
    std::unique_ptr<ShapedDirection> shaped;  // where its bytes take turns
    bool pending() const;                     // holds bytes that the sink has not taken
};

// A direction while it brings much at a time.
struct Bulk {
    Connection* connection;
    bool up;              // client to endpoint
    bool from_this_host;  // its sender is
    Pipe pipe = {};       // none: it is copied
    size_t in_pipe = 0;
    uint64_t moved = 0;  // since it began to splice
    bool low_water_set = false;
    bool waiting = false;  // in the coalescing queue
    TimePoint due{};       // when it is to be read, however little has come
    uint8_t idle_turns = 0;
    bool splices() const { return pipe.capacity > 0; }
};

enum class Pumped : uint8_t {
    blocked,        // source empty or sink full: an edge will come
    again,          // budget used up: there may be more
    source_failed,  // everything read before was written
    sink_failed,    // the sink takes no more bytes
    finished,       // end of input, and everything was written
};

class Forwarder {
  public:
    Forwarder(DescriptorBudget& budget, const StreamSettings& settings);
    ~Forwarder();

    void configure(const StreamSettings& settings);

    // One direction may move this much before the worker looks at its other connections.
    static constexpr size_t turn_budget = 4 << 20;

    // Moves what can be moved now from `source` to `sink`. No more is read than `budget`, from which it is taken; what
    // was read before is not held back.
    Pumped pump(Connection& connection, bool up, Direction& direction, Leg& source, Leg& sink, TimePoint now,
                size_t& budget);

    // From now on somebody else says when the direction may go on: its source is not to wait for much to come together.
    void pace(Direction& direction, const Leg& source);

    // Bytes that do not come from the source but go first: a PROXY header, which is not counted, and what the source
    // said to an endpoint before.
    void prepend(Direction& direction, std::span<const std::byte> header, std::span<const std::byte> said);

    // Frees what a direction of an ended connection holds.
    void release(Direction& direction);

    // Coalescing: when the next waiting direction is due, and that direction. It is to be pumped by the caller.
    std::optional<TimePoint> next_due() const;
    Bulk* take_due(TimePoint now);

    std::byte* buffer() { return buffer_; }
    size_t buffer_size() const { return buffer_size_; }

    uint64_t spliced_directions() const { return spliced_count_; }
    uint64_t spilled_bytes() const { return spilled_; }
    bool pipes_starved() const { return pipes_.starved(); }

  private:
    enum class Moved : uint8_t { some, drained, sink_full, source_failed, sink_failed, end };

    static void remember(Direction& direction, std::span<const std::byte> bytes);
    Moved copy_turn(Direction& direction, Leg& source, Leg& sink, size_t most, size_t& amount);
    Moved splice_turn(Direction& direction, Leg& source, Leg& sink, size_t most, size_t& amount);
    Moved flush(Direction& direction, Leg& sink);
    Moved flush_spill(Direction& direction, Leg& sink);
    Moved flush_pipe(Direction& direction, Leg& sink);
    void start_bulk(Connection& connection, bool up, Direction& direction, const Leg& source, const Leg& sink);
    void start_splicing(Bulk& bulk, const Leg& sink);
    void leave_bulk(Direction& direction, const Leg& source);
    void coalesce(Direction& direction, const Leg& source, TimePoint now);

    struct Waiting {
        TimePoint due;
        Bulk* bulk;  // null: it ended meanwhile
    };
    void end_bulk(Direction& direction);

    PipePool pipes_;
    NearLeg near_leg_;
    ForwardMethod method_;
    std::byte* buffer_ = nullptr;
    size_t buffer_size_ = 0;
    std::deque<Waiting> waiting_;  // nearly in order of `due`: the front may hold up others by 2 ms
    uint64_t bulk_count_ = 0, spliced_count_ = 0;
    uint64_t spilled_ = 0;
};

}  // namespace marchproxy::stream
