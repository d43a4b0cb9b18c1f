// The stage `facts`: conversations about a table, in curriculum order, and evaluation questions that
// training never shows.
#include "data/facts.h"
#include "recipe/stage.h"

namespace vertebra {
namespace {

class FactsStage final : public Stage {
 public:
  std::string_view name() const override { return "facts"; }
  std::vector<std::string> needs(const RunContext&) const override { return {}; }

  void configure(const RunContext& context, Settings& settings) override {
    options_.table = context.recipe.resolve(settings.text("table", std::nullopt));
    options_.places = context.recipe.resolve(settings.text("places", std::nullopt));
    options_.phrasings = context.recipe.resolve(settings.text("phrasings", std::nullopt));
    const double minutes = settings.number("minutes", std::nullopt, 0.001, 100000);
    const double rate = settings.number("examples_per_minute", std::nullopt, 1, 1e9);
    examples_ = std::max<int64_t>(1, static_cast<int64_t>(minutes * rate));
    per_group_ = settings.integer("questions_per_group", 400, 1, 100000);
    options_.unknown_share = settings.number("unknown_share", options_.unknown_share, 0, 1);
    options_.place_share = settings.number("place_share", options_.place_share, 0, 1);
    options_.unanswerable_share = settings.number("unanswerable_share", options_.unanswerable_share, 0, 1);
    options_.off_topic_share = settings.number("off_topic_share", options_.off_topic_share, 0, 1);
    options_.seed = context.recipe.seed;
  }

  std::map<std::string, std::filesystem::path> files(const RunContext&) const override {
    return {{"table", options_.table}, {"places", options_.places}, {"phrasings", options_.phrasings}};
  }

  Json run(const RunContext& context, const std::filesystem::path& folder) override {
    const FactsGenerator generator(options_);
    generator.write_training(folder / "train.jsonl", examples_);
    std::filesystem::create_directories(folder / "eval");
    const auto groups = generator.write_evaluation(folder / "eval", per_group_, context.recipe.seed);
    return {{"examples", examples_}, {"evaluation_groups", groups.size()}};
  }

 private:
  FactsOptions options_;
  int64_t examples_ = 0, per_group_ = 0;
};

}  // namespace

std::unique_ptr<Stage> make_facts_stage() { return std::make_unique<FactsStage>(); }

}  // namespace vertebra
