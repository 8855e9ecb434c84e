/*
 * Forward, backward, a sliding window, a block mask and quantised keys and values, each compared with known values:
 * of head 1, row 5, columns 0 to 3.
 */
#include "mfa.hpp"

#include <cmath>
#include <cstdio>
#include <exception>

namespace {

constexpr std::int64_t heads = 2, rows = 8, head_dim = 8;
constexpr mfa::shape sizes{1, heads, rows, head_dim};
constexpr std::size_t elements = heads * rows * head_dim;

std::vector<std::int8_t> codes(int step, int shift) {
    std::vector<std::int8_t> made(elements);
    for (int next = shift; std::int8_t &code : made) {
        code = static_cast<std::int8_t>(next % 17 - 8);
        next += step;
    }
    return made;
}

std::vector<float> values(int step, int shift) {
    const auto eighths = codes(step, shift);
    std::vector<float> made(elements);
    std::transform(eighths.begin(), eighths.end(), made.begin(), [](int code) { return static_cast<float>(code) / 8; });
    return made;
}

void compare(const char *name, std::span<const float> result, const std::array<float, 4> &known) {
    const auto row = result.subspan((1 * rows + 5) * head_dim, known.size());
    std::printf("%s %f %f %f %f\n", name, row[0], row[1], row[2], row[3]);
    for (std::size_t column = 0; column < known.size(); ++column)
        if (!(std::abs(row[column] - known[column]) < 1e-5f))
            throw std::runtime_error(std::string(name) + " is " + std::to_string(row[column]) + " in column " +
                                     std::to_string(column) + ", expected " + std::to_string(known[column]));
}

void run() {
    const mfa::context context;
    const auto query = values(5, 0), key = values(7, 3), value = values(11, 5), dout = values(3, 1);
    std::vector<float> out(elements), logsumexp(heads * rows);
    const mfa::attention full{
        .query = {query, sizes}, .key = {{key, sizes}}, .value = {{value, sizes}}, .out = {out, sizes}};

    mfa::forward(context, full);
    compare("forward", out, {0.222707f, -0.012910f, -0.264847f, 0.097707f});

    auto causal = full;
    causal.causal = true;
    causal.logsumexp = {logsumexp, {1, heads, rows, 1}};
    std::vector<float> dq(elements), dk(elements), dv(elements);
    mfa::forward(context, causal);
    mfa::backward(context, {causal, {dout, sizes}, {dq, sizes}, {dk, sizes}, {dv, sizes}});
    compare("dq", dq, {0.034121f, -0.116048f, 0.024352f, -0.027352f});
    compare("dk", dk, {0.044962f, 0.017408f, -0.049931f, 0.036372f});
    compare("dv", dv, {-0.047868f, -0.027844f, 0.124267f, 0.276377f});

    auto near = full;
    near.window = {.left = 2, .right = 0};
    mfa::forward(context, near);
    compare("window", out, {-0.101362f, -0.108237f, 0.523638f, -0.226362f});

    const std::array seen{true, true, false, false, true, false, true, true};
    auto sparse = full;
    sparse.blocks = mfa::block_mask{.rows = 4, .keys = 2, .mask = {std::span(seen), {1, 1, 2, 4}}};
    mfa::forward(context, sparse);
    compare("blocks", out, {0.510920f, -0.239080f, -0.331950f, 0.385920f});

    const mfa::quantised key_codes(codes(7, 3), {0.125f, 0.25f}, sizes),
        value_codes(codes(11, 5), {0.125f, 0.25f}, sizes);
    auto small = full;
    small.key = key_codes;
    small.value = value_codes;
    mfa::forward(context, small);
    compare("quantised", out, {0.509885f, -0.074666f, -0.655668f, 0.259885f});
}

} // namespace

int main() try { run(); } catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
