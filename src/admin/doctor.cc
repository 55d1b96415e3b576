#include "admin/doctor.h"

#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "admin/table.h"

namespace marchproxy::admin {

namespace {

using State = Finding::State;

constexpr uint64_t enough_descriptors = 65'536, few_descriptors = 4'096;
constexpr uint64_t enough_backlog = 4'096;
constexpr uint64_t enough_local_ports = 28'000;
constexpr uint64_t bulk_pipe = 1 << 20;
constexpr uint64_t enough_pipe_pages = 16'384;
constexpr uint64_t enough_udp_buffer = 4 << 20;
constexpr uint64_t enough_tracked = 262'144;
constexpr int oldest_kernel_major = 6, oldest_kernel_minor = 1;

template <class... Values>
void read(const std::string& path, Values&... values) {
    std::ifstream input(path);
    (input >> ... >> values);
}

std::string read_line(const std::string& path) {
    std::ifstream input(path);
    std::string line;
    std::getline(input, line);
    return line;
}

bool socket_takes(int option) {
    const int socket = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (socket < 0) return false;
    const int value = option == UDP_SEGMENT ? 1400 : 1;
    const bool taken = setsockopt(socket, IPPROTO_UDP, option, &value, sizeof value) == 0;
    close(socket);
    return taken;
}

Finding check_kernel(const Machine& machine) {
    Finding finding{State::good, "kernel", machine.kernel,
                    "features of the network stack; Linux 6.1 is the oldest supported", ""};
    int major = 0, minor = 0;
    const bool known = std::sscanf(machine.kernel.c_str(), "%d.%d", &major, &minor) == 2;
    if (!known || std::pair(major, minor) < std::pair(oldest_kernel_major, oldest_kernel_minor)) {
        finding.state = State::bad;
        finding.advice = "use Linux 6.1 or newer, as Debian 12 has";
    }
    return finding;
}

Finding check_descriptors(const Machine& machine) {
    const uint64_t most = std::max(machine.descriptors, machine.most_descriptors);
    Finding finding{State::good, "descriptors",
                    fmt::format("{}, at most {}", machine.descriptors, machine.most_descriptors),
                    fmt::format("a TCP connection takes two, so about {} connections at a time", most / 2), ""};
    if (most < enough_descriptors) {
        finding.state = most < few_descriptors ? State::bad : State::improvable;
        finding.advice =
            "raise the hard limit: LimitNOFILE=1048576 in the systemd unit, or `ulimit -Hn 1048576` as root";
    }
    return finding;
}

Finding check_backlog(const Machine& machine) {
    Finding finding{State::good, "net.core.somaxconn", std::to_string(machine.somaxconn),
                    "connections that wait to be accepted; beyond it a burst meets retransmitted SYNs", ""};
    if (machine.somaxconn < enough_backlog) {
        finding.state = State::improvable;
        finding.advice = "sysctl -w net.core.somaxconn=4096, or more";
    }
    return finding;
}

Finding check_local_ports(const Machine& machine) {
    const uint64_t count = machine.last_local_port >= machine.first_local_port
                               ? machine.last_local_port - machine.first_local_port + 1
                               : 0;
    Finding finding{State::good, "net.ipv4.ip_local_port_range",
                    fmt::format("{}-{}", machine.first_local_port, machine.last_local_port),
                    fmt::format("connections to one endpoint address at a time: about {}", count), ""};
    if (count < enough_local_ports) {
        finding.state = State::improvable;
        finding.advice = "sysctl -w net.ipv4.ip_local_port_range=\"10000 65535\", below it ports to listen on";
    }
    return finding;
}

Finding check_congestion(const Machine& machine) {
    Finding finding{State::good, "net.ipv4.tcp_congestion_control",
                    fmt::format("{}, of {}", machine.congestion_control, machine.congestion_controls),
                    "how fast TCP sends on long and lossy ways; BBR stays fast where packets are lost", ""};
    if (machine.congestion_controls.find("bbr") == std::string::npos) {
        finding.state = State::improvable;
        finding.advice = "modprobe tcp_bbr, where endpoints or clients are far away";
    }
    return finding;
}

Finding check_pipes(const Machine& machine) {
    Finding finding{State::good, "fs.pipe-max-size, fs.pipe-user-pages-soft",
                    fmt::format("{} bytes, {} pages", machine.pipe_max_size, machine.pipe_user_pages_soft),
                    "pipes of 1 MiB carry bulk transfers without copying them; without root their pages are rationed",
                    ""};
    const bool rationed = machine.pipe_user_pages_soft != 0 && machine.pipe_user_pages_soft < enough_pipe_pages;
    if (machine.pipe_max_size < bulk_pipe || rationed) {
        finding.state = State::improvable;
        finding.advice = "sysctl -w fs.pipe-max-size=1048576 fs.pipe-user-pages-soft=65536";
    }
    return finding;
}

Finding check_udp_buffers(const Machine& machine) {
    Finding finding{State::good, "net.core.rmem_max, net.core.wmem_max",
                    fmt::format("{}, {} bytes", machine.receive_buffer_max, machine.send_buffer_max),
                    "datagrams that a burst may leave waiting in a UDP socket before the kernel drops them", ""};
    if (machine.receive_buffer_max < enough_udp_buffer || machine.send_buffer_max < enough_udp_buffer) {
        finding.state = State::improvable;
        finding.advice = "sysctl -w net.core.rmem_max=8388608 net.core.wmem_max=8388608, where much UDP is carried";
    }
    return finding;
}

Finding check_udp_offload(const Machine& machine) {
    auto word = [](bool there) { return there ? "yes" : "no"; };
    Finding finding{
        State::good, "UDP GRO and GSO",
        fmt::format("receive {}, send {}", word(machine.udp_receive_offload), word(machine.udp_send_offload)),
        "many datagrams a system call; without them UDP costs several times the CPU", ""};
    if (!machine.udp_receive_offload || !machine.udp_send_offload) {
        finding.state = State::improvable;
        finding.advice =
            "the kernel or the container's sandbox lacks UDP_GRO or UDP_SEGMENT; nothing else depends on it";
    }
    return finding;
}

Finding check_tracking(const Machine& machine) {
    Finding finding{
        State::good, "net.netfilter.nf_conntrack_max",
        machine.tracked_connections_max ? std::to_string(machine.tracked_connections_max) : "not loaded",
        "connections that the firewall tracks; when its table is full it drops new ones, each proxied one counts twice",
        ""};
    if (machine.tracked_connections_max != 0 && machine.tracked_connections_max < enough_tracked) {
        finding.state = State::improvable;
        finding.advice = "sysctl -w net.netfilter.nf_conntrack_max=1048576, or exempt the proxy's ports with notrack";
    }
    return finding;
}

std::string_view word_of(State state) {
    switch (state) {
        case State::good:
            return "good";
        case State::improvable:
            return "improvable";
        case State::bad:
            return "bad";
    }
    return "?";
}

}  // namespace

Machine inspect_machine(const std::string& root) {
    const std::string net = root + "/proc/sys/net/", fs = root + "/proc/sys/fs/";
    Machine machine;
    machine.kernel = read_line(root + "/proc/sys/kernel/osrelease");
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        machine.descriptors = limit.rlim_cur;
        machine.most_descriptors = limit.rlim_max;
    }
    read(net + "core/somaxconn", machine.somaxconn);
    read(net + "ipv4/ip_local_port_range", machine.first_local_port, machine.last_local_port);
    machine.congestion_control = read_line(net + "ipv4/tcp_congestion_control");
    machine.congestion_controls = read_line(net + "ipv4/tcp_available_congestion_control");
    read(fs + "pipe-max-size", machine.pipe_max_size);
    read(fs + "pipe-user-pages-soft", machine.pipe_user_pages_soft);
    read(net + "core/rmem_max", machine.receive_buffer_max);
    read(net + "core/wmem_max", machine.send_buffer_max);
    read(net + "netfilter/nf_conntrack_max", machine.tracked_connections_max);
    machine.udp_receive_offload = socket_takes(UDP_GRO);
    machine.udp_send_offload = socket_takes(UDP_SEGMENT);
    machine.processors = std::thread::hardware_concurrency();
    return machine;
}

