// How architectures lie in GGUF files: names of keys and tensors, and forms in which files have them. Each
// architecture describes itself in its own file; here is what they share, and the list. The translation is
// gguf_model.cc's, for loading and converting alike.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "models/model.h"

namespace vertebra {

// A parameter that a file has in another form than the declared one. What is given has the shape that the
// declaration, or file_shape of it, says.
struct GgufForm {
  Tensor (*to_file)(const Tensor& declared, const Model& model);
  Tensor (*from_file)(const Tensor& stored, const Model& model);
  Shape (*file_shape)(const Shape& declared) = nullptr;  // null: the same
};

struct GgufName {
  // Of the parameter and of the file's tensor: whole, or both without ".weight" or ".bias". Those of layers
  // follow the architecture's `layer` and "blk.N.".
  std::string_view declared, gguf;
  const GgufForm* form = nullptr;
  // 0 or 1: the file has two tensors of which this is the first or the second; rows (axis 1) of the declared
  // one are theirs in turns.
  int part = -1;
};

struct GgufKey {
  std::string_view setting;  // of config.json
  std::string_view key;      // after "ARCHITECTURE."
  bool whole = false;        // an integer; in files perhaps an array of it, a number for each layer
};

// What is written beside the declared parameters.
struct GgufContents {
  GgufMetadata metadata;
  std::vector<NamedTensor> tensors;
};

struct GgufArchitecture {
  std::string_view architecture;            // general.architecture
  std::string_view model_type, class_name;  // of config.json
  std::vector<GgufName> outside, inside;    // of layers
  std::vector<GgufKey> keys;
  std::string_view layer = "model.layers.";
  std::string_view settings = "{}";   // JSON: what config.json says beside the metadata
  double rope_theta = 10000;          // where config.json has none
  std::string_view rope_layers = {};  // the kind of layers whose rotary positions the usual keys say
  bool decoder = true;                // sizes as Decoder reads them
  bool rotary = true;                 // rotary positions of one kind, in the usual keys
  // Reads what the keys do not say, and makes of the configuration what make_model wants.
  void (*read)(const GgufFile& file, Json& config) = nullptr;
  // Writes it; throws unimplemented for what files have no words for.
  void (*write)(const Model& model, GgufContents& out) = nullptr;
  // The file's tensors that are not computed.
  bool (*ignores)(std::string_view gguf_name, const Json& config) = nullptr;
};

// Throw unimplemented with the list of those known; `source` names the file.
const GgufArchitecture& gguf_architecture(std::string_view architecture, std::string_view source);
const GgufArchitecture& gguf_architecture_of_model(std::string_view model_type, std::string_view source);

// The file's tensors that the parameter is made of, one as a rule. Throws unimplemented for a name that is
// not in the tables.
struct GgufPart {
  std::string name;
  const GgufForm* form = nullptr;
  int part = -1;
};
std::vector<GgufPart> gguf_parts(const GgufArchitecture& row, std::string_view declared);

// ---- Forms that several have.
// Rows of q and k in the order of rotations over neighbours: row 2 i + p of a head is our p D/2 + i.
extern const GgufForm kGgufQueryRows, kGgufKeyRows;
extern const GgufForm kGgufNormPlusOne;  // norms written as 1 + weight, f32
extern const GgufForm kGgufTransposed;   // [in, out] for [out, in]
extern const GgufForm kGgufFlatKernel;   // the kernel of a convolution by channel: [C, W] for [C, 1, W]

// ---- Names and keys that several have.
std::vector<GgufName> gguf_decoder_outside(const GgufForm* norm = nullptr);
// Attention with its norms; `pairs`: queries and keys in the form of rotations over neighbours.
std::vector<GgufName> gguf_attention_inside(bool pairs, const GgufForm* norm = nullptr);
std::vector<GgufName> gguf_decoder_inside(bool pairs);  // and a gated MLP
// The same with norms after attention and MLP too.
std::vector<GgufName> gguf_post_norm_inside(const GgufForm* norm = nullptr);
std::vector<GgufKey> gguf_decoder_keys(std::vector<GgufKey> further = {});

template <class T>
std::vector<T> joined(std::vector<T> first, const std::vector<T>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

// ---- For `read` and `write`.
inline std::string gguf_at(const GgufMetadata& metadata) {  // "ARCHITECTURE."
  return *metadata.string("general.architecture") + ".";
}
// A number for every layer: the array of that key, or the number that is there for all; empty without it.
std::vector<int64_t> gguf_by_layer(const GgufMetadata& metadata, const std::string& key, int64_t layers);
// attention.sliding_window with the layers that have it, both ways: sliding_window and layer_types of
// config.json, against the window of every layer (0: it sees all). `period`: where the file names no layers,
// every so manieth sees all; 0: none does.
void read_gguf_windows(const GgufFile& file, int64_t period, Json& config);
// The same for Qwen, whose configurations also say whether there are any.
void read_gguf_qwen_windows(const GgufFile& file, Json& config);
void write_gguf_windows(const std::vector<int64_t>& windows, int64_t period, GgufContents& out);
// The shortest decimal number that rounds to the f32 in the file: what was meant.
double gguf_number_of(double value);

}  // namespace vertebra
