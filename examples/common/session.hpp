#pragma once
// What training, evaluation and sampling share.
#include <functional>
#include <string>
#include <vector>

#include <examples/common/batches.hpp>
#include <examples/common/codec.hpp>
#include <examples/common/engine.hpp>
#include <examples/common/options.hpp>

namespace trainer {

/// Sums over evaluated windows.
struct evaluation {
  double nats = 0;
  index_t tokens = 0;
  index_t bytes = 0;  ///< that the targets spell
  double seconds = 0;
  expert_load load;
  double bits_per_byte() const;
};

/// Losses of the windows `first`, `first + every`, ... (`count` of them), in the order of evaluation_order; stops early, with what it has, when `stop`
/// says so.
evaluation evaluate(engine& model, sequence_shape n, evaluation_windows const& windows, std::vector<int> const& token_bytes,
                    index_t first, index_t every, index_t count, std::function<bool(index_t done)> const& stop = {});

struct generation {
  std::string prompt;
  index_t characters = 400;
  double temperature = 0.8, top_p = 0.95;
  std::uint64_t seed = 1;
  index_t continuations = 1;  ///< of the sequences that the engine decodes, the first ones
};
/// Continuations of a prompt, each at least `characters` bytes and with random numbers of its own, in pieces: piece(which, text) ends all by false.
/// Decoded with the state of earlier tokens: where that grows, decoding starts anew from the later half of the longest context when that is full; where
/// it does not, a token costs the same time and no memory however many came before. The same for any number of threads. Where the model looks at a
/// group of sequences, a continuation depends on the others of its group and on none else, not on how many are asked for.
void generate(engine& model, codec const& codec, generation const& g, std::function<bool(index_t, std::string const&)> const& piece);
/// Sequences that have to be decoded for so many continuations: whole groups.
inline index_t sequences_for(engine const& model, index_t continuations) {
  return (continuations + model.group_size() - 1) / model.group_size() * model.group_size();
}
/// Throws bad_argument unless the model can look at so many sequences; `from` says where the number comes from.
void check_batch(engine const& model, index_t batch, std::string const& from);
/// For a terminal: control characters and bytes that are no UTF-8 become '?'.
std::string printable(std::string_view text);
/// Bytes of `text` before a character that may not be complete yet.
std::size_t complete_characters(std::string_view text);

/// The first parameter of which an element is not finite: "layers.0.ffn.router.weight (3 of 4096 elements)"; empty if all are finite.
std::string first_non_finite(std::vector<parameter_info> const& parameters, float const* values);

int train(engine& model, preset const& p, options const& o);
int evaluate_command(engine& model, preset const& p, options const& o);
int sample_command(engine& model, preset const& p, options const& o);

/// Prints what a run will need.
void dry_run(engine const& model, preset const& p, run_config const& c);
/// "layer,expert,tokens" and a line for each expert.
std::string load_table(expert_load const& load);
/// "layer 0  .:-=+*#%@  0.61..1.40 of the mean": one character per expert.
std::vector<std::string> load_report(expert_load const& load);

}  // namespace trainer
