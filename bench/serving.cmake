# Requests beside each other: shared prefixes, gaps, long contexts.
add_executable(bench_serving ${CMAKE_CURRENT_SOURCE_DIR}/serving.cc)
target_link_libraries(bench_serving PRIVATE vertebra_engine vertebra_backend_cpu)