std::vector<Finding> examine(const Machine& machine) {
    return {check_kernel(machine),
            {State::good, "processors", std::to_string(machine.processors), "by default a worker each (stream.workers)",
             ""},
            check_descriptors(machine),
            check_backlog(machine),
            check_local_ports(machine),
            check_congestion(machine),
            check_pipes(machine),
            check_udp_buffers(machine),
            check_udp_offload(machine),
            check_tracking(machine)};
}

std::vector<Finding> examine(const std::vector<packet::Capability>& capabilities) {
    constexpr auto meaning =
        "forwarding in the kernel, where services allow it: their packets do not come to this process";
    const bool usable = packet::usable(capabilities);
    std::vector<Finding> findings = {
        {usable ? State::good : State::improvable, "packet plane",
         usable ? "can be used here (packet.interfaces says where)" : "cannot be used here", meaning,
         usable ? "" : "see what is missing below; the stream plane serves meanwhile"}};
    for (const packet::Capability& capability : capabilities)
        if (!capability.available)
            findings.push_back({State::improvable, "packet plane, " + capability.what, capability.reason,
                                "the packet plane needs it", capability.advice});
    return findings;
}

nlohmann::json findings_json(const std::vector<Finding>& findings) {
    nlohmann::json result = nlohmann::json::array();
    for (const Finding& finding : findings)
        result.push_back({{"name", finding.name},
                          {"state", word_of(finding.state)},
                          {"found", finding.found},
                          {"meaning", finding.meaning},
                          {"advice", finding.advice.empty() ? nlohmann::json() : nlohmann::json(finding.advice)}});
    return result;
}

std::string findings_report(const std::vector<Finding>& findings) {
    std::string text;
    for (const Finding& finding : findings) {
        text += fmt::format("{:<11} {}: {}\n            {}\n", word_of(finding.state), printable(finding.name),
                            printable(finding.found), printable(finding.meaning));
        if (!finding.advice.empty()) text += fmt::format("            -> {}\n", printable(finding.advice));
    }
    return text;
}

}  // namespace marchproxy::admin
