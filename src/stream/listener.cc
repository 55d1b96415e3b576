#include "stream/listener.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "stream/marking.h"
#include "stream/sockets.h"

namespace marchproxy::stream {

namespace {

constexpr uint32_t default_backlog = 4096;

// net.core.somaxconn caps it.
int backlog_of(const Service& service) {
    return static_cast<int>(std::min<uint32_t>(service.limits.backlog.value_or(default_backlog), INT_MAX));
}
constexpr int udp_buffer = 4 << 20;

std::string advice(int error, const SocketAddress& address) {
    switch (error) {
        case EADDRINUSE:
            return fmt::format(
                "another process holds the port (see `ss -lntup sport = :{}`); end it or choose another "
                "port with --listen-port or the service's `listen`",
                address.port);
        case EACCES:
            return "ports below 1024 need CAP_NET_BIND_SERVICE (`setcap cap_net_bind_service+ep` on the binary, or "
                   "AmbientCapabilities in the systemd unit) or a higher port";
        case EADDRNOTAVAIL:
            return "no interface has this address; use one of `ip address`, or 0.0.0.0";
        case EMFILE:
        case ENFILE:
            return "no file descriptor is left; raise LimitNOFILE (ulimit -n)";
        case EAFNOSUPPORT:
            return "this kernel has no support for the address family";
        default:
            return "check the address";
    }
}

Error failed(const Service& service, const char* step, int error) {
    return Error{fmt::format("service '{}' cannot {} {} {}: {}; {}", service.name, step, name_of(service.protocol),
                             to_string(service.listen), strerror(error), advice(error, service.listen))};
}

struct Socket {
    int descriptor = -1;
    sockaddr_storage address;
    socklen_t size = 0;

    explicit Socket(const Service& service) : size(service.listen.to(address)) {
        const int type = service.protocol == Protocol::tcp ? SOCK_STREAM : SOCK_DGRAM;
        descriptor = socket(address.ss_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        // [::] stands for IPv6 only, so that it may stand beside 0.0.0.0.
        if (descriptor >= 0 && address.ss_family == AF_INET6) set_option(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, 1);
        if (descriptor >= 0 && service.protocol == Protocol::tcp) set_option(descriptor, SOL_SOCKET, SO_REUSEADDR, 1);
    }
    ~Socket() {
        if (descriptor >= 0) close(descriptor);
    }
    bool bind_it() { return bind(descriptor, reinterpret_cast<const sockaddr*>(&address), size) == 0; }
    int release() { return std::exchange(descriptor, -1); }
};

}  // namespace

Result<void> check_free(const Service& service) {
    Socket socket(service);
    if (socket.descriptor < 0) return failed(service, "open", errno);
    if (!socket.bind_it()) return failed(service, "listen on", errno);
    return {};
}

Result<int> open_listener(const Service& service) {
    Socket socket(service);
    if (socket.descriptor < 0) return failed(service, "open", errno);
    set_option(socket.descriptor, SOL_SOCKET, SO_REUSEPORT, 1);
    if (!socket.bind_it()) return failed(service, "listen on", errno);
    if (service.protocol == Protocol::udp) {
        // As much as the system allows (net.core.rmem_max): a burst waits here while the worker is busy.
        set_option(socket.descriptor, SOL_SOCKET, SO_RCVBUF, udp_buffer);
        set_option(socket.descriptor, SOL_SOCKET, SO_SNDBUF, udp_buffer);
        return socket.release();
    }
    send_at_once(socket.descriptor);
    limit_segments(socket.descriptor, service);
    if (listen(socket.descriptor, backlog_of(service)) != 0) return failed(service, "listen on", errno);
    return socket.release();
}

void refresh_listener(int descriptor, const Service& service, const QosSettings& qos) {
    const bool is_v4 = service.listen.ip.is_v4();
    if (service.protocol == Protocol::udp) return report_marks(descriptor, is_v4, qos.enabled);
    mark(descriptor, is_v4, qos.enabled ? dscp_of(service, qos) : 0);
    report_marks(descriptor, is_v4, qos.enabled && heeds_marks(service.qos));
    limit_segments(descriptor, service);
    listen(descriptor, backlog_of(service));
}

}  // namespace marchproxy::stream
