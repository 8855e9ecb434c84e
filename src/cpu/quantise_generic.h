/*
 * Values become codes: clamp(rint(x / scale) + zero point), x less the mean, all in float32. Scales are found first, of
 * the largest value on either side of 0 in each column of the rows that share one.
 */

/* A contiguous row as floats, padded to whole vectors. */
INLINE void load_floats_as(const int32_t format, const char *row, int64_t count, float *floats) {
    for (int64_t i = 0; i < count; i += VL)
        vf_store(floats + i, load_converted(row, format, i, count - i < VL ? (int)(count - i) : VL));
}

static void load_floats(const char *row, int32_t format, int64_t count, float *floats){
#define LOAD(format) load_floats_as(format, row, count, floats)
    WITH_FORMAT(format, LOAD)
#undef LOAD
}

/* Codes of VL values; NaN counts as 0. */
INLINE vf code_of(vf x, vf scale, vf zero_point, const mfai_cpu_code_range_t *range) {
    const vf far = vf_set1(0x1p20f), near = vf_set1(-0x1p20f), shift = vf_set1(0x1.8p23f);
    const vf lowest = vf_set1(range->lowest), highest = vf_set1(range->highest);
    x = vf_div(x, scale);
    x = vf_select_equal(x, x, x, vf_zero());
    x = vf_max(vf_select_less(x, far, x, far), near);
    x = vf_add(vf_sub(vf_add(x, shift), shift), zero_point); /* a float beyond 2^23 is whole */
    return vf_max(vf_select_less(x, highest, x, highest), lowest);
}

/* Less the mean, if there is one. */
INLINE vf centred(const float *row, const float *mean, int64_t i) {
    const vf x = vf_load(row + i);
    return mean == NULL ? x : vf_sub(x, vf_load(mean + i));
}

/* Widens the range of each column by a row, from -lows[] to highs[]. Returns NaN in a lane that met what is not
   finite, and leaves that out. */
INLINE vf widen_range(const float *row, const float *mean, int64_t width, float *highs, float *lows) {
    vf taint = vf_zero();
    for (int64_t i = 0; i < width; i += VL) {
        taint = vf_fma(vf_load(row + i), vf_zero(), taint);
        const vf x = centred(row, mean, i), kept = vf_select_equal(vf_load(row + i), vf_load(row + i), x, vf_zero());
        const vf finite = vf_select_equal(vf_mul(vf_load(row + i), vf_zero()), vf_zero(), kept, vf_zero());
        vf_store(highs + i, vf_max(finite, vf_load(highs + i)));
        vf_store(lows + i, vf_max(vf_sub(vf_zero(), finite), vf_load(lows + i)));
    }
    return taint;
}

/* The largest of columns begin .. end - 1, of which there are whole vectors. */
INLINE float most_of(const float *columns, int64_t begin, int64_t end) {
    vf most = vf_load(columns + begin);
    for (int64_t i = begin + VL; i < end; i += VL)
        most = vf_max(vf_load(columns + i), most);
    return vf_hmax(most);
}

/* What columns of `width`, whole vectors, share a scale: group g has those from g * columns on. */
static void narrow_groups(const float *columns, int64_t width, int64_t shared, int64_t groups, float *most) {
    if (shared == 1) {
        memcpy(most, columns, (size_t)groups * sizeof *most);
        return;
    }
    for (int64_t g = 0; g < groups; ++g)
        most[g] = most_of(columns, g * shared, shared > 0 && g + 1 < groups ? (g + 1) * shared : width);
}

/* Codes of a row, as floats, in its own place. */
static void encode_row(float *row, const float *mean, int64_t width, const float *scales, const float *zero_points,
                       int64_t shared, int64_t columns, const mfai_cpu_code_range_t *range) {
    if (shared == 1) {
        for (int64_t i = 0; i < width; i += VL) {
            const int n = columns - i < VL ? (int)(columns - i) : VL;
            const vf scale = n < VL ? vf_max(vf_load_n(scales + i, n), vf_set1(0x1p-126f)) : vf_load(scales + i);
            vf_store(row + i, code_of(centred(row, mean, i), scale, vf_load_n(zero_points + i, n), range));
        }
        return;
    }
    const int64_t step = shared > 0 ? shared : width;
    for (int64_t begin = 0; begin < width; begin += step) {
        const vf scale = vf_set1(*scales++), zero_point = vf_set1(*zero_points++);
        for (int64_t i = begin; i < width && i < begin + step; i += VL)
            vf_store(row + i, code_of(centred(row, mean, i), scale, zero_point, range));
    }
}

/* Writes codes that are floats; `bytes` has room for a row of them. */
static void store_codes(const float *row, int64_t columns, int8_t *restrict bytes, char *target, int32_t format,
                        int64_t stride) {
    if (mfai_formats[format].bits == 8 && (stride == 1 || columns == 1))
        bytes = (int8_t *)target;
    for (int64_t i = 0; i < columns; ++i)
        bytes[i] = (int8_t)(int32_t)row[i];
    if (mfai_formats[format].bits == 8) {
        for (int64_t i = 0; i < columns && bytes != (int8_t *)target; ++i)
            target[i * stride] = (char)bytes[i];
        return;
    }
    bytes[columns] = 0; /* the other half of an odd row's last byte */
    for (int64_t i = 0; i < (columns + 1) / 2; ++i)
        target[i] = (char)((bytes[2 * i] & 15) | (bytes[2 * i + 1] & 15) << 4);
}

/* ------------------------------------------------------------------- tasks */

