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

# A new commit configures anew, so that a build that goes on from an older one names the right one.
if(EXISTS "${CMAKE_SOURCE_DIR}/.git/logs/HEAD")
  set_property(DIRECTORY "${CMAKE_SOURCE_DIR}" APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_SOURCE_DIR}/.git/logs/HEAD")
endif()
