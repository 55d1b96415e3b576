#include "qos/scheduler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <numeric>

#include "qos/simulation.h"

namespace marchproxy::qos {
namespace {

using namespace std::chrono_literals;
using simulation::endless;
using simulation::Offer;
using simulation::PacketFlow;
using simulation::Simulation;
using simulation::Source;

const TimePoint start = TimePoint{} + 77s;

LinkLimits link_of(double rate, double p1 = 0, double p2 = 0, double p3 = 0) {
    return {.rate = Rate{static_cast<uint64_t>(rate)}, .floors = {Share{0}, Share{p1}, Share{p2}, Share{p3}}};
}

ServiceLimits limits_of(const Offer& offer) {
    ServiceLimits limits;
    if (offer.ceiling != endless) limits.ceiling = Rate{static_cast<uint64_t>(offer.ceiling)};
    if (offer.guarantee > 0) limits.guarantee = Rate{static_cast<uint64_t>(offer.guarantee)};
    return limits;
}

double rate_of(uint64_t bytes, Duration time) {
    return static_cast<double>(bytes) * 8 / std::chrono::duration<double>(time).count();
}

struct Outcome {
    std::vector<double> delivered;  // bits a second
    std::vector<Offer> offers;      // with what arrived as their demand
};

// What each offer gets in `time`, after half a second to settle.
Outcome outcome(const LinkLimits& link, std::vector<Offer> offers, Duration time, uint64_t seed) {
    Scheduler scheduler(link, start);
    Simulation run(scheduler, start, seed);
    std::vector<Source*> sources;
    for (const Offer& offer : offers)
        sources.push_back(&run.add(scheduler.add(limits_of(offer), start).at(offer.priority), offer.demand, 3));
    run.run_until(500ms);
    std::vector<uint64_t> delivered, offered;
    for (const Source* source : sources) {
        delivered.push_back(source->delivered());
        offered.push_back(source->offered);
    }
    run.run_until(500ms + time);
    Outcome result;
    for (size_t i = 0; i < sources.size(); ++i) {
        if (offers[i].demand != endless) offers[i].demand = rate_of(sources[i]->offered - offered[i], time);
        result.delivered.push_back(rate_of(sources[i]->delivered() - delivered[i], time));
    }
    result.offers = std::move(offers);
    return result;
}

double jain(const std::vector<double>& shares) {
    const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
    double squares = 0;
    for (const double share : shares)
        squares += share * share;
    return sum * sum / (static_cast<double>(shares.size()) * squares);
}

Duration quantile(std::vector<Duration> delays, double fraction) {
    std::sort(delays.begin(), delays.end());
    return delays.at(static_cast<size_t>(fraction * static_cast<double>(delays.size() - 1)));
}

TEST(Scheduler, HoldsACeilingFromAMegabitToTenGigabits) {
    for (const double rate : {1e6, 12e6, 1e9, 10e9}) {
        const Duration time = rate > 1e8 ? 200ms : 5s;
        const double got = outcome({}, {{.ceiling = rate}}, time, 1).delivered[0];
        EXPECT_GT(got, rate * 0.995) << rate;
        EXPECT_LT(got, rate * 1.005) << rate;
    }
}

// In any interval no more than burst + rate * time + a packet, of a service as of the link.
TEST(Scheduler, NeverPassesACeilingOrTheLink) {
    struct Bound {
        double rate, burst;
        double level = 0;  // of a leaky bucket that starts empty
        Duration at{0};
        void add(uint32_t bytes, Duration now) {
            level = std::max(0.0, level - rate * std::chrono::duration<double>(now - at).count()) + bytes * 8.0;
            at = now;
            ASSERT_LE(level, burst * 8 + full_packet * 8 + 1) << now.count();
        }
    };
    const double link = 50e6;
    Scheduler scheduler(link_of(link, 0.05, 0.05, 0.05), start);
    Simulation run(scheduler, start, 7);
    std::map<const TrafficClass*, Bound> bounds;
    Bound whole{link, link / 8 * 0.001};
    for (int i = 0; i < 8; ++i) {
        const double rate = 1e6 * (1 << i);
        TrafficClass& of = scheduler.add({.ceiling = Rate{static_cast<uint64_t>(rate)}}, start).at(Priority(i % 4));
        run.add(of, i % 2 ? endless : rate * 1.3, 4);
        bounds.emplace(&of, Bound{rate, static_cast<double>(burst_for(Rate{static_cast<uint64_t>(rate)}).count)});
    }
    run.on_sent = [&](const PacketFlow& flow, uint32_t bytes, Duration now) {
        bounds.at(flow.of).add(bytes, now);
        whole.add(bytes, now);
    };
    run.run_until(3s);
}

TEST(Scheduler, MeetsAGuaranteeUnderOverload) {
    const std::vector<double> got = outcome(link_of(100e6),
                                            {{.priority = Priority::p3, .guarantee = 40e6},
                                             {.priority = Priority::p0},
                                             {.priority = Priority::p1},
                                             {.priority = Priority::p2}},
                                            3s, 2)
                                        .delivered;
    EXPECT_GT(got[0], 40e6 * 0.98);
    EXPECT_LT(got[0], 40e6 * 1.02);
    EXPECT_GT(got[1], 60e6 * 0.98);
    EXPECT_EQ(got[2], 0);  // no floor, and P0 takes all
}

TEST(Scheduler, AFloorKeepsP3AliveAndNoMore) {
    const std::vector<double> got = outcome(link_of(100e6, 0.05, 0.1, 0.02),
                                            {{.priority = Priority::p0},
                                             {.priority = Priority::p1},
                                             {.priority = Priority::p2},
                                             {.priority = Priority::p3}},
                                            3s, 3)
                                        .delivered;
    const std::vector<double> wanted{83e6, 5e6, 10e6, 2e6};
    for (size_t i = 0; i < wanted.size(); ++i)
        EXPECT_NEAR(got[i], wanted[i], wanted[i] * 0.02) << i;
}

TEST(Scheduler, SharesTheLinkAsAFluidWould) {
    std::mt19937_64 random(11);
    const auto some = [&](double low, double high) {
        return std::uniform_real_distribution<double>(low, high)(random);
    };
    for (uint64_t seed = 1; seed <= 40; ++seed) {
        const double link = std::exp(some(std::log(5e6), std::log(200e6)));
        std::array<double, priorities> floors{};
        for (unsigned p = 1; p < priorities; ++p)
            floors[p] = random() % 2 ? link * some(0.01, 0.08) : 0;
        std::vector<Offer> offers(2 + random() % 9);
        double guarantees = link * 0.7;
        for (Offer& offer : offers) {
            offer.priority = Priority(random() % 4);
            if (random() % 2) offer.demand = link * some(0.05, 0.6);
            if (random() % 3 == 0) offer.ceiling = link * some(0.05, 0.8);
            if (random() % 3 == 0) {
                offer.guarantee = std::min(guarantees * some(0.1, 0.5), offer.ceiling);
                guarantees -= offer.guarantee;
            }
        }
        // Packets are not a fluid: the fewer there are in the time, the coarser they are.
        const Duration time(static_cast<int64_t>(40'000 * 800 * 8 / link * 1e9));
        const LinkLimits limits = link_of(link, floors[1] / link, floors[2] / link, floors[3] / link);
        const Outcome run = outcome(limits, offers, time, seed);
        const std::vector<double>& got = run.delivered;
        const std::vector<double> wanted = simulation::fluid(link, floors, run.offers);
        for (size_t i = 0; i < offers.size(); ++i)
            EXPECT_NEAR(got[i], wanted[i], std::max(wanted[i] * 0.02, link * 0.006))
                << "seed " << seed << " offer " << i << " of " << offers.size() << ": P"
                << static_cast<int>(offers[i].priority) << " demand " << offers[i].demand << " ceiling "
                << offers[i].ceiling << " guarantee " << offers[i].guarantee << " link " << link;
    }
}

TEST(Scheduler, IsFairToFlowsWhateverTheirPackets) {
    Scheduler scheduler(link_of(100e6), start);
    Simulation run(scheduler, start, 5);
    TrafficClass& of = scheduler.add({}, start).at(Priority::p2);
    std::vector<Source*> sources;
    for (unsigned i = 0; i < 64; ++i)
        sources.push_back(&run.add(of, endless, 1, 64, i % 2 ? 1514 : 200));
    run.run_until(3s);
    std::vector<double> shares;
    for (const Source* source : sources)
        shares.push_back(static_cast<double>(source->delivered()));
    EXPECT_GT(jain(shares), 0.999);
}

TEST(Scheduler, P0WaitsForNoMoreThanThePacketOnItsWay) {
    for (const double rate : {100e6, 1e9}) {
        Scheduler scheduler(link_of(rate, 0.05, 0.05, 0.05), start);
        Simulation run(scheduler, start, 6);
        Source& urgent = run.add(scheduler.add({}, start).at(Priority::p0), rate / 100, 4, 64, 200);
        Source& bulk = run.add(scheduler.add({}, start).at(Priority::p3), endless, 16, 1514, 1514);
        Source& guaranteed = run.add(
            scheduler.add({.guarantee = Rate{static_cast<uint64_t>(rate / 4)}}, start).at(Priority::p2), endless);
        run.run_until(Duration(static_cast<int64_t>(1e8 / rate * 1e9)));
        // Two packets of 1514 bytes, and the 20 us that a link is waited for at once.
        const Duration bound = Duration(static_cast<int64_t>(2 * 1514 * 8 / rate * 1e9)) + 30us;
        EXPECT_LT(quantile(urgent.delays, 0.99), bound) << rate;
        EXPECT_GT(bulk.delivered(), 0U);
        EXPECT_GT(guaranteed.delivered(), bulk.delivered());
    }
}

TEST(Scheduler, ChangesTakeEffectAtOnce) {
    Scheduler scheduler(link_of(100e6), start);
    Simulation run(scheduler, start, 8);
    ScheduledService& service = scheduler.add({.ceiling = Rate{1'000'000}}, start);
    Source& source = run.add(service.at(Priority::p1), endless, 2);
    run.run_until(1s);
    scheduler.configure(service, {.ceiling = Rate{50'000'000}}, start + run.now());
    uint64_t before = source.delivered();
    run.run_until(1100ms);
    EXPECT_NEAR(rate_of(source.delivered() - before, 100ms), 50e6, 3e6);
    scheduler.configure(service, {}, start + run.now());
    before = source.delivered();
    run.run_until(1200ms);
    EXPECT_NEAR(rate_of(source.delivered() - before, 100ms), 100e6, 3e6);
    scheduler.configure(service, {.ceiling = Rate{2'000'000}}, start + run.now());
    before = source.delivered();
    run.run_until(2200ms);
    EXPECT_NEAR(rate_of(source.delivered() - before, 1s), 2e6, 0.1e6);
    scheduler.configure(link_of(1e6), start + run.now());
    before = source.delivered();
    run.run_until(4200ms);
    EXPECT_NEAR(rate_of(source.delivered() - before, 2s), 1e6, 0.05e6);
}

TEST(Scheduler, AClockThatGoesBackStopsNothing) {
    Scheduler scheduler(link_of(10e6), start);
    ScheduledService& service = scheduler.add({.ceiling = Rate{5'000'000}, .guarantee = Rate{1'000'000}}, start);
    ScheduledFlow flow;
    scheduler.start(flow, service.at(Priority::p2), 1250);
    uint64_t sent = 0;
    std::mt19937_64 random(9);
    TimePoint now = start + 1h;
    for (int step = 0; step < 4000; ++step) {
        if (step % 1000 == 999) now -= 30min;                         // a step
        const TimePoint read = now - Duration(random() % 1'000'000);  // another thread's clock
        while (ScheduledFlow* turn = scheduler.next(read)) {
            sent += turn->wanted;
            scheduler.resume(*turn, 1250);
        }
        now += 1ms;
    }
    EXPECT_NEAR(rate_of(sent, 4s), 5e6, 0.1e6);
    scheduler.stop(flow);
}

TEST(Scheduler, WhatWasNotUsedIsGivenBack) {
    Scheduler scheduler({.quantum = 65536}, start);
    const ServiceLimits limits{.ceiling = Rate{8'000'000}, .burst = Bytes{1500}, .quantum = 65536};
    ScheduledService& service = scheduler.add(limits, start);
    ScheduledFlow flow;
    uint64_t used = 0;
    scheduler.start(flow, service.at(Priority::p2), 65536);
    for (TimePoint now = start; now < start + 1s;) {
        if (ScheduledFlow* turn = scheduler.next(now)) {
            used += 100;
            scheduler.give_back(*turn, 65536 - 100);
            scheduler.resume(*turn, 65536);
        } else {
            ASSERT_LT(scheduler.due(), start + 2s);
            now = std::max(scheduler.due(), now + 1us);
        }
    }
    EXPECT_NEAR(rate_of(used, 1s), 8e6, 0.1e6);
    scheduler.stop(flow);
}

TEST(Scheduler, SaysWhenItHasSomebody) {
    Scheduler scheduler({}, start);
    EXPECT_EQ(scheduler.due(), TimePoint::max());
    EXPECT_EQ(scheduler.next(start), nullptr);
    ScheduledService& service = scheduler.add({.ceiling = Rate{8'000'000}, .burst = Bytes{1500}}, start);
    ScheduledFlow flow;
    scheduler.start(flow, service.at(Priority::p0), 1514);
    ASSERT_EQ(scheduler.next(start), &flow);
    EXPECT_EQ(scheduler.due(), TimePoint::max());  // nobody waits
    scheduler.resume(flow, 1514);
    EXPECT_EQ(scheduler.next(start), nullptr);
    const TimePoint due = scheduler.due();
    EXPECT_GT(due, start);
    EXPECT_LT(due, start + 50us);
    EXPECT_EQ(scheduler.next(due + 2us), &flow);
}

TEST(Scheduler, ManyServicesComeAndGo) {
    Scheduler scheduler(link_of(1e9, 0.05, 0.05, 0.05), start);
    std::mt19937_64 random(10);
    struct Tenant {
        ScheduledService* service;
        std::array<ScheduledFlow, 3> flows;
    };
    std::vector<std::unique_ptr<Tenant>> tenants;
    TimePoint now = start;
    uint64_t turns = 0;
    for (int step = 0; step < 100'000; ++step) {
        now += Duration(random() % 20'000);
        const unsigned what = random() % 8;
        if (what == 0 && tenants.size() < 1000) {
            tenants.push_back(std::make_unique<Tenant>());
            tenants.back()->service = &scheduler.add(
                {.ceiling = random() % 2 ? std::optional(Rate{1000 + random() % 100'000'000}) : std::nullopt,
                 .guarantee = random() % 2 ? std::optional(Rate{1000 + random() % 100'000}) : std::nullopt},
                now);
        } else if (what == 1 && tenants.size() > 500) {
            const size_t victim = random() % tenants.size();
            for (ScheduledFlow& flow : tenants[victim]->flows)
                scheduler.stop(flow);
            scheduler.remove(*tenants[victim]->service);
            tenants.erase(tenants.begin() + static_cast<long>(victim));
        } else if (what == 2 && !tenants.empty()) {
            scheduler.configure(*tenants[random() % tenants.size()]->service,
                                {.ceiling = Rate{1000 + random() % 100'000'000}}, now);
        } else if (what < 6 && !tenants.empty()) {
            Tenant& tenant = *tenants[random() % tenants.size()];
            ScheduledFlow& flow = tenant.flows[random() % 3];
            if (!flow.waiting())
                scheduler.start(flow, tenant.service->at(Priority(random() % 4)),
                                static_cast<uint32_t>(1 + random() % 1514));
        } else if (ScheduledFlow* flow = scheduler.next(now)) {
            ++turns;
            if (random() % 2) scheduler.give_back(*flow, static_cast<uint32_t>(random() % (flow->wanted + 1)));
            if (random() % 2) scheduler.resume(*flow, static_cast<uint32_t>(1 + random() % 1514));
        }
    }
    EXPECT_GT(turns, 10'000U);
    for (const auto& tenant : tenants)
        for (ScheduledFlow& flow : tenant->flows)
            scheduler.stop(flow);
}

}  // namespace
}  // namespace marchproxy::qos
