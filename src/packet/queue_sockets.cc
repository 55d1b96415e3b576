#include "packet/queue_sockets.h"

#include <fmt/format.h>
#include <net/if.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xdp/xsk.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "packet/device.h"

namespace marchproxy::packet {

namespace {

constexpr uint32_t frame_count = 40'960;  // as many as wait in both directions, and what is being received and sent
constexpr uint32_t small_frame = 2048, large_frame = 4096;  // the kernel's choice
constexpr unsigned headroom = 256;                          // in front of a packet, the driver's; programs grow into it
constexpr unsigned around = 64;                             // behind it: link headers, what encapsulation adds
constexpr uint32_t ring_size = 2048;
constexpr uint32_t at_once = 64;              // packets taken from a socket, before others have theirs
constexpr size_t most_other_interfaces = 64;  // that packets leave by without having come by any

std::string why(int error) {
    const char* advice = "";
    if (error == EBUSY) advice = "; another AF_XDP program has it";
    if (error == EPERM) advice = "; it takes CAP_NET_RAW";
    if (error == ENOBUFS || error == ENOMEM) advice = "; it takes CAP_IPC_LOCK, or LimitMEMLOCK=infinity";
    return std::strerror(error) + std::string(advice);
}

}  // namespace

QueuedInterface queued_interface(const std::string& name) {
    return {.name = name, .index = ::if_nametoindex(name.c_str()), .queues = receive_queues(name), .mtu = mtu_of(name)};
}

struct QueueSockets::Socket {
    Socket() = default;
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;
    ~Socket() {
        if (socket) xsk_socket__delete(socket);
    }
    int descriptor() const { return xsk_socket__fd(socket); }

