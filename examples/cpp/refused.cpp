/* What the library or mfa.hpp refuses, as exceptions; prints their messages, and fails if one is missing. */
#include "mfa.hpp"

#include <cmath>
#include <cstdio>

namespace {

int missing = 0;

template <class Error, class Call> void refused(const char *what, Call call) {
    try {
        call();
    } catch (const Error &error) {
        std::printf("%s: %s\n", what, error.what());
        return;
    }
    std::fprintf(stderr, "%s was not refused\n", what);
    ++missing;
}

} // namespace

int main() {
    static_assert(!std::is_copy_constructible_v<mfa::context> && std::is_nothrow_move_constructible_v<mfa::context>);
    mfa::context context;
    std::vector<float> values(12), out(12);
    const mfa::shape sizes{1, 1, 3, 4};
    mfa::attention attention{
        .query = {values, sizes}, .key = {{values, sizes}}, .value = {{values, sizes}}, .out = {out, sizes}};

    refused<std::invalid_argument>("size", [&] { mfa::input(values, {1, 1, 3, 5}); });
    refused<std::invalid_argument>("negative", [&] { mfa::input(values, {1, -3, -1, 4}); });
    refused<std::invalid_argument>("scales", [&] { mfa::quantised(std::vector<std::int8_t>(12), {1, 1}, sizes); });
    attention.key = mfa::input(values, {1, 1, 4, 3});
    refused<mfa::error>("columns", [&] { mfa::forward(context, attention); });
    attention.key = mfa::input(values, sizes);
    refused<mfa::error>("logsumexp", [&] {
        mfa::backward(context, {attention, {values, sizes}, {out, sizes}, {out, sizes}, {out, sizes}});
    });
    values[5] = INFINITY;
    refused<mfa::error>("infinity", [&] { mfa::quantised::of(context, {values, sizes}); });
    values[5] = 0;

    const mfa::context other = std::move(context);
    refused<std::invalid_argument>("moved", [&] { mfa::forward(context, attention); });
    mfa::forward(other, attention);
    const auto codes = mfa::quantised::of(other, {values, sizes});
    attention.key = attention.value = codes;
    mfa::forward(other, attention);
    return missing;
}
