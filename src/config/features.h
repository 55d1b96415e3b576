// What the configuration can ask for that a version may lack. A feature that is built flips its line here, and its keys
// are accepted from then on.
#pragma once

#include <array>
#include <string_view>

namespace marchproxy::config {

struct Feature {
    std::string_view name;
    std::string_view title;
    bool built;
};

inline constexpr std::array features{
    Feature{"packet", "the packet plane", true},
    Feature{"dsr", "direct server return", true},
    Feature{"qos", "shaping", true},
    Feature{"multicloud", "routing by measured paths", true},
    Feature{"gateways", "leaving by a path's gateway", true},
    Feature{"tls", "TLS", false},
    Feature{"numa", "NUMA placement", false},
    Feature{"tracing", "exporting spans", false},
    Feature{"manager", "the manager", false},
    Feature{"custom_metrics", "metrics of one's own", false},
    Feature{"ipfix", "IPFIX export", false},
};

// Null for a name that is not in the table.
constexpr const Feature* find_feature(std::string_view name) {
    for (const Feature& feature : features)
        if (feature.name == name) return &feature;
    return nullptr;
}

}  // namespace marchproxy::config
