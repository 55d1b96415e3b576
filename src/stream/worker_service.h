// A service on one worker: the view in force and what this worker holds for it.
#pragma once

#include "stream/member_list.h"
#include "stream/view.h"

namespace marchproxy::stream {

struct Connection;
struct Session;

struct WorkerService {
    ServiceViewPointer view;                            // swapped by reloads, for established connections too
    std::shared_ptr<const routing::Selector> selector;  // of the view, swapped whenever shares change
    DecisionPointer decision;                           // why they are as they are
    unsigned worker;
    MemberList<Connection> connections;   // this worker's
    MemberList<Session> sessions;         // the same for UDP
    TimePoint end_by = TimePoint::max();  // removed by a reload: when what is left ends

    const Service& service() const { return *view->service; }
    ServiceState& state() const { return *view->state; }
    ServiceSlot& slot() const { return view->state->slots[worker]; }
};

}  // namespace marchproxy::stream
