// What vendors' chips do not take is found in a module, by line; no plugin is needed.
#include "backend/pjrt/chip_rules.h"

#include <gtest/gtest.h>

#include "backend/pjrt/chip_modules.h"
#include "backend/pjrt/index_ranges.h"
#include "backend/pjrt/verify_stablehlo.h"
#include "base/error.h"
#include "ops/ops.h"

namespace vertebra::pjrt {
namespace {

// A module of one function whose body is given; the body's first line is line 4.
std::string module_of(const std::string& arguments, const std::string& body) {
  return "\"builtin.module\"() <{sym_name = \"vertebra\"}> ({\n\"func.func\"() <{sym_name = \"main\"}> "
         "({\n^bb0(" +
         arguments + "):\n" + body + "  \"func.return\"() : () -> ()\n}) : () -> ()\n}) : () -> ()\n";
}

std::vector<RuleBreach> breaches(const std::string& chip, const std::string& arguments,
                                 const std::string& body) {
  return find_breaches(parse_stablehlo(module_of(arguments, body)), find_vendor(chip)->rules);
}

struct Forbidden {
  const char *name, *arguments, *body;
  int line;
  const char *operation, *part;  // of the rule or the remedy
};

constexpr const char* kGather =
    "  %r = \"stablehlo.gather\"(%t, %i) <{dimension_numbers = #stablehlo.gather<offset_dims = [1], "
    "collapsed_slice_dims = [0], start_index_map = [0], index_vector_dim = 1>, slice_sizes = array<i64: 1, "
    "4>}> : "
    "(tensor<8x4xf32>, tensor<3xi32>) -> tensor<3x4xf32>\n";

std::string loop(const std::string& limit, const std::string& step, const std::string& start) {
  return "  %zero = \"stablehlo.constant\"() <{value = dense<0> : tensor<i32>}> : () -> tensor<i32>\n"
         "  %one = \"stablehlo.constant\"() <{value = dense<1> : tensor<i32>}> : () -> tensor<i32>\n"
         "  %five = \"stablehlo.constant\"() <{value = dense<5> : tensor<i32>}> : () -> tensor<i32>\n"
         "  %n, %y = \"stablehlo.while\"(%" +
         start +
         ", %x) ({\n"
         "  ^bb0(%a: tensor<i32>, %b: tensor<f32>):\n"
         "    %c = \"stablehlo.compare\"(%a, %" +
         limit +
         ") <{comparison_direction = #stablehlo<comparison_direction LT>}> : (tensor<i32>, tensor<i32>) -> "
         "tensor<i1>\n"
         "    \"stablehlo.return\"(%c) : (tensor<i1>) -> ()\n"
         "  }, {\n"
         "  ^bb0(%d: tensor<i32>, %e: tensor<f32>):\n"
         "    %f = \"stablehlo.add\"(%d, %" +
         step +
         ") : (tensor<i32>, tensor<i32>) -> tensor<i32>\n"
         "    \"stablehlo.return\"(%f, %e) : (tensor<i32>, tensor<f32>) -> ()\n"
         "  }) : (tensor<i32>, tensor<f32>) -> (tensor<i32>, tensor<f32>)\n";
}

const Forbidden kOnNeuron[] = {
    {"sort", "%x: tensor<4xf32>",
     "  %s = \"stablehlo.sort\"(%x) <{dimension = 0 : i64, is_stable = true}> ({\n  ^bb0(%a: tensor<f32>, "
     "%b: "
     "tensor<f32>):\n    %c = \"stablehlo.compare\"(%a, %b) <{comparison_direction = "
     "#stablehlo<comparison_direction LT>}> : (tensor<f32>, tensor<f32>) -> tensor<i1>\n    "
     "\"stablehlo.return\"(%c) : (tensor<i1>) -> ()\n  }) : (tensor<4xf32>) -> tensor<4xf32>\n",
     4, "stablehlo.sort", "maximum"},
    {"top_k", "%x: tensor<4xf32>",
     "  %v, %i = \"chlo.top_k\"(%x) <{k = 2 : i64}> : (tensor<4xf32>) -> (tensor<2xf32>, tensor<2xi32>)\n", 4,
     "chlo.top_k", "NCC_EVRF001"},
    {"erf", "%x: tensor<4xf32>", "  %y = \"chlo.erf\"(%x) : (tensor<4xf32>) -> tensor<4xf32>\n", 4,
     "chlo.erf", "polynomial"},
    {"a reduction of pairs", "%x: tensor<4xf32>, %i: tensor<4xi32>, %z: tensor<f32>, %j: tensor<i32>",
     "  %m, %n = \"stablehlo.reduce\"(%x, %i, %z, %j) <{dimensions = array<i64: 0>}> ({\n  ^bb0(%a: "
     "tensor<f32>, %b: "
     "tensor<i32>, %c: tensor<f32>, %d: tensor<i32>):\n    \"stablehlo.return\"(%a, %b) : (tensor<f32>, "
     "tensor<i32>) "
     "-> ()\n  }) : (tensor<4xf32>, tensor<4xi32>, tensor<f32>, tensor<i32>) -> (tensor<f32>, tensor<i32>)\n",
     4, "stablehlo.reduce", "2 results"},
    {"a choice of branches", "%p: tensor<i1>, %x: tensor<f32>",
     "  %y = \"stablehlo.if\"(%p) ({\n    \"stablehlo.return\"(%x) : (tensor<f32>) -> ()\n  }, {\n    "
     "\"stablehlo.return\"(%x) : (tensor<f32>) -> ()\n  }) : (tensor<i1>) -> tensor<f32>\n",
     4, "stablehlo.if", "select"},
    {"an index outside", "%t: tensor<8x4xf32>, %i: tensor<3xi32>", kGather, 4, "stablehlo.gather", "0 to 7"},
    {"a scatter", "%t: tensor<8xf32>, %i: tensor<3xi32>, %u: tensor<3xf32>",
     "  %r = \"stablehlo.scatter\"(%t, %i, %u) <{}> : (tensor<8xf32>, tensor<3xi32>, tensor<3xf32>) -> "
     "tensor<8xf32>\n",
     4, "stablehlo.scatter", "one-hot"},
    {"64-bit integers", "%x: tensor<4xi32>",
     "  %y = \"stablehlo.convert\"(%x) : (tensor<4xi32>) -> tensor<4xi64>\n", 4, "stablehlo.convert",
     "32-bit integers"},
    {"f64", "%x: tensor<4xf64>", "", 2, "func.func", "f64 is not there"},
    {"complex numbers", "%x: tensor<4xf32>",
     "  %y = \"stablehlo.complex\"(%x, %x) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xcomplex<f32>>\n", 4,
     "stablehlo.complex", "real and imaginary"},
    {"a dynamic shape", "%x: tensor<?x4xf32>", "", 2, "func.func", "?x4xf32 is dynamic"},
    {"a product of integers", "%x: tensor<4x4xi32>",
     "  %y = \"stablehlo.dot_general\"(%x, %x) : (tensor<4x4xi32>, tensor<4x4xi32>) -> tensor<4x4xi32>\n", 4,
     "stablehlo.dot_general", "2^24"},
    {"another generator", "%x: tensor<2xui32>",
     "  %s, %y = \"stablehlo.rng_bit_generator\"(%x) <{rng_algorithm = #stablehlo<rng_algorithm THREE_FRY>}> "
     ": "
     "(tensor<2xui32>) -> (tensor<2xui32>, tensor<4xui32>)\n",
     4, "stablehlo.rng_bit_generator", "DEFAULT"},
    {"a custom call of another vendor", "%x: tensor<4xf32>",
     "  %y = \"stablehlo.custom_call\"(%x) <{call_target_name = \"__cudnn$fmhaSoftmax\"}> : (tensor<4xf32>) "
     "-> "
     "tensor<4xf32>\n",
     4, "stablehlo.custom_call", "__cudnn$fmhaSoftmax"},
};

TEST(ChipRules, EachIsFoundByItsLine) {
  for (const Forbidden& each : kOnNeuron) {
    SCOPED_TRACE(each.name);
    const std::vector<RuleBreach> found = breaches("neuron", each.arguments, each.body);
    ASSERT_EQ(found.size(), 1u);
    EXPECT_EQ(found[0].line, each.line);
    EXPECT_EQ(found[0].operation, each.operation);
    const std::string words = found[0].rule + "; " + found[0].remedy;
    EXPECT_NE(words.find(each.part), std::string::npos) << words;
    if (std::string(each.name) == "a dynamic shape") continue;  // everywhere
    EXPECT_TRUE(breaches("cuda", each.arguments, each.body).empty()) << "not every chip has this rule";
  }
}

TEST(ChipRules, DynamicShapesAreForbiddenEverywhere) {
  for (const Vendor& vendor : vendors())
    EXPECT_EQ(breaches(std::string(vendor.name), "%x: tensor<?x4xf32>", "").size(), 1u) << vendor.name;
}

TEST(ChipRules, ALoopMustHaveAFixedNumberOfRounds) {
  const std::string arguments = "%x: tensor<f32>, %any: tensor<i32>";
  EXPECT_TRUE(breaches("neuron", arguments, loop("five", "one", "zero")).empty());
  for (const auto& [limit, step, start] :
       {std::tuple("any", "one", "zero"), std::tuple("five", "any", "zero"),
        std::tuple("five", "one", "any")}) {
    const auto found = breaches("neuron", arguments, loop(limit, step, start));
    ASSERT_EQ(found.size(), 1u) << limit << " " << step << " " << start;
    EXPECT_EQ(found[0].line, 7);
    EXPECT_NE(found[0].rule.find("rounds"), std::string::npos);
  }
  EXPECT_EQ(breaches("tt", arguments, loop("five", "one", "zero")).size(), 1u);
  EXPECT_TRUE(breaches("tpu", arguments, loop("any", "one", "zero")).empty());
}

TEST(ChipRules, AClampedIndexIsInside) {
  const auto clamped_to = [](const std::string& last) {
    return "  %low = \"stablehlo.constant\"() <{value = dense<0> : tensor<i32>}> : () -> tensor<i32>\n"
           "  %high = \"stablehlo.constant\"() <{value = dense<" +
           last +
           "> : tensor<i32>}> : () -> tensor<i32>\n"
           "  %i = \"stablehlo.clamp\"(%low, %any, %high) : (tensor<i32>, tensor<3xi32>, tensor<i32>) -> "
           "tensor<3xi32>\n" +
           kGather;
  };
  const std::string arguments = "%t: tensor<8x4xf32>, %any: tensor<3xi32>";
  EXPECT_TRUE(breaches("neuron", arguments, clamped_to("7")).empty());
  EXPECT_EQ(breaches("neuron", arguments, clamped_to("8")).size(), 1u);

  const std::string scatter =
      "  %r = \"stablehlo.scatter\"(%t, %any, %u) <{scatter_dimension_numbers = "
      "#stablehlo.scatter<update_window_dims = [1], inserted_window_dims = [0], scatter_dims_to_operand_dims "
      "= [0], "
      "index_vector_dim = 1>}> : (tensor<8x4xf32>, tensor<3xi32>, tensor<3x4xf32>) -> tensor<8x4xf32>\n";
  const auto found = breaches("tt", arguments + ", %u: tensor<3x4xf32>", scatter);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found[0].rule.find("0 to 7"), std::string::npos) << found[0].rule;
}

TEST(ChipRules, TheVerifierRefusesWithLineRuleAndRemedy) {
  const std::string text = module_of("%x: tensor<4xf32>", kOnNeuron[2].body);
  try {
    verify_stablehlo(text, *find_vendor("neuron"));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kUnimplemented);
    for (const char* part : {"neuron", "chlo.erf", "line 4", "polynomial"})
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(IndexRanges, FollowArithmetic) {
  const std::string text =
      module_of("%x: tensor<4xi32>",
                "  %a = \"stablehlo.iota\"() <{iota_dimension = 0 : i64}> : () -> tensor<4xi32>\n"
                "  %b = \"stablehlo.constant\"() <{value = dense<\"0xFFFFFFFF0200000000000000FEFFFFFF\"> : "
                "tensor<4xi32>}> : () "
                "-> tensor<4xi32>\n"
                "  %c = \"stablehlo.add\"(%a, %b) : (tensor<4xi32>, tensor<4xi32>) -> tensor<4xi32>\n"
                "  %d = \"stablehlo.maximum\"(%x, %a) : (tensor<4xi32>, tensor<4xi32>) -> tensor<4xi32>\n"
                "  %e = \"stablehlo.subtract\"(%x, %a) : (tensor<4xi32>, tensor<4xi32>) -> tensor<4xi32>\n"
                "  %f = \"stablehlo.multiply\"(%a, %a) : (tensor<4xi32>, tensor<4xi32>) -> tensor<4xi32>\n");
  const ParsedOperation module = parse_stablehlo(text);
  const auto ranges = find_index_ranges(module.regions[0].operations[0].regions[0]);
  EXPECT_EQ(ranges.at("a"), (IndexRange{0, 3}));
  EXPECT_EQ(ranges.at("b"), (IndexRange{-2, 2}));
  EXPECT_EQ(ranges.at("c"), (IndexRange{-2, 5}));
  EXPECT_EQ(ranges.at("d"), (IndexRange{0, INT32_MAX}));
  EXPECT_EQ(ranges.at("e"), IndexRange{});  // may wrap around
  EXPECT_FALSE(ranges.contains("f"));
}

TEST(ChipModules, EveryPaddedSizeThatOccurs) {
  Graph graph;
  const Value rows = graph.parameter("rows", {DType::kF32, {Dim(8, 1), 4}});
  const Value picked = graph.parameter("picked", {DType::kI32, {Dim(4, 2)}});
  graph.add_output("out", gather_rows(rows, picked));
  std::vector<std::vector<int64_t>> sizes;
  for (const ChipModule& module : chip_modules(graph, *find_vendor("cpu"))) sizes.push_back(module.sizes);
  EXPECT_EQ(sizes, (std::vector<std::vector<int64_t>>{{8, 4}, {8, 1}, {2, 4}, {2, 1}, {1, 1}}));
}

TEST(Chips, AreKnownByVendorAndKind) {
  EXPECT_EQ(require_chip("TRN2").chip->kind, "trn2");
  EXPECT_EQ(require_chip("h100").vendor->name, "cuda");
  EXPECT_EQ(require_chip("neuron").chip, nullptr);
  try {
    require_chip("abacus");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::kNotFound);
    EXPECT_NE(std::string(error.what()).find("trn2"), std::string::npos);
  }
}

}  // namespace
}  // namespace vertebra::pjrt
