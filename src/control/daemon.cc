#include "control/daemon.h"

#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <optional>
#include <thread>
#include <utility>

#include "admin/server.h"
#include "config/options.h"
#include "control/board.h"
#include "control/handover.h"
#include "control/limits.h"
#include "control/mailbox.h"
#include "control/notify.h"
#include "control/pilot.h"
#include "control/publisher.h"
#include "control/signals.h"
#include "packet/plane.h"

namespace marchproxy::control {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr Duration drain_check = milliseconds(20);
constexpr Duration successor_patience = seconds(30);   // until it must be ready; loading the packet plane takes some
constexpr Duration predecessor_patience = seconds(3);  // until it has left the admin port
constexpr Duration admin_retry = seconds(1);

unsigned workers_of(const Snapshot& snapshot) {
    const unsigned configured = snapshot.settings.stream.workers;
    return configured > 0 ? configured : std::max(1u, std::thread::hardware_concurrency());
}

flow::StoreOptions store_options(const Snapshot& snapshot) {
    const TelemetrySettings& telemetry = snapshot.settings.telemetry;
    flow::StoreOptions options;
    options.keep = telemetry.flows ? telemetry.keep_flows : 0;
    options.file = telemetry.flows ? telemetry.flow_file : "";
    return options;
}

void print_problems(const std::vector<config::Problem>& problems) {
    for (const auto& problem : problems)
        fmt::print(stderr, "{}\n", config::to_string(problem));
    fmt::print(stderr, "marchproxy-l3l4: {} {} in the configuration; nothing was started\n", problems.size(),
               problems.size() == 1 ? "problem" : "problems");
}

void print_failure(const std::string& why) {
    fmt::print(stderr, "marchproxy-l3l4: cannot start: {}\n", why);
}

std::string address_of(const AdminSettings& admin) {
    return to_string(SocketAddress{admin.address, admin.port});
}

}  // namespace

class Daemon::Implementation final : public admin::View {
  public:
    explicit Implementation(DaemonOptions options) : options_(std::move(options)) {}

    int run() {
        auto loaded = config::load(options_.sources);
        if (!loaded.ok()) {
            print_problems(loaded.problems);
            return 2;
        }
        if (const auto started = start(std::move(loaded.snapshot)); !started.ok()) {
            print_failure(started.error());
            return 1;
        }
        announce();
        while (!finished_)
            turn();
        finish();
        return 0;
    }

    // --- admin::View, on the admin threads ---

    admin::ProcessStatus process() const override { return board_.status(); }
    SnapshotPointer snapshot() const override { return board_.snapshot(); }
    admin::Status status() const override { return together(stream_->status(), packet_->status()); }
    std::vector<flow::Record> active_flows(const flow::Query& query) const override {
        std::vector<flow::Record> flows = packet_->active_flows(query);
        for (flow::Record& flow : stream_->active_flows(query))
            flows.push_back(std::move(flow));
        return flows;
    }
    const flow::Store& flows() const override { return *store_; }
    Result<void> reload() override { return mailbox_.reload(); }
    bool drain(admin::Drainable what, const std::string& name, bool draining) override {
        return pilot_->drain(what, name, draining);
    }
    std::vector<admin::PathReading> path_readings() const override { return pilot_->paths(); }
    Result<admin::Explanation> explain(const std::string& service, const IpAddress& client) const override {
        return pilot_->explain(service, client);
    }
    Result<std::vector<costs::BookRow>> costs(const costs::BookQuery& query) override { return pilot_->costs(query); }
    std::vector<costs::BudgetReading> budgets() const override { return pilot_->budgets(); }

  private:
    admin::Status together(stream::Status&& stream, packet::Status&& packet) const {
        for (telemetry::ServiceStatus& service : stream.services)
            if (service.listening) service.plane_reason = packet_->reason(service.name);
        admin::Status status{.services = telemetry::joined(std::move(packet.services), std::move(stream.services)),
                             .workers = std::move(stream.workers),
                             .descriptors_used = stream.descriptors_used,
                             .descriptors_limit = stream.descriptors_limit,
                             .accepting = stream.accepting,
                             .notes = std::move(stream.notes),
                             .packet = {}};
        status.notes.insert(status.notes.end(), packet.notes.begin(), packet.notes.end());
        for (const auto& notes : {pilot_->notes(), publisher_->notes(), gateways_.notes()})
            status.notes.insert(status.notes.end(), notes.begin(), notes.end());
        status.packet = std::move(packet);
        return status;
    }

