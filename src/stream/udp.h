// UDP on one worker: sessions by client address, each with a connected socket to its endpoint, so that the kernel sorts
// the replies and reports what ICMP says. Datagrams are read and written in batches (recvmmsg, sendmmsg) and, where the
// kernel can, in runs of equal size that pass the stack as one (UDP_GRO, UDP_SEGMENT: udp(7), kernel 5.0 and 4.18).
//
// A datagram that finds no room in a socket's buffer is dropped and counted: UDP promises no more, and holding it back
// would delay the others. Where the service is shaped, datagrams wait for their turn (udp_shaping.cc).
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "qos/timer_wheel.h"
#include "stream/account.h"
#include "stream/admit.h"
#include "stream/context.h"
#include "stream/datagrams.h"
#include "stream/listener.h"

namespace marchproxy::stream {

struct Session;

// Datagrams that wait for their turn.
struct Parcel : qos::ShapedPacket {
    Session* session = nullptr;
    bool up = false;
    bool waits = false;  // in the shaper
    Piece piece;         // in the batch, or below once it has to wait
    std::vector<std::byte> store;
};

struct Session : qos::Timer {  // the timer: idle
    WorkerService* service = nullptr;
    ServiceState* state = nullptr;  // the service's, which outlives it
    Listener* listener = nullptr;   // where the client's datagrams come in and the replies leave
    Session* before = nullptr;      // in the service's list
    Session* after = nullptr;
    std::shared_ptr<EndpointRuntime> endpoint;
    DecisionPointer decision;  // why that one
    SocketAddress client;
    IpAddress asked;      // the address of ours that the client sent to
    int descriptor = -1;  // connected to the endpoint
    Admission admission;
    bool answered = false;
    bool ended = false;
    Verdict end_reason = Verdict::finished;  // once it has
    uint32_t number = 0;                     // tells its datagrams apart from other sessions'
    uint32_t waiting = 0;                    // its parcels in the shaper; it is not freed before they are back
    RunLimits up_limits, down_limits;
    uint64_t received_bytes = 0, sent_bytes = 0;
    TimePoint started, last_activity;
    Chain chain;  // its datagrams in the batch at hand
};

class UdpProxy {
  public:
    explicit UdpProxy(Context& context);
    ~UdpProxy();  // no session may be left

    // From the loop: one batch; the sockets are level-triggered, so what is left comes again.
    void receive(Listener& listener);
    void receive(Session& session);
    void run_due();
    void take_turns(const qos::Turns& turns);
    void end_turn();
    TimePoint next_due() const { return timers_.next_expiry().value_or(TimePoint::max()); }

    void service_changed(WorkerService& service);
    void endpoint_down(WorkerService& service, const EndpointRuntime& endpoint);
    void end_all(WorkerService& service, Verdict reason);
    void end_sessions_of(const Listener& listener, Verdict reason);
    void stop_accepting() { accepting_ = false; }  // no new sessions
    flow::Record record(const Session& session) const;
    uint64_t active() const { return sessions_.size(); }

  private:
    struct Key {
        const WorkerService* service;
        SocketAddress client;
        IpAddress asked;
        bool operator==(const Key&) const = default;
    };
    // Keyed, so that nobody can choose client addresses that meet in one bucket.
    struct Hash {
        uint64_t secret;
        size_t operator()(const Key& key) const;
    };

    Session* find_or_begin(Listener& listener, const Datagram& datagram);
    Session* begin(Listener& listener, const Key& key);
    static int connect_to(const EndpointRuntime& endpoint, bool marks);
    void settle(Session& session);
    void pass(Session& session, bool up, std::span<const Piece> pieces);
    void send(Session& session, bool up, std::span<const Piece> pieces);
    Way way_to(const Session& session, bool up) const;

    // udp_shaping.cc
    void shape(Session& session, bool up, qos::ShapedService& service, std::span<const Piece> pieces);
    void add_parcel(Session& session, bool up, qos::ShapedService& service, const Piece& piece);
    void take_back(Parcel& parcel);
    void send_parcels(std::span<qos::ShapedPacket* const> packets);
    void drop_parcels(std::span<qos::ShapedPacket* const> packets, Verdict reason);
    void count_dropped(const Parcel& parcel, Verdict reason);
    Parcel& new_parcel();

    void count_unsent(Session& session, const SendResult& result);
    void endpoint_failed(Session& session, int error);
    void end(Session& session, Verdict reason);
    Ended ended(const Session& session, Verdict reason) const;

    Context& context_;
    bool accepting_ = true;
    qos::TimerWheel<std::chrono::milliseconds> timers_;
    std::unique_ptr<DatagramBatch> batch_;  // made by the first datagram: 2 MiB that only UDP needs
    DatagramSender sender_;
    std::vector<Piece> marked_, out_;
    std::vector<std::unique_ptr<Parcel>> parcels_;  // all there are
    std::vector<Parcel*> free_parcels_;
    std::vector<qos::ShapedPacket*> put_, refused_;
    qos::Turns turns_;
    std::unordered_map<Key, Session*, Hash> sessions_;
    std::vector<Session*> touched_, ended_;
};

}  // namespace marchproxy::stream
