// libFuzzer target for a whole model in a GGUF file: configuration, tensors against the architecture, tokenizer,
// sampling. Any bytes either load or throw Error; what loads is read whole.
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <string>

#include "base/error.h"
#include "base/log.h"
#include "engine/generation_config.h"
#include "engine/model_text.h"
#include "models/gguf_model.h"
#include "tensor/convert.h"

namespace {

// What throws Error is an answer; anything else is a find.
template <class Body>
void attempt(Body&& body) {
  try {
    body();
  } catch (const vertebra::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::string path = "/tmp/vertebra-gguf-model-fuzz-" + std::to_string(getpid()) + ".gguf";
  vertebra::set_log_level(vertebra::LogLevel::kError);
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
  attempt([&] {
    const auto file = std::make_shared<const vertebra::GgufFile>(path);
    attempt([&] { vertebra::sampling_defaults(vertebra::generation_of_gguf(file->metadata()), "fuzz"); });
    attempt([&] { vertebra::tokenizer_of(file->metadata()).encode("Hello, w\u00f6rld 123", true); });
    const vertebra::StoredModel stored = vertebra::open_gguf_model(file);
    for (const vertebra::ParameterSpec& spec : stored.model->parameters())
      attempt([&] { vertebra::convert(stored.tensors->read(spec), vertebra::DType::kF32); });
    attempt([&] {
      const vertebra::GgufModelPlan plan = vertebra::plan_gguf_model(stored, "fuzz");
      vertebra::GgufTensors tensors(stored, plan);
      for (size_t i = 0; i < plan.tensors.size(); ++i) attempt([&] { tensors.read(i); });
    });
  });
  return 0;
}
