// From a loaded configuration to a running one: adds the embedded default where there is no service, looks names up,
// hands the snapshot to the plane and, once that has taken it, to everybody who reads it.
// Thread: the control thread.
#pragma once

#include <functional>
#include <memory>

#include "control/board.h"
#include "control/demo.h"
#include "control/resolver.h"
#include "stream/plane.h"

namespace marchproxy::control {

class Publisher {
  public:
    // How long a publication waits for names that were not looked up before.
    static constexpr Duration patience = std::chrono::seconds(2);

    // `names_moved` runs on another thread and must only see to it that follow_names() is called.
    Publisher(stream::Plane& plane, telemetry::Log& log, Board& board, std::function<void()> names_moved,
              ResolverOptions resolver = {});

    // All or nothing: after an error what ran before goes on.
    Result<void> publish(Snapshot next);
    void follow_names();

    bool runs_embedded_default() const { return demo_ != nullptr; }

  private:
    stream::Plane& plane_;
    Board& board_;
    Resolver resolver_;
    Resolution applied_;
    std::unique_ptr<Demo> demo_;
};

}  // namespace marchproxy::control
