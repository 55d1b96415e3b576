#include "probe/prober.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>
#include <future>
#include <map>
#include <mutex>
#include <random>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <unordered_set>

#include "probe/pinger.h"
#include "probe/probe_socket.h"
#include "probe/socket_pool.h"
#include "qos/timer_wheel.h"

namespace marchproxy::probe {

namespace {

constexpr int events_a_turn = 256;

int checked(int descriptor, const char* what) {
    if (descriptor < 0) throw std::system_error(errno, std::generic_category(), what);
    return descriptor;
}

struct Entry : qos::Timer {
    Target target;
    std::vector<std::shared_ptr<routing::EndpointState>> endpoints;
    std::shared_ptr<Gauge> gauge = std::make_shared<Gauge>();
    routing::Quality quality;
    std::unique_ptr<ProbeSocket> socket;  // one of these two while a probe is on its way
    std::optional<uint64_t> echo;         // the token of a ping
    TimePoint due{}, sent{};
    WallTime sent_at{};   // of a ping, by the clock of the kernel's time stamps
    std::string problem;  // of the last probe
};

routing::Thresholds thresholds_of(const Entry& entry) {
    return {.fall = entry.target.settings.fall, .rise = entry.target.settings.rise};
}

}  // namespace

class Prober::Worker {
  public:
    Worker(telemetry::Log& log, std::function<void()> changed);
    ~Worker();
    std::vector<std::shared_ptr<const Gauge>> follow(const std::vector<Wanted>& wanted);
    Status status() const;

  private:
    void run();
    void wait();
    int take_events(Duration patience);
    void read_mailbox();
    void take_over(const std::vector<Wanted>& wanted);
    using Known = std::multimap<SocketAddress, std::unique_ptr<Entry>>;
    std::unique_ptr<Entry> entry_for(const Wanted& wanted, Known& known);

    void begin(Entry& entry);
    Outcome ask(Entry& entry);
    Outcome ask_by_echo(Entry& entry);
    void time_out(Entry& entry);
    void receive_echoes(Pinger& pinger);
    void forget(Entry& entry);
    void end(Entry& entry, const Outcome& outcome);
    void schedule(Entry& entry, const Outcome& outcome);
    void tell(Entry& entry, bool moved);
    Pinger* pinger(bool v4);

    telemetry::Log& log_;
    const std::function<void()> changed_;
    const int epoll_ = checked(epoll_create1(EPOLL_CLOEXEC), "epoll_create1");
    const int mailbox_ = checked(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), "eventfd");
    TimePoint now_ = Clock::now(), seen_until_ = now_;
    // In steps of a millisecond, so that of thousands of targets many are asked at one waking.
    qos::TimerWheel<std::chrono::milliseconds> timers_{now_};
    SocketPool sockets_{epoll_};
    std::vector<std::unique_ptr<Entry>> entries_;
    std::array<std::optional<Pinger>, 2> pingers_;  // IPv6, IPv4
    std::array<TimePoint, 2> pinger_tried_{};
    std::unordered_map<uint64_t, Entry*> echoes_;  // pings on their way, by token
    std::mt19937_64 random_{std::random_device{}()};
    bool news_ = false;

    std::atomic<uint64_t> sent_{0}, answered_{0}, lost_{0}, late_{0};
    mutable std::mutex mutex_;  // over the three
    const std::vector<Wanted>* wanted_ = nullptr;
    std::promise<void>* followed_ = nullptr;
    std::vector<std::string> notes_;
    std::atomic<bool> stopping_{false};
    std::mutex one_follows_;
    std::thread thread_{[this] { run(); }};  // last
};

Prober::Worker::Worker(telemetry::Log& log, std::function<void()> changed) : log_(log), changed_(std::move(changed)) {}

Prober::Worker::~Worker() {
    stopping_ = true;
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(mailbox_, &one, sizeof one);
    thread_.join();
    close(mailbox_);
    close(epoll_);
}

// --- the loop ------------------------------------------------------------------------------------------------------

void Prober::Worker::run() {
    pthread_setname_np(pthread_self(), "probes");
    epoll_event mail{.events = EPOLLIN, .data = {.ptr = nullptr}};
    epoll_ctl(epoll_, EPOLL_CTL_ADD, mailbox_, &mail);
    while (!stopping_) {
        wait();
        timers_.advance(seen_until_, [this](qos::Timer& timer) {
            auto& entry = static_cast<Entry&>(timer);
            if (entry.socket || entry.echo)
                time_out(entry);
            else
                begin(entry);
        });
        if (std::exchange(news_, false)) changed_();
    }
    entries_.clear();
}

