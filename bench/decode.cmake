# Greedy decoding as a share of what memory allows.
add_executable(bench_decode ${CMAKE_CURRENT_SOURCE_DIR}/decode.cc)
target_link_libraries(bench_decode PRIVATE vertebra_engine vertebra_backend_cpu vertebra_backend_pjrt)
