#include <sched.h>

#include <atomic>
#include <iostream>
#include <string>
#include <thread>

#include "modes.h"
#include "sockets.h"

namespace marchproxy::bench {
namespace {

void become_idle_work_on(int cpu) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    if (::sched_setaffinity(0, sizeof cpus, &cpus) < 0) fail("sched_setaffinity to CPU " + std::to_string(cpu));
    const sched_param lowest{};
    if (::sched_setscheduler(0, SCHED_IDLE, &lowest) < 0) fail("sched_setscheduler");
}

}  // namespace

nlohmann::json run_awake(int cpu) {
    become_idle_work_on(cpu);  // the thread started below inherits both
    std::atomic<bool> running = true;
    uint64_t turns = 0;
    std::thread spinner([&] {
        while (running.load(std::memory_order_relaxed))
            ++turns;
    });
    std::cout << nlohmann::json{{"awake", cpu}}.dump() << std::endl;
    std::string line;
    while (std::getline(std::cin, line)) {
    }
    running = false;
    spinner.join();
    return {{"turns", turns}};
}

}  // namespace marchproxy::bench
