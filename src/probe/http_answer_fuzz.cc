// Whatever an endpoint answers, in whatever pieces, the judgement is reached and does not change with more bytes.
#include <cstdlib>

#include "probe/http_answer.h"

using namespace marchproxy;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    ProbeSettings settings;
    if (size > 0 && data[0] & 1) settings.expect_body = "ok";
    if (size > 0 && data[0] & 2) settings.expect_status = 204;
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    std::optional<std::string> judged;
    for (size_t length = 0; length <= size; ++length) {
        const auto now = probe::judge(text.substr(0, length), false, settings);
        if (judged && now != judged) abort();
        judged = now;
    }
    if (!probe::judge(text, true, settings)) abort();
    return 0;
}
