#include <examples/common/options.hpp>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include <examples/common/text.hpp>
#include <moe/core/error.hpp>

namespace trainer {

fields to_fields(run_config const& c) {
  fields all{{"preset", c.preset},
             {"tokenizer", c.tokenizer},
             {"vocab", std::to_string(c.vocab)},
             {"batch", std::to_string(c.batch)},
             {"length", std::to_string(c.length)},
             {"accumulate", std::to_string(c.accumulate)},
             {"steps", std::to_string(c.steps)},
             {"warmup", std::to_string(c.warmup)},
             {"seed", std::to_string(c.seed)},
             {"lr", shortest(c.lr)},
             {"floor", shortest(c.floor)},
             {"weight_decay", shortest(c.weight_decay)},
             {"clip", shortest(c.clip)},
             {"dtype", c.dtype}};
  if (c.from) {
    all.emplace_back("from", c.from->directory), all.emplace_back("from.preset", c.from->preset);
    all.emplace_back("from.step", std::to_string(c.from->step)), all.emplace_back("from.crc64", c.from->checksum);
  }
  return all;
}

std::string const* find_field(fields const& values, std::string const& name) {
  auto const it = std::find_if(values.begin(), values.end(), [&](auto const& f) { return f.first == name; });
  return it == values.end() ? nullptr : &it->second;
}

void set_field(fields& values, std::string const& name, std::string value) {
  for (auto& f : values)
    if (f.first == name) return void(f.second = std::move(value));
  values.emplace_back(name, std::move(value));
}

run_config from_fields(fields const& values) {
  auto const text = [&](char const* name) -> std::string const& {
    std::string const* const v = find_field(values, name);
    moe::expects(v != nullptr, moe::errc::bad_file, "the manifest of the run lacks \"", name, "\"");
    return *v;
  };
  auto const integer = [&](char const* name, index_t least) {
    index_t const n = parse_integer(text(name), name);
    moe::expects(n >= least, moe::errc::bad_file, "the manifest of the run says ", name, " = ", n, ", needs at least ", least);
    return n;
  };
  auto const real = [&](char const* name) { return parse_double(text(name), name); };
  run_config c;
  c.preset = text("preset");
  c.tokenizer = text("tokenizer");
  if (std::string const* const dtype = find_field(values, "dtype")) c.dtype = *dtype;  // those without are of a time when all was fp32
  if (find_field(values, "from") != nullptr) c.from = origin{text("from"), text("from.preset"), integer("from.step", 0), text("from.crc64")};
  c.vocab = integer("vocab", 1), c.batch = integer("batch", 1), c.length = integer("length", 2), c.accumulate = integer("accumulate", 1);
  c.steps = integer("steps", 1), c.warmup = integer("warmup", 0);
  c.seed = std::strtoull(text("seed").c_str(), nullptr, 10);
  c.lr = real("lr"), c.floor = real("floor"), c.weight_decay = real("weight_decay"), c.clip = real("clip");
  return c;
}

run_config new_config(options const& o, preset const& p, index_t model_vocab) {
  run_config c;
  c.preset = p.name;
  c.tokenizer = o.tokenizer.value_or(p.tokenizer);
  if (!o.dtype.empty()) c.dtype = o.dtype;
  c.vocab = c.tokenizer == "bytes" ? 256 : o.vocab.value_or(p.vocab > 0 ? p.vocab : model_vocab);
  moe::expects(c.vocab <= model_vocab, moe::errc::bad_argument, "vocabulary of ", c.vocab, ", but this model is compiled for at most ", model_vocab,
               " tokens");
  c.batch = o.batch.value_or(p.batch), c.length = o.length.value_or(p.length), c.accumulate = o.accumulate.value_or(p.accumulate);
  c.seed = o.seed.value_or(1);
  c.lr = o.lr.value_or(p.lr), c.floor = p.floor, c.weight_decay = o.weight_decay.value_or(p.weight_decay), c.clip = o.clip.value_or(p.clip);
  return c;
}

void fix_steps(run_config& c, options const& o, preset const& p, index_t steps) {
  c.steps = steps;
  c.warmup = o.warmup ? *o.warmup : std::min(steps - 1, static_cast<index_t>(std::ceil(p.warmup * static_cast<double>(steps))));
  moe::expects(c.warmup < steps || c.warmup == 0, moe::errc::bad_argument, "--warmup is ", c.warmup, " steps, needs to be below the ", steps,
               " steps of the run");
}

std::optional<double> stop_after_environment() {
  char const* const text = std::getenv("MOE_STOP_AFTER");
  if (text == nullptr || *text == '\0') return {};
  try {
    return parse_duration(text);
  } catch (moe::error const& e) {
    moe::fail(moe::errc::bad_argument, "environment variable MOE_STOP_AFTER: ", e.what());
  }
}

}  // namespace trainer
