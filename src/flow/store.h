// The store of finished flows: the last `keep` of them in memory for /api/v1/flows, and all of them in a file of JSON
// lines where one is configured.
//
// Memory: about 120 bytes a kept record (its strings are shared with its service, its decision, some 500 bytes, with
// the other flows of its second) and at most as many again while a query reads; twice that times `queued_for_file` for
// what waits for the file. Nothing else grows. Threads: every function may be called from any thread. finished() takes
// a short lock and never waits for the disk.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "flow/query.h"

namespace marchproxy::flow {

struct StoreOptions {
    size_t keep = 100'000;            // 0: none
    std::string file{};               // empty: none; appended to
    size_t queued_for_file = 65'536;  // what waits for a slow disk; beyond it records are dropped and counted
    bool operator==(const StoreOptions&) const = default;
};

struct StoreStatus {
    uint64_t total = 0;      // flows that finished since the start
    uint64_t kept = 0;       // of those, in memory
    uint64_t written = 0;    // of those, in the file
    uint64_t dropped = 0;    // not in the file: the queue was full, or writing failed
    std::string file_error;  // why the file cannot be written at the moment; empty: it can
};

class Store final : public Sink {
  public:
    // Told when writing the file starts to fail, once a failure, and when it works again. Called from the store's own
    // thread.
    using Report = std::function<void(bool works, const std::string& message)>;

    explicit Store(const StoreOptions& options, Report report = {});
    ~Store() override;  // writes what waits for the file
    Store(const Store&) = delete;
    Store& operator=(const Store&) = delete;

    void finished(std::vector<Record>& batch) override;

    void configure(const StoreOptions& options);  // by reload; a smaller `keep` forgets the oldest
    void reopen();                                // SIGHUP: after logrotate has moved the file away

    std::vector<Record> query(const Query& query) const;
    StoreStatus status() const;

  private:
    class Ring;
    class File;
    std::unique_ptr<Ring> ring_;
    std::unique_ptr<File> file_;
};

}  // namespace marchproxy::flow
