// What is particular to each vendor, in one table: where its plugin lies, what must be set before it is
// loaded, how a machine without the chip is told, what its compiler cannot do, what its chips reach. Adding a
// vendor is adding a row (docs/add-a-chip.md); no other file names one.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace vertebra::pjrt {

// The peaks that shares of the ceiling refer to, from the vendor's documents; 0: not stated there. Products
// without sparsity. docs/add-a-chip.md names the sources.
struct Chip {
  std::string_view kind;  // is searched in the device kind that the plugin reports, row by row
  double bf16_flops = 0, f32_flops = 0;
  double memory_bytes = 0, bandwidth_bytes_per_second = 0;
  std::string_view name = {};  // as in --chip NAME, where people call it differently
  // Between chips, one direction, all links of a chip together: within a group of `link_chips` that the links
  // connect, and beyond it over the network.
  double link_bytes_per_second = 0;
  int64_t link_chips = 1;
  double network_bytes_per_second = 0;

  std::string_view called() const { return name.empty() ? kind : name; }
};

struct EnvironmentSetting {
  std::string_view name, value;  // set before the plugin is loaded, unless the user has set it
};

struct CreateOption {
  std::string_view name;
  int64_t value;
  bool counts_devices = false;  // a larger mesh asks for as many devices as it has
};

enum class Partitioner { kShardy, kGspmd };

// An operation that the compiler does not take ('*' stands for any run of characters), and what to write
// instead.
struct BannedOperation {
  std::string_view name, remedy;
};

// What a vendor's compiler or chip refuses, by the vendor's documents (docs/add-a-chip.md names them). A row
// without any takes all that StableHLO has with static shapes. chip_rules.h checks modules against it.
struct ChipRules {
  // The printer asks HloCall::banned and writes a replacement where it has one.
  std::vector<BannedOperation> banned_operations = {};
  std::vector<std::string_view> element_types = {};     // the only ones; empty: all
  std::vector<std::string_view> float_operations = {};  // no 32- or 64-bit integers as operands
  std::vector<std::string_view> custom_calls = {};      // the only targets; empty: not checked
  bool pairs_in_reductions = true;                      // a reduction may have several results
  bool dynamic_loops = true;                            // a loop may run as often as the data say
  bool named_random_algorithms = true;                  // rng_bit_generator with another than DEFAULT
  // An index outside is clamped by gather and dropped by scatter, as the specification says; elsewhere it is
  // an error at run time.
  bool indices_outside = true;
};

struct Vendor {
  std::string_view name;  // as in --device pjrt:NAME
  std::string_view description;
  // Below a Python site-packages folder, and absolute; '*' stands for any run of characters in one name.
  std::vector<std::string_view> package_files;
  std::vector<std::string_view> system_files;
  std::vector<std::string_view>
      environment_variables;  // may name the plugin's file (beside VERTEBRA_PJRT_NAME)
  std::vector<EnvironmentSetting> environment;
  std::vector<CreateOption> create_options;
  std::string_view threads_variable = {};  // environment variable that limits its threads on the host
  // One of these files exists where the chip does; empty: runs anywhere. Some plugins hang for minutes
  // without.
  std::vector<std::string_view> device_files;
  // Structures longer than the plugin knows: most take them, some compare sizes for equality.
  bool accepts_longer_structs = true;
  Partitioner partitioner = Partitioner::kShardy;
  ChipRules rules = {};
  bool native_bf16 = true;
  // Equal layers are handed over as a loop over one of them, since the compiler holds few instructions; elsewhere
  // one after the other, which runs faster (the loop copies each layer's parameters together and its gradients
  // apart).
  bool layers_as_loop = false;
  std::vector<Chip> chips;
};

std::span<const Vendor> vendors();
// Null when there is none of that name.
const Vendor* find_vendor(std::string_view name);
// The row whose file names fit the path; a row without any particularity when none does.
const Vendor& vendor_of_file(std::string_view path);
// The peaks of a device of that kind; null when the table has none.
const Chip* find_chip(const Vendor& vendor, std::string_view device_kind);
// What --chip NAME means: a row ("neuron": chip is null), or one of its chips ("trn2", "H100"), in any case
// of letters. Throws not_found with the names there are.
struct NamedChip {
  const Vendor* vendor = nullptr;
  const Chip* chip = nullptr;
};
NamedChip require_chip(std::string_view name);
// Why a plugin of this vendor need not be started here ("none of /dev/neuron0 exists"); empty when it may be.
std::string missing_device(const Vendor& vendor);
// "a*c" matches "abc"; '*' does not cross '/'.
bool matches(std::string_view pattern, std::string_view text);

}  // namespace vertebra::pjrt
