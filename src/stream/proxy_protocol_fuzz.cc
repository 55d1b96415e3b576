// What a stranger may send as a PROXY header. Checks that nothing is read past the input (by the sanitizer), that more
// bytes never change an answer once given, and that what was understood survives being written and read again.
#include <cstdlib>
#include <vector>

#include "stream/proxy_protocol.h"

namespace {

using marchproxy::Protocol;
using marchproxy::ProxyProtocol;
using namespace marchproxy::stream;

void require(bool condition) {
    if (!condition) std::abort();
}

bool same_addresses(const ProxyHeader& a, const ProxyHeader& b) {
    return a.addressed && b.addressed && a.source == b.source && a.destination == b.destination;
}

void check_written_and_read(const ProxyHeader& header) {
    const auto two = encode_proxy_header(ProxyProtocol::v2, header.protocol, header.source, header.destination);
    const ProxyHeader again = parse_proxy_header(two.view());
    require(again.state == ProxyHeader::State::complete && again.size == two.size);
    require(same_addresses(header, again) && header.protocol == again.protocol);
    if (header.protocol == Protocol::udp) return;
    const auto one = encode_proxy_header(ProxyProtocol::v1, header.protocol, header.source, header.destination);
    require(same_addresses(header, parse_proxy_header(one.view())));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    const auto* bytes = reinterpret_cast<const std::byte*>(data);
    const ProxyHeader whole = parse_proxy_header({bytes, size});
    if (whole.state == ProxyHeader::State::complete) {
        require(whole.size > 0 && whole.size <= size && whole.size <= longest_proxy_header);
        if (whole.addressed) check_written_and_read(whole);
    }
    require((whole.state == ProxyHeader::State::invalid) == !whole.problem.empty());

    bool decided = false;
    for (size_t length = 0; length <= size && length < 300; ++length) {
        const std::vector<std::byte> exact(bytes, bytes + length);
        const ProxyHeader part = parse_proxy_header(exact);
        if (part.state == ProxyHeader::State::incomplete) {
            require(!decided);
            continue;
        }
        decided = true;
        require(part.state == whole.state && part.size == whole.size);
    }
    return 0;
}
