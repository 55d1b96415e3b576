#include "control/handover.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/auxv.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <utility>

#include "model/socket_name.h"

extern char** environ;

namespace marchproxy::control {

namespace {

constexpr const char* listeners_variable = "MARCHPROXY_INTERNAL_LISTENERS";
constexpr const char* ready_variable = "MARCHPROXY_INTERNAL_READY";
constexpr const char* drains_variable = "MARCHPROXY_INTERNAL_DRAINS";
constexpr size_t most_drains_text = 100'000;  // the kernel takes strings of 128 KiB (MAX_ARG_STRLEN)
constexpr int first_from_manager = 3;         // SD_LISTEN_FDS_START
constexpr int most_descriptors = 1 << 20;

// What must not reach a successor: it is about this process, or about sockets it gets by our own variables.
constexpr std::string_view not_inherited[] = {"MARCHPROXY_INTERNAL_LISTENERS=",
                                              "MARCHPROXY_INTERNAL_READY=",
                                              "MARCHPROXY_INTERNAL_DRAINS=",
                                              "LISTEN_PID=",
                                              "LISTEN_FDS=",
                                              "LISTEN_FDNAMES=",
                                              "WATCHDOG_PID="};

std::optional<int> parse_number(std::string_view text) {
    int number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || end != text.data() + text.size() || number < 0 || number > most_descriptors)
        return std::nullopt;
    return number;
}

std::string take_variable(const char* name) {
    const char* value = std::getenv(name);
    std::string text = value == nullptr ? "" : value;
    ::unsetenv(name);
    return text;
}

int socket_option(int descriptor, int option) {
    int value = -1;
    socklen_t length = sizeof value;
    return ::getsockopt(descriptor, SOL_SOCKET, option, &value, &length) == 0 ? value : -1;
}

// Tells from the socket itself what it is; nothing in the environment is believed.
Result<stream::ListeningSocket> inspect(int descriptor) {
    const int family = socket_option(descriptor, SO_DOMAIN);
    if (family < 0) return Error{fmt::format("inherited descriptor {} is no socket; left alone", descriptor)};
    const int type = socket_option(descriptor, SO_TYPE);
    const bool tcp = type == SOCK_STREAM && socket_option(descriptor, SO_ACCEPTCONN) == 1;
    if ((family != AF_INET && family != AF_INET6) || (!tcp && type != SOCK_DGRAM))
        return Error{
            fmt::format("inherited descriptor {} is neither a listening TCP nor a UDP socket; left alone", descriptor)};
    const auto address = address_of(descriptor, ::getsockname);
    if (!address)
        return Error{fmt::format("inherited descriptor {}: {}; left alone", descriptor, std::strerror(errno))};
    return stream::ListeningSocket{descriptor, tcp ? Protocol::tcp : Protocol::udp, *address};
}

void adopt(const std::vector<int>& descriptors, Inherited& inherited) {
    for (const int descriptor : descriptors) {
        auto socket = inspect(descriptor);
        if (!socket.ok()) {
            inherited.problems.push_back(socket.error());
            continue;
        }
        ::fcntl(descriptor, F_SETFD, FD_CLOEXEC);
        ::fcntl(descriptor, F_SETFL, ::fcntl(descriptor, F_GETFL) | O_NONBLOCK);
        inherited.sockets.push_back(*socket);
    }
}

void adopt_from_manager(Inherited& inherited) {
    const auto process = parse_number(take_variable("LISTEN_PID"));
    const auto count = parse_number(take_variable("LISTEN_FDS"));
    take_variable("LISTEN_FDNAMES");
    if (!count || process != static_cast<int>(::getpid())) return;
    std::vector<int> descriptors;
    descriptors.reserve(static_cast<size_t>(*count));
    for (int i = 0; i < *count; ++i)
        descriptors.push_back(first_from_manager + i);
    adopt(descriptors, inherited);
}

void adopt_from_predecessor(Inherited& inherited) {
    const std::string listeners = take_variable(listeners_variable);
    const std::string ready = take_variable(ready_variable);
    std::string drains = take_variable(drains_variable);
    if (ready.empty()) return;
    const auto pipe = parse_number(ready);
    const auto numbers = parse_numbers(listeners);
    if (!pipe || ::fcntl(*pipe, F_SETFD, FD_CLOEXEC) != 0 || !numbers) {
        inherited.problems.push_back(
            fmt::format("{}='{}', {}='{}' name nothing to take over; they are set by SIGUSR2 only", ready_variable,
                        ready, listeners_variable, listeners));
        return;
    }
    inherited.ready_pipe.reset(*pipe);
    inherited.drains = std::move(drains);
    adopt(*numbers, inherited);
}

std::vector<std::string> environment_for_successor(const std::string& listeners, int ready, const std::string& drains) {
    std::vector<std::string> variables;
    for (char** variable = environ; *variable != nullptr; ++variable) {
        const std::string_view text = *variable;
        if (std::none_of(std::begin(not_inherited), std::end(not_inherited),
                         [&](std::string_view name) { return text.starts_with(name); }))
            variables.emplace_back(text);
    }
    variables.push_back(fmt::format("{}={}", listeners_variable, listeners));
    variables.push_back(fmt::format("{}={}", ready_variable, ready));
    variables.push_back(fmt::format("{}={}", drains_variable, drains));
    return variables;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
    std::vector<char*> result;
    result.reserve(texts.size() + 1);
    for (std::string& text : texts)
        result.push_back(text.data());
    result.push_back(nullptr);
    return result;
}

// Zero, or the errno for which `program` could not be started. It gets the `descriptors`, close-on-exec here, under the
// same numbers: duplicated onto itself, a descriptor loses the mark in the new process alone (posix_spawn(3), adddup2).
int spawn(pid_t& process, const std::string& program, std::vector<std::string> arguments,
          std::vector<std::string> environment, const std::vector<int>& descriptors, const sigset_t& signal_mask) {
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    for (const int descriptor : descriptors)
        ::posix_spawn_file_actions_adddup2(&actions, descriptor, descriptor);
    posix_spawnattr_t attributes;
    ::posix_spawnattr_init(&attributes);
    sigset_t to_default;
    ::sigemptyset(&to_default);
    ::sigaddset(&to_default, SIGPIPE);
    ::posix_spawnattr_setsigdefault(&attributes, &to_default);
    ::posix_spawnattr_setsigmask(&attributes, &signal_mask);
    ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    const int error = ::posix_spawn(&process, program.c_str(), &actions, &attributes, pointers(arguments).data(),
                                    pointers(environment).data());
    ::posix_spawnattr_destroy(&attributes);
    ::posix_spawn_file_actions_destroy(&actions);
    return error;
}

std::string ending_in_words(int status) {
    if (WIFEXITED(status)) return fmt::format("it exited with status {}", WEXITSTATUS(status));
    if (WIFSIGNALED(status)) return fmt::format("it was ended by signal {}", ::strsignal(WTERMSIG(status)));
    return "it ended";
}

}  // namespace

