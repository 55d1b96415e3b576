#include "probe/flood_guard.h"

#include <linux/filter.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

namespace marchproxy::probe {

namespace {

constexpr size_t most_counted = 4096;
// Where the source lies in the headers of IPv4 (RFC 791) and IPv6 (RFC 8200).
constexpr int source_v4 = 12, source_v6 = 8;

sock_filter load_word(int offset) {
    return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(SKF_NET_OFF + offset));
}

uint32_t word_of(const IpAddress& address, size_t index) {
    uint32_t word;
    std::memcpy(&word, &address.bytes[4 * index], sizeof word);
    return ntohl(word);
}

// Drops what comes from there, and otherwise goes on behind it.
void append_drop(const IpAddress& from, bool v4, std::vector<sock_filter>& program) {
    const size_t first = v4 ? 3 : 0;  // of the words of the 128-bit form
    for (size_t i = first; i < 4; ++i) {
        // To behind the drop: over this address' other words, two instructions each, and it.
        const auto rest = static_cast<uint8_t>(2 * (3 - i) + 1);
        program.push_back(load_word(v4 ? source_v4 : source_v6 + static_cast<int>(4 * i)));
        program.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, word_of(from, i), 0, rest));
    }
    program.push_back(BPF_STMT(BPF_RET | BPF_K, 0));
}

}  // namespace

std::optional<int> FloodGuard::unasked(const IpAddress& from, TimePoint now) {
    if (now - since_ >= std::chrono::seconds(1)) {
        since_ = now;
        sent_.clear();
    }
    if (shuts_out(from) || (sent_.size() >= most_counted && !sent_.contains(from))) return {};
    if (++sent_[from] != most_a_second + 1 || shut_out_.size() >= most_shut_out) return {};
    shut_out_[from] = now + time_out;
    return filter();
}

void FloodGuard::let_in(TimePoint now) {
    if (std::erase_if(shut_out_, [now](const auto& one) { return one.second <= now; }) > 0) filter();
}

// What shut_out_ says; or nobody is, and the reason.
int FloodGuard::filter() {
    std::vector<sock_filter> program;
    for (const auto& [from, until] : shut_out_)
        append_drop(from, v4_, program);
    program.push_back(BPF_STMT(BPF_RET | BPF_K, UINT32_MAX));
    const sock_fprog attached{.len = static_cast<unsigned short>(program.size()), .filter = program.data()};
    const bool taken =
        !shut_out_.empty() && setsockopt(descriptor_, SOL_SOCKET, SO_ATTACH_FILTER, &attached, sizeof attached) == 0;
    const int error = taken || shut_out_.empty() ? 0 : errno;
    if (!taken) {
        shut_out_.clear();
        const int nothing = 0;
        setsockopt(descriptor_, SOL_SOCKET, SO_DETACH_FILTER, &nothing, sizeof nothing);
    }
    return error;
}

}  // namespace marchproxy::probe