    // --- start ---

    Result<void> start(Snapshot snapshot) {
        build_parts(snapshot);
        at_start_ = snapshot;
        if (auto published = publisher_->publish(std::move(snapshot)); !published.ok()) return published;
        if (inherited_.ready_pipe) {
            [[maybe_unused]] const ssize_t told = ::write(inherited_.ready_pipe.get(), "r", 1);
            inherited_.ready_pipe.reset();
            take_over_admin();
            return {};
        }
        return start_admin();
    }

    void build_parts(const Snapshot& snapshot) {
        const Settings& settings = snapshot.settings;
        log_ = std::make_unique<telemetry::Log>(settings.log.level, settings.log.format);
        for (const std::string& problem : inherited_.problems)
            log_->warn(problem);
        const DescriptorLimit limit = raise_descriptor_limit();
        if (!limit.note.empty()) {
            log_->warn(limit.note);
            board_.note("descriptors", {limit.note});
        }
        store_ = std::make_unique<flow::Store>(store_options(snapshot), [this](bool works, const std::string& message) {
            log_->write(works ? LogLevel::info : LogLevel::error, message);
        });
        successor_of_another_ = static_cast<bool>(inherited_.ready_pipe);
        share_out(inherited_.sockets, workers_of(snapshot));
        const unsigned workers = workers_of(snapshot);
        shapers_ = std::make_unique<qos::Shapers>(workers + 1);
        stream_ = std::make_unique<stream::Plane>(workers, *log_, *store_, *shapers_, endpoint_states_,
                                                  std::move(inherited_.sockets));
        packet_ = std::make_unique<packet::Plane>(*log_, *store_, *shapers_, endpoint_states_, workers);
        pilot_ = std::make_unique<Pilot>(*stream_, *packet_, endpoint_states_, *log_, [this] { mailbox_.wake(); });
        pilot_->take_drains(Drains::from_text(inherited_.drains));
        publisher_ = std::make_unique<Publisher>(gateways_, *shapers_, *stream_, *packet_, *pilot_, *log_, board_,
                                                 [this] { mailbox_.wake(); });
    }

    Result<void> start_admin() {
        const AdminSettings admin = admin_tried_ = board_.snapshot()->settings.admin;
        auto server = std::make_unique<admin::Server>(*this, *log_);
        if (const auto started = server->start(admin.address, admin.port); !started.ok())
            return Error{started.error() + " (--admin-port, ADMIN_PORT)"};
        admin_ = std::move(server);
        admin_settings_ = admin;
        return {};
    }

    // The listeners serve already and the predecessor is leaving: an admin port that stays occupied is no reason to
    // end, but to say so and to try on.
    void take_over_admin() {
        const TimePoint end = Clock::now() + predecessor_patience;
        auto started = start_admin();
        while (!started.ok() && Clock::now() < end) {
            std::this_thread::sleep_for(milliseconds(20));
            started = start_admin();
        }
        admin_outcome(started);
    }

    void admin_outcome(const Result<void>& started) {
        admin_retry_at_ = started.ok() ? TimePoint::max() : Clock::now() + admin_retry;
        if (started.ok()) {
            board_.note("admin", {});
            return;
        }
        board_.note("admin", {started.error()});
        log_->limited(LogLevel::error, "admin", "the admin server did not start; trying again",
                      {{"error", started.error()}});
    }

