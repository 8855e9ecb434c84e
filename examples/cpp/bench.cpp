/* How long a large problem takes at its best, and a small one on the average, which is what a call costs. */
#include "mfa.hpp"

#include <chrono>
#include <cstdio>
#include <exception>

namespace {

/* The seconds that each of `calls` calls took at the best of `rounds`. */
double best_of(const mfa::context &context, int rounds, int calls, const mfa::shape &sizes) {
    const auto count = static_cast<std::size_t>(sizes[1] * sizes[2] * sizes[3]);
    std::vector<float> query(count), key(count), value(count), out(count);
    for (std::size_t i = 0; i < count; ++i) {
        query[i] = static_cast<float>(5 * i % 17) / 8 - 1;
        key[i] = static_cast<float>(7 * i % 17) / 8 - 1;
        value[i] = static_cast<float>(11 * i % 17) / 8 - 1;
    }
    const mfa::attention attention{
        .query = {query, sizes}, .key = {{key, sizes}}, .value = {{value, sizes}}, .out = {out, sizes}};
    double best = 1e30;
    for (int round = 0; round < rounds; ++round) {
        const auto start = std::chrono::steady_clock::now();
        for (int call = 0; call < calls; ++call)
            mfa::forward(context, attention);
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
        best = std::min(best, took.count() / calls);
    }
    return best;
}

} // namespace

int main() try {
    const double large = best_of(mfa::context(), 10, 1, {1, 8, 1024, 64});
    const double small = best_of(mfa::context::with_threads(1), 1, 5000, {1, 1, 16, 64});
    std::printf("forward 1x8x1024x64 float32: %.2f ms, %.1f GINSTRS/s\n", 1e3 * large,
                (2.0 * 64 + 5) * 8 * 1024 * 1024 / large / 1e9);
    std::printf("call 1x1x16x64 float32: %.2f us\n", 1e6 * small);
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
