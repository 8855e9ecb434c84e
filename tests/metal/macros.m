/*
 * Prints the macros that the host compiles kernels with: for each row of the tile table and each combination of types,
 * a line for each kernel of the call, its name and NAME=VALUE. Lines repeat. What differs in function constants alone
 * is not told apart.
 */
#include "metal/tiles.c" /* for its table */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#import "metal/backward.h"
#import "metal/device.h"
#import "metal/forward.h"

enum { QUERIES = 100, KEYS = 100 };

static const int32_t precisions[] = {MFA_PRECISION_FP16, MFA_PRECISION_BF16, MFA_PRECISION_FP32};

/* Of each pass, the kernel that has the tile. */
static const char *const tiled[MFAI_METAL_PASSES] = {[MFAI_METAL_FORWARD] = "forward",
                                                     [MFAI_METAL_DECODE] = "decode",
                                                     [MFAI_METAL_BACKWARD_QUERY] = "backward_query",
                                                     [MFAI_METAL_BACKWARD_KEY] = "backward_key",
                                                     [MFAI_METAL_BACKWARD_BIAS] = "backward_bias"};

static bool is_of_another_pass(const char *name, mfai_metal_pass_t pass) {
    for (int i = 0; i < MFAI_METAL_PASSES; ++i)
        if (strcmp(name, tiled[i]) == 0)
            return i != (int)pass;
    return false;
}

static void print_kernels(const mfai_metal_call_t *call, mfai_metal_pass_t pass) {
    for (int i = 0; i < call->dispatch_count; ++i) {
        const mfai_metal_kernel_t *kernel = &call->dispatches[i].kernel;
        if (is_of_another_pass(kernel->name, pass))
            continue;
        printf("%s", kernel->name);
        char value[16];
        for (int j = 0; j < MFAI_METAL_MACROS; ++j)
            if (mfai_metal_kernel_macro(kernel, j, value))
                printf(" %s=%s", mfai_metal_macro_name(j), value);
        printf("\n");
    }
}

static mfai_view_t view(int32_t precision) { return (mfai_view_t){.present = true, .format = precision}; }

/* The most that a row takes; or, of one without a limit, what it takes in two blocks. */
static int dim_of(const row_t *row) { return row->most != 0 ? row->most : row->block + 1; }

static mfai_problem_t problem_of(const row_t *row, int32_t precision, int32_t out) {
    mfai_problem_t p = {.batch = 1, .heads = 1, .kv_heads = 1, .group = 1, .key_count = KEYS, .softmax_scale = 1};
    p.query_count = row->pass == MFAI_METAL_DECODE ? 1 : QUERIES;
    p.head_dim = p.value_dim = dim_of(row);
    p.window_left = p.window_right = -1;
    p.query = p.key = p.value = view(precision);
    p.new_key = p.new_value = p.rotary_cos = p.rotary_sin = view(precision);
    p.out = view(out);
    p.block_rows = p.block_keys = 64;
    p.features = MFAI_BLOCKS | MFAI_SEQUENCES | MFAI_APPEND | MFAI_ROTARY; /* which have kernels of their own */
    return p;
}

static void print_forward(const mfai_metal_device_t *device, const mfai_problem_t *p, mfai_metal_pass_t pass) {
    mfai_metal_call_t call;
    if (mfai_metal_forward_make(device, p, &call) != MFA_SUCCESS)
        abort();
    print_kernels(&call, pass);
}

static void print_backward(const mfai_metal_device_t *device, mfai_problem_t p, mfai_metal_pass_t pass, int32_t dout,
                           int32_t dkey, int32_t dvalue) {
    p.pass = MFAI_BACKWARD;
    p.dout = view(dout);
    p.dquery = p.dbias = p.dsinks = p.dkey = view(dkey);
    p.dvalue = view(dvalue);
    mfai_metal_call_t call;
    if (mfai_metal_backward_make(device, &p, &call) != MFA_SUCCESS)
        abort();
    print_kernels(&call, pass);
}

static mfai_quantization_t quantization(void) {
    mfai_quantization_t q = {.scales = view(MFA_PRECISION_FP32)};
    q.scales.shape[2] = q.scales.shape[3] = 1;
    return q;
}

/* Keys and values each in two of the formats that codes have; products of integers have a kernel of their own. */
static void print_codes(const mfai_metal_device_t *device, mfai_problem_t p, mfai_metal_pass_t pass) {
    static const int32_t codes[][2] = {{MFA_PRECISION_INT8, MFA_PRECISION_UINT4},
                                       {MFA_PRECISION_INT4, MFA_PRECISION_UINT8}};
    p.features |= MFAI_KEY_CODES | MFAI_VALUE_CODES | MFAI_INT8;
    p.key_quantization = p.value_quantization = quantization();
    for (size_t i = 0; i < sizeof codes / sizeof *codes; ++i) {
        p.key = view(codes[i][0]);
        p.value = view(codes[i][1]);
        if (pass == MFAI_METAL_FORWARD || pass == MFAI_METAL_DECODE)
            print_forward(device, &p, pass);
        else
            print_backward(device, p, pass, p.query.format, p.query.format, p.query.format);
    }
}

static void print_row(const row_t *row, int32_t precision) {
    const mfai_metal_device_t device = {.family = row->family};
    for (int out = 0; out < 3; ++out) {
        const mfai_problem_t p = problem_of(row, precision, precisions[out]);
        if (out == 0)
            print_codes(&device, p, row->pass);
        if (row->pass == MFAI_METAL_FORWARD || row->pass == MFAI_METAL_DECODE) {
            print_forward(&device, &p, row->pass);
            continue;
        }
        for (int dout = 0; dout < 3; ++dout)
            for (int dkey = 0; dkey < 3; ++dkey)
                for (int dvalue = 0; dvalue < 3; ++dvalue)
                    print_backward(&device, p, row->pass, precisions[dout], precisions[dkey], precisions[dvalue]);
    }
}

int main(void) {
    for (size_t i = 0; i < sizeof table / sizeof *table; ++i)
        for (int j = 0; j < 3; ++j)
            if (table[i].element_size == (int)mfai_format_bytes(precisions[j], 1))
                print_row(&table[i], precisions[j]);
    return 0;
}
