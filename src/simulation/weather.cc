#include "simulation/weather.h"

#include <algorithm>

namespace marchproxy::simulation {

namespace {

template <class T>
T on_the_way(T from, T to, double done) {
    return from + T((to - from) * done);
}

Duration on_the_way(Duration from, Duration to, double done) {
    return from + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(to - from) * done);
}

void apply(const Event& event, Duration since, Behaviour& behaviour) {
    const double done =
        event.over <= Duration(0) || since >= event.over ? 1 : std::chrono::duration<double>(since) / event.over;
    if (event.latency) behaviour.latency = on_the_way(behaviour.latency, *event.latency, done);
    if (event.jitter) behaviour.jitter = on_the_way(behaviour.jitter, *event.jitter, done);
    if (event.loss) behaviour.loss = on_the_way(behaviour.loss, *event.loss, done);
    if (event.traffic_loss) behaviour.traffic_loss = on_the_way(behaviour.traffic_loss, *event.traffic_loss, done);
    if (event.cost_per_gb) behaviour.cost_per_gb = Tariff::flat(*event.cost_per_gb);
    if (event.down) behaviour.down = *event.down;
    if (event.refuses) behaviour.refuses = *event.refuses;
}

}  // namespace

Weather::Weather(const Scenario& scenario) {
    for (const auto& [name, behaviour] : scenario.paths)
        skies_[name].base = behaviour;
    for (const Event& event : scenario.events)
        for (Duration from = event.at; from < std::min(scenario.duration, event.until.value_or(scenario.duration));) {
            const Duration to = event.lasts ? std::min(from + *event.lasts, scenario.duration) : scenario.duration;
            skies_.at(event.path).spells.push_back({&event, from, to});
            if (!event.every) break;
            from += *event.every;
        }
    for (auto& [name, sky] : skies_)
        std::stable_sort(sky.spells.begin(), sky.spells.end(),
                         [](const Spell& a, const Spell& b) { return a.from < b.from; });
}

Behaviour Weather::at(const std::string& path, Duration time) {
    Sky& sky = skies_.at(path);
    while (sky.first < sky.spells.size() && sky.spells[sky.first].to <= time)
        ++sky.first;
    Behaviour behaviour = sky.base;
    for (size_t i = sky.first; i < sky.spells.size() && sky.spells[i].from <= time; ++i)
        if (time < sky.spells[i].to) apply(*sky.spells[i].event, time - sky.spells[i].from, behaviour);
    return behaviour;
}

std::vector<Weather::Outage> Weather::outages() const {
    std::vector<Outage> outages;
    for (const auto& [name, sky] : skies_)
        for (const Spell& spell : sky.spells)
            if (spell.event->down.value_or(false) || spell.event->refuses.value_or(false))
                outages.push_back({name, spell.from, spell.to});
    std::stable_sort(outages.begin(), outages.end(), [](const Outage& a, const Outage& b) { return a.from < b.from; });
    return outages;
}

}  // namespace marchproxy::simulation
