// The dashboard: web/index.html, embedded at build time by cmake/dashboard.cmake.
#pragma once

#include <string_view>

namespace marchproxy::admin {

// Holds the word NONCE where the nonce of the content security policy belongs.
std::string_view dashboard_page();

}  // namespace marchproxy::admin
