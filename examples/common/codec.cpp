#include <examples/common/codec.hpp>

#include <moe/data/tokenizer.hpp>
#include <moe/io/checksum.hpp>

namespace trainer {

struct codec::impl {
  moe::tokenizer tokenizer;
};

codec::codec(std::shared_ptr<impl const> p) : impl_(std::move(p)) {
  for (index_t i = 0; i < impl_->tokenizer.vocab_size(); ++i) bytes_.push_back(static_cast<int>(token(static_cast<int>(i)).size()));
  checksum_ = moe::hexadecimal(moe::crc64(impl_->tokenizer.to_json()));
}

codec codec::learn(std::string const& kind, index_t vocab, std::string_view text) {
  return codec(std::make_shared<impl const>(impl{kind == "bytes" ? moe::tokenizer() : moe::tokenizer::train_bpe(text, vocab)}));
}
codec codec::load(std::string const& path) { return codec(std::make_shared<impl const>(impl{moe::tokenizer::load(path)})); }
void codec::save(std::string const& path) const { impl_->tokenizer.save(path); }
std::vector<int> codec::encode(std::string_view text) const { return impl_->tokenizer.encode(text); }
std::string const& codec::token(int id) const { return impl_->tokenizer.token(id); }

}  // namespace trainer