std::string format_numbers(std::vector<int> numbers) {
    std::sort(numbers.begin(), numbers.end());
    std::string text;
    for (size_t i = 0; i < numbers.size();) {
        size_t last = i;
        while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1)
            ++last;
        if (!text.empty()) text += ',';
        text += last == i ? fmt::format("{}", numbers[i]) : fmt::format("{}-{}", numbers[i], numbers[last]);
        i = last + 1;
    }
    return text;
}

std::optional<std::vector<int>> parse_numbers(std::string_view text) {
    std::vector<int> numbers;
    while (!text.empty()) {
        const std::string_view item = text.substr(0, text.find(','));
        text.remove_prefix(std::min(text.size(), item.size() + 1));
        const size_t dash = item.find('-');
        const auto first = parse_number(item.substr(0, dash));
        const auto last = dash == std::string_view::npos ? first : parse_number(item.substr(dash + 1));
        if (!first || !last || *last < *first || numbers.size() > most_descriptors) return std::nullopt;
        for (int number = *first; number <= *last; ++number)
            numbers.push_back(number);
    }
    return numbers;
}

Inherited take_inherited() {
    Inherited inherited;
    adopt_from_manager(inherited);
    adopt_from_predecessor(inherited);
    return inherited;
}

void share_out(std::vector<stream::ListeningSocket>& sockets, unsigned workers) {
    std::map<std::pair<Protocol, SocketAddress>, std::vector<int>> alone;
    for (const auto& socket : sockets)
        if (socket_option(socket.descriptor, SO_REUSEPORT) == 0)
            alone[{socket.protocol, socket.address}].push_back(socket.descriptor);
    for (const auto& [place, descriptors] : alone) {
        const auto& [protocol, address] = place;
        if (protocol == Protocol::udp) {
            const int on = 1;
            ::setsockopt(descriptors.front(), SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
            continue;
        }
        for (size_t count = descriptors.size(); count < workers; ++count)
            if (const int copy = ::fcntl(descriptors.front(), F_DUPFD_CLOEXEC, 0); copy >= 0)
                sockets.push_back({copy, protocol, address});
    }
}

std::string path_of_this_program() {
    std::error_code error;
    const auto started_by = reinterpret_cast<const char*>(::getauxval(AT_EXECFN));  // NOLINT: an address as a number
    if (started_by != nullptr) {
        const auto path = std::filesystem::absolute(started_by, error);
        if (!error && std::filesystem::exists(path, error)) return path.lexically_normal().string();
    }
    return std::filesystem::read_symlink("/proc/self/exe", error).string();
}

Result<Successor> Successor::start(const std::string& program, const std::vector<std::string>& arguments,
                                   const std::vector<stream::ListeningSocket>& listeners, const std::string& drains,
                                   const sigset_t& signal_mask) {
    if (drains.size() > most_drains_text)
        return Error{
            fmt::format("what is drained takes {} bytes to tell a new process, and {} can be told: undrain some",
                        drains.size(), most_drains_text)};
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
        return Error{fmt::format("no pipe to the new process: {}", std::strerror(errno))};
    Descriptor ours(ends[0]);
    Descriptor theirs(ends[1]);

    std::vector<int> numbers;
    numbers.reserve(listeners.size() + 1);
    for (const auto& listener : listeners)
        numbers.push_back(listener.descriptor);
    std::vector<std::string> environment = environment_for_successor(format_numbers(numbers), theirs.get(), drains);
    numbers.push_back(theirs.get());
    pid_t process = -1;
    const int error = spawn(process, program, arguments, std::move(environment), numbers, signal_mask);
    if (error != 0)
        return Error{fmt::format("{} could not be started: {}; put an executable of this project there", program,
                                 std::strerror(error))};
    return Successor(process, std::move(ours));
}

Successor::~Successor() {
    if (ready_) end();
}

Successor::Answer Successor::answer() {
    char byte = 0;
    const ssize_t received = ::read(ready_.get(), &byte, 1);
    if (received > 0) return Answer::ready;
    return received < 0 && (errno == EAGAIN || errno == EINTR) ? Answer::none : Answer::gone;
}

std::string Successor::end() {
    int status = 0;
    // It may be on its way out by itself: its own exit status says more than our signal would.
    for (int patience = 0; patience < 20; ++patience) {
        if (::waitpid(process_, &status, WNOHANG) == process_) {
            ready_.reset();
            return ending_in_words(status);
        }
        if (answer() != Answer::gone) break;
        ::usleep(10'000);
    }
    ::kill(process_, SIGKILL);
    ::waitpid(process_, &status, 0);
    ready_.reset();
    return "it was ended by us";
}

void Successor::release() {
    ready_.reset();
}

}  // namespace marchproxy::control
