# build/generated/version.h: the version and the commit, refreshed at every configure.
execute_process(COMMAND git rev-parse --short=12 HEAD WORKING_DIRECTORY "${CMAKE_SOURCE_DIR}"
                OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(NOT commit)
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT "${CMAKE_BINARY_DIR}/generated/version.h" CONTENT
"#pragma once
// Written by cmake/version.cmake.
#define MARCHPROXY_VERSION \"${PROJECT_VERSION}\"
#define MARCHPROXY_COMMIT \"${commit}\"
")
