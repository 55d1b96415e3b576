#include "flow/store.h"

#include <algorithm>
#include <deque>
#include <mutex>

#include "flow/file.h"

namespace marchproxy::flow {

namespace {

static_assert(sizeof(Record) <= 120, "store.h states what a kept flow costs");

}  // namespace

// Blocks of records, so that a query takes pointers to the full ones and reads them outside the lock: a worker that
// hands in its flows never waits for a reader to walk over all of them.
class Store::Ring {
  public:
    explicit Ring(size_t keep) : keep_(keep) {}

    void add(std::vector<Record>& batch) {
        std::deque<BlockPointer> forgotten;  // freed after the lock
        std::lock_guard lock(mutex_);
        total_ += batch.size();
        if (keep_ == 0) return;
        for (Record& record : batch) {
            if (!current_) start_block();
            current_->push_back(std::move(record));
            if (current_->size() == block_size) full_.push_back(std::move(current_));
        }
        forget(forgotten);
    }

    void keep(size_t count) {
        std::deque<BlockPointer> forgotten;
        std::lock_guard lock(mutex_);
        keep_ = count;
        forget(forgotten);
        if (keep_ == 0) current_.reset();
    }

    std::vector<Record> query(const Query& query) const {
        std::vector<BlockPointer> blocks;
        size_t skip = 0;
        {
            std::lock_guard lock(mutex_);
            blocks.assign(full_.begin(), full_.end());
            if (current_) blocks.push_back(std::make_shared<const Block>(*current_));
            skip = held() - std::min(held(), keep_);
        }
        std::vector<const Record*> found;
        for (const BlockPointer& block : blocks) {
            for (const Record& record : *block) {
                if (skip > 0)
                    --skip;
                else if (query.wants(record))
                    found.push_back(&record);
            }
        }
        arrange(found, query);
        std::vector<Record> result;
        result.reserve(found.size());
        for (const Record* record : found)
            result.push_back(*record);
        return result;
    }

    void add_to(StoreStatus& status) const {
        std::lock_guard lock(mutex_);
        status.total = total_;
        status.kept = std::min(held(), keep_);
    }

  private:
    using Block = std::vector<Record>;
    using BlockPointer = std::shared_ptr<const Block>;
    static constexpr size_t block_size = 1024;

    void start_block() {
        current_ = std::make_shared<Block>();
        current_->reserve(std::min(block_size, keep_));
    }

    size_t held() const { return full_.size() * block_size + (current_ ? current_->size() : 0); }

    void forget(std::deque<BlockPointer>& forgotten) {
        while (!full_.empty() && held() - block_size >= keep_) {
            forgotten.push_back(std::move(full_.front()));
            full_.pop_front();
        }
    }

    mutable std::mutex mutex_;
    size_t keep_;
    uint64_t total_ = 0;
    std::deque<BlockPointer> full_;   // oldest first, each of block_size
    std::shared_ptr<Block> current_;  // not full, or none
};

Store::Store(const StoreOptions& options, Report report)
    : ring_(std::make_unique<Ring>(options.keep)), file_(std::make_unique<File>(options, std::move(report))) {}

Store::~Store() = default;

void Store::finished(std::vector<Record>& batch) {
    file_->enqueue(batch);
    ring_->add(batch);
    batch.clear();
}

void Store::configure(const StoreOptions& options) {
    ring_->keep(options.keep);
    file_->configure(options);
}

void Store::reopen() {
    file_->reopen();
}

std::vector<Record> Store::query(const Query& query) const {
    return ring_->query(query);
}

StoreStatus Store::status() const {
    StoreStatus status;
    ring_->add_to(status);
    file_->add_to(status);
    return status;
}

}  // namespace marchproxy::flow
