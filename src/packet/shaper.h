// Where packets of the packet plane wait for their turn: a thread of its own takes them from the programs by AF_XDP
// (packet/queue_sockets.h), has them wait in the queues that both planes share (qos/shaper.h), and sends them. Frames
// come as they are to leave; only a mark of congestion is written here.
//
// Threads: the control thread, but what says otherwise.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "abi/packet.h"
#include "model/descriptor.h"
#include "packet/queue_sockets.h"
#include "qos/shaper.h"

namespace marchproxy::packet {

class Shaper {
  public:
    // `desk`: this thread's in `shapers`. Error: why packets cannot wait on these interfaces.
    static Result<std::unique_ptr<Shaper>> start(qos::Shapers& shapers, unsigned desk,
                                                 const std::vector<QueuedInterface>& interfaces);
    ~Shaper();  // what waits is dropped
    Shaper(const Shaper&) = delete;
    Shaper& operator=(const Shaper&) = delete;

    // Services by their numbers; what waits of others is dropped.
    void configure(const std::map<uint32_t, const Service*>& services, const QosSettings& settings);

    // Of a service's class; any thread. All zero: there is no such service, or nothing holds it back.
    qos::QueueCounters counters(uint32_t service, bool up, Priority priority);

    const std::vector<QueuedInterface>& interfaces() const { return interfaces_; }
    const std::vector<QueueSockets::Place>& places() const { return sockets_.places(); }
    bool zero_copy() const { return sockets_.zero_copy(); }
    uint64_t lost();        // packets that found no room before they were looked at, or could not be sent
    std::string refused();  // why there is an interface by which none can leave; empty: there is none such

  private:
    struct Waiting : qos::ShapedPacket {
        uint32_t interface = 0;  // to leave by
        bool marked = false;     // it came with CE
    };
    struct Places {
        std::unique_ptr<qos::ShapedService> up, down;
    };

    Shaper(qos::Shapers& shapers, unsigned desk, const std::vector<QueuedInterface>& interfaces, QueueSockets sockets);
    void run();
    void wait();
    void sort();
    qos::ShapedService* find(uint32_t service, bool up);
    void queue(bool up, TimePoint now);
    void send(const std::vector<qos::ShapedPacket*>& packets);
    void drop(const std::vector<qos::ShapedPacket*>& packets);
    uint32_t frame_of(const qos::ShapedPacket& packet) const;
    void remove(std::map<uint32_t, Places>::iterator place);

    qos::Shapers& shapers_;
    const unsigned desk_;
    const std::vector<QueuedInterface> interfaces_;

    // The control thread's way in: a thread that always has something to do would have the lock again at once.
    class Visit {
      public:
        explicit Visit(Shaper& shaper) : shaper_(shaper) {
            ++shaper.visits_;
            shaper.mutex_.lock();
        }
        ~Visit() {
            shaper_.mutex_.unlock();
            --shaper_.visits_;
        }
        Visit(const Visit&) = delete;
        Visit& operator=(const Visit&) = delete;

      private:
        Shaper& shaper_;
    };

    std::atomic<int> visits_{0};
    std::mutex mutex_;  // over all below
    QueueSockets sockets_;
    std::map<uint32_t, Places> services_;
    std::vector<qos::ShapedService*> by_number_[2];  // down, up
    std::vector<Waiting> waiting_;                   // by frame
    std::vector<uint32_t> arrived_;
    std::vector<qos::ShapedPacket*> put_[2];  // down, up
    qos::Turns turns_;
    uint64_t unsent_ = 0;

    Descriptor wake_;
    std::atomic<bool> ends_{false};
    std::thread thread_;  // last: it uses the rest
};

}  // namespace marchproxy::packet
