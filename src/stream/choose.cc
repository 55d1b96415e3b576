#include "stream/choose.h"

#include <algorithm>
#include <array>

namespace marchproxy::stream {

std::shared_ptr<EndpointRuntime> choose(Context& context, WorkerService& service, const IpAddress& client,
                                        std::span<const std::shared_ptr<EndpointRuntime>> failed) {
    const ServiceView& view = *service.view;
    // The selector speaks in indexes of its own snapshot; an endpoint that failed may meanwhile be gone from it.
    std::array<uint32_t, most_attempts> tried;
    size_t count = 0;
    for (const auto& endpoint : failed) {
        const auto found = std::find(view.endpoints.begin(), view.endpoints.end(), endpoint);
        if (found != view.endpoints.end() && count < tried.size())
            tried[count++] = static_cast<uint32_t>(found - view.endpoints.begin());
    }
    uint64_t place = view.state->rotation.load(std::memory_order_relaxed);
    const routing::Question question{.client = client,
                                     .random = context.random(),
                                     .cursor = place,
                                     .now = context.now,
                                     .tried = {tried.data(), count}};
    const std::optional<uint32_t> index = service.selector->choose(question);
    // Two workers at the same moment may take the same turn: one endpoint more or less, once.
    view.state->rotation.store(place, std::memory_order_relaxed);
    if (!index) return nullptr;
    const std::shared_ptr<EndpointRuntime>& endpoint = view.endpoints[*index];
    endpoint->path->slots[context.worker].decisions.add();
    return endpoint;
}

}  // namespace marchproxy::stream