// Takes all that has come. Timers then fire for the time up to which that is sure, so that no answer that came in time
// counts as lost: a prober with too much to do asks less often, and takes nobody for dead.
void Prober::Worker::wait() {
    const std::optional<TimePoint> due = timers_.next_expiry();
    Duration patience = due ? std::max(*due - Clock::now(), Duration::zero()) : Duration::max();
    int count = 0;
    do {
        const TimePoint asked = Clock::now();
        count = take_events(patience);
        seen_until_ = count > 0 ? asked : now_;
        patience = Duration::zero();
    } while (count == events_a_turn);
}

int Prober::Worker::take_events(Duration patience) {
    std::array<epoll_event, events_a_turn> events;
    const auto whole = std::chrono::floor<std::chrono::seconds>(patience);
    const timespec timeout{.tv_sec = whole.count(), .tv_nsec = (patience - whole).count()};
    const int count =
        epoll_pwait2(epoll_, events.data(), events_a_turn, patience == Duration::max() ? nullptr : &timeout, nullptr);
    now_ = Clock::now();
    bool mail = false;
    for (int i = 0; i < count; ++i) {
        void* pointer = events[static_cast<size_t>(i)].data.ptr;
        if (!pointer) {
            mail = true;
        } else if (pointer == &pingers_[0] || pointer == &pingers_[1]) {
            receive_echoes(**static_cast<std::optional<Pinger>*>(pointer));
        } else {
            auto& socket = *static_cast<ProbeSocket*>(pointer);
            if (!socket.user) continue;
            const Outcome outcome = socket.on_event(now_);
            if (outcome.kind != Outcome::Kind::pending) end(*static_cast<Entry*>(socket.user), outcome);
        }
    }
    if (mail) read_mailbox();
    return count;
}

// --- one probe -----------------------------------------------------------------------------------------------------

void Prober::Worker::begin(Entry& entry) {
    if (Clock::now() - entry.due > entry.target.settings.interval) late_.fetch_add(1, std::memory_order_relaxed);
    // Read anew: of many that are due at once the last is not to be charged with the time that the others took.
    entry.sent = now_ = Clock::now();
    sent_.fetch_add(1, std::memory_order_relaxed);
    const Outcome outcome = entry.target.settings.kind == ProbeKind::icmp ? ask_by_echo(entry) : ask(entry);
    if (outcome.kind != Outcome::Kind::pending) return end(entry, outcome);
    timers_.arm(entry, entry.sent + entry.target.settings.timeout);
}

Outcome Prober::Worker::ask(Entry& entry) {
    ProbeSocket::Opened taken = sockets_.take(entry.target);
    if (!taken.socket) return taken.outcome;
    entry.socket = std::move(taken.socket);
    entry.socket->user = &entry;
    return entry.socket->ask(entry.target, random_(), entry.sent);
}

Outcome Prober::Worker::ask_by_echo(Entry& entry) {
    const IpAddress& ip = entry.target.address.ip;
    Pinger* by = pinger(ip.is_v4());
    if (!by) return Outcome::unable("probes of kind icmp cannot be sent");
    uint64_t token = random_();
    while (echoes_.contains(token))
        token = random_();
    entry.sent_at = std::chrono::system_clock::now();
    if (const int error = by->send(ip, entry.target.egress, token, entry.sent); error != 0) return outcome_of(error);
    entry.echo = token;
    echoes_.emplace(token, &entry);
    return {};
}

// Opened when the first target wants it; what cannot be had is asked for again each ten seconds.
Pinger* Prober::Worker::pinger(bool v4) {
    std::optional<Pinger>& pinger = pingers_[v4];
    if (pinger) return &*pinger;
    if (now_ - pinger_tried_[v4] < std::chrono::seconds(10)) return nullptr;
    pinger_tried_[v4] = now_;
    Result<Pinger> opened = Pinger::open(v4);
    {
        std::lock_guard lock(mutex_);
        notes_.clear();
        if (!opened.ok()) notes_.push_back(opened.error());
    }
    if (!opened.ok()) {
        log_.limited(LogLevel::error, "probe-icmp", opened.error());
        return nullptr;
    }
    pinger.emplace(std::move(*opened));
    epoll_event event{.events = EPOLLIN, .data = {.ptr = &pinger}};
    epoll_ctl(epoll_, EPOLL_CTL_ADD, pinger->descriptor(), &event);
    return &*pinger;
}