    void announce() {
        board_.set_state(admin::ProcessState::ready);
        const SnapshotPointer snapshot = board_.snapshot();
        log_->info("serving", {{"services", snapshot->services.size()},
                               {"workers", workers_of(*snapshot)},
                               {"admin", address_of(snapshot->settings.admin)},
                               {"process", ::getpid()},
                               {"took_over", successor_of_another_}});
        note_embedded_default();
        tell_manager(notifier_.ready(serving_text()));
        if (publisher_->runs_embedded_default() && !successor_of_another_ && options_.welcome)
            options_.welcome(*snapshot);
    }

    void note_embedded_default() {
        const bool demo = publisher_->runs_embedded_default();
        board_.note("default",
                    demo ? std::vector<std::string>{"embedded default: no service is configured, so that the "
                                                    "service 'default' runs over four upstreams of this process"}
                         : std::vector<std::string>{});
    }

    std::string serving_text() const { return fmt::format("serving {} services", board_.snapshot()->services.size()); }

    void tell_manager(const Result<void>& told) {
        if (!told.ok()) log_->limited(LogLevel::warn, "notify", told.error());
    }

    // --- the loop: wait, then everything that may have come, in this order ---

    void turn() {
        wait();
        while (const auto signal = signals_.next())
            take_signal(*signal);
        mailbox_.drain_wakes();
        for (auto& request : mailbox_.take_reloads())
            request.set_value(read_configuration_again());
        if (!draining()) follow_settings();
        if (packet_->turn() && !draining()) publisher_->share_out_again();
        pilot_->turn(Clock::now());
        gateways_.turn(Clock::now());
        follow_successor();
        follow_drain();
        measure();
        beat();
    }

