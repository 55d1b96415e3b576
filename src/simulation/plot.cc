#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "simulation/report.h"

namespace marchproxy::simulation {

namespace {

constexpr double left = 60, right = 940, upper_top = 50, upper_bottom = 300, lower_top = 350, lower_bottom = 480;
constexpr std::array colours{"#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377", "#bbbbbb"};

double seconds(Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

std::string escaped(std::string_view text) {
    std::string result;
    for (const char c : text)
        result += c == '<' ? "&lt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
    return result;
}

double x_of(double share) {
    return left + share * (right - left);
}

// Areas one on another, the first path at the bottom.
std::string areas(const Results& results) {
    double most = 1;
    for (const Bucket& bucket : results.timeline)
        most = std::max(most, static_cast<double>(bucket.answered));
    const auto y_of = [&](uint64_t flows) {
        return upper_bottom - static_cast<double>(flows) / most * (upper_bottom - upper_top);
    };
    std::string text;
    std::vector<uint64_t> below(results.timeline.size(), 0);
    for (size_t path = 0; path < results.paths.size(); ++path) {
        std::string upper, lower;
        for (size_t i = 0; i < results.timeline.size(); ++i) {
            const double x = x_of((static_cast<double>(i) + 0.5) / static_cast<double>(results.timeline.size()));
            lower.insert(0, fmt::format("{:.1f},{:.1f} ", x, y_of(below[i])));
            below[i] += results.timeline[i].flows[path];
            upper += fmt::format("{:.1f},{:.1f} ", x, y_of(below[i]));
        }
        text += fmt::format("<polygon points=\"{}{}\" fill=\"{}\"/>\n", upper, lower, colours[path % colours.size()]);
    }
    return text;
}

std::string line(const Results& results, double most, std::string_view style) {
    std::string points;
    for (size_t i = 0; i < results.timeline.size(); ++i) {
        const Bucket& bucket = results.timeline[i];
        if (bucket.answered == 0) continue;
        const double mean = bucket.answer_sum / static_cast<double>(bucket.answered);
        points += fmt::format("{:.1f},{:.1f} ",
                              x_of((static_cast<double>(i) + 0.5) / static_cast<double>(results.timeline.size())),
                              lower_bottom - std::min(mean / most, 1.0) * (lower_bottom - lower_top));
    }
    return fmt::format("<polyline points=\"{}\" fill=\"none\" {}/>\n", points, style);
}

double highest_mean(const Results& results) {
    double most = 0;
    for (const Bucket& bucket : results.timeline)
        if (bucket.answered > 0) most = std::max(most, bucket.answer_sum / static_cast<double>(bucket.answered));
    return most;
}

std::string text_at(double x, double y, std::string_view anchor, std::string_view text) {
    return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y, anchor, escaped(text));
}

std::string legend(const Results& results) {
    std::string text;
    double x = left;
    for (size_t i = 0; i < results.paths.size(); ++i) {
        text += fmt::format("<rect x=\"{:.1f}\" y=\"500\" width=\"12\" height=\"12\" fill=\"{}\"/>\n", x,
                            colours[i % colours.size()]);
        text += text_at(x + 16, 511, "start", results.paths[i].path);
        x += 40 + 7.5 * static_cast<double>(results.paths[i].path.size());
    }
    return text;
}

}  // namespace

std::string plot(const Scenario& scenario, const Results& results, const Results& baseline) {
    const double length = seconds(scenario.duration);
    std::string text =
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 960 530\" font-family=\"sans-serif\" "
        "font-size=\"12\">\n"
        "<rect width=\"960\" height=\"530\" fill=\"white\"/>\n";
    text += text_at(left, 24, "start",
                    fmt::format("{}: new connections by path, policy {}", scenario.name, name_of(results.policy)));
    text += areas(results);
    for (const Weather::Outage& outage : Weather(scenario).outages())
        text += fmt::format(
            "<rect x=\"{:.1f}\" y=\"{}\" width=\"{:.1f}\" height=\"{}\" fill=\"#000\" opacity=\"0.15\">"
            "<title>{} is out</title></rect>\n",
            x_of(seconds(outage.from) / length), upper_top - 8,
            std::max(1.0, (right - left) * seconds(outage.to - outage.from) / length), upper_bottom - upper_top + 8,
            escaped(outage.path));
    const double most = std::max({highest_mean(results), highest_mean(baseline), 1e-6});
    text += text_at(left, lower_top - 14, "start",
                    fmt::format("mean time to an answer, up to {:.0f} ms: {} (solid), round robin (dashed)",
                                1000 * most, name_of(results.policy)));
    text += line(baseline, most, "stroke=\"#888\" stroke-dasharray=\"4 3\"");
    text += line(results, most, "stroke=\"#000\" stroke-width=\"1.5\"");
    for (const double y : {upper_bottom, lower_bottom})
        text += fmt::format("<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"#000\"/>\n", left, y, right, y);
    for (int i = 0; i <= 6; ++i)
        text += text_at(x_of(i / 6.0), upper_bottom + 16, "middle", fmt::format("{:.3g} h", length / 3600 * i / 6));
    return text + legend(results) + "</svg>\n";
}

}  // namespace marchproxy::simulation
