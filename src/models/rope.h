// Rotary positions as config.json describes them: base frequencies and their scaling for contexts longer than
// those of pretraining. Called by the architectures; the rotation itself is the op `rope`.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "models/model.h"

namespace vertebra {

// The settings under their names in transformers 5 (rope_type, rope_theta, factor, ...), read from
// rope_parameters, or from rope_theta and rope_scaling, as files had them before. `layer_type` picks the
// settings of one kind of layer where rope_parameters holds several; `theta` is the base where none is given.
Json rope_settings(const Json& config, std::string_view source, double theta = 10000,
                   const std::string& layer_type = {});

class RotaryPositions {
 public:
  RotaryPositions() = default;
  // Types default, linear, dynamic, llama3, yarn, longrope and proportional; throws unimplemented for others.
  RotaryPositions(const Json& settings, int64_t head_dim, int64_t context_length, std::string_view source);

  double theta() const { return theta_; }
  // x [N, H, D] rotated, positions i32 [N]. Heads wider than the rotary part pass the rest through.
  Value operator()(ModelContext& context, Value x, Value positions) const;
  // 1 + beta log(1 + floor(position / original context)), f32 [N, 1, 1]: how Llama 4 sharpens the queries of
  // far positions; none where the settings do not ask for it.
  Value query_scale(Value positions) const;

 private:
  void read_llama3(const Json& settings, std::string_view source);
  void read_yarn(const Json& settings, int64_t context_length, std::string_view source);
  void read_longrope(const Json& settings, int64_t context_length, std::string_view source);

  std::vector<double> frequencies_;       // radians per position of each pair
  std::vector<double> long_frequencies_;  // for sequences longer than original_context_ (longrope)
  int64_t original_context_ = 0;
  double theta_ = 10000, attention_factor_ = 1, query_beta_ = 0;
};

}  // namespace vertebra
