// Step 1, classify: the listener says which service a connection is for; where the service accepts the PROXY protocol,
// the header says whose connection it is.
#include <sys/socket.h>

#include <cerrno>
#include <string>

#include "stream/proxy_protocol.h"
#include "stream/tcp.h"

namespace marchproxy::stream {

// Reads the header once it is whole. It is looked at in place first (MSG_PEEK), so that payload behind it stays in the
// socket for the forwarder.
bool TcpProxy::classify(Connection& connection) {
    const int descriptor = connection.client_leg.descriptor;
    const size_t look = std::min(forwarder_.buffer_size(), longest_proxy_header);
    const ssize_t got = recv(descriptor, forwarder_.buffer(), look, MSG_PEEK | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
    if (got <= 0) {
        refuse(connection, Verdict::proxy_header_invalid, "the client sent no header");
        return false;
    }
    const ProxyHeader header = parse_proxy_header({forwarder_.buffer(), static_cast<size_t>(got)});
    const bool ended_early = header.state == ProxyHeader::State::incomplete &&
                             (connection.client_leg.hangup || static_cast<size_t>(got) == look);
    if (header.state == ProxyHeader::State::invalid || ended_early) {
        refuse(connection, Verdict::proxy_header_invalid, ended_early ? "the header is cut short" : header.problem);
        return false;
    }
    if (header.state == ProxyHeader::State::incomplete) return false;

    if (recv(descriptor, forwarder_.buffer(), header.size, MSG_DONTWAIT) != static_cast<ssize_t>(header.size)) {
        refuse(connection, Verdict::internal_error, "what was seen of the header could not be read");
        return false;
    }
    connection.client_leg.readable = true;  // payload may stand behind the header, and raises no edge of its own
    if (header.addressed) {
        connection.client = header.source;
        connection.asked = header.destination;
    }
    return true;
}

}  // namespace marchproxy::stream
