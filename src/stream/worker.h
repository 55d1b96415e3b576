// A worker: one thread, one epoll, its share of the listeners and everything that came in by them. Workers share
// nothing but the views, atomics and the descriptor budget.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "stream/context.h"
#include "stream/listener.h"
#include "stream/plane.h"
#include "stream/status.h"
#include "stream/tcp.h"
#include "stream/udp.h"

namespace marchproxy::stream {

// What a worker is to run from now on.
struct WorkerPlan {
    struct Listening {
        int descriptor;
        ServiceViewPointer view;
    };
    std::vector<ServiceViewPointer> views;
    std::vector<Listening> listeners;
    StreamSettings settings;
    Duration drain_timeout;  // for the connections of services that are gone
};

class Worker {
  public:
    Worker(unsigned index, const StreamSettings& settings, telemetry::Log& log, DescriptorBudget& descriptors,
           qos::Shapers& shapers, flow::Sink& flows);
    ~Worker();  // ends what is left with Verdict::drained, and joins
    Worker(const Worker&) = delete;
    Worker& operator=(const Worker&) = delete;

    // From any other thread: runs `task` on the worker's thread between two turns, and waits for it.
    void run_on(const std::function<void()>& task);

    void wake();  // any thread: another turn, now

    // On the worker's thread only, by run_on().
    void apply(const WorkerPlan& plan);
    // Of the present view.
    void steer(const ServiceState& state, const std::shared_ptr<const routing::Selector>& selector);
    void explain(const ServiceState& state, const DecisionPointer& decision);
    void endpoint_down(const ServiceState& state, const EndpointRuntime& endpoint);
    void stop_accepting(bool handed_over);
    void end_all(Verdict reason);
    void collect_flows(const flow::Query& query, std::vector<flow::Record>& records) const;

    WorkerStatus status() const;  // any thread
    bool pipes_starved() const { return pipes_starved_.load(std::memory_order_relaxed); }

  private:
    void run();
    int wait();
    void dispatch(const epoll_event& event);
    void read_mailbox();
    void accept(Listener& listener);
    void accept_again();
    void take_turns();
    void end_removed_services();
    void settle();
    void finish_turn();
    TimePoint next_due() const;

    void open(int descriptor, WorkerService& service);
    void close_listener(Listener& listener);
    WorkerService& service_of(const ServiceViewPointer& view);

    static constexpr int events_a_turn = 256;
    static constexpr auto accept_pause = std::chrono::milliseconds(10);

    Context context_;
    flow::Sink& flows_;
    int mailbox_;  // eventfd
    std::unordered_map<const ServiceState*, std::unique_ptr<WorkerService>> services_;
    std::vector<std::unique_ptr<Listener>> listeners_;
    std::vector<Listener*> unfinished_;  // more to accept or read
    std::vector<Listener*> paused_;      // could not accept for want of descriptors or memory
    TimePoint paused_until_{};
    TcpProxy tcp_;
    UdpProxy udp_;
    std::vector<epoll_event> events_;
    qos::Turns given_;
    TimePoint removed_due_ = TimePoint::max();  // when the first removed service is over
    bool mail_ = false;

    std::mutex tasks_mutex_;
    struct Task {
        const std::function<void()>* work;  // the waiting thread's
        std::promise<void>* done;
    };
    std::vector<Task> tasks_;
    std::atomic<bool> stopping_{false};

    telemetry::Counter turns_, handled_;
    std::atomic<uint64_t> active_{0}, bulk_{0}, memory_{0};
    std::atomic<bool> pipes_starved_{false};

    std::thread thread_;  // last: starts when all above is there
};

}  // namespace marchproxy::stream
