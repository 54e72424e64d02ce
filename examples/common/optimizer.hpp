#pragma once
#include <examples/common/session.hpp>

namespace trainer {

/// AdamW with global-norm clipping over one buffer of parameters. The learning rate is linear warm-up and a cosine to floor * lr, a function of the
/// step alone, times the scale of the parameter's group. Vectors (norms, biases) and embeddings have no weight decay.
class optimizer {
 public:
  optimizer(run_config const& c, preset const& p, std::vector<parameter_info> const& parameters, index_t buffer_size);
  static std::size_t scratch_bytes(index_t buffer_size);

  double learning_rate(index_t step) const;  ///< step 1 is the first
  /// The norm of the gradient before clipping.
  double norm(moe::cpu const& space, run_memory& memory) const;
  /// Clips and updates weights and moments; `rate` replaces the schedule's.
  void update(moe::cpu const& space, run_memory& memory, index_t step, double norm, double rate) const;

 private:
  struct span {  // neighbouring parameters that are treated alike
    index_t begin, end;
    double weight_decay, lr_scale;
  };
  run_config config_;
  index_t size_;
  std::vector<span> spans_;
};

}  // namespace trainer
