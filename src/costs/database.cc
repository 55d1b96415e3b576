#include "costs/database.h"

#include <fcntl.h>
#include <sqlite3.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace marchproxy::costs {

namespace {
constexpr int patience_ms = 1000;
}

// --- statements ----------------------------------------------------------------------------------------------------

void Statement::Finalize::operator()(sqlite3_stmt* statement) const {
    sqlite3_finalize(statement);
}

Statement& Statement::bind(int64_t value) {
    database_.note(sqlite3_bind_int64(statement_.get(), next_++, value));
    return *this;
}

Statement& Statement::bind(double value) {
    database_.note(sqlite3_bind_double(statement_.get(), next_++, value));
    return *this;
}

Statement& Statement::bind(std::string_view value) {
    const int size = static_cast<int>(value.size());
    database_.note(sqlite3_bind_text(statement_.get(), next_++, value.data(), size, SQLITE_TRANSIENT));
    return *this;
}

bool Statement::step() {
    if (!statement_) return false;  // preparing it went wrong, which is noted
    const int code = sqlite3_step(statement_.get());
    if (code != SQLITE_ROW) database_.note(code);
    return code == SQLITE_ROW;
}

void Statement::reset() {
    sqlite3_reset(statement_.get());
    next_ = 1;
}

int64_t Statement::integer(int column) const {
    return sqlite3_column_int64(statement_.get(), column);
}

double Statement::real(int column) const {
    return sqlite3_column_double(statement_.get(), column);
}

std::string Statement::text(int column) const {
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_.get(), column));
    return text ? std::string(text, static_cast<size_t>(sqlite3_column_bytes(statement_.get(), column)))
                : std::string();
}

// --- the database --------------------------------------------------------------------------------------------------

Result<std::unique_ptr<Database>> Database::open(const std::string& file) {
    if (!file.empty()) {
        const int descriptor = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0640);
        if (descriptor < 0) return Error{strerror(errno)};
        close(descriptor);
    }
    sqlite3* connection = nullptr;
    const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | (file.empty() ? SQLITE_OPEN_MEMORY : 0);
    const int code = sqlite3_open_v2(file.empty() ? ":memory:" : file.c_str(), &connection, flags, nullptr);
    std::unique_ptr<Database> database(new Database(connection));
    if (code != SQLITE_OK) return Error{connection ? sqlite3_errmsg(connection) : "out of memory"};
    sqlite3_busy_timeout(connection, patience_ms);
    return database;
}

Database::~Database() {
    sqlite3_close(connection_);
}

Result<void> Database::run(const char* statements) {
    problem_.clear();
    note(sqlite3_exec(connection_, statements, nullptr, nullptr, nullptr));
    if (std::string problem = take_problem(); !problem.empty()) return Error{std::move(problem)};
    return {};
}

Statement Database::prepare(std::string_view question) {
    sqlite3_stmt* statement = nullptr;
    note(sqlite3_prepare_v2(connection_, question.data(), static_cast<int>(question.size()), &statement, nullptr));
    return Statement(*this, statement);
}

std::string Database::take_problem() {
    return std::exchange(problem_, {});
}

void Database::rollback() {
    if (!sqlite3_get_autocommit(connection_)) sqlite3_exec(connection_, "ROLLBACK", nullptr, nullptr, nullptr);
}

// The first problem is the cause of those that follow.
void Database::note(int code) {
    if (code == SQLITE_OK || code == SQLITE_DONE || code == SQLITE_ROW || !problem_.empty()) return;
    problem_ = sqlite3_errmsg(connection_);
}

}  // namespace marchproxy::costs
