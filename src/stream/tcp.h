// TCP on one worker: the life of connections, from accept to the flow record. The five steps are the functions named
// after them; each lies in the file of that name.
#pragma once

#include <vector>

#include "stream/account.h"
#include "stream/connection.h"
#include "stream/context.h"
#include "stream/forward.h"
#include "stream/listener.h"
#include "stream/proxy_protocol.h"
#include "stream/tag.h"

namespace marchproxy::stream {

// How a turn of accepting went.
enum class Accepted : uint8_t { all, more, no_descriptor, no_memory };

class TcpProxy {
  public:
    TcpProxy(Context& context, const StreamSettings& settings);
    ~TcpProxy();  // no connection may be left

    // From the loop.
    Accepted accept(Listener& listener);
    void client_event(Connection& connection, uint32_t events);
    void endpoint_event(Connection& connection, uint32_t events);
    void run_due();                       // timeouts, and bulk directions whose coalescing delay is over
    void granted(qos::ShapedFlow& flow);  // a direction's turn has come
    void end_turn();                      // goes on with what was cut short and frees what ended
    TimePoint next_due() const;           // when one of the two has something to do; now or earlier: at once

    // From the control side, by way of the worker's mailbox.
    void configure(const StreamSettings& settings) { forwarder_.configure(settings); }
    void service_changed(WorkerService& service);  // its view was swapped
    void endpoint_down(WorkerService& service, const EndpointRuntime& endpoint);
    void end_all(WorkerService& service, Verdict reason);
    flow::Record record(const Connection& connection) const;

    Forwarder& forwarder() { return forwarder_; }
    const Forwarder& forwarder() const { return forwarder_; }
    uint64_t active() const { return active_; }

  private:
    void begin(Listener& listener, int descriptor, const SocketAddress& client);
    bool classify(Connection& connection);  // classify.cc: whose connection is it? false: not known yet
    static void mark_client(Connection& connection);
    static void mark_anew(Connection& connection);
    bool admit_client(Connection& connection);      // may it pass? false: it was ended
    void connect_endpoint(Connection& connection);  // choose.cc's endpoint, and the next one when that fails
    int start_attempt(Connection& connection);
    void note_failure(Connection& connection, int error);
    void attempt_failed(Connection& connection, int error);
    void attempt_succeeded(Connection& connection);
    void say_first(Connection& connection);
    static EncodedProxyHeader proxy_header_of(const Connection& connection);
    static bool can_go_elsewhere(const Connection& connection);
    void go_elsewhere(Connection& connection, int error);
    void forward(Connection& connection);
    Pumped pump(Connection& connection, bool up);  // shape.cc: in turns where the service is shaped
    Pumped pump_in_turns(Connection& connection, bool up, qos::ShapedService& service);
    void withdraw(Connection& connection);       // its directions want no turn any more
    void take_no_turns(Connection& connection);  // until it asks again
    void refuse(Connection& connection, Verdict reason, std::string_view detail = {});  // before it was admitted
    void end(Connection& connection, Verdict reason, bool reset);                       // with its record
    void close_connection(Connection& connection, bool reset);  // `reset`: the peers must not take it for complete
    bool watch(Connection& connection, int descriptor, Tag leg);
    bool watch_client(Connection& connection);
    Ended ended(const Connection& connection, Verdict reason) const;
    static uint8_t attempts(const Connection& connection);
    void queue(Connection& connection);
    void settle(Connection& connection);
    void count_losses(Connection& connection);
    void timeout(Connection& connection);
    static void keep_alive(Connection& connection);
    void arm(Connection& connection, Duration delay) { timers_.arm(connection, context_.now + delay); }
    Duration idle_timeout(const Connection& connection) const { return connection.service->view->idle_timeout; }

    Context& context_;
    Forwarder forwarder_;
    qos::TimerWheel<std::chrono::milliseconds> timers_;
    std::vector<Connection*> queued_, resumed_;
    std::vector<Connection*> ended_;
    uint64_t active_ = 0;
};

}  // namespace marchproxy::stream