    void wait() {
        std::vector<pollfd> descriptors = {{signals_.descriptor(), POLLIN, 0},
                                           {mailbox_.descriptor(), POLLIN, 0},
                                           {successor_ ? successor_->ready_descriptor() : -1, POLLIN, 0}};
        for (const int descriptor : packet_->descriptors())
            descriptors.push_back({descriptor, POLLIN, 0});
        TimePoint next = std::min({admin_retry_at_, beat_at_, packet_->due(), pilot_->due(), gateways_.due()});
        const SnapshotPointer running = board_.snapshot();
        if (running && running->settings.qos.enabled) next = std::min(next, measure_at_);
        if (successor_) next = std::min(next, successor_deadline_);
        if (draining()) next = std::min(next, Clock::now() + drain_check);
        int timeout = -1;
        if (next != TimePoint::max())
            timeout = static_cast<int>(
                std::clamp<int64_t>(std::chrono::ceil<milliseconds>(next - Clock::now()).count(), 0, 60'000));
        ::poll(descriptors.data(), descriptors.size(), timeout);
    }

    void take_signal(int signal) {
        switch (signal) {
            case SIGHUP:
                // Why it failed is in the log and in `status`; there is nobody else to tell.
                (void)read_configuration_again();
                store_->reopen();
                break;
            case SIGUSR2:
                start_successor();
                break;
            default:
                asked_to_end(signal);
        }
    }

    void follow_settings() {
        publisher_->follow_names();
        const AdminSettings wanted = board_.snapshot()->settings.admin;
        if (!admin_ && Clock::now() >= admin_retry_at_)
            admin_outcome(start_admin());
        else if (admin_ && address_of(wanted) != address_of(admin_tried_))
            move_admin();
    }

    // The new address first, so that a wrong one costs nothing. On the same port that may be impossible while the old
    // one is there.
    void move_admin() {
        const AdminSettings before = admin_settings_;
        auto old = std::move(admin_);
        auto moved = start_admin();
        if (!moved.ok() && admin_tried_.port == before.port) {
            old.reset();
            moved = start_admin();
        }
        if (moved.ok()) {
            log_->info("admin server moved", {{"admin", address_of(admin_settings_)}});
            board_.note("admin", {});
            return;
        }
        log_->error("the admin server cannot move to where the configuration wants it",
                    {{"from", address_of(before)}, {"error", moved.error()}});
        board_.note("admin", {moved.error() + "; it stays at " + address_of(before)});
        admin_ = std::move(old);
        if (!admin_) admin_retry_at_ = Clock::now() + admin_retry;
    }

    // --- reload ---

    Result<void> read_configuration_again() {
        if (draining()) {
            log_->warn("reload ignored: the proxy is draining");
            return Error{"the proxy is draining; a reload has nothing to reach"};
        }
        tell_manager(notifier_.reloading());
        auto outcome = publish_again();
        if (outcome.ok()) {
            board_.reload_succeeded();
            log_->info("configuration reloaded",
                       {{"version", board_.snapshot()->version}, {"services", board_.snapshot()->services.size()}});
            tell_manager(notifier_.ready(serving_text()));
        } else {
            board_.reload_failed(outcome.error());
            log_->error("configuration not reloaded; the running one stays in place", {{"error", outcome.error()}});
            tell_manager(notifier_.ready(serving_text() + "; the last reload was refused: " + outcome.error()));
        }
        return outcome;
    }

    Result<void> publish_again() {
        auto loaded = config::load(options_.sources);
        if (!loaded.ok()) {
            std::string all;
            for (const auto& problem : loaded.problems) {
                log_->error("configuration problem", {{"problem", config::to_string(problem)}});
                all += (all.empty() ? "" : "; ") + config::to_string(problem);
            }
            return Error{all};
        }
        Snapshot& next = loaded.snapshot;
        name_what_needs_a_restart(next);
        next.settings.stream.workers = at_start_.settings.stream.workers;
        next.settings.packet = at_start_.settings.packet;
        auto published = publisher_->publish(std::move(next));
        if (!published.ok()) return published;
        const SnapshotPointer running = board_.snapshot();
        log_->configure(running->settings.log.level, running->settings.log.format);
        store_->configure(store_options(*running));
        note_embedded_default();
        return {};
    }

    void name_what_needs_a_restart(const Snapshot& next) {
        std::vector<std::string> notes;
        for (const std::string& key : config::restart_needed(at_start_, next)) {
            notes.push_back(key + ": changed in the configuration; takes effect with SIGUSR2 or a restart");
            log_->warn("a changed setting waits for SIGUSR2 or a restart", {{"key", key}});
        }
        board_.note("restart", std::move(notes));
    }

    // --- the end ---

    bool draining() const { return drain_deadline_.has_value(); }

    void asked_to_end(int signal) {
        ++asked_to_end_;
        if (asked_to_end_ > 1) {
            log_->warn("asked to end a second time; ending at once");
            finished_ = true;
            return;
        }
        if (successor_) give_up_successor("the proxy was asked to end");
        if (draining()) return;
        log_->info("draining", {{"signal", ::sigdescr_np(signal)},
                                {"connections", stream_->active_connections()},
                                {"drain_timeout", to_string(board_.snapshot()->settings.drain_timeout)}});
        tell_manager(notifier_.stopping("draining"));
        begin_drain("the proxy is draining", false);
    }

    void begin_drain(const std::string& why, bool handed_over) {
        board_.set_state(admin::ProcessState::draining);
        mailbox_.close(why + "; a reload has nothing to reach");
        drain_deadline_ = Clock::now() + board_.snapshot()->settings.drain_timeout;
        stream_->stop_accepting(handed_over);
        handed_over_ = handed_over;
    }

    void follow_drain() {
        if (!draining()) return;
        if (stream_->active_connections() == 0 || Clock::now() >= *drain_deadline_) finished_ = true;
    }

    void finish() {
        const uint64_t left = stream_->active_connections();
        log_->info("ended", {{"connections_cut", left}});
        if (left > 0) stream_->end_all(Verdict::drained);
        mailbox_.close("the proxy has ended");
        admin_.reset();
        publisher_.reset();
        pilot_.reset();
        stream_.reset();
        packet_.reset();
        if (!handed_over_) gateways_.end();
    }

    // What qos shows as rates.
    void measure() {
        const TimePoint now = Clock::now();
        if (now < measure_at_) return;
        stream_->measure(now);
        measure_at_ = now + seconds(1);
    }

    void beat() {
        if (!beat_interval_ || Clock::now() < beat_at_) return;
        tell_manager(notifier_.watchdog());
        beat_at_ = Clock::now() + *beat_interval_;
    }

    // --- hot upgrade ---

    void start_successor() {
        if (successor_ || draining()) {
            log_->warn("SIGUSR2 ignored", {{"why", successor_ ? "a new process is starting already" : "draining"}});
            return;
        }
        // Before the new one may want it.
        packet_->pause(true);
        auto started = Successor::start(program_, options_.arguments, stream_->listeners(), pilot_->drains().to_text(),
                                        signals_.mask_before());
        if (!started.ok()) {
            packet_->pause(false);
            upgrade_failed(started.error());
            return;
        }
        successor_.emplace(std::move(*started));
        successor_deadline_ = Clock::now() + successor_patience;
        log_->info("a new process starts to take over", {{"program", program_}, {"process", successor_->process()}});
    }

    void follow_successor() {
        if (!successor_) return;
        switch (successor_->answer()) {
            case Successor::Answer::ready:
                hand_over();
                return;
            case Successor::Answer::gone:
                give_up_successor("it ended before it was ready; its own lines above say why");
                return;
            case Successor::Answer::none:
                if (Clock::now() >= successor_deadline_)
                    give_up_successor(fmt::format("it was not ready within {}", to_string(successor_patience)));
        }
    }

    void give_up_successor(const std::string& why) {
        const std::string end = successor_->end();
        successor_.reset();
        packet_->pause(false);
        upgrade_failed(why + " (" + end + ")");
    }

    void upgrade_failed(const std::string& why) {
        log_->error("hot upgrade failed; this process goes on serving", {{"program", program_}, {"error", why}});
        board_.note("upgrade", {"hot upgrade failed: " + why});
    }

    void hand_over() {
        log_->info("handed over; draining",
                   {{"process", successor_->process()}, {"connections", stream_->active_connections()}});
        tell_manager(notifier_.main_process(successor_->process()));
        successor_->release();
        successor_.reset();
        begin_drain("another process has taken over", true);
        admin_.reset();
        admin_retry_at_ = beat_at_ = TimePoint::max();
        beat_interval_.reset();
    }

    const DaemonOptions options_;
    Signals signals_;
    Inherited inherited_ = take_inherited();
    const std::string program_ = path_of_this_program();
    Notifier notifier_{Notifier::socket_from_environment()};

    Mailbox mailbox_;
    Board board_;
    bool handed_over_ = false;
    Snapshot at_start_;
    std::unique_ptr<telemetry::Log> log_;
    std::unique_ptr<flow::Store> store_;
    std::unique_ptr<qos::Shapers> shapers_;
    routing::EndpointStates endpoint_states_;
    std::unique_ptr<stream::Plane> stream_;
    std::unique_ptr<packet::Plane> packet_;
    gateways::Gateways gateways_;
    std::unique_ptr<Pilot> pilot_;
    std::unique_ptr<Publisher> publisher_;

    std::unique_ptr<admin::Server> admin_;
    AdminSettings admin_settings_;  // where it listens
    AdminSettings admin_tried_;     // where it last was to listen
    TimePoint admin_retry_at_ = TimePoint::max();

    std::optional<Duration> beat_interval_ = Notifier::watchdog_interval_from_environment();
    TimePoint measure_at_ = Clock::now();
    TimePoint beat_at_ = beat_interval_ ? Clock::now() : TimePoint::max();

    bool successor_of_another_ = false;
    std::optional<Successor> successor_;
    TimePoint successor_deadline_;

    std::optional<TimePoint> drain_deadline_;
    unsigned asked_to_end_ = 0;
    bool finished_ = false;
};

Daemon::Daemon(DaemonOptions options) : options_(std::move(options)) {}

int Daemon::run() {
    try {
        return Implementation(options_).run();
    } catch (const std::exception& failure) {
        // What parts cannot be without (descriptors, threads, memory) they take in their constructors, which throw.
        print_failure(
            fmt::format("{}; see `ulimit -a` (LimitNOFILE=, TasksMax= and MemoryMax= in a unit) for what the "
                        "process may have of open files, processes and memory",
                        failure.what()));
        return 1;
    }
}

}  // namespace marchproxy::control
