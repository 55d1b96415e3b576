#include "telemetry/process.h"

#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace marchproxy::telemetry {

namespace {

// Since Linux 6.2 the size of the directory is the number of descriptors; before, they have to be counted.
uint64_t open_descriptors() {
    struct stat about {};
    if (stat("/proc/self/fd", &about) == 0 && about.st_size > 0) return static_cast<uint64_t>(about.st_size);
    std::error_code error;
    uint64_t count = 0;
    for (std::filesystem::directory_iterator i("/proc/self/fd", error), end; !error && i != end; i.increment(error))
        ++count;
    return count;
}

double boot_time() {
    std::ifstream input("/proc/stat");
    for (std::string word; input >> word;) {
        double seconds = 0;
        if (word == "btime" && input >> seconds) return seconds;
    }
    return 0;
}

// The fields of /proc/self/stat after the command, which may hold spaces: the first is number 3, the state.
std::istringstream fields_after_command() {
    std::ifstream input("/proc/self/stat");
    std::string line;
    std::getline(input, line);
    const size_t end = line.rfind(')');
    return std::istringstream(end == std::string::npos ? std::string() : line.substr(end + 1));
}

}  // namespace

ProcessUsage process_usage() {
    ProcessUsage usage;
    const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    std::istringstream fields = fields_after_command();
    std::string skipped;
    double user = 0, system = 0, start = 0, pages = 0;
    for (int number = 3; number <= 24; ++number) {
        if (number == 14)
            fields >> user;
        else if (number == 15)
            fields >> system;
        else if (number == 22)
            fields >> start;
        else if (number == 23)
            fields >> usage.virtual_bytes;
        else if (number == 24)
            fields >> pages;
        else
            fields >> skipped;
    }
    usage.cpu_seconds = (user + system) / ticks;
    usage.start_seconds = boot_time() + start / ticks;
    usage.resident_bytes = static_cast<uint64_t>(pages) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    usage.open_descriptors = open_descriptors();
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) usage.most_descriptors = limit.rlim_cur;
    return usage;
}

}  // namespace marchproxy::telemetry
