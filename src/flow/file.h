// The flow file: JSON lines, appended by a thread of its own behind a bounded queue.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "flow/store.h"

namespace marchproxy::flow {

class Store::File {
  public:
    File(const StoreOptions& options, Report report);
    ~File();  // writes what waits

    void enqueue(const std::vector<Record>& batch);
    void configure(const StoreOptions& options);
    void reopen();
    void add_to(StoreStatus& status) const;

  private:
    struct Work {
        std::vector<Record> records;
        std::string path;
        bool reopen = false;
        bool stop = false;
    };

    void run();
    Work next();
    void write(const Work& work);
    bool open(const std::string& path);
    void close();
    bool append(std::string_view lines);
    void succeeded(size_t lines);
    void failed(size_t lines, const std::string& doing, int number);

    const Report report_;

    mutable std::mutex mutex_;  // what follows, up to the thread
    std::condition_variable wake_;
    std::vector<Record> queue_;
    std::string path_;
    size_t most_queued_;
    bool reopen_ = false, stop_ = false;
    uint64_t written_ = 0, dropped_ = 0;
    std::string error_;

    int descriptor_ = -1;  // the thread's own
    bool torn_ = false;    // the file ends within a line
    std::thread thread_;
};

}  // namespace marchproxy::flow
