// Tokenizer, chat template and special tokens as the metadata of a GGUF file: the inverse of what
// model_text.h reads. Called by `vertebra convert`.
#pragma once

#include "engine/model_text.h"

namespace vertebra {

// Throws unimplemented for a tokenizer that files cannot say: a kind or a pre-tokenizer without a name, or
// one that cuts a text otherwise once it is read back.
void add_gguf_text(const ModelText& text, const std::string& source, GgufMetadata& metadata);

}  // namespace vertebra
