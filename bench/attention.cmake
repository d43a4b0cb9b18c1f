# Attention forward, backward and decoding as shares of the machine's ceilings.
add_executable(bench_attention ${CMAKE_CURRENT_SOURCE_DIR}/attention.cc)
target_link_libraries(bench_attention PRIVATE vertebra_backend_cpu)
