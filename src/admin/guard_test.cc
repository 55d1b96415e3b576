#include "admin/guard.h"

#include <gmock/gmock.h>

namespace marchproxy::admin {
namespace {

using testing::HasSubstr;

struct Row {
    const char* name;
    Caller caller;
    const char* token;
    int status;  // 0: allowed
};

TEST(Guard, DecidesWhoMayChangeSomething) {
    const Row rows[] = {
        {"local", {"127.0.0.1", "", "127.0.0.1:8081", ""}, "", 0},
        {"local by name", {"127.0.0.1", "", "localhost:8081", ""}, "", 0},
        {"local by IPv6", {"::1", "", "[::1]:8081", ""}, "", 0},
        {"another loopback address", {"127.0.0.9", "", "127.0.0.9", ""}, "", 0},
        {"the dashboard itself", {"127.0.0.1", "", "localhost:8081", "http://localhost:8081"}, "", 0},
        {"elsewhere", {"192.0.2.7", "", "127.0.0.1:8081", ""}, "", 403},
        {"elsewhere by IPv6", {"2001:db8::7", "", "localhost", ""}, "", 403},
        {"unknown peer", {"", "", "127.0.0.1:8081", ""}, "", 403},
        {"rebound name", {"127.0.0.1", "", "evil.example:8081", ""}, "", 403},
        {"name that only begins alike", {"127.0.0.1", "", "localhost.evil.example", ""}, "", 403},
        {"no host", {"127.0.0.1", "", "", ""}, "", 403},
        {"broken host", {"127.0.0.1", "", "[::1", ""}, "", 403},
        {"foreign page", {"127.0.0.1", "", "127.0.0.1:8081", "http://evil.example"}, "", 403},
        {"page of another port", {"127.0.0.1", "", "127.0.0.1:8081", "http://127.0.0.1:9999"}, "", 403},
        {"sandboxed page", {"127.0.0.1", "", "127.0.0.1:8081", "null"}, "", 403},
        {"token from elsewhere", {"192.0.2.7", "Bearer secret", "proxy.example", "http://x"}, "secret", 0},
        {"token missing, even here", {"127.0.0.1", "", "127.0.0.1", ""}, "secret", 401},
        {"token wrong", {"127.0.0.1", "Bearer secreT", "127.0.0.1", ""}, "secret", 401},
        {"token cut", {"127.0.0.1", "Bearer secre", "127.0.0.1", ""}, "secret", 401},
        {"token doubled", {"127.0.0.1", "Bearer secretsecret", "127.0.0.1", ""}, "secret", 401},
        {"token empty", {"127.0.0.1", "Bearer ", "127.0.0.1", ""}, "secret", 401},
        {"token in another scheme", {"127.0.0.1", "Basic secret", "127.0.0.1", ""}, "secret", 401},
    };
    for (const Row& row : rows) {
        const auto refusal = refuse_change(row.caller, row.token);
        EXPECT_EQ(refusal ? refusal->status : 0, row.status) << row.name;
        if (!refusal) continue;
        EXPECT_THAT(refusal->message, HasSubstr("admin.token")) << row.name << ": says what to do";
    }
}

}  // namespace
}  // namespace marchproxy::admin
