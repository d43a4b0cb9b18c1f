# Byte-level BPE training and encoding, beside tiktoken and Hugging Face tokenizers where Python has them.
add_executable(bench_tokenizer ${CMAKE_CURRENT_SOURCE_DIR}/tokenizer.cc)
target_link_libraries(bench_tokenizer PRIVATE vertebra_text)
target_compile_definitions(bench_tokenizer PRIVATE VERTEBRA_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