void Prober::Worker::receive_echoes(Pinger& by) {
    const auto answered = [this](const IpAddress& from, uint64_t token, WallTime came) {
        const auto found = echoes_.find(token);
        if (found == echoes_.end() || found->second->target.address.ip != from) return false;
        Entry& entry = *found->second;
        end(entry, Outcome::answered(came - entry.sent_at));
        return true;
    };
    for (const auto& [flooder, error] : by.receive(answered, now_)) {
        if (error == 0)
            log_.limited(LogLevel::warn, "probe-flood",
                         "sends far more echo replies than it was asked for, and is not heard for a while",
                         {{"target", to_string(flooder)}, {"for", to_string(FloodGuard::time_out)}});
        else
            log_.limited(LogLevel::error, "probe-flood-heard",
                         "sends far more echo replies than it was asked for, and cannot be shut out",
                         {{"target", to_string(flooder)}, {"error", strerror(error)}});
    }
}

void Prober::Worker::time_out(Entry& entry) {
    const IpAddress& ip = entry.target.address.ip;
    if (entry.echo && pingers_[ip.is_v4()]->shuts_out(ip))
        end(entry, Outcome::failed("it floods: it is not heard, as it sent far more than it was asked for"));
    else
        end(entry, Outcome::failed(fmt::format("no answer within {}", to_string(entry.target.settings.timeout))));
}

// Whatever answer is still to come.
void Prober::Worker::forget(Entry& entry) {
    if (entry.socket) sockets_.leave(std::move(entry.socket));
    if (entry.echo) echoes_.erase(*std::exchange(entry.echo, std::nullopt));
}

void Prober::Worker::end(Entry& entry, const Outcome& outcome) {
    if (entry.socket && outcome.kind == Outcome::Kind::answered)
        sockets_.put_back(entry.target, std::move(entry.socket));
    forget(entry);
    entry.problem = outcome.why;
    bool moved = false;
    if (outcome.kind == Outcome::Kind::answered) {
        news_ |= !entry.quality.round_trip();
        moved = entry.quality.answered(outcome.round_trip, thresholds_of(entry), now_);
        answered_.fetch_add(1, std::memory_order_relaxed);
    } else if (outcome.kind == Outcome::Kind::failed) {
        moved = entry.quality.lost(thresholds_of(entry), now_);
        lost_.fetch_add(1, std::memory_order_relaxed);
    } else {
        log_.limited(LogLevel::error, "probe-unable", "a probe could not be sent; what it is for counts as it was",
                     {{"target", to_string(entry.target.address)}, {"error", outcome.why}});
    }
    if (moved) tell(entry, true);
    // Last: whoever reads here that it is down finds it closed, and in the log.
    entry.gauge->write(entry.quality.reading(), entry.problem);
    schedule(entry, outcome);
}

void Prober::Worker::schedule(Entry& entry, const Outcome& outcome) {
    const ProbeSettings& settings = entry.target.settings;
    const bool hurry = outcome.kind == Outcome::Kind::failed && entry.quality.up();
    const auto early =
        Duration(static_cast<int64_t>(random_() % static_cast<uint64_t>(settings.interval.count() / 10 + 1)));
    entry.due = entry.sent + (hurry ? settings.timeout : settings.interval - early);
    timers_.arm(entry, entry.due);
}

// Says in the endpoints' states what is known. What has risen takes connections at once, whatever they showed before.
void Prober::Worker::tell(Entry& entry, bool moved) {
    const bool up = entry.quality.up();
    for (const auto& endpoint : entry.endpoints) {
        if (up && moved) endpoint->health.succeeded();
        endpoint->set(routing::closed_by_probe, !up);
    }
    if (!moved) return;
    news_ = true;
    log_.write(up ? LogLevel::info : LogLevel::warn, up ? "probes get through again" : "probes do not get through",
               {{"target", to_string(entry.target.address)},
                {"kind", name_of(entry.target.settings.kind)},
                {"path", entry.target.path},
                {"why", entry.problem}});
}

