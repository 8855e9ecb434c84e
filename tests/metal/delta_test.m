/* rowsum(dout * out), which a backward call writes for its caller, and which the caller may give in place of out; and the
   gradient of logsumexp, which is subtracted from it. */
#include <math.h>
#include <stdlib.h>

#include "check.h"
#include "mfa.h"

enum { HEADS = 3, KV_HEADS = 1, ROWS = 40, HEAD_DIM = 8, VALUE_DIM = 10, SEQUENCES = 2, USED_ROWS = 33 };
enum { QUERIES = HEADS * ROWS * HEAD_DIM, RESULTS = HEADS * ROWS * VALUE_DIM, KEYS = ROWS * HEAD_DIM };

typedef struct {
    float dquery[QUERIES], dkey[KEYS], dvalue[ROWS * VALUE_DIM], dsinks[HEADS];
} gradients_t;

static float query[QUERIES], key[KEYS], value[ROWS * VALUE_DIM], sinks[HEADS] = {0.5f, -1, 0};
static float out[RESULTS], dout[RESULTS], logsumexp[HEADS * ROWS], delta[HEADS * ROWS];
static float dlogsumexp[HEADS * ROWS];

static mfa_tensor_t tensor(void *data, int64_t heads, int64_t rows, int64_t width) {
    return (mfa_tensor_t){.struct_size = sizeof(mfa_tensor_t),
                          .precision = MFA_PRECISION_FP32,
                          .data = data,
                          .shape = {1, heads, rows, width},
                          .stride = {heads * rows * width, rows * width, width, 1}};
}

static void fill(float *data, int count, int period) {
    for (int i = 0; i < count; ++i)
        data[i] = (float)(i * 7 % period) / (float)period - 0.5f;
}

/* Both passes over sequences that leave the last rows to none; `with_out`: else delta is read; `with_dlogsumexp`: else
   there is none. */
static gradients_t run_with(mfa_context_t context, bool with_out, bool with_dlogsumexp) {
    static int32_t starts[SEQUENCES + 1] = {0, 20, USED_ROWS};
    gradients_t found;
    const mfa_tensor_t t_query = tensor(query, HEADS, ROWS, HEAD_DIM), t_key = tensor(key, KV_HEADS, ROWS, HEAD_DIM);
    const mfa_tensor_t t_value = tensor(value, KV_HEADS, ROWS, VALUE_DIM), t_out = tensor(out, HEADS, ROWS, VALUE_DIM);
    const mfa_tensor_t t_logsumexp = tensor(logsumexp, HEADS, ROWS, 1), t_dout = tensor(dout, HEADS, ROWS, VALUE_DIM);
    const mfa_tensor_t t_dquery = tensor(found.dquery, HEADS, ROWS, HEAD_DIM);
    const mfa_tensor_t t_dkey = tensor(found.dkey, KV_HEADS, ROWS, HEAD_DIM);
    const mfa_tensor_t t_dvalue = tensor(found.dvalue, KV_HEADS, ROWS, VALUE_DIM);
    const mfa_tensor_t t_sinks = tensor(sinks, HEADS, 1, 1), t_dsinks = tensor(found.dsinks, HEADS, 1, 1);
    const mfa_tensor_t t_delta = tensor(delta, HEADS, ROWS, 1);
    const mfa_tensor_t t_dlogsumexp = tensor(dlogsumexp, HEADS, ROWS, 1);
    mfa_tensor_t t_starts = tensor(starts, 1, 1, SEQUENCES + 1);
    t_starts.precision = MFA_PRECISION_INT32;
    mfa_sequences_t sequences = MFA_SEQUENCES_INIT;
    sequences.query_starts = sequences.key_starts = &t_starts;
    mfa_attention_desc_t forward = MFA_ATTENTION_DESC_INIT;
    forward.query = &t_query;
    forward.key = &t_key;
    forward.value = &t_value;
    forward.out = &t_out;
    forward.logsumexp = &t_logsumexp;
    forward.sinks = &t_sinks;
    forward.sequences = &sequences;
    forward.flags = MFA_ATTENTION_CAUSAL;
    forward.alignment = MFA_ALIGN_TOP_LEFT;
    if (with_out)
        CHECK(mfa_attention_forward_desc(context, &forward) == MFA_SUCCESS);
    else
        forward.out = NULL;
    mfa_attention_backward_desc_t backward = MFA_ATTENTION_BACKWARD_DESC_INIT;
    backward.forward = &forward;
    backward.dout = &t_dout;
    backward.dquery = &t_dquery;
    backward.dkey = &t_dkey;
    backward.dvalue = &t_dvalue;
    backward.dsinks = &t_dsinks;
    backward.delta = &t_delta;
    backward.dlogsumexp = with_dlogsumexp ? &t_dlogsumexp : NULL;
    CHECK(mfa_attention_backward_desc(context, &backward) == MFA_SUCCESS);
    return found;
}

