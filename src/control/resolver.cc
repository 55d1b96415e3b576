#include "control/resolver.h"

#include <ares.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <condition_variable>
#include <fstream>
#include <iterator>
#include <mutex>
#include <optional>
#include <thread>
#include <tuple>
#include <utility>

#include "control/hosts.h"
#include "model/descriptor.h"

namespace marchproxy::control {

namespace {

// A file that is looked at again only when it became another one.
class WatchedFile {
  public:
    explicit WatchedFile(std::string path) : path_(std::move(path)) {}

    bool changed() {
        struct stat now {};
        if (::stat(path_.c_str(), &now) != 0) now = {};
        const auto identity = std::tuple(now.st_ino, now.st_size, now.st_mtim.tv_sec, now.st_mtim.tv_nsec);
        return std::exchange(seen_, identity) != identity;
    }
    std::string contents() const {
        std::ifstream file(path_, std::ios::binary);
        return {std::istreambuf_iterator<char>(file), {}};
    }

  private:
    std::string path_;
    std::optional<std::tuple<ino_t, off_t, time_t, long>> seen_;
};

struct Answer {
    std::vector<IpAddress> addresses;
    Duration good_for{};
};

Answer answer_of(const ares_addrinfo& info) {
    Answer answer;
    int ttl = INT_MAX;
    for (const auto* node = info.nodes; node != nullptr; node = node->ai_next) {
        if (node->ai_family != AF_INET && node->ai_family != AF_INET6) continue;
        sockaddr_storage storage{};
        std::copy_n(reinterpret_cast<const char*>(node->ai_addr), std::min<size_t>(node->ai_addrlen, sizeof storage),
                    reinterpret_cast<char*>(&storage));
        const IpAddress address = SocketAddress::from(storage).ip;
        if (address.is_unspecified()) continue;  // a connection to it would reach this machine itself
        answer.addresses.push_back(address);
        ttl = std::min(ttl, node->ai_ttl);
    }
    for (const auto* alias = info.cnames; alias != nullptr; alias = alias->next)
        ttl = std::min(ttl, alias->ttl);
    answer.good_for = std::chrono::seconds(std::max(ttl, 0));
    return answer;
}

}  // namespace

class Resolver::Worker {
  public:
    Worker(telemetry::Log& log, std::function<void()> changed, ResolverOptions options)
        : log_(log),
          changed_(std::move(changed)),
          options_(std::move(options)),
          hosts_file_(options_.hosts_file),
          wake_(Descriptor::required(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")) {
        ::ares_library_init(ARES_LIB_INIT_ALL);
        thread_ = std::thread([this] { run(); });
    }

    ~Worker() {
        {
            const std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        wake();
        thread_.join();
        ::ares_library_cleanup();
    }

    void add(const std::set<HostPort>& names) {
        {
            const std::lock_guard lock(mutex_);
            for (const HostPort& name : names) {
                if (name.is_literal()) continue;
                names_.insert(name);
                if (!hosts_.contains(name.host)) schedule(name.host, hosts_[name.host], Clock::now());
            }
        }
        wake();
    }

    void wait_until_settled(const std::set<HostPort>& names, TimePoint deadline) {
        std::unique_lock lock(mutex_);
        settled_.wait_until(lock, deadline, [&] {
            return std::all_of(names.begin(), names.end(), [&](const HostPort& name) {
                const auto host = hosts_.find(name.host);
                return host == hosts_.end() || host->second.settled;
            });
        });
    }

    void retain(const std::set<HostPort>& names) {
        const std::lock_guard lock(mutex_);
        std::erase_if(names_, [&](const HostPort& name) { return !names.contains(name); });
        std::set<std::string> wanted;
        for (const HostPort& name : names_)
            wanted.insert(name.host);
        std::erase_if(hosts_, [&](const auto& host) { return !wanted.contains(host.first); });
        std::erase_if(schedule_, [&](const auto& entry) { return !wanted.contains(entry.second); });
    }

    Resolution current() const {
        const std::lock_guard lock(mutex_);
        Resolution resolution;
        for (const HostPort& name : names_) {
            auto& addresses = resolution[name];
            for (const IpAddress& ip : hosts_.at(name.host).addresses)
                addresses.push_back({ip, name.port});
        }
        return resolution;
    }

    std::vector<std::string> notes() const {
        const std::lock_guard lock(mutex_);
        std::vector<std::string> notes;
        size_t more = 0;
        for (const auto& [name, host] : hosts_) {
            if (host.problem.empty()) continue;
            if (notes.size() == most_notes) {
                ++more;
                continue;
            }
            notes.push_back(
                host.resolved
                    ? fmt::format("name {} has not resolved for {} ({}); its last addresses stay in use", name,
                                  to_string(std::chrono::floor<std::chrono::seconds>(Clock::now() - *host.resolved)),
                                  host.problem)
                    : fmt::format("name {} does not resolve ({}); its endpoints get no connections", name,
                                  host.problem));
        }
        if (more > 0) notes.push_back(fmt::format("and {} names more that do not resolve", more));
        return notes;
    }

  private:
    static constexpr size_t most_notes = 10;

    struct Host {
        std::vector<IpAddress> addresses;
        std::optional<TimePoint> resolved;  // when it last was
        TimePoint due{};                    // when it is asked for next
        Duration retry{};                   // zero after a success
        bool settled = false;               // has had an answer or a failure
        std::string problem{};              // why it was not, the last time; empty: it was
    };
    struct Query {
        Worker* worker;
        std::string host;
    };

    void wake() {
        const uint64_t one = 1;
        [[maybe_unused]] const ssize_t written = ::write(wake_.get(), &one, sizeof one);  // full: it is awake already
    }

    void run() {
        while (!stopping()) {
            start_due();
            wait();
        }
        close_channel();
    }

    bool stopping() const {
        const std::lock_guard lock(mutex_);
        return stopping_;
    }

    // The mutex is held. A host has one place in the schedule at most, also when it was forgotten and added again
    // while it was being asked for.
    void schedule(const std::string& name, Host& host, TimePoint due) {
        schedule_.erase({host.due, name});
        host.due = due;
        schedule_.emplace(due, name);
    }

    std::optional<std::string> take_due() {
        const std::lock_guard lock(mutex_);
        if (schedule_.empty() || schedule_.begin()->first > Clock::now()) return std::nullopt;
        return schedule_.extract(schedule_.begin()).value().second;
    }

    void start_due() {
        while (asking_ < options_.concurrent) {
            const auto name = take_due();
            if (!name) return;
            const auto local = look_up_here(lower_case(*name));
            if (local.empty())
                ask(*name);
            else
                succeeded(*name, local, options_.hosts_interval);
        }
    }

    // Without a query: the hosts file, and names that mean this machine and must not be asked for (RFC 6761 6.3).
    std::vector<IpAddress> look_up_here(const std::string& name) {
        if (hosts_file_.changed()) known_hosts_ = parse_hosts(hosts_file_.contents());
        const auto known = known_hosts_.find(name);
        if (known != known_hosts_.end()) return known->second;
        if (name == "localhost" || name.ends_with(".localhost"))
            return {IpAddress::parse("127.0.0.1").value(), IpAddress::parse("::1").value()};
        return {};
    }

    void ask(const std::string& name) {
        if (asking_ == 0 && options_.servers.empty() && resolver_file_.changed()) close_channel();
        if (!open_channel(name)) return;
        ++asking_;
        ares_addrinfo_hints hints{};
        hints.ai_family = AF_UNSPEC;
        hints.ai_socktype = SOCK_STREAM;
        hints.ai_flags = ARES_AI_NOSORT;
        ::ares_getaddrinfo(channel_, name.c_str(), nullptr, &hints, &Worker::answered, new Query{this, name});
    }

    bool open_channel(const std::string& name) {
        if (channel_ != nullptr) return true;
        ares_options options{};
        char dns_only[] = "b";
        options.lookups = dns_only;
        options.timeout =
            static_cast<int>(std::chrono::duration_cast<std::chrono::milliseconds>(options_.query_timeout).count());
        options.tries = 2;
        options.sock_state_cb = [](void* self, ares_socket_t socket, int readable, int writable) {
            static_cast<Worker*>(self)->watch(socket, readable != 0, writable != 0);
        };
        options.sock_state_cb_data = this;
        int status = ::ares_init_options(
            &channel_, &options, ARES_OPT_LOOKUPS | ARES_OPT_TIMEOUTMS | ARES_OPT_TRIES | ARES_OPT_SOCK_STATE_CB);
        if (status == ARES_SUCCESS && !options_.servers.empty())
            status = ::ares_set_servers_ports_csv(channel_, options_.servers.c_str());
        if (status == ARES_SUCCESS) return true;
        close_channel();
        failed(name, ::ares_strerror(status));
        return false;
    }

    void close_channel() {
        if (channel_ == nullptr) return;
        ::ares_destroy(channel_);  // ends open queries with ARES_EDESTRUCTION
        channel_ = nullptr;
    }

    void watch(ares_socket_t socket, bool readable, bool writable) {
        const auto events = static_cast<short>((readable ? POLLIN : 0) | (writable ? POLLOUT : 0));
        if (events == 0)
            sockets_.erase(socket);
        else
            sockets_[socket] = events;
    }

    static void answered(void* argument, int status, int /*timeouts*/, ares_addrinfo* info) {
        const std::unique_ptr<Query> query(static_cast<Query*>(argument));
        Worker& self = *query->worker;
        --self.asking_;
        if (status == ARES_EDESTRUCTION) return;
        if (status != ARES_SUCCESS) {
            self.failed(query->host, ::ares_strerror(status));
            return;
        }
        Answer answer = answer_of(*info);
        ::ares_freeaddrinfo(info);
        const Duration good_for = std::clamp(answer.good_for, self.options_.ttl_floor, self.options_.ttl_ceiling);
        if (answer.addresses.empty())
            self.failed(query->host, "the answer holds no address that can be connected to");
        else
            self.succeeded(query->host, std::move(answer.addresses), good_for);
    }

    void succeeded(const std::string& name, std::vector<IpAddress> addresses, Duration good_for) {
        std::sort(addresses.begin(), addresses.end());
        addresses.erase(std::unique(addresses.begin(), addresses.end()), addresses.end());
        bool changed = false;
        bool recovered = false;
        {
            const std::lock_guard lock(mutex_);
            const auto found = hosts_.find(name);
            if (found == hosts_.end()) return;
            Host& host = found->second;
            const TimePoint now = Clock::now();
            changed = host.addresses != addresses;
            recovered = host.retry != Duration::zero();
            host.addresses = std::move(addresses);
            host.resolved = now;
            host.retry = Duration::zero();
            host.settled = true;
            host.problem.clear();
            schedule(name, host, now + good_for);
        }
        settled_.notify_all();
        if (recovered) log_.info("name resolves again", {{"name", name}});
        if (changed) changed_();
    }

    void failed(const std::string& name, const char* why) {
        double age = -1;
        {
            const std::lock_guard lock(mutex_);
            const auto found = hosts_.find(name);
            if (found == hosts_.end()) return;
            Host& host = found->second;
            const TimePoint now = Clock::now();
            host.retry = std::clamp(host.retry * 2, options_.first_retry, options_.last_retry);
            host.settled = true;
            host.problem = why;
            if (host.resolved) age = std::chrono::duration<double>(now - *host.resolved).count();
            schedule(name, host, now + host.retry);
        }
        settled_.notify_all();
        if (age < 0)
            log_.limited(LogLevel::warn, "resolve " + name, "name does not resolve; its endpoints get no connections",
                         {{"name", name}, {"error", why}});
        else
            log_.limited(LogLevel::warn, "resolve " + name, "name does not resolve; its last addresses stay in use",
                         {{"name", name}, {"error", why}, {"age_seconds", age}});
    }

    // Sleeps until a socket, a due name, one of c-ares' own timeouts or wake().
    void wait() {
        std::vector<pollfd> descriptors{{wake_.get(), POLLIN, 0}};
        for (const auto& [socket, events] : sockets_)
            descriptors.push_back({socket, events, 0});
        const timespec timeout = time_to_wait();
        const int ready = ::ppoll(descriptors.data(), descriptors.size(), &timeout, nullptr);
        uint64_t count = 0;
        [[maybe_unused]] const ssize_t drained = ::read(wake_.get(), &count, sizeof count);
        if (channel_ == nullptr) return;
        if (ready > 0)
            for (size_t i = 1; i < descriptors.size(); ++i) {
                const short events = descriptors[i].revents;
                if (events == 0) continue;
                ::ares_process_fd(channel_, (events & ~POLLOUT) != 0 ? descriptors[i].fd : ARES_SOCKET_BAD,
                                  (events & POLLOUT) != 0 ? descriptors[i].fd : ARES_SOCKET_BAD);
            }
        ::ares_process_fd(channel_, ARES_SOCKET_BAD, ARES_SOCKET_BAD);  // its timeouts
    }

    timespec time_to_wait() {
        Duration wait = std::chrono::minutes(1);
        if (asking_ < options_.concurrent) {
            const std::lock_guard lock(mutex_);
            if (!schedule_.empty()) wait = std::min<Duration>(wait, schedule_.begin()->first - Clock::now());
        }
        timeval limit{60, 0};
        timeval next{};
        if (channel_ != nullptr && asking_ > 0) {
            const timeval* timeout = ::ares_timeout(channel_, &limit, &next);
            wait = std::min<Duration>(
                wait, std::chrono::seconds(timeout->tv_sec) + std::chrono::microseconds(timeout->tv_usec));
        }
        wait = std::max(wait, Duration::zero());
        return {static_cast<time_t>(wait.count() / 1'000'000'000), static_cast<long>(wait.count() % 1'000'000'000)};
    }

    telemetry::Log& log_;
    const std::function<void()> changed_;
    const ResolverOptions options_;

    // The thread's own.
    WatchedFile hosts_file_;
    WatchedFile resolver_file_{"/etc/resolv.conf"};
    Hosts known_hosts_;
    ares_channel channel_ = nullptr;
    std::map<ares_socket_t, short> sockets_;
    unsigned asking_ = 0;

    mutable std::mutex mutex_;
    std::condition_variable settled_;
    bool stopping_ = false;
    std::set<HostPort> names_;
    std::map<std::string, Host> hosts_;                     // every host of names_
    std::set<std::pair<TimePoint, std::string>> schedule_;  // hosts that are not being asked for

    const Descriptor wake_;
    std::thread thread_;
};

Resolver::Resolver(telemetry::Log& log, std::function<void()> changed, ResolverOptions options)
    : worker_(std::make_unique<Worker>(log, std::move(changed), std::move(options))) {}

Resolver::~Resolver() = default;

Resolution Resolver::require(const std::set<HostPort>& names, Duration patience) {
    worker_->add(names);
    worker_->wait_until_settled(names, Clock::now() + patience);
    return worker_->current();
}

void Resolver::retain(const std::set<HostPort>& names) {
    worker_->retain(names);
}

std::vector<std::string> Resolver::notes() const {
    return worker_->notes();
}

Resolution Resolver::current() const {
    return worker_->current();
}

}  // namespace marchproxy::control