// --- targets that come and go --------------------------------------------------------------------------------------

std::vector<std::shared_ptr<const Gauge>> Prober::Worker::follow(const std::vector<Wanted>& wanted) {
    std::lock_guard one(one_follows_);
    std::promise<void> followed;
    {
        std::lock_guard lock(mutex_);
        wanted_ = &wanted;
        followed_ = &followed;
    }
    const uint64_t mail = 1;
    [[maybe_unused]] const ssize_t written = write(mailbox_, &mail, sizeof mail);
    followed.get_future().wait();
    // The thread looks at entries' order and gauges only in take_over(), which another follow() would have to ask for.
    std::vector<std::shared_ptr<const Gauge>> gauges;
    for (const auto& entry : entries_)
        gauges.push_back(entry->gauge);
    return gauges;
}

void Prober::Worker::read_mailbox() {
    uint64_t count;
    [[maybe_unused]] const ssize_t got = read(mailbox_, &count, sizeof count);
    std::lock_guard lock(mutex_);
    if (!wanted_) return;
    take_over(*std::exchange(wanted_, nullptr));
    std::exchange(followed_, nullptr)->set_value();
}

// One that was asked the same way before goes on.
std::unique_ptr<Entry> Prober::Worker::entry_for(const Wanted& wanted, Known& known) {
    const auto [first, last] = known.equal_range(wanted.target.address);
    for (auto found = first; found != last; ++found)
        if (found->second && found->second->target == wanted.target) return std::move(found->second);
    auto entry = std::make_unique<Entry>();
    entry->target = wanted.target;
    // At first spread over the interval, and over a tenth of a second where that is long.
    const Duration span = std::min<Duration>(wanted.target.settings.interval, std::chrono::milliseconds(100));
    entry->due = now_ + Duration(static_cast<int64_t>(random_() % static_cast<uint64_t>(span.count())));
    timers_.arm(*entry, entry->due);
    return entry;
}

void Prober::Worker::take_over(const std::vector<Wanted>& wanted) {
    Known known;
    for (auto& entry : entries_)
        known.emplace(entry->target.address, std::move(entry));
    std::vector<std::unique_ptr<Entry>> next;
    std::unordered_set<const routing::EndpointState*> asked;
    std::vector<std::shared_ptr<routing::EndpointState>> left;
    for (const Wanted& one : wanted) {
        Entry& entry = *next.emplace_back(entry_for(one, known));
        left.insert(left.end(), entry.endpoints.begin(), entry.endpoints.end());
        entry.endpoints = one.endpoints;
        tell(entry, false);
        for (const auto& endpoint : one.endpoints)
            asked.insert(endpoint.get());
    }
    for (const auto& [address, entry] : known) {
        if (!entry) continue;
        timers_.disarm(*entry);
        forget(*entry);
        left.insert(left.end(), entry->endpoints.begin(), entry->endpoints.end());
    }
    for (const auto& endpoint : left)
        if (!asked.contains(endpoint.get())) endpoint->open(routing::closed_by_probe);
    entries_ = std::move(next);
    sockets_.clear();  // there may be none left of a kind, or way, that some are for
}

// --- what it tells -------------------------------------------------------------------------------------------------

Status Prober::Worker::status() const {
    Status status{.sent = sent_.load(std::memory_order_relaxed),
                  .answered = answered_.load(std::memory_order_relaxed),
                  .lost = lost_.load(std::memory_order_relaxed),
                  .late = late_.load(std::memory_order_relaxed),
                  .notes = {}};
    clockid_t clock;
    timespec used{};
    if (pthread_getcpuclockid(const_cast<std::thread&>(thread_).native_handle(), &clock) == 0 &&
        clock_gettime(clock, &used) == 0)
        status.cpu = std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
    std::lock_guard lock(mutex_);
    status.targets = entries_.size();
    status.notes = notes_;
    return status;
}

Prober::Prober(telemetry::Log& log, std::function<void()> changed)
    : worker_(std::make_unique<Worker>(log, std::move(changed))) {}
Prober::~Prober() = default;

std::vector<std::shared_ptr<const Gauge>> Prober::follow(const std::vector<Wanted>& wanted) {
    return worker_->follow(wanted);
}

Status Prober::status() const {
    return worker_->status();
}

}  // namespace marchproxy::probe