static gradients_t run(mfa_context_t context, bool with_out) { return run_with(context, with_out, false); }

static void check_delta(void) {
    for (int head = 0; head < HEADS; ++head)
        for (int row = 0; row < ROWS; ++row) {
            const int at = head * ROWS + row;
            double sum = 0;
            for (int column = 0; column < VALUE_DIM; ++column)
                sum += (double)out[at * VALUE_DIM + column] * dout[at * VALUE_DIM + column];
            CHECK(row < USED_ROWS ? fabs(delta[at] - sum) < 1e-6 : delta[at] == 0);
        }
}

/* What is not finite in dout is found without out, too. */
static void test_a_tainted_row(mfa_context_t context) {
    const float before = dout[RESULTS - 12 * VALUE_DIM];
    dout[RESULTS - 12 * VALUE_DIM] = INFINITY; /* of the last sequence and head */
    run(context, true);
    delta[HEADS * ROWS - 12] = 0;
    const gradients_t found = run(context, false);
    CHECK(isnan(found.dquery[QUERIES - 12 * HEAD_DIM]));
    CHECK(isnan(found.dvalue[20 * VALUE_DIM + 1]) && !isnan(found.dvalue[19 * VALUE_DIM + 1]));
    dout[RESULTS - 12 * VALUE_DIM] = before;
}

static bool is_near(const float *a, const float *b, int count) {
    for (int i = 0; i < count; ++i)
        if (!(fabsf(a[i] - b[i]) < 1e-5f))
            return false;
    return true;
}

/* As much less in delta; delta itself is what it is without. */
static void test_dlogsumexp(mfa_context_t context) {
    for (int i = 0; i < HEADS * ROWS; ++i)
        dlogsumexp[i] = i % ROWS < USED_ROWS ? (float)(i % 11) / 11 - 0.5f : NAN; /* of no sequence: not read */
    const gradients_t without = run(context, true), with = run_with(context, true, true);
    check_delta();
    CHECK(memcmp(with.dvalue, without.dvalue, sizeof with.dvalue) == 0);
    CHECK(!is_near(with.dquery, without.dquery, QUERIES) && !is_near(with.dsinks, without.dsinks, HEADS));
    const gradients_t read = run_with(context, false, true);
    CHECK(memcmp(&with, &read, sizeof with) == 0);
    for (int i = 0; i < HEADS * ROWS; ++i)
        delta[i] -= dlogsumexp[i];
    const gradients_t less = run(context, false);
    CHECK(memcmp(&with, &less, sizeof with) == 0);
}

int main(void) {
    mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
    options.backend = MFA_BACKEND_METAL;
    mfa_context_t context = NULL;
    CHECK(mfa_create_context_with_options(&options, &context) == MFA_SUCCESS);
    fill(query, QUERIES, 23);
    fill(key, KEYS, 31);
    fill(value, ROWS * VALUE_DIM, 19);
    fill(dout, RESULTS, 29);
    for (int i = 0; i < HEADS * ROWS; ++i)
        delta[i] = NAN;
    const gradients_t with_out = run(context, true);
    check_delta();
    const gradients_t with_delta = run(context, false);
    CHECK(memcmp(&with_out, &with_delta, sizeof with_out) == 0);
    delta[0] += 1;
    const gradients_t changed = run(context, false);
    CHECK(changed.dquery[0] != with_out.dquery[0]);
    test_a_tainted_row(context);
    test_dlogsumexp(context);
    mfa_destroy_context(context);
    return check_report();
}
