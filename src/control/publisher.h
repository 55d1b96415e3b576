// From a loaded configuration to a running one: adds the embedded default where there is no service, looks names up,
// shares the services out between the planes, hands them over and, once that is done, the snapshot to everybody who
// reads it. Thread: the control thread.
#pragma once

#include <functional>
#include <memory>

#include "control/board.h"
#include "control/demo.h"
#include "control/pilot.h"
#include "control/resolver.h"
#include "gateways/gateways.h"
#include "packet/plane.h"
#include "stream/plane.h"

namespace marchproxy::control {

class Publisher {
  public:
    // How long a publication waits for names that were not looked up before.
    static constexpr Duration patience = std::chrono::seconds(2);

    // `names_moved` runs on another thread and must only see to it that follow_names() is called.
    Publisher(gateways::Gateways& gateways, qos::Shapers& shapers, stream::Plane& stream, packet::Plane& packet,
              Pilot& pilot, telemetry::Log& log, Board& board, std::function<void()> names_moved,
              ResolverOptions resolver = {});

    // All or nothing: after an error what ran before goes on.
    Result<void> publish(Snapshot next);
    void follow_names();
    std::vector<std::string> notes() const { return resolver_.notes(); }  // any thread: names that do not resolve
    // The machine has changed under the planes: the same snapshot, shared out again.
    void share_out_again();

    bool runs_embedded_default() const { return demo_ != nullptr; }

  private:
    Result<void> share_out(const SnapshotPointer& snapshot, const Resolution& resolution);

    gateways::Gateways& gateways_;
    qos::Shapers& shapers_;
    stream::Plane& stream_;
    packet::Plane& packet_;
    Pilot& pilot_;
    telemetry::Log& log_;
    Board& board_;
    Resolver resolver_;
    Resolution applied_;
    std::unique_ptr<Demo> demo_;
};

}  // namespace marchproxy::control
