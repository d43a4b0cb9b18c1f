# Products of block-quantized weights as a share of the machine's ceilings.
add_executable(bench_quantized ${CMAKE_CURRENT_SOURCE_DIR}/quantized.cc)
target_link_libraries(bench_quantized PRIVATE vertebra_engine vertebra_backend_cpu vertebra_ops)
