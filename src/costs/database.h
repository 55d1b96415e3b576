// SQLite behind values: a connection, its statements. Errors are what SQLite says of them.
//
// One thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "model/result.h"

struct sqlite3;
struct sqlite3_stmt;

namespace marchproxy::costs {

class Database;

// One question, with `?` for what is bound, in order.
class Statement {
  public:
    Statement& bind(int64_t value);
    Statement& bind(double value);
    Statement& bind(std::string_view value);

    // True: there is a row. False: no (more) rows, or an error, which the database keeps (Database::problem).
    bool step();
    // To be stepped again with other values.
    void reset();

    int64_t integer(int column) const;
    double real(int column) const;
    std::string text(int column) const;

  private:
    friend class Database;
    struct Finalize {
        void operator()(sqlite3_stmt* statement) const;
    };
    Statement(Database& database, sqlite3_stmt* statement) : database_(database), statement_(statement) {}

    Database& database_;
    std::unique_ptr<sqlite3_stmt, Finalize> statement_;
    int next_ = 1;
};

class Database {
  public:
    // Empty: in memory. A new file is for its owner and group alone. Others may use the file at the same time; who
    // waits for them longer than a second gives up.
    static Result<std::unique_ptr<Database>> open(const std::string& file);
    ~Database();

    // Begins after what went wrong before has been looked at.
    Result<void> run(const char* statements);
    Statement prepare(std::string_view question);
    // Of statements since the last run() or take_problem(); empty: none.
    std::string take_problem();
    void rollback();

  private:
    friend class Statement;
    explicit Database(sqlite3* connection) : connection_(connection) {}
    void note(int code);

    sqlite3* connection_;
    std::string problem_;
};

}  // namespace marchproxy::costs
