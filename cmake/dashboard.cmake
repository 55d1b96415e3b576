# The dashboard (web/index.html) becomes a string in the admin room, made again whenever the page changes.
set(dashboard_source "${CMAKE_BINARY_DIR}/generated/dashboard.cc")
add_custom_command(
  OUTPUT "${dashboard_source}"
  COMMAND "${CMAKE_COMMAND}" "-DINPUT=${CMAKE_SOURCE_DIR}/web/index.html" "-DOUTPUT=${dashboard_source}"
          -P "${CMAKE_SOURCE_DIR}/cmake/embed_dashboard.cmake"
  DEPENDS "${CMAKE_SOURCE_DIR}/web/index.html" "${CMAKE_SOURCE_DIR}/cmake/embed_dashboard.cmake"
  COMMENT "Embedding the dashboard")
target_sources(admin PRIVATE "${dashboard_source}")
