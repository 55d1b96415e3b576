// The AF_XDP sockets by which packets come that are to wait for their turn, and leave: one for each queue of each
// interface that the programs are on, all over one memory, so that a packet that came by one leaves by another without
// a copy of ours. Kernel: Documentation/networking/af_xdp.rst.
//
// A frame is a piece of that memory, by its number. It is the kernel's (to receive into, or while it is sent) or the
// caller's, from receive() until send() or release().
//
// Thread: one at a time. Made and used in the network namespace of the interfaces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/result.h"
#include "model/units.h"

struct xsk_umem;

namespace marchproxy::packet {

struct QueuedInterface {
    std::string name;
    unsigned index = 0;
    unsigned queues = 1;  // that it receives by
    unsigned mtu = 1500;  // bytes
    bool operator==(const QueuedInterface&) const = default;
};

QueuedInterface queued_interface(const std::string& name);

class QueueSockets {
  public:
    // Error: an interface and why it has no such sockets; what to do.
    static Result<QueueSockets> open(const std::vector<QueuedInterface>& interfaces);
    QueueSockets(QueueSockets&&) noexcept;
    QueueSockets& operator=(QueueSockets&&) noexcept;
    ~QueueSockets();

    // Where the sockets lie in the programs' map: an interface's from `first` on, by queue.
    struct Place {
        unsigned interface;
        uint32_t first;
        std::vector<int> sockets;
    };
    const std::vector<Place>& places() const { return places_; }

    std::span<const int> descriptors() const { return descriptors_; }  // readable while packets wait there

    // Appends what has come, some from each socket. False: nothing was there.
    bool receive(std::vector<uint32_t>& frames);
    // The frame's bytes; in front of them the programs' metadata.
    std::span<uint8_t> bytes(uint32_t frame) { return {memory_.get() + at_[frame], size_[frame]}; }
    // Leaves by the interface, at the latest with flush(). False: it cannot, and the frame stays the caller's. Those of
    // one `flow` leave in order.
    bool send(uint32_t frame, unsigned interface, uint32_t flow);
    void release(uint32_t frame) { free_.push_back(frame); }
    // When flush() is to be called again, though nothing comes: the kernel has not sent all, or has not given back all.
    TimePoint due(TimePoint now) const;
    // Has the kernel send, takes back what it has sent, and gives it frames to receive into.
    void flush();

    uint32_t frames() const { return static_cast<uint32_t>(at_.size()); }
    bool zero_copy() const { return zero_copy_; }
    uint64_t lost() const;                                   // packets that the sockets had no room for
    const std::string& refused() const { return refused_; }  // why there is an interface by which none can leave

  private:
    struct Socket;
    struct Unmap {
        size_t bytes;
        void operator()(uint8_t* memory) const;
    };

    QueueSockets() = default;
    Result<void> make(const std::vector<QueuedInterface>& interfaces, bool copy);
    Result<Socket*> add(const std::string& name, unsigned queue, bool receives, bool copy);
    std::vector<Socket*>& leaving_by(unsigned interface);
    void fill(Socket& socket);
    static void kick(Socket& socket);
    void take_back(Socket& socket);

    std::unique_ptr<uint8_t, Unmap> memory_;
    std::shared_ptr<xsk_umem> umem_;
    std::vector<std::unique_ptr<Socket>> sockets_;  // before what they use
    std::vector<Place> places_;
    std::vector<int> descriptors_;
    std::map<unsigned, std::vector<Socket*>> by_interface_;  // to leave by; empty: none could be made
    uint32_t frame_bytes_ = 0;
    std::vector<uint32_t> free_;
    std::vector<uint64_t> at_;  // by frame: where its packet begins in memory, and its size
    std::vector<uint32_t> size_;
    bool zero_copy_ = false;
    std::string refused_;
};

}  // namespace marchproxy::packet