/* Rows first .. end - 1 of one head, and a thread's memory. */
typedef struct {
    const mfai_cpu_quantise_job_t *job;
    int64_t b, h, first, end;
    const float *mean;
    float *row, *highs, *lows, *most;
    int8_t *bytes;
    char *copy;
} quantised_rows_t;

static quantised_rows_t find_quantised(const mfai_cpu_quantise_job_t *job, int64_t task, int slot) {
    const mfai_quantize_t *call = job->call;
    float *scratch = (float *)job->memory + slot * job->scratch.size;
    const int64_t head = task / job->blocks, first = task % job->blocks * job->task_rows;
    const int64_t rows = call->input.shape[2], end = first + job->task_rows;
    quantised_rows_t some = {.job = job,
                             .b = head / call->input.shape[1],
                             .h = head % call->input.shape[1],
                             .first = first,
                             .end = end < rows ? end : rows,
                             .row = scratch + job->scratch.row,
                             .highs = scratch + job->scratch.highs,
                             .lows = scratch + job->scratch.lows,
                             .most = scratch + job->scratch.most,
                             .bytes = (int8_t *)(scratch + job->scratch.bytes),
                             .copy = (char *)(scratch + job->scratch.copy)};
    if (job->means != NULL)
        some.mean = job->means + mfai_cpu_shared_head(&call->quantization.mean, some.b, some.h) * job->width;
    return some;
}

static void load_quantised(const quantised_rows_t *some, int64_t row) {
    const mfai_view_t *input = &some->job->call->input;
    load_floats(mfai_row_find(input, some->b, some->h, row, some->copy), input->format, input->shape[3], some->row);
}

/* Sums of each column's finite elements, and how many they are. */
static void quantise_sum(void *argument, int64_t task, int slot) {
    const mfai_cpu_quantise_job_t *job = argument;
    const int64_t columns = job->call->input.shape[3];
    const quantised_rows_t some = find_quantised(job, task, slot);
    double *restrict sums = job->sums + task * 2 * job->width, *restrict counts = sums + job->width;
    memset(sums, 0, (size_t)(2 * job->width) * sizeof *sums);
    for (int64_t row = some.first; row < some.end; ++row) {
        load_quantised(&some, row);
        for (int64_t i = 0; i < columns; ++i) {
            const bool is_finite = fabsf(some.row[i]) <= 0x1.fffffep127f;
            sums[i] += is_finite ? (double)some.row[i] : 0;
            counts[i] += is_finite;
        }
    }
}

/* As unsigned numbers, bits of floats that are not negative are in the floats' order. */
static void raise_to(float *cell, float most) {
    uint32_t *bits = (uint32_t *)(void *)cell, wanted = mfai_f32_to_bits(most);
    uint32_t found = __atomic_load_n(bits, __ATOMIC_RELAXED);
    while (found < wanted &&
           !__atomic_compare_exchange_n(bits, &found, wanted, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
}

static void put_ranges(const quantised_rows_t *some, const float *columns, float *cells) {
    const mfai_cpu_quantise_job_t *job = some->job;
    const int64_t shared = job->call->quantization.columns;
    if (job->owns_scales) {
        narrow_groups(columns, job->width, shared, job->groups, cells);
        return;
    }
    narrow_groups(columns, job->width, shared, job->groups, some->most);
    for (int64_t g = 0; g < job->groups; ++g)
        raise_to(cells + g, some->most[g]);
}

/* Ranges of all scales of the rows, and whether an element is not finite. */
static void quantise_ranges(void *argument, int64_t task, int slot) {
    mfai_cpu_quantise_job_t *job = argument;
    const mfai_quantization_t *quantization = &job->call->quantization;
    const quantised_rows_t some = find_quantised(job, task, slot);
    vf taint = vf_zero();
    for (int64_t row = some.first; row < some.end;) {
        const int64_t line = mfai_scale_line(quantization, row);
        memset(some.highs, 0, (size_t)job->width * sizeof(float));
        memset(some.lows, 0, (size_t)job->width * sizeof(float));
        for (; row < some.end && mfai_scale_line(quantization, row) == line; ++row) {
            load_quantised(&some, row);
            taint = vf_add(taint, widen_range(some.row, some.mean, job->width, some.highs, some.lows));
        }
        if (job->call->is_static)
            continue;
        const int64_t cell = mfai_cpu_scale_cell(job, some.b, some.h, line);
        put_ranges(&some, some.highs, job->scales + cell);
        put_ranges(&some, some.lows, job->zero_points + cell);
    }
    if (!(vf_hsum(taint) == 0))
        __atomic_store_n(&job->has_others, true, __ATOMIC_RELAXED);
}

static void quantise_encode(void *argument, int64_t task, int slot) {
    const mfai_cpu_quantise_job_t *job = argument;
    const mfai_quantization_t *quantization = &job->call->quantization;
    const mfai_view_t *codes = &job->call->codes;
    const quantised_rows_t some = find_quantised(job, task, slot);
    for (int64_t row = some.first; row < some.end; ++row) {
        const int64_t cell = mfai_cpu_scale_cell(job, some.b, some.h, mfai_scale_line(quantization, row));
        load_quantised(&some, row);
        encode_row(some.row, some.mean, job->width, job->scales + cell, job->zero_points + cell, quantization->columns,
                   codes->shape[3], &job->range);
        store_codes(some.row, codes->shape[3], some.bytes, mfai_view_row(codes, some.b, some.h, row), codes->format,
                    codes->stride[3]);
    }
}
