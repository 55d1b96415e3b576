// `doctor`: whether this machine lets the proxy do what it could, what each setting means, and what to do.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "model/snapshot.h"
#include "packet/capability.h"
#include "packet/status.h"
#include "packet/survey.h"

namespace marchproxy::admin {

// What was found; 0 or empty: it could not be read. Sources: proc(5), ip(7), tcp(7), udp(7), pipe(7).
struct Machine {
    std::string kernel;  // "6.1.0-18-amd64"
    uint64_t descriptors = 0, most_descriptors = 0;
    uint64_t somaxconn = 0;
    uint64_t first_local_port = 0, last_local_port = 0;
    std::string congestion_control, congestion_controls;
    uint64_t pipe_max_size = 0, pipe_user_pages_soft = 0;
    uint64_t receive_buffer_max = 0, send_buffer_max = 0;
    uint64_t tracked_connections_max = 0;  // netfilter's table; 0: it is not loaded
    bool udp_receive_offload = false, udp_send_offload = false;
    unsigned processors = 0;
};

// `root` stands for "/", for tests.
Machine inspect_machine(const std::string& root = "");

struct Finding {
    enum class State : uint8_t { good, improvable, bad };
    State state = State::good;
    std::string name, found;
    std::string meaning;  // what it decides
    std::string advice;   // what to do; empty when good
};

std::vector<Finding> examine(const Machine& machine);

// The packet plane: whether this process could use it here, and what is missing.
std::vector<Finding> examine(const std::vector<packet::Capability>& capabilities);

// What a running proxy says of its packet plane over its admin API.
struct RunningPlane {
    bool on = false;
    std::string reason;  // why it is on, or off
    std::vector<packet::InterfaceStatus> interfaces;
    PacketSettings settings;  // interfaces, mode, pin: as it runs
};
// Of /status and /api/v1/config; throws nlohmann::json::exception where they are no marchproxy-l3l4's.
RunningPlane running_plane(const nlohmann::json& status, const nlohmann::json& configuration);
Finding examine(const RunningPlane& running, const std::string& url);

// How each interface is attached, as the running proxy says, or would be.
std::vector<Finding> examine(const std::vector<packet::Survey>& surveys,
                             const std::vector<packet::InterfaceStatus>& running);

nlohmann::json findings_json(const std::vector<Finding>& findings);
std::string findings_report(const std::vector<Finding>& findings);

}  // namespace marchproxy::admin
