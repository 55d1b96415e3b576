// What draws packets, and what every program of the packet benches needs beside it.
#pragma once

#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "bench/packet/traffic.h"
#include "model/result.h"

namespace marchproxy::bench {

template <class T>
T must(Result<T> result) {
    if (!result.ok()) throw std::runtime_error(result.error());
    if constexpr (!std::is_void_v<T>) return std::move(*result);
}
inline int must(int result, const char* what) {
    if (result < 0) throw std::runtime_error(fmt::format("{}: {}", what, strerror(errno)));
    return result;
}
inline void run(const std::string& command) {
    if (std::system(command.c_str()) != 0) throw std::runtime_error(command);
}

// What is measured stays on one core, the last of those that it may run on.
inline void pin_to_one_core() {
    cpu_set_t cores;
    must(sched_getaffinity(0, sizeof cores, &cores), "asking for the cores");
    int last = 0;
    for (int core = 0; core < CPU_SETSIZE; ++core)
        if (CPU_ISSET(core, &cores)) last = core;
    CPU_ZERO(&cores);
    CPU_SET(last, &cores);
    must(sched_setaffinity(0, sizeof cores, &cores), "choosing a core");
}

class Object {
  public:
    explicit Object(const std::string& path) : object_(bpf_object__open(path.c_str())) {
        if (!object_) throw std::runtime_error("cannot open " + path);
    }
    ~Object() { bpf_object__close(object_); }
    Object(const Object&) = delete;

    bpf_map* map(const char* name) { return bpf_object__find_map_by_name(object_, name); }
    int program(const char* name) { return bpf_program__fd(bpf_object__find_program_by_name(object_, name)); }
    bpf_object* get() { return object_; }
    void load() { must(bpf_object__load(object_), "loading a bench program"); }

  private:
    bpf_object* object_;
};

// What the traffic program does not write.
inline frame blank_frame(uint8_t protocol = IPPROTO_UDP) {
    frame blank{};
    blank.ethernet.h_proto = htons(ETH_P_IP);
    blank.ip.version = 4;
    blank.ip.ihl = 5;
    blank.ip.protocol = protocol;
    blank.ip.tot_len = htons(sizeof blank - sizeof blank.ethernet);
    blank.udp.len = htons(sizeof blank.udp + sizeof blank.payload);
    return blank;
}

// The program `draw` and the one that it hands packets to.
class Traffic : public Object {
  public:
    explicit Traffic(const std::string& objects) : Object(objects + "/traffic.bpf.o") {
        load();
        void* memory = mmap(nullptr, static_cast<size_t>(sysconf(_SC_PAGESIZE)), PROT_READ | PROT_WRITE, MAP_SHARED,
                            bpf_map__fd(map(".bss")), 0);
        if (memory == MAP_FAILED) throw std::runtime_error("mapping the traffic program's settings");
        settings = static_cast<struct traffic*>(memory);
    }

    void choose(int program) {
        const uint32_t zero = 0;
        must(bpf_map_update_elem(bpf_map__fd(map("under_test")), &zero, &program, BPF_ANY), "choosing a program");
    }

    struct traffic* settings;
};

}  // namespace marchproxy::bench
