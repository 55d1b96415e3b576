#include "packet/shaper.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <optional>

namespace marchproxy::packet {

namespace {

// --- congestion marks (RFC 3168) -----------------------------------------------------------------------------------

// Where a frame's IP header begins, behind two tags at most; nothing: it has none.
std::optional<size_t> network_in(std::span<const uint8_t> frame) {
    constexpr size_t ethernet = 14, tag = 4, smallest_header = 20;
    for (size_t at = ethernet; at <= ethernet + 2 * tag; at += tag) {
        if (frame.size() < at + smallest_header) return std::nullopt;
        const unsigned type = frame[at - 2] << 8 | frame[at - 1];
        if (type == 0x0800 || type == 0x86dd) return at;
        if (type != 0x8100 && type != 0x88a8) return std::nullopt;
    }
    return std::nullopt;
}

bool is_v6(std::span<const uint8_t> ip) {
    return ip[0] >> 4 == 6;
}

qos::Ecn ecn_of(std::span<const uint8_t> frame) {
    const auto at = network_in(frame);
    if (!at) return qos::Ecn::not_capable;
    const auto ip = frame.subspan(*at);
    return static_cast<qos::Ecn>(is_v6(ip) ? ip[1] >> 4 & 3 : ip[1] & 3);
}

// The IPv4 header's checksum changes with it (RFC 1624).
void mark_congested(std::span<uint8_t> frame) {
    const auto at = network_in(frame);
    if (!at) return;
    const auto ip = frame.subspan(*at);
    if (is_v6(ip)) {
        ip[1] |= 0x30;
        return;
    }
    const unsigned before = ip[1];
    ip[1] |= 3;
    unsigned sum = (~(ip[10] << 8 | ip[11]) & 0xffff) + (~before & 0xffff) + ip[1];
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~((sum & 0xffff) + (sum >> 16)) & 0xffff;
    ip[10] = static_cast<uint8_t>(sum >> 8);
    ip[11] = static_cast<uint8_t>(sum);
}

}  // namespace

Result<std::unique_ptr<Shaper>> Shaper::start(qos::Shapers& shapers, unsigned desk,
                                              const std::vector<QueuedInterface>& interfaces) {
    auto sockets = QueueSockets::open(interfaces);
    if (!sockets.ok()) return Error{sockets.error()};
    return std::unique_ptr<Shaper>(new Shaper(shapers, desk, interfaces, std::move(*sockets)));
}

Shaper::Shaper(qos::Shapers& shapers, unsigned desk, const std::vector<QueuedInterface>& interfaces,
               QueueSockets sockets)
    : shapers_(shapers),
      desk_(desk),
      interfaces_(interfaces),
      sockets_(std::move(sockets)),
      waiting_(sockets_.frames()),
      wake_(Descriptor::required(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd")) {
    for (Waiting& packet : waiting_)
        packet.desk = desk;
    shapers_.attend(desk_, [wake = wake_.get()] {
        const uint64_t one = 1;
        [[maybe_unused]] const ssize_t woken = ::write(wake, &one, sizeof one);
    });
    thread_ = std::thread([this] { run(); });
}

Shaper::~Shaper() {
    ends_ = true;
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t woken = ::write(wake_.get(), &one, sizeof one);
    thread_.join();
    shapers_.attend(desk_, nullptr);
    configure({}, {});
    for (qos::Shaper* shaper : {&shapers_.up, &shapers_.down}) {  // whatever still lies on the desk
        turns_.clear();
        shaper->run(desk_, Clock::now(), turns_);
    }
}

// --- services ------------------------------------------------------------------------------------------------------

void Shaper::remove(std::map<uint32_t, Places>::iterator place) {
    for (auto* one : {&place->second.up, &place->second.down}) {
        if (!*one) continue;
        turns_.clear();
        (*one)->give_up(turns_.dropped);
        drop(turns_.dropped);
        one->reset();
    }
    services_.erase(place);
}

void Shaper::configure(const std::map<uint32_t, const Service*>& services, const QosSettings& settings) {
    const Visit visit(*this);
    for (auto place = services_.begin(); place != services_.end();) {
        const auto next = std::next(place);
        if (!services.contains(place->first)) remove(place);
        place = next;
    }
    for (auto& numbers : by_number_)
        std::fill(numbers.begin(), numbers.end(), nullptr);
    for (const auto& [number, service] : services) {
        Places& places = services_[number];
        for (const bool up : {false, true}) {
            auto& numbers = by_number_[up];
            if (numbers.size() <= number) numbers.resize(number + 1);
            numbers[number] = qos::place_in(shapers_, up, up ? places.up : places.down, service->qos, settings);
        }
    }
}

qos::ShapedService* Shaper::find(uint32_t service, bool up) {
    const auto& numbers = by_number_[up];
    return service < numbers.size() ? numbers[service] : nullptr;
}

qos::QueueCounters Shaper::counters(uint32_t service, bool up, Priority priority) {
    const Visit visit(*this);
    qos::ShapedService* found = find(service, up);
    return found ? found->counters(priority) : qos::QueueCounters{};
}

uint64_t Shaper::lost() {
    const Visit visit(*this);
    return sockets_.lost() + unsent_;
}

std::string Shaper::refused() {
    const Visit visit(*this);
    return sockets_.refused();
}

// --- packets -------------------------------------------------------------------------------------------------------

void Shaper::run() {
    while (!ends_) {
        bool idle = false;
        while (visits_ > 0)
            std::this_thread::yield();
        {
            std::lock_guard lock(mutex_);
            arrived_.clear();
            idle = !sockets_.receive(arrived_);
            sort();
            const TimePoint now = Clock::now();
            for (const bool up : {false, true})
                queue(up, now);
            sockets_.flush();
        }
        if (idle) wait();
    }
}

// Until packets come, or the first of those that wait may go.
void Shaper::wait() {
    std::vector<pollfd> descriptors{{wake_.get(), POLLIN, 0}};
    for (const int socket : sockets_.descriptors())
        descriptors.push_back({socket, POLLIN, 0});
    const TimePoint now = Clock::now();
    const TimePoint due = std::min({shapers_.up.due(desk_), shapers_.down.due(desk_), sockets_.due(now)});
    timespec timeout{};
    if (due != TimePoint::max()) {
        const Duration left = std::max(due - now, Duration(0));
        const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
        timeout = {.tv_sec = seconds.count(), .tv_nsec = (left - seconds).count()};
    }
    ::ppoll(descriptors.data(), descriptors.size(), due == TimePoint::max() ? nullptr : &timeout, nullptr);
    uint64_t woken = 0;
    [[maybe_unused]] const ssize_t read = ::read(wake_.get(), &woken, sizeof woken);
}

// What arrived, to the direction in which it waits. What nobody holds back leaves at once.
void Shaper::sort() {
    for (const uint32_t frame : arrived_) {
        const std::span<uint8_t> bytes = sockets_.bytes(frame);
        abi::queued_packet about;
        std::memcpy(&about, bytes.data() - sizeof about, sizeof about);
        Waiting& packet = waiting_[frame];
        const bool up = about.direction == abi::direction_up;
        packet.interface = about.interface;
        packet.flow_hash = about.flow;
        if (qos::ShapedService* service = find(about.service, up)) {
            packet.bytes = about.payload;
            packet.of = &service->at(static_cast<Priority>(about.priority % abi::packet_priorities));
            packet.ecn = ecn_of(bytes);
            packet.marked = packet.ecn == qos::Ecn::congested;
            put_[up].push_back(&packet);
        } else if (!sockets_.send(frame, about.interface, about.flow)) {
            ++unsent_;
            sockets_.release(frame);
        }
    }
}

void Shaper::queue(bool up, TimePoint now) {
    qos::Shaper& shaper = shapers_.at(up);
    std::vector<qos::ShapedPacket*>& packets = put_[up];
    if (!packets.empty()) {
        turns_.clear();
        shaper.put(desk_, packets, now, turns_);
        drop(packets);  // those for which there was no room
        packets.clear();
        drop(turns_.dropped);
        send(turns_.packets);
    }
    if (shaper.due(desk_) > now) return;
    turns_.clear();
    shaper.run(desk_, now, turns_);
    drop(turns_.dropped);
    send(turns_.packets);
}

uint32_t Shaper::frame_of(const qos::ShapedPacket& packet) const {
    return static_cast<uint32_t>(static_cast<const Waiting*>(&packet) - waiting_.data());
}

void Shaper::send(const std::vector<qos::ShapedPacket*>& packets) {
    for (qos::ShapedPacket* one : packets) {
        const auto& packet = static_cast<const Waiting&>(*one);
        const uint32_t frame = frame_of(packet);
        if (packet.ecn == qos::Ecn::congested && !packet.marked) mark_congested(sockets_.bytes(frame));
        if (sockets_.send(frame, packet.interface, packet.flow_hash)) continue;
        ++unsent_;
        sockets_.release(frame);
    }
}

void Shaper::drop(const std::vector<qos::ShapedPacket*>& packets) {
    for (const qos::ShapedPacket* packet : packets)
        sockets_.release(frame_of(*packet));
}

}  // namespace marchproxy::packet
