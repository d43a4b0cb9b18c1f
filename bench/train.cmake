# Training steps beside PyTorch's, where Python has it.
add_executable(bench_train ${CMAKE_CURRENT_SOURCE_DIR}/train.cc)
target_link_libraries(bench_train PRIVATE vertebra_train vertebra_backend_cpu vertebra_backend_pjrt)
target_compile_definitions(bench_train PRIVATE VERTEBRA_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
