/* Fast math, Metal's default, breaks the rules for rows that see nothing: were the backend to leave it on, results
   would tell. */
#import <Metal/Metal.h>
#import <objc/runtime.h>

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "check.h"
#include "mfa.h"

enum { ROWS = 40, DIM = 8, SIZE = ROWS * DIM };

static mfa_tensor_t tensor(void *data, int32_t precision, int64_t columns) {
    mfa_tensor_t t = MFA_TENSOR_INIT;
    const int64_t shape[4] = {1, 1, ROWS, columns}, stride[4] = {ROWS * columns, ROWS * columns, columns, 1};
    memcpy(t.shape, shape, sizeof shape);
    memcpy(t.stride, stride, sizeof stride);
    t.data = data;
    t.precision = precision;
    return t;
}

/* With values of 1, a row is all ones; but the first, which sees no key, is all zeros. */
static bool follows_the_rules(void) {
    float query[SIZE], value[SIZE], out[SIZE];
    uint8_t visible[ROWS * ROWS];
    memset(visible, 1, sizeof visible);
    memset(visible, 0, ROWS);
    for (int i = 0; i < SIZE; ++i) {
        query[i] = sinf((float)i);
        value[i] = 1;
    }
    mfa_tensor_t queries = tensor(query, MFA_PRECISION_FP32, DIM), values = tensor(value, MFA_PRECISION_FP32, DIM);
    mfa_tensor_t results = tensor(out, MFA_PRECISION_FP32, DIM), mask = tensor(visible, MFA_PRECISION_BOOL, ROWS);
    mfa_attention_desc_t call = MFA_ATTENTION_DESC_INIT;
    call.query = call.key = &queries;
    call.value = &values;
    call.out = &results;
    call.bool_mask = &mask;

    /* A context of its own, which compiles anew. */
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_METAL;
    mfa_context_t context = NULL;
    CHECK(mfa_create_context_with_options(&options, &context) == MFA_SUCCESS);
    CHECK(mfa_attention_forward_desc(context, &call) == MFA_SUCCESS);
    mfa_destroy_context(context);
    for (int i = 0; i < SIZE; ++i)
        if (!(fabsf(out[i] - (i < DIM ? 0.0f : 1.0f)) < 1e-5f))
            return false;
    return true;
}

static void ignore(id self, SEL selector, NSInteger value) { (void)self, (void)selector, (void)value; }

int main(void) {
    CHECK(follows_the_rules());
    class_replaceMethod([MTLCompileOptions class], @selector(setMathMode:), (IMP)(void *)ignore, "v@:q");
    CHECK(!follows_the_rules());
    return check_report();
}
