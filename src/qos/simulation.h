// For tests: packets that arrive at random, a scheduler that sends them, and what an ideal fluid would have done.
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <memory>
#include <queue>
#include <random>
#include <vector>

#include "qos/scheduler.h"

namespace marchproxy::qos::simulation {

inline constexpr double endless = 1e18;  // a demand that is always more than there is

// One service's traffic, of one priority, as offered and as configured; bits a second.
struct Offer {
    Priority priority = Priority::p3;
    double demand = endless;
    double ceiling = endless;
    double guarantee = 0;
};

// What each offer gets of the link where packets are infinitely small and everything happens at once.
inline std::vector<double> fluid(double link, const std::array<double, priorities>& floors,
                                 const std::vector<Offer>& offers) {
    std::array<double, priorities> total{}, most{};
    std::vector<double> least(offers.size()), cap(offers.size()), result(offers.size());
    for (size_t i = 0; i < offers.size(); ++i) {
        const auto priority = static_cast<size_t>(offers[i].priority);
        cap[i] = std::min(offers[i].demand, offers[i].ceiling);
        least[i] = std::min(cap[i], offers[i].guarantee);
        total[priority] += least[i];
        most[priority] += cap[i];
    }
    double spare = link;
    for (unsigned p = 0; p < priorities; ++p) {
        total[p] = std::max(total[p], std::min(most[p], floors[p]));
        spare -= total[p];
    }
    for (unsigned p = 0; p < priorities; ++p) {
        const double more = std::min(most[p] - total[p], std::max(spare, 0.0));
        total[p] += more;
        spare -= more;
        // The level to which the priority's services are filled, each within its own bounds.
        double low = 0, high = link;
        for (int round = 0; round < 100; ++round) {
            const double level = (low + high) / 2;
            double sum = 0;
            for (size_t i = 0; i < offers.size(); ++i)
                if (static_cast<unsigned>(offers[i].priority) == p) sum += std::clamp(level, least[i], cap[i]);
            (sum < total[p] ? low : high) = level;
        }
        for (size_t i = 0; i < offers.size(); ++i)
            if (static_cast<unsigned>(offers[i].priority) == p) result[i] = std::clamp(high, least[i], cap[i]);
    }
    return result;
}

struct Source;

// Packets of one flow, first in, first out.
struct PacketFlow : ScheduledFlow {
    struct Packet {
        uint32_t bytes;
        Duration arrived;
    };
    Source* source = nullptr;
    std::deque<Packet> packets;
    uint64_t delivered = 0, dropped = 0;  // bytes, packets
};

// Flows of one class that offer their share of a demand each.
struct Source {
    TrafficClass* of = nullptr;
    double demand = 0;  // bits a second over all flows; endless: every flow always has packets
    uint32_t smallest = 64, largest = 1514;
    size_t most_queued = 200;  // packets of a flow
    std::vector<std::unique_ptr<PacketFlow>> flows;
    std::vector<Duration> delays;  // of delivered packets
    uint64_t offered = 0;          // bytes
    uint64_t delivered() const {
        uint64_t sum = 0;
        for (const auto& flow : flows)
            sum += flow->delivered;
        return sum;
    }
};

class Simulation {
  public:
    Simulation(Scheduler& scheduler, TimePoint start, uint64_t seed)
        : scheduler_(scheduler), start_(start), random_(seed) {}
    ~Simulation() {
        for (const auto& source : sources_)
            for (const auto& flow : source->flows)
                scheduler_.stop(*flow);
    }

    Source& add(TrafficClass& of, double demand, unsigned flows = 1, uint32_t smallest = 64, uint32_t largest = 1514) {
        sources_.push_back(std::make_unique<Source>());
        Source& source = *sources_.back();
        source.of = &of;
        source.demand = demand;
        source.smallest = smallest;
        source.largest = largest;
        for (unsigned i = 0; i < flows; ++i) {
            source.flows.push_back(std::make_unique<PacketFlow>());
            PacketFlow& flow = *source.flows.back();
            flow.source = &source;
            arrivals_.push({now_, &flow});
        }
        return source;
    }

    // What was sent, at what time: for invariants that hold at every packet.
    std::function<void(const PacketFlow&, uint32_t bytes, Duration now)> on_sent = [](auto&, auto, auto) {};

    void run_until(Duration end) {
        while (now_ < end) {
            while (!arrivals_.empty() && arrivals_.top().first <= now_)
                arrive();
            while (ScheduledFlow* flow = scheduler_.next(start_ + now_))
                send(static_cast<PacketFlow&>(*flow));
            Duration next = end;
            if (!arrivals_.empty()) next = std::min(next, arrivals_.top().first);
            const TimePoint due = scheduler_.due();
            if (due != TimePoint::max()) next = std::min(next, std::max(due - start_, now_ + Duration(1)));
            now_ = next;
        }
    }

    Duration now() const { return now_; }

  private:
    using Arrival = std::pair<Duration, PacketFlow*>;

    uint32_t size(const Source& source) {
        return std::uniform_int_distribution<uint32_t>(source.smallest, source.largest)(random_);
    }

    void put(PacketFlow& flow) {
        const uint32_t bytes = size(*flow.source);
        flow.source->offered += bytes;
        if (flow.packets.size() >= flow.source->most_queued) {
            ++flow.dropped;
            return;
        }
        flow.packets.push_back({bytes, now_});
        if (flow.packets.size() == 1) scheduler_.start(flow, *flow.source->of, bytes);
    }

    void arrive() {
        PacketFlow& flow = *arrivals_.top().second;
        arrivals_.pop();
        Source& source = *flow.source;
        if (source.demand == endless) {  // what is sent is followed by the next
            put(flow);
            put(flow);
            return;
        }
        put(flow);
        const double mean =
            8.0 * (source.smallest + source.largest) / 2 / (source.demand / double(source.flows.size()));
        const double wait = std::exponential_distribution<double>(1 / mean)(random_);
        arrivals_.push({now_ + Duration(static_cast<int64_t>(wait * 1e9) + 1), &flow});
    }

    void send(PacketFlow& flow) {
        const PacketFlow::Packet packet = flow.packets.front();
        flow.packets.pop_front();
        flow.delivered += packet.bytes;
        flow.source->delays.push_back(now_ - packet.arrived);
        on_sent(flow, packet.bytes, now_);
        if (flow.source->demand == endless) flow.packets.push_back({size(*flow.source), now_});
        if (!flow.packets.empty()) scheduler_.resume(flow, flow.packets.front().bytes);
    }

    Scheduler& scheduler_;
    TimePoint start_;
    std::mt19937_64 random_;
    Duration now_{0};
    std::vector<std::unique_ptr<Source>> sources_;
    std::priority_queue<Arrival, std::vector<Arrival>, std::greater<>> arrivals_;
};

}  // namespace marchproxy::qos::simulation