    std::shared_ptr<xsk_umem> umem;  // goes after the socket
    xsk_ring_prod to_receive{}, to_send{};
    xsk_ring_cons received{}, sent{};
    xsk_socket* socket = nullptr;
    bool receives = false;
    uint32_t under_way = 0;  // given to be sent, and not back
    bool unsent = false;     // since the last kick
};

void QueueSockets::Unmap::operator()(uint8_t* memory) const {
    ::munmap(memory, bytes);
}

QueueSockets::QueueSockets(QueueSockets&&) noexcept = default;
QueueSockets& QueueSockets::operator=(QueueSockets&&) noexcept = default;
QueueSockets::~QueueSockets() = default;

Result<QueueSockets> QueueSockets::open(const std::vector<QueuedInterface>& interfaces) {
    // The memory is locked; for processes with CAP_IPC_LOCK without a limit.
    rlimit unlimited{RLIM_INFINITY, RLIM_INFINITY};
    (void)::setrlimit(RLIMIT_MEMLOCK, &unlimited);
    QueueSockets made;
    auto result = made.make(interfaces, false);
    if (result.ok()) return made;
    // All sockets over one memory are of one kind; where one driver has no zero-copy, all of them copy.
    made = QueueSockets();
    result = made.make(interfaces, true);
    if (result.ok()) return made;
    return Error{result.error()};
}

Result<void> QueueSockets::make(const std::vector<QueuedInterface>& interfaces, bool copy) {
    unsigned mtu = 0;
    for (const QueuedInterface& interface : interfaces)
        mtu = std::max(mtu, interface.mtu);
    frame_bytes_ = headroom + mtu + around <= small_frame ? small_frame : large_frame;
    if (headroom + mtu + around > frame_bytes_)
        return Error{
            fmt::format("an MTU of {} is more than can wait; {} at most", mtu, large_frame - headroom - around)};
    const size_t memory_bytes = size_t{frame_bytes_} * frame_count;
    void* memory = ::mmap(nullptr, memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return Error{fmt::format("memory for waiting packets: {}", std::strerror(errno))};
    memory_ = {static_cast<uint8_t*>(memory), Unmap{memory_bytes}};
    at_.resize(frame_count);
    size_.resize(frame_count);
    free_.reserve(frame_count);
    for (uint32_t frame = frame_count; frame > 0; --frame)
        free_.push_back(frame - 1);
    uint32_t first = 0;
    for (const QueuedInterface& interface : interfaces) {
        Place place{.interface = interface.index, .first = first, .sockets = {}};
        for (unsigned queue = 0; queue < interface.queues; ++queue) {
            auto added = add(interface.name, queue, true, copy);
            if (!added.ok()) return Error{added.error()};
            by_interface_[interface.index].push_back(*added);
            place.sockets.push_back((*added)->descriptor());
            descriptors_.push_back((*added)->descriptor());
            fill(**added);
        }
        first += interface.queues;
        places_.push_back(std::move(place));
    }
    return {};
}

Result<QueueSockets::Socket*> QueueSockets::add(const std::string& name, unsigned queue, bool receives, bool copy) {
    auto made = std::make_unique<Socket>();
    if (!umem_) {
        const xsk_umem_config config{.fill_size = ring_size,
                                     .comp_size = ring_size,
                                     .frame_size = frame_bytes_,
                                     .frame_headroom = 0,
                                     .flags = 0};
        xsk_umem* umem = nullptr;
        // Its first socket has the rings that are named here.
        const int error = xsk_umem__create(&umem, memory_.get(), memory_.get_deleter().bytes, &made->to_receive,
                                           &made->sent, &config);
        if (error)
            return Error{fmt::format("memory for waiting packets cannot be shared with the kernel: {}", why(-error))};
        umem_.reset(umem, xsk_umem__delete);
    }
    made->umem = umem_;
    made->receives = receives;
    xsk_socket_config config{};
    config.rx_size = config.tx_size = ring_size;
    config.libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD;
    config.bind_flags = static_cast<uint16_t>(XDP_USE_NEED_WAKEUP | (copy ? XDP_COPY : 0));
    const int error =
        xsk_socket__create_shared(&made->socket, name.c_str(), queue, umem_.get(), receives ? &made->received : nullptr,
                                  &made->to_send, &made->to_receive, &made->sent, &config);
    if (error) {
        made->socket = nullptr;
        return Error{fmt::format("queue {} of {}: no AF_XDP socket: {}", queue, name, why(-error))};
    }
    xdp_options options{};
    socklen_t size = sizeof options;
    if (::getsockopt(made->descriptor(), SOL_XDP, XDP_OPTIONS, &options, &size) == 0)
        zero_copy_ = options.flags & XDP_OPTIONS_ZEROCOPY;
    const int room = 64 << 20;  // what is on its way must not wait for the receivers' memory
    (void)::setsockopt(made->descriptor(), SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room);
    sockets_.push_back(std::move(made));
    return sockets_.back().get();
}

bool QueueSockets::receive(std::vector<uint32_t>& frames) {
    const size_t before = frames.size();
    for (const auto& socket : sockets_) {
        uint32_t at = 0;
        const uint32_t count = socket->receives ? xsk_ring_cons__peek(&socket->received, at_once, &at) : 0;
        for (uint32_t i = 0; i < count; ++i) {
            const xdp_desc* descriptor = xsk_ring_cons__rx_desc(&socket->received, at + i);
            const auto frame = static_cast<uint32_t>(descriptor->addr / frame_bytes_);
            at_[frame] = descriptor->addr;
            size_[frame] = descriptor->len;
            frames.push_back(frame);
        }
        if (count > 0) xsk_ring_cons__release(&socket->received, count);
    }
    return frames.size() > before;
}

// Made when the first packet leaves by an interface that none of the programs is on.
std::vector<QueueSockets::Socket*>& QueueSockets::leaving_by(unsigned interface) {
    const auto [found, fresh] = by_interface_.try_emplace(interface);
    if (!fresh) return found->second;
    char name[IF_NAMESIZE];
    if (by_interface_.size() > places_.size() + most_other_interfaces || !::if_indextoname(interface, name)) {
        refused_ = fmt::format("interface {} is gone, or one too many", interface);
        return found->second;
    }
    auto added = add(name, 0, false, !zero_copy_);
    if (added.ok())
        found->second.push_back(*added);
    else
        refused_ = added.error();
    return found->second;
}

bool QueueSockets::send(uint32_t frame, unsigned interface, uint32_t flow) {
    std::vector<Socket*>& sockets = leaving_by(interface);
    if (sockets.empty()) return false;
    Socket& socket = *sockets[flow % sockets.size()];
    uint32_t at = 0;
    if (socket.under_way >= ring_size) {
        kick(socket);
        take_back(socket);
    }
    if (socket.under_way >= ring_size || xsk_ring_prod__reserve(&socket.to_send, 1, &at) != 1) return false;
    xdp_desc* descriptor = xsk_ring_prod__tx_desc(&socket.to_send, at);
    descriptor->addr = at_[frame];
    descriptor->len = size_[frame];
    descriptor->options = 0;
    xsk_ring_prod__submit(&socket.to_send, 1);
    ++socket.under_way;
    socket.unsent = true;
    return true;
}

// Where it copies the kernel sends some 32 packets a call.
void QueueSockets::kick(Socket& socket) {
    socket.unsent = false;
    for (uint32_t calls = 0; calls <= ring_size / 16; ++calls) {
        if (!xsk_ring_prod__needs_wakeup(&socket.to_send)) return;
        const ssize_t sent = ::sendto(socket.descriptor(), nullptr, 0, MSG_DONTWAIT, nullptr, 0);
        const uint32_t left = *socket.to_send.producer - __atomic_load_n(socket.to_send.consumer, __ATOMIC_ACQUIRE);
        if (left == 0) return;
        if (sent < 0 && errno != EAGAIN && errno != EBUSY && errno != ENOBUFS) return;
        socket.unsent = true;  // the interface is full: again with the next flush
        if (sent < 0 && errno != EAGAIN) return;
    }
}

void QueueSockets::take_back(Socket& socket) {
    uint32_t at = 0;
    const uint32_t count = xsk_ring_cons__peek(&socket.sent, ring_size, &at);
    if (count == 0) return;
    for (uint32_t i = 0; i < count; ++i)
        free_.push_back(static_cast<uint32_t>(*xsk_ring_cons__comp_addr(&socket.sent, at + i) / frame_bytes_));
    xsk_ring_cons__release(&socket.sent, count);
    socket.under_way -= count;
}

void QueueSockets::fill(Socket& socket) {
    if (!socket.receives) return;
    uint32_t at = 0;
    const auto count =
        static_cast<uint32_t>(std::min<size_t>(xsk_prod_nb_free(&socket.to_receive, ring_size), free_.size()));
    if (count == 0 || xsk_ring_prod__reserve(&socket.to_receive, count, &at) != count) return;
    for (uint32_t i = 0; i < count; ++i) {
        *xsk_ring_prod__fill_addr(&socket.to_receive, at + i) = uint64_t{free_.back()} * frame_bytes_;
        free_.pop_back();
    }
    xsk_ring_prod__submit(&socket.to_receive, count);
    if (xsk_ring_prod__needs_wakeup(&socket.to_receive))
        (void)::recvfrom(socket.descriptor(), nullptr, 0, MSG_DONTWAIT, nullptr, nullptr);
}

void QueueSockets::flush() {
    for (const auto& socket : sockets_) {
        if (socket->unsent) kick(*socket);
        if (socket->under_way > 0) take_back(*socket);
    }
    for (const auto& socket : sockets_)
        fill(*socket);
}

TimePoint QueueSockets::due(TimePoint now) const {
    constexpr Duration unsent = std::chrono::microseconds(200), under_way = std::chrono::milliseconds(10);
    TimePoint due = TimePoint::max();
    for (const auto& socket : sockets_)
        if (socket->under_way > 0) due = std::min<TimePoint>(due, now + (socket->unsent ? unsent : under_way));
    return due;
}

uint64_t QueueSockets::lost() const {
    uint64_t lost = 0;
    for (const auto& socket : sockets_) {
        xdp_statistics statistics{};
        socklen_t size = sizeof statistics;
        if (::getsockopt(socket->descriptor(), SOL_XDP, XDP_STATISTICS, &statistics, &size) == 0)
            lost += statistics.rx_dropped + statistics.rx_ring_full;
    }
    return lost;
}

}  // namespace marchproxy::packet
