#include <moe/optim/parameter_group.hpp>

#include <set>

#include <moe/nn/parameter.hpp>
#include <test/support.hpp>

using moe::parameter_group;

TEST_CASE("parameter_group: names and places, each group once") {
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < moe::parameter_group_count; ++i) {
    parameter_group const g = moe::all_parameter_groups[i];
    CHECK(moe::index_of(g) == i);
    names.insert(moe::name_of(g));
  }
  CHECK(names.size() == moe::parameter_group_count);
  CHECK(moe::name_of(parameter_group::embedding) == "embedding");
  CHECK(moe::name_of(parameter_group::router) == "router");
  CHECK(moe::name_of(parameter_group::norm) == "norm");
  static_assert(moe::name_of(parameter_group::ssm) == "ssm");
  static_assert(moe::name_of(parameter_group::ssm_state) == "ssm_state");
  static_assert(moe::name_of(parameter_group::router_bias) == "router_bias");
}

TEST_CASE("parameter_group: a number that is no group is refused") {
  for (int bad : {-1, 10, 1000}) {
    CHECK(test::error_of([&] { (void)moe::name_of(static_cast<parameter_group>(bad)); }) ==
          "parameter_group: " + std::to_string(bad) + " is no group, they end at 9");
    CHECK_THROWS_AS((void)moe::index_of(static_cast<parameter_group>(bad)), moe::error);
  }
}

TEST_CASE("parameter_group: the layers' name for it is the same type") {
  static_assert(std::is_same_v<moe::nn::parameter_group, parameter_group>);
  CHECK(moe::nn::name_of(moe::nn::parameter_group::expert) == "expert");
}
