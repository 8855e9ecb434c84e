/* Written by metal/embed.py. */
#if defined(__APPLE__) || !defined(SWIFT_PACKAGE) /* a Swift package compiles every source everywhere */
#include "metal/sources.h"

#define APPEND_METAL_0 \
    "#line 1 \"append.metal\"\n" \
    "/* Puts new rows of keys and values behind those that the cache has. A threadgroup takes some rows of one sequence, each\n" \
    "   simdgroup some heads of them. */\n"

#define APPEND_METAL_1 \
    "#line 4 \"append.metal\"\n" \
    "\n" \
    "static inline mfa_tile tile_of(constant mfa_metal_params &p, mfa_lists lists, mfa_index batch, mfa_index place) {\n" \
    "    if (has_new_starts)\n" \
    "        return mfa_packed_tile<MFA_APPEND_ROWS>(lists.new_starts, p.new_starts.column, p.batch, p.new_rows, place);\n" \
    "    mfa_tile tile;\n" \
    "    tile.sequence = batch;\n" \
    "    tile.first = place * MFA_APPEND_ROWS;\n" \
    "    return tile;\n" \
    "}\n" \
    "\n" \
    "/* A row of keys, to be turned, or of values. */\n" \
    "struct new_row_t {\n" \
    "    mfa_rows<MFA_T> rows;\n" \
    "    mfa_index row, position;\n" \
    "    bool turns;\n" \
    "};\n" \
    "\n" \
    "static inline new_row_t new_row_of(mfa_rows<MFA_T> rows, mfa_index row, mfa_index position, bool turns) {\n" \
    "    new_row_t added;\n" \
    "    added.rows = rows;\n" \
    "    added.row = row;\n" \
    "    added.position = position;\n" \
    "    added.turns = turns;\n" \
    "    return added;\n" \
    "}\n" \
    "\n" \
    "/* What codes of the cache stand for, as far as it is there. */\n" \
    "struct cache_terms_t {\n" \
    "    device uchar *scales, *zero_points;\n" \
    "    const device float *mean;\n" \
    "};\n" \
    "\n" \
    "/* ------------------------------------------------------------------ a cache of floats */\n" \
    "\n" \
    "static inline void copy_row(mfa_rows<MFA_T> from, mfa_index row, mfa_result_rows<MFA_T> to, mfa_index to_row,\n" \
    "                            uint lane) {\n" \
    "    const device MFA_T *source = mfa_row_at(from, row);\n" \
    "    device MFA_T *target = mfa_row_at(to, to_row);\n" \
    "    for (mfa_index column = lane; column < from.length; column += 32)\n" \
    "        target[column * to.column_stride] = source[column * from.column_stride];\n" \
    "}\n" \
    "\n" \
    "static inline void append_row(constant mfa_metal_params &p, mfa_rotary rotary, new_row_t added,\n" \
    "                              mfa_result_rows<MFA_T> to, mfa_index to_row, mfa_sequence, mfa_index,\n" \
    "                              constant mfa_metal_coding &, uint, cache_terms_t, uint lane) {\n" \
    "    if (added.turns)\n" \
    "        mfa_turn_row(p, rotary, added.position, added.rows, added.row, to, to_row, lane);\n" \
    "    else\n" \
    "        copy_row(added.rows, added.row, to, to_row, lane);\n" \
    "}\n" \
    "\n" \
    "/* ------------------------------------------------------------------ a cache of codes */\n" \
    "\n" \
    "/* From the least element to the most, 0 included, without those that are not finite. */\n" \
    "struct range_t {\n" \
    "    float least, most;\n" \
    "};\n" \
    "\n" \
    "static inline range_t widened(range_t range, float x) {\n" \
    "    if (isfinite(x)) {\n" \
    "        range.least = min(range.least, x);\n" \
    "        range.most = max(range.most, x);\n" \
    "    }\n" \
    "    return range;\n" \
    "}\n" \
    "\n" \
    "/* Of all lanes' elements. */\n" \
    "static inline range_t joined(range_t range) {\n" \
    "#pragma unroll\n" \
    "    for (ushort apart = 1; apart < 32; apart *= 2) {\n" \
    "        range.least = min(range.least, simd_shuffle_xor(range.least, apart));\n" \
    "        range.most = max(range.most, simd_shuffle_xor(range.most, apart));\n" \
    "    }\n" \
    "    return range;\n" \
    "}\n" \
    "\n" \
    "/* Codes are x / scale, rounded, + zero_point, cut to least .. most. */\n" \
    "struct quantiser_t {\n" \
    "    float scale, zero_point, least, most;\n" \
    "};\n" \
    "\n" \
    "template <typename S> static inline quantiser_t quantiser_of(uint kind) {\n" \
    "    quantiser_t quantiser;\n" \
    "    quantiser.zero_point = 0;\n" \
    "    quantiser.most = float(mfa_storage<S>::highest);\n" \
    "    quantiser.least = (kind & MFA_CODES_ZERO_POINTS) != 0 ? float(mfa_storage<S>::lowest) : -quantiser.most;\n" \
    "    return quantiser;\n" \
    "}\n" \
    "\n" \
    "/* Its scale is a normal number of its precision, its zero point a code. */\n" \
    "static inline quantiser_t fitted(quantiser_t quantiser, uint kind, range_t range) {\n" \
    "    const bool has_zero_points = (kind & MFA_CODES_ZERO_POINTS) != 0, is_half = (kind & MFA_CODES_HALF_SCALES) != 0;\n" \
    "    float scale = has_zero_points ? (range.most - range.least) / (quantiser.most - quantiser.least)\n" \
    "                                  : max(range.most, -range.least) / quantiser.most;\n" \
    "    scale = max(min(scale, is_half ? 65504.0f : 3.40282347e38f), is_half ? 6.103515625e-5f : 1.17549435e-38f);\n" \
    "    if (is_half)\n" \
    "        scale = float(half(scale));\n" \
    "    quantiser.scale = range.most == range.least ? 1.0f : scale;\n" \
    "    if (has_zero_points)\n" \
    "        quantiser.zero_point =\n" \
    "            max(quantiser.least, min(quantiser.most, rint(quantiser.least - range.least / quantiser.scale)));\n" \
    "    return quantiser;\n" \
    "}\n" \
    "\n" \
    "static inline float code_of(quantiser_t quantiser, float x) {\n" \
    "    const float code = rint((isnan(x) ? 0.0f : x) / quantiser.scale) + quantiser.zero_point;\n" \
    "    return max(quantiser.least, min(quantiser.most, code));\n" \
    "}\n" \
    "\n" \
    "static inline void write_terms(cache_terms_t terms, uint kind, mfa_code_place place, quantiser_t quantiser) {\n" \
    "    if ((kind & MFA_CODES_HALF_SCALES) != 0)\n" \
    "        ((device half *)terms.scales)[place.scale] = half(quantiser.scale);\n" \
    "    else\n" \
    "        ((device float *)terms.scales)[place.scale] = quantiser.scale;\n" \
    "    if ((kind & MFA_CODES_ZERO_POINTS) == 0)\n" \
    "        return;\n" \
    "    if ((kind & MFA_CODES_SIGNED_BYTES) != 0)\n" \
    "        ((device char *)terms.zero_points)[place.zero_point] = char(quantiser.zero_point);\n" \
    "    else if ((kind & MFA_CODES_UNSIGNED_BYTES) != 0)\n" \
    "        terms.zero_points[place.zero_point] = uchar(quantiser.zero_point);\n" \
    "    else\n" \
    "        ((device int *)terms.zero_points)[place.zero_point] = int(quantiser.zero_point);\n" \
    "}\n" \
    "\n" \
    "/* What a byte holds: one code, or two. */\n" \
    "static inline void write_codes(device char *to, mfa_index place, float2 codes) { to[place] = char(codes[0]); }\n" \
    "static inline void write_codes(device uchar *to, mfa_index place, float2 codes) { to[place] = uchar(codes[0]); }\n" \
    "static inline uchar pair_of(float2 codes) { return uchar((int(codes[0]) & 15) | (int(codes[1]) & 15) << 4); }\n" \
    "static inline void write_codes(device mfa_int4 *to, mfa_index place, float2 codes) {\n" \
    "    to[place / 2].pair = pair_of(codes);\n" \
    "}\n" \
    "static inline void write_codes(device mfa_uint4 *to, mfa_index place, float2 codes) {\n" \
    "    to[place / 2].pair = pair_of(codes);\n" \
    "}\n" \
    "\n" \
    "/* What a column's code is to stand for. */\n" \
    "static inline float new_element(constant mfa_metal_params &p, mfa_rotary rotary, new_row_t added,\n" \
    "                                mfa_coding<true> coding, int column) {\n" \
    "    const device MFA_T *source = mfa_row_at(added.rows, added.row);\n" \
    "    const mfa_index stride = added.rows.column_stride;\n" \
    "    float x = added.turns ? mfa_turned_column(p, rotary, added.position, source, stride, column)\n" \
    "                          : float(source[column * stride]);\n" \
    "    if ((coding.kind & MFA_CODES_MEAN) != 0)\n" \
    "        x -= coding.terms.mean[column * coding.strides->mean.column];\n" \
    "    return x;\n" \
    "}\n" \
    "\n" \
    "/* Rows that have scales of their own get new ones, others are cut to what theirs can say. */\n" \
    "template <typename S>\n" \
    "static inline void append_row(constant mfa_metal_params &p, mfa_rotary rotary, new_row_t added, mfa_result_rows<S> to,\n" \
    "                              mfa_index to_row, mfa_sequence sequence, mfa_index head,\n" \
    "                              constant mfa_metal_coding &strides, uint kind, cache_terms_t terms, uint lane) {\n" \
    "    mfa_code_terms there;\n" \
    "    there.scales = terms.scales;\n" \
    "    there.zero_points = terms.zero_points;\n" \
    "    there.mean = terms.mean;\n" \
    "    mfa_coding<true> coding;\n" \
    "    mfa_find_coding(coding, strides, kind, there, sequence, mfa_key_origin(sequence), head);\n" \
    "    const mfa_code_place place = mfa_code_row(coding, mfa_row_origin(to.paging, to_row));\n" \
    "    device S *target = mfa_row_at(to, to_row);\n" \
    "    const bool by_column = (kind & MFA_CODES_COLUMNS) != 0, measures = strides.rows == 1;\n" \
    "    const int width = (kind & MFA_CODES_GROUPS) != 0 ? int(strides.columns) : to.length;\n" \
    "    const int count = mfa_storage<S>::count;\n" \
    "    range_t nothing;\n" \
    "    nothing.least = nothing.most = 0;\n" \
    "    quantiser_t quantiser = quantiser_of<S>(kind);\n" \
    "    for (int begin = 0; begin < to.length; begin += width) {\n" \
    "        const int end = min(begin + width, to.length);\n" \
    "        range_t range = nothing;\n" \
    "        for (int column = begin + int(lane); column < end && measures && !by_column; column += 32)\n" \
    "            range = widened(range, new_element(p, rotary, added, coding, column));\n" \
    "        range = joined(range);\n" \
    "        for (int first = begin + int(lane) * count; first < end; first += 32 * count) {\n" \
    "            float2 codes = float2(0);\n" \
    "            for (int i = 0; i < count && first + i < end; ++i) {\n" \
    "                const float x = new_element(p, rotary, added, coding, first + i);\n" \
    "                const mfa_code_place own = mfa_code_column(coding, place, first + i);\n" \
    "                if (measures && by_column)\n" \
    "                    range = widened(nothing, x);\n" \
    "                if (measures) {\n" \
    "                    quantiser = fitted(quantiser, kind, range);\n" \
    "                    if (by_column || first + i == begin)\n" \
    "                        write_terms(terms, kind, own, quantiser);\n" \
    "                } else {\n" \
    "                    quantiser.scale = mfa_scale_at(coding, own);\n" \
    "                    quantiser.zero_point = mfa_zero_point_at(coding, own);\n" \
    "                }\n" \
    "                codes[i] = code_of(quantiser, x);\n" \
    "            }\n" \
    "            write_codes(target, first * to.column_stride, codes);\n" \
    "        }\n" \
    "    }\n" \
    "}\n" \
    "\n" \
    "/* ------------------------------------------------------------------ both */\n" \
    "\n" \
    "#define CACHE_ARGUMENTS                                                                                               \\\n" \
    "    device MFA_K *key [[buffer(MFA_BUFFER_KEY)]], device MFA_V *value [[buffer(MFA_BUFFER_VALUE)]],                   \\\n" \
    "        device uchar *key_scales [[buffer(MFA_BUFFER_KEY_SCALES), function_constant(has_key_codes)]],                 \\\n" \
    "        device uchar *key_zero_points [[buffer(MFA_BUFFER_KEY_ZERO_POINTS), function_constant(has_key_zero_points)]], \\\n" \
    "        const device float *key_mean [[buffer(MFA_BUFFER_KEY_MEAN), function_constant(has_key_mean)]],                \\\n" \
    "        device uchar *value_scales [[buffer(MFA_BUFFER_VALUE_SCALES), function_constant(has_value_codes)]],           \\\n" \
    "        device uchar *value_zero_points                                                                               \\\n" \
    "        [[buffer(MFA_BUFFER_VALUE_ZERO_POINTS), function_constant(has_value_zero_points)]]\n" \
    "\n" \
    "[[kernel, max_total_threads_per_threadgroup(32 * MFA_APPEND_SIMDGROUPS)]] void\n" \
    "attention_append(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]],\n" \
    "                 const device MFA_T *new_key [[buffer(MFA_BUFFER_NEW_KEY)]],\n" \
    "                 const device MFA_T *new_value [[buffer(MFA_BUFFER_NEW_VALUE)]], CACHE_ARGUMENTS, MFA_ROTARY_ARGUMENTS,\n" \
    "                 MFA_SEQUENCE_ARGUMENTS, uint threadgroup_number [[threadgroup_position_in_grid]],\n" \
    "                 uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {\n" \
    "    const mfa_index number = p.first_threadgroup + threadgroup_number;\n" \
    "    const mfa_lists lists = MFA_LISTS;\n" \
    "    const mfa_rotary rotary = MFA_ROTARY;\n" \
    "    const mfa_tile tile = tile_of(p, lists, number / p.key_tiles, number % p.key_tiles);\n" \
    "    const mfa_sequence sequence = mfa_sequence_of(p, lists, tile.sequence);\n" \
    "    const mfa_index count = sequence.extent.key_count - sequence.first_new;\n" \
    "    if (!mfa_tile_exists(tile, count))\n" \
    "        return;\n" \
    "    cache_terms_t key_terms, value_terms;\n" \
    "    if (has_key_codes)\n" \
    "        key_terms.scales = key_scales;\n" \
    "    if (has_key_zero_points)\n" \
    "        key_terms.zero_points = key_zero_points;\n" \
    "    if (has_key_mean)\n" \
    "        key_terms.mean = key_mean;\n" \
    "    if (has_value_codes)\n" \
    "        value_terms.scales = value_scales;\n" \
    "    if (has_value_zero_points)\n" \
    "        value_terms.zero_points = value_zero_points;\n" \
    "    const mfa_index position = mfa_rotary_position(p, rotary, sequence);\n" \
    "    const mfa_index rows = min(mfa_index(MFA_APPEND_ROWS), count - tile.first);\n" \
    "    for (mfa_index i = simdgroup; i < rows * p.kv_heads; i += MFA_APPEND_SIMDGROUPS) {\n" \
    "        const mfa_index head = i % p.kv_heads, row = tile.first + i / p.kv_heads, to_row = sequence.first_new + row;\n" \
    "        append_row(\n" \
    "            p, rotary,\n" \
    "            new_row_of(mfa_rows_of(new_key, p.new_key, sequence.added, head, p.head_dim), row, position + row, true),\n" \
    "            mfa_cache_result_rows_of(key, p, p.key, sequence, head, p.head_dim), to_row, sequence, head, p.key_coding,\n" \
    "            key_codes, key_terms, lane);\n" \
    "        append_row(p, rotary,\n" \
    "                   new_row_of(mfa_rows_of(new_value, p.new_value, sequence.added, head, p.value_dim), row, 0, false),\n" \
    "                   mfa_cache_result_rows_of(value, p, p.value, sequence, head, p.value_dim), to_row, sequence, head,\n" \
    "                   p.value_coding, value_codes, value_terms, lane);\n" \
    "    }\n" \
    "}\n"

#define BACKWARD_BIAS_METAL_0 \
    "#line 1 \"backward_bias.metal\"\n" \
    "/*\n" \
    " * The gradient of the additive mask. A threadgroup owns a tile of it, or an element or a row of elements where it is\n" \
    " * broadcast over rows or keys, and adds up the gradients of all scores that it was added to, in a fixed order:\n" \
    " *\n" \
    " *   for each batch and head that the mask was broadcast to, for each tile of rows, for each tile of keys:\n" \
    " *     gradients = exp(scores - logsumexp) (dweights - delta), added to the same places of the tile before\n" \
    " *   add up rows, keys or both, and write\n" \
    " */\n"

#define BACKWARD_BIAS_METAL_1 \
    "#line 10 \"backward_bias.metal\"\n" \
    "\n" \
    "enum { TILE_SCORES = MFA_BQ * MFA_BK };\n" \
    "\n" \
    "/* The places along an axis, `count` in all, that a threadgroup adds up: all of them where the gradient has size 1. */\n" \
    "static inline mfa_span summed(mfa_index size, mfa_index count, mfa_index own) {\n" \
    "    return size == 1 ? mfa_span_of(0, count) : mfa_span_of(own, own + 1);\n" \
    "}\n" \
    "\n" \
    "[[kernel, max_total_threads_per_threadgroup(THREADS)]] void\n" \
    "attention_backward_bias(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_QUERY_ARGUMENTS,\n" \
    "                        MFA_KEY_ARGUMENTS, MFA_BIAS_ARGUMENTS, MFA_SEQUENCE_ARGUMENTS,\n" \
    "                        device MFA_G *dbias [[buffer(MFA_BUFFER_DBIAS)]], MFA_THREAD_ARGUMENTS) {\n" \
    "    threadgroup vec<MFA_T, MFA_VECTOR> staged_keys[STAGED_KEYS];\n" \
    "    threadgroup vec<MFA_T, MFA_VECTOR> staged_values[STAGED_VALUES];\n" \
    "    threadgroup float tile[TILE_SCORES];\n" \
    "\n" \
    "    const bool sum_rows = p.dbias_size.row == 1, sum_keys = p.dbias_size.column == 1;\n" \
    "    mfa_index number = p.first_threadgroup + threadgroup_number;\n" \
    "    const mfa_index own_keys = sum_keys ? 1 : p.key_tiles, own_rows = sum_rows ? 1 : p.query_tiles;\n" \
    "    const mfa_index key_tile = number % own_keys;\n" \
    "    number /= own_keys;\n" \
    "    const mfa_index row_tile = number % own_rows;\n" \
    "    number /= own_rows;\n" \
    "    const mfa_index own_head = number % p.dbias_size.head, own_batch = number / p.dbias_size.head;\n" \
    "    const mfa_span batches = summed(p.dbias_size.batch, p.batch, own_batch);\n" \
    "    const mfa_span heads = summed(p.dbias_size.head, p.heads, own_head);\n" \
    "    const mfa_span row_tiles = summed(p.dbias_size.row, p.query_tiles, row_tile);\n" \
    "    const mfa_span key_tiles = summed(p.dbias_size.column, p.key_tiles, key_tile);\n" \
    "\n" \
    "    mfa_visited_keys visited;\n" \
    "    visited.first = (threadgroup MFA_T *)staged_keys;\n" \
    "    visited.second = (threadgroup MFA_T *)staged_values;\n" \
    "    mfa_key_products sums = mfa_zeros<KEY_MATRICES>();\n" \
    "    for (mfa_index batch = batches.begin; batch < batches.end; ++batch) {\n" \
    "        const mfa_sequence sequence = mfa_sequence_of(p, MFA_LISTS, batch);\n" \
    "        const mfa_index query_count = sequence.extent.query_count;\n" \
    "        visited.count = sequence.extent.key_count;\n" \
    "        for (mfa_index head = heads.begin; head < heads.end; ++head) {\n" \
    "            const mfa_index kv_head = head / p.group;\n" \
    "            visited.first_rows = mfa_key_rows(p, MFA_KEYS, sequence, kv_head);\n" \
    "            visited.second_rows = mfa_value_rows(p, MFA_KEYS, sequence, kv_head);\n" \
    "            const mfa_head_terms head_terms = mfa_head_terms_of(p, MFA_BIASES, sequence, head);\n" \
    "            for (mfa_index i = row_tiles.begin; i < row_tiles.end; ++i) {\n" \
    "                const mfa_index tile_row = i * MFA_BQ, first_row = tile_row + 8 * simdgroup;\n" \
    "                const mfa_index lane_row = first_row + mfa_fragment_row(lane);\n" \
    "                mfa_walk walk =\n" \
    "                    mfa_walk_over_keys(head_terms.extent, head_terms.blocks, mfa_span_of(tile_row, tile_row + MFA_BQ));\n" \
    "                walk.visited =\n" \
    "                    mfa_span_cut(walk.visited, mfa_span_of(key_tiles.begin * MFA_BK, key_tiles.end * MFA_BK));\n" \
    "                const mfa_walk own_walk =\n" \
    "                    mfa_walk_over_keys(head_terms.extent, head_terms.blocks, mfa_span_of(first_row, first_row + 8));\n" \
    "                mfa_index first_key = mfa_walk_first<MFA_BK>(walk);\n" \
    "                if (first_key >= walk.visited.end)\n" \
    "                    continue;\n" \
    "                mfa_owned_queries queries;\n" \
    "                mfa_own(queries, mfa_lane_row_of(mfa_rows_of(query, p.query, sequence.queries, head, p.head_dim),\n" \
    "                                                 lane_row, query_count, lane));\n" \
    "                mfa_owned_douts douts;\n" \
    "                mfa_own(douts, mfa_lane_row_of(mfa_rows_of(dout, p.dout, sequence.queries, head, p.value_dim), lane_row,\n" \
    "                                               query_count, lane));\n" \
    "                const mfa_row_terms row_terms = mfa_row_terms_of(p, logsumexp, deltas, sequence, head, lane_row);\n" \
    "                for (; first_key < walk.visited.end; first_key = mfa_walk_next<MFA_BK>(walk, first_key + MFA_BK)) {\n" \
    "                    const bool is_visited = mfa_walk_visits(own_walk, mfa_span_of(first_key, first_key + MFA_BK));\n" \
    "                    mfa_key_products products = mfa_zeros<KEY_MATRICES>(), dweights = mfa_zeros<KEY_MATRICES>();\n" \
    "                    mfa_multiply_visited<MFA_BK, THREADS>(p, queries, douts, visited, first_key, 0, is_visited,\n" \
    "                                                          thread_number, products, dweights);\n" \
    "                    if (is_visited) {\n" \
    "                        mfa_differentiate<true>(p, head_terms, row_terms, first_row, first_key, lane, products,\n" \
    "                                                dweights);\n" \
    "                        for (int j = 0; j < KEY_MATRICES; ++j)\n" \
    "                            for (int e = 0; e < 2; ++e)\n" \
    "                                sums.m[j].thread_elements()[e] += products.m[j].thread_elements()[e];\n" \
    "                    }\n" \
    "                }\n" \
    "            }\n" \
    "        }\n" \
    "    }\n" \
    "\n" \
    "    for (int j = 0; j < KEY_MATRICES; ++j)\n" \
    "        simdgroup_store(sums.m[j], tile + 8 * simdgroup * MFA_BK + 8 * j, MFA_BK);\n" \
    "    threadgroup_barrier(mem_flags::mem_threadgroup);\n" \
    "\n" \
    "    /* Each place of what is written adds up a part of the tile. */\n" \
    "    const int row_step = sum_rows ? MFA_BQ : 1, key_step = sum_keys ? MFA_BK : 1;\n" \
    "    const int row_places = MFA_BQ / row_step, key_places = MFA_BK / key_step;\n" \
    "    const mfa_index first_row = row_tile * MFA_BQ, first_key = key_tile * MFA_BK;\n" \
    "    for (int place = int(thread_number); place < row_places * key_places; place += THREADS) {\n" \
    "        const int row = place / key_places, column = place % key_places;\n" \
    "        float sum = 0;\n" \
    "        for (int r = 0; r < row_step; ++r)\n" \
    "            for (int k = 0; k < key_step; ++k)\n" \
    "                sum += tile[(row + r) * MFA_BK + column + k];\n" \
    "        if (first_row + row < p.dbias_size.row && first_key + column < p.dbias_size.column)\n" \
    "            dbias[mfa_place(p.dbias, own_batch, own_head, first_row + row) + (first_key + column) * p.dbias.column] =\n" \
    "                MFA_G(sum);\n" \
    "    }\n" \
    "}\n"

#define BACKWARD_KEY_METAL_0 \
    "#line 1 \"backward_key.metal\"\n" \
    "/*\n" \
    " * The gradients of keys and values. A threadgroup owns MFA_BK keys of one key/value head, 8 for each simdgroup:\n" \
    " *\n" \
    " *   for each query head of the group, for each tile of rows that sees some of the keys:\n" \
    " *     stage queries and dout in threadgroup memory\n" \
    " *     scores = keys . queries, dweights = values . dout\n" \
    " *     weights = exp(scores - logsumexp), gradients = weights (dweights - delta)\n" \
    " *     dvalue += weights . dout, dkey += gradients . queries\n" \
    " *\n" \
    " * Rows of a group's heads are summed here in a fixed order, so that no sum needs atomics. Blocks of columns are as for\n" \
    " * dQ.\n" \
    " */\n"

#define BACKWARD_KEY_METAL_2 \
    "#line 15 \"backward_key.metal\"\n" \
    "\n" \
    "#define THREADS (32 * MFA_SIMDGROUPS)\n" \
    "\n" \
    "enum {\n" \
    "    ROW_MATRICES = MFA_BQ / 8,\n" \
    "    STAGED_QUERIES = MFA_BQ * mfa_lead<MFA_T>(MFA_BD) / MFA_VECTOR,\n" \
    "    STAGED_DOUTS = MFA_BQ * mfa_lead<mfa_dout_type>(MFA_DV) / MFA_VECTOR\n" \
    "};\n" \
    "\n" \
    "static_assert(MFA_BK == 8 * MFA_SIMDGROUPS, \"a simdgroup owns 8 keys\");\n" \
    "static_assert(MFA_BQ <= THREADS, \"a thread stages what one row knows\");\n" \
    "static_assert(MFA_D % MFA_BD == 0 && MFA_BD % 8 == 0 && MFA_DV % 8 == 0 && MFA_BQ % 8 == 0, \"matrices are 8 wide\");\n" \
    "static_assert(!MFA_RESIDENT || MFA_BD == MFA_D, \"registers are not indexed at run time\");\n" \
    "\n" \
    "constant bool has_dkey [[function_constant(MFA_CONSTANT_DKEY)]];\n" \
    "constant bool has_dvalue [[function_constant(MFA_CONSTANT_DVALUE)]];\n" \
    "constant bool zeroes_clipped [[function_constant(MFA_CONSTANT_ZERO_CLIPPED)]];\n" \
    "\n" \
    "typedef mfa_matrices<float, ROW_MATRICES> row_products;\n" \
    "\n" \
    "/* Products of keys and queries become weights, and products of values and dout become gradients of scores. */\n" \
    "template <bool WHOLE>\n" \
    "static inline void differentiate_as(constant mfa_metal_params &p, mfa_head_terms head,\n" \
    "                                    threadgroup const mfa_row_terms *rows, mfa_index first_row, mfa_index key,\n" \
    "                                    int column, thread row_products &products, thread row_products &dweights) {\n" \
    "    mfa_lane_pairs pairs = mfa_whole_pairs();\n" \
    "    if (has_blocks && !WHOLE)\n" \
    "        pairs = mfa_lane_pairs_of<MFA_BQ, true>(head.blocks, key, first_row,\n" \
    "                                                mfa_rule_rows_some_see(head.extent, mfa_span_of(key, key + 1)), column);\n" \
    "#pragma clang loop unroll(full)\n" \
    "    for (int j = 0; j < ROW_MATRICES; ++j)\n" \
    "#pragma clang loop unroll(full)\n" \
    "        for (int i = 0; i < 2; ++i) {\n" \
    "            const int row = j * 8 + column + i; /* of the tile */\n" \
    "            mfa_pair_terms pair = mfa_pair_terms_of<WHOLE>(\n" \
    "                p, head, first_row + row, key, mfa_lane_bit(pairs.visible, j, i), mfa_lane_bit(pairs.full, j, i));\n" \
    "            if (has_dropout)\n" \
    "                pair.drop_factor = mfa_dropout_factor(head.dropout, first_row + row, key);\n" \
    "            const mfa_score_gradient found =\n" \
    "                mfa_score_gradient_of<false>(p.softmax_scale, head, products.m[j].thread_elements()[i],\n" \
    "                                             dweights.m[j].thread_elements()[i], rows[row], pair);\n" \
    "            products.m[j].thread_elements()[i] = found.weight;\n" \
    "            dweights.m[j].thread_elements()[i] = found.gradient;\n" \
    "        }\n" \
    "}\n" \
    "\n" \
    "/* Zeroes the gradients of a row's codes that are at an end of the range that quantising has, which leaves out the lowest\n" \
    "   of signed codes without zero points. */\n" \
    "template <int DEPTH>\n" \
    "static inline void zero_clipped(mfa_coding<false>, mfa_rows<MFA_T>, mfa_index, mfa_index, int, int,\n" \
    "                                thread mfa_matrices<float, DEPTH> &) {}\n" \
    "template <typename S, int DEPTH>\n" \
    "static inline void zero_clipped(mfa_coding<true> coding, mfa_rows<S> rows, mfa_index row, mfa_index count, int block,\n" \
    "                                int column, thread mfa_matrices<float, DEPTH> &sums) {\n" \
    "    if (!zeroes_clipped || row >= count)\n" \
    "        return;\n" \
    "    const bool is_symmetric = mfa_storage<S>::lowest < 0 && (coding.kind & MFA_CODES_ZERO_POINTS) == 0;\n" \
    "    const float lowest = mfa_storage<S>::lowest + (is_symmetric ? 1 : 0), highest = mfa_storage<S>::highest;\n" \
    "    const device S *codes = mfa_row_at(rows, row);\n" \
    "#pragma clang loop unroll(full)\n" \
    "    for (int i = 0; i < DEPTH; ++i)\n" \
    "        for (int e = 0; e < 2; ++e) {\n" \
    "            const int place = (block * DEPTH + i) * 8 + column + e;\n" \
    "            if (place >= rows.length)\n" \
    "                continue;\n" \
    "            const float code = mfa_code_at(codes, place * rows.column_stride);\n" \
    "            if (code <= lowest || code >= highest)\n" \
    "                sums.m[i].thread_elements()[e] = 0;\n" \
    "        }\n" \
    "}\n" \
    "\n" \
    "[[kernel, max_total_threads_per_threadgroup(THREADS)]] void\n" \
    "attention_backward_key(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_QUERY_ARGUMENTS,\n" \
    "                       MFA_KEY_ARGUMENTS, MFA_BIAS_ARGUMENTS, MFA_SEQUENCE_ARGUMENTS,\n" \
    "                       device MFA_G *dkey [[buffer(MFA_BUFFER_DKEY), function_constant(has_dkey)]],\n" \
    "                       device MFA_GV *dvalue [[buffer(MFA_BUFFER_DVALUE), function_constant(has_dvalue)]],\n" \
    "                       MFA_THREAD_ARGUMENTS) {\n" \
    "    threadgroup vec<MFA_T, MFA_VECTOR> staged_queries[STAGED_QUERIES];\n" \
    "    threadgroup vec<mfa_dout_type, MFA_VECTOR> staged_douts[STAGED_DOUTS];\n" \
    "    threadgroup mfa_row_terms\n" \
    "        staged_terms[2][MFA_BQ]; /* of this tile and the one before, which others may still read */\n" \
    "\n" \
    "    const int blocks = MFA_RESIDENT ? 1 : max(int(MFA_HEAD_BLOCKS), int(p.value_blocks));\n" \
    "    mfa_index number = p.first_threadgroup + threadgroup_number;\n" \
    "    const mfa_index tile_number = number % p.key_tiles;\n" \
    "    number /= p.key_tiles;\n" \
    "    const int own_block = int(number % blocks);\n" \
    "    number /= blocks;\n" \
    "    const mfa_index kv_head = number % p.kv_heads;\n" \
    "    const mfa_lists lists = MFA_LISTS;\n" \
    "    const mfa_tile own_tile = mfa_key_tile<MFA_BK>(p, lists, number / p.kv_heads, tile_number);\n" \
    "    const mfa_sequence sequence = mfa_sequence_of(p, lists, own_tile.sequence);\n" \
    "    const mfa_index key_count = sequence.extent.key_count, tile_key = own_tile.first;\n" \
    "    if (!mfa_tile_exists(own_tile, key_count))\n" \
    "        return;\n" \
    "    const mfa_index first_key = tile_key + 8 * simdgroup, lane_key = first_key + mfa_fragment_row(lane);\n" \
    "    const int column = mfa_fragment_column(lane);\n" \
    "\n" \
    "    const mfa_rows<MFA_K> key_rows = mfa_key_rows(p, MFA_KEYS, sequence, kv_head);\n" \
    "    const mfa_rows<MFA_V> value_rows = mfa_value_rows(p, MFA_KEYS, sequence, kv_head);\n" \
    "    mfa_owned_rows<MFA_T, MFA_K, MFA_HEAD_DEPTH> keys;\n" \
    "    mfa_own(keys, mfa_lane_row_of(key_rows, lane_key, key_count, lane));\n" \
    "    mfa_owned_rows<MFA_T, MFA_V, MFA_VALUE_DEPTH> values;\n" \
    "    mfa_own(values, mfa_lane_row_of(value_rows, lane_key, key_count, lane));\n" \
    "    mfa_visited_rows<MFA_T, MFA_T, mfa_dout_type, MFA_DO> visited;\n" \
    "    visited.first = (threadgroup MFA_T *)staged_queries;\n" \
    "    visited.second = (threadgroup mfa_dout_type *)staged_douts;\n" \
    "    visited.count = sequence.extent.query_count;\n" \
    "\n" \
    "    const mfa_span tile_keys = mfa_span_of(tile_key, tile_key + MFA_BK);\n" \
    "    const mfa_span own_keys = mfa_span_of(first_key, first_key + 8);\n" \
    "    mfa_matrices<float, MFA_HEAD_DEPTH> dkey_sums = mfa_zeros<MFA_HEAD_DEPTH>();\n" \
    "    mfa_matrices<float, MFA_VALUE_DEPTH> dvalue_sums = mfa_zeros<MFA_VALUE_DEPTH>();\n" \
    "    int turn = 0;\n" \
    "    for (mfa_index head = kv_head * p.group; head < (kv_head + 1) * p.group; ++head) {\n" \
    "        visited.first_rows = mfa_rows_of(query, p.query, sequence.queries, head, p.head_dim);\n" \
    "        visited.second_rows = mfa_rows_of(dout, p.dout, sequence.queries, head, p.value_dim);\n" \
    "        const mfa_head_terms head_terms = mfa_head_terms_of(p, MFA_BIASES, sequence, head);\n" \
    "        const mfa_walk walk = mfa_walk_over_rows(head_terms.extent, head_terms.blocks, tile_keys);\n" \
    "        const mfa_walk own_walk = mfa_walk_over_rows(head_terms.extent, head_terms.blocks, own_keys);\n" \
    "        for (mfa_index first_row = mfa_walk_first<MFA_BQ>(walk); first_row < walk.visited.end;\n" \
    "             first_row = mfa_walk_next<MFA_BQ>(walk, first_row + MFA_BQ)) {\n" \
    "            const mfa_span tile_rows = mfa_span_of(first_row, first_row + MFA_BQ);\n" \
    "            const bool is_visited = mfa_walk_visits(own_walk, tile_rows);\n" \
    "            threadgroup mfa_row_terms *terms = staged_terms[turn];\n" \
    "            turn ^= 1;\n" \
    "            if (thread_number < MFA_BQ)\n" \
    "                terms[thread_number] =\n" \
    "                    mfa_row_terms_of(p, logsumexp, deltas, sequence, head, first_row + thread_number);\n" \
    "            row_products products = mfa_zeros<ROW_MATRICES>(), dweights = mfa_zeros<ROW_MATRICES>();\n" \
    "            mfa_multiply_visited<MFA_BQ, THREADS>(p, keys, values, visited, first_row, own_block, is_visited,\n" \
    "                                                  thread_number, products, dweights);\n" \
    "            if (is_visited) {\n" \
    "                const bool dirty_queries = mfa_is_dirty(products), dirty_douts = mfa_is_dirty(dweights);\n" \
    "                if (mfa_scores_are_whole(head_terms, tile_rows, own_keys))\n" \
    "                    differentiate_as<true>(p, head_terms, terms, first_row, lane_key, column, products, dweights);\n" \
    "                else\n" \
    "                    differentiate_as<false>(p, head_terms, terms, first_row, lane_key, column, products, dweights);\n" \
    "                if (has_dvalue)\n" \
    "                    mfa_add_product(products, visited.second, dirty_douts, dvalue_sums);\n" \
    "                if (has_dkey)\n" \
    "                    mfa_add_product(dweights, visited.first, dirty_queries, dkey_sums);\n" \
    "            }\n" \
    "        }\n" \
    "    }\n" \
    "    zero_clipped(key_rows.coding, key_rows, lane_key, key_count, own_block, column, dkey_sums);\n" \
    "    zero_clipped(value_rows.coding, value_rows, lane_key, key_count, own_block, column, dvalue_sums);\n" \
    "    if (has_dkey)\n" \
    "        mfa_write_block(mfa_cache_result_rows_of(dkey, p, p.dkey, sequence, kv_head, p.head_dim), lane_key, key_count,\n" \
    "                        own_block, column, dkey_sums);\n" \
    "    if (has_dvalue)\n" \
    "        mfa_write_block(mfa_cache_result_rows_of(dvalue, p, p.dvalue, sequence, kv_head, p.value_dim), lane_key,\n" \
    "                        key_count, own_block, column, dvalue_sums);\n" \
    "}\n"

#define BACKWARD_PREPARE_METAL_0 \
    "#line 1 \"backward_prepare.metal\"\n" \
    "/*\n" \
    " * What the other kernels of the backward pass read of rows: delta = rowsum(dout * out) - dlogsumexp, and whether dout is\n" \
    " * finite. A simdgroup takes some rows as they lie, of whatever sequence, one after the other. Without out, the sum is the\n" \
    " * caller's.\n" \
    " */\n"

#define BACKWARD_PREPARE_METAL_1 \
    "#line 7 \"backward_prepare.metal\"\n" \
    "\n" \
    "#define THREADS (32 * MFA_PREPARE_SIMDGROUPS)\n" \
    "\n" \
    "constant bool has_out [[function_constant(MFA_CONSTANT_OUT)]];\n" \
    "constant bool has_own_delta [[function_constant(MFA_CONSTANT_OWN_DELTA)]];\n" \
    "constant bool has_dlogsumexp [[function_constant(MFA_CONSTANT_DLOGSUMEXP)]];\n" \
    "\n" \
    "static inline bool is_of_sequence(constant mfa_metal_params &p, mfa_lists lists, mfa_index batch, mfa_index row) {\n" \
    "    return !has_sequences || mfa_has_row(mfa_sequence_of(p, lists, mfa_sequence_at(p, lists, batch, row)), row);\n" \
    "}\n" \
    "\n" \
    "[[kernel, max_total_threads_per_threadgroup(THREADS)]] void attention_backward_prepare(\n" \
    "    constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]],\n" \
    "    const device MFA_O *out [[buffer(MFA_BUFFER_OUT), function_constant(has_out)]],\n" \
    "    const device MFA_DO *dout [[buffer(MFA_BUFFER_DOUT)]], device mfa_metal_delta *deltas [[buffer(MFA_BUFFER_DELTA)]],\n" \
    "    device float *own_delta [[buffer(MFA_BUFFER_OWN_DELTA), function_constant(has_own_delta)]],\n" \
    "    const device float *dlogsumexp [[buffer(MFA_BUFFER_DLOGSUMEXP), function_constant(has_dlogsumexp)]],\n" \
    "    MFA_SEQUENCE_ARGUMENTS, uint threadgroup_number [[threadgroup_position_in_grid]],\n" \
    "    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {\n" \
    "    const mfa_index tiles = (p.stored_rows + MFA_PREPARE_ROWS - 1) / MFA_PREPARE_ROWS;\n" \
    "    const mfa_index number = p.first_threadgroup + threadgroup_number;\n" \
    "    const mfa_index first_row = number % tiles * MFA_PREPARE_ROWS,\n" \
    "                    end = min(first_row + MFA_PREPARE_ROWS, p.stored_rows);\n" \
    "    const mfa_index head = number / tiles % p.heads;\n" \
    "    mfa_origin origin;\n" \
    "    origin.batch = number / tiles / p.heads;\n" \
    "    origin.row = 0;\n" \
    "    mfa_rows<MFA_O> outs;\n" \
    "    if (has_out)\n" \
    "        outs = mfa_rows_of(out, p.out, origin, head, p.value_dim);\n" \
    "    const mfa_rows<MFA_DO> douts = mfa_rows_of(dout, p.dout, origin, head, p.value_dim);\n" \
    "    for (mfa_index row = first_row + simdgroup; row < end; row += MFA_PREPARE_SIMDGROUPS) {\n" \
    "        const mfa_index own_place = has_own_delta ? mfa_place(p.delta, origin.batch, head, row) : mfa_index(0);\n" \
    "        float sum = 0, taint = 0;\n" \
    "        bool zeros = true; /* as where a row sees no key: dout takes no part in it then, whatever it holds */\n" \
    "        for (int column = int(lane) * MFA_VECTOR; column < douts.length; column += 32 * MFA_VECTOR) {\n" \
    "            vec<MFA_O, MFA_VECTOR> left = vec<MFA_O, MFA_VECTOR>(MFA_O(0));\n" \
    "            if (has_out)\n" \
    "                left = mfa_read<MFA_VECTOR>(outs, row, column);\n" \
    "            const vec<MFA_DO, MFA_VECTOR> right = mfa_read<MFA_VECTOR>(douts, row, column);\n" \
    "            for (int i = 0; i < MFA_VECTOR; ++i) {\n" \
    "                sum = fma(float(left[i]), float(right[i]), sum);\n" \
    "                taint += float(right[i]) * 0.0f;\n" \
    "                zeros = zeros && left[i] == MFA_O(0);\n" \
    "            }\n" \
    "        }\n" \
    "        sum = simd_all(zeros) ? 0.0f : simd_sum(sum);\n" \
    "        taint = simd_sum(taint);\n" \
    "        if (lane == 0) {\n" \
    "            if (!has_out)\n" \
    "                sum = own_delta[own_place];\n" \
    "            else if (has_own_delta)\n" \
    "                own_delta[own_place] = is_of_sequence(p, MFA_LISTS, origin.batch, row) ? sum : 0.0f;\n" \
    "            if (has_dlogsumexp)\n" \
    "                sum -= dlogsumexp[mfa_place(p.dlogsumexp, origin.batch, head, row)];\n" \
    "            deltas[(origin.batch * p.heads + head) * p.stored_rows + row].delta = sum;\n" \
    "            deltas[(origin.batch * p.heads + head) * p.stored_rows + row].taint = taint;\n" \
    "        }\n" \
    "    }\n" \
    "}\n"

#define BACKWARD_QUERY_METAL_0 \
    "#line 1 \"backward_query.metal\"\n" \
    "/*\n" \
    " * The gradient of queries. A threadgroup owns MFA_BQ rows of one head, 8 for each simdgroup:\n" \
    " *\n" \
    " *   for each tile of keys that some row sees:\n" \
    " *     stage keys and values in threadgroup memory\n" \
    " *     scores = queries . keys, dweights = dout . values\n" \
    " *     gradients = exp(scores - logsumexp) (dweights - delta)\n" \
    " *     dquery += gradients . keys\n" \
    " *\n" \
    " * Recomputing weights from logsumexp, and delta: FlashAttention-2 (Dao, 2023). Head dimensions beyond MFA_BD are cut\n" \
    " * into blocks, each with a threadgroup that sums its columns of dquery, after products over all of them.\n" \
    " */\n"

#define BACKWARD_QUERY_METAL_1 \
    "#line 14 \"backward_query.metal\"\n" \
    "\n" \
    "[[kernel, max_total_threads_per_threadgroup(THREADS)]] void\n" \
    "attention_backward_query(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_QUERY_ARGUMENTS,\n" \
    "                         MFA_KEY_ARGUMENTS, MFA_BIAS_ARGUMENTS, MFA_SEQUENCE_ARGUMENTS,\n" \
    "                         device MFA_G *dquery [[buffer(MFA_BUFFER_DQUERY)]], MFA_THREAD_ARGUMENTS) {\n" \
    "    threadgroup vec<MFA_T, MFA_VECTOR> staged_keys[STAGED_KEYS];\n" \
    "    threadgroup vec<MFA_T, MFA_VECTOR> staged_values[STAGED_VALUES];\n" \
    "\n" \
    "    /* The costliest causal rows, the last, come first. */\n" \
    "    mfa_index number = p.first_threadgroup + threadgroup_number;\n" \
    "    const mfa_index tile_number = p.query_tiles - 1 - number % p.query_tiles;\n" \
    "    number /= p.query_tiles;\n" \
    "    const int own_block = int(number % MFA_HEAD_BLOCKS);\n" \
    "    number /= MFA_HEAD_BLOCKS;\n" \
    "    const mfa_index head = number % p.heads, kv_head = head / p.group;\n" \
    "    const mfa_lists lists = MFA_LISTS;\n" \
    "    const mfa_tile own_tile = mfa_query_tile<MFA_BQ>(p, lists, number / p.heads, tile_number);\n" \
    "    const mfa_sequence sequence = mfa_sequence_of(p, lists, own_tile.sequence);\n" \
    "    const mfa_index query_count = sequence.extent.query_count, tile_row = own_tile.first;\n" \
    "    if (!mfa_tile_exists(own_tile, query_count))\n" \
    "        return;\n" \
    "    const mfa_index first_row = tile_row + 8 * simdgroup, lane_row = first_row + mfa_fragment_row(lane);\n" \
    "\n" \
    "    mfa_owned_queries queries;\n" \
    "    mfa_own(queries, mfa_lane_row_of(mfa_rows_of(query, p.query, sequence.queries, head, p.head_dim), lane_row,\n" \
    "                                     query_count, lane));\n" \
    "    mfa_owned_douts douts;\n" \
    "    mfa_own(douts, mfa_lane_row_of(mfa_rows_of(dout, p.dout, sequence.queries, head, p.value_dim), lane_row,\n" \
    "                                   query_count, lane));\n" \
    "    mfa_visited_keys visited;\n" \
    "    visited.first_rows = mfa_key_rows(p, MFA_KEYS, sequence, kv_head);\n" \
    "    visited.second_rows = mfa_value_rows(p, MFA_KEYS, sequence, kv_head);\n" \
    "    visited.first = (threadgroup MFA_T *)staged_keys;\n" \
    "    visited.second = (threadgroup MFA_T *)staged_values;\n" \
    "    visited.count = sequence.extent.key_count;\n" \
    "    const mfa_head_terms head_terms = mfa_head_terms_of(p, MFA_BIASES, sequence, head);\n" \
    "    const mfa_row_terms row_terms = mfa_row_terms_of(p, logsumexp, deltas, sequence, head, lane_row);\n" \
    "\n" \
    "    const mfa_walk walk =\n" \
    "        mfa_walk_over_keys(head_terms.extent, head_terms.blocks, mfa_span_of(tile_row, tile_row + MFA_BQ));\n" \
    "    const mfa_walk own_walk =\n" \
    "        mfa_walk_over_keys(head_terms.extent, head_terms.blocks, mfa_span_of(first_row, first_row + 8));\n" \
    "    mfa_matrices<float, MFA_HEAD_DEPTH> sums = mfa_zeros<MFA_HEAD_DEPTH>();\n" \
    "    for (mfa_index first_key = mfa_walk_first<MFA_BK>(walk); first_key < walk.visited.end;\n" \
    "         first_key = mfa_walk_next<MFA_BK>(walk, first_key + MFA_BK)) {\n" \
    "        const bool is_visited = mfa_walk_visits(own_walk, mfa_span_of(first_key, first_key + MFA_BK));\n" \
    "        mfa_key_products products = mfa_zeros<KEY_MATRICES>(), dweights = mfa_zeros<KEY_MATRICES>();\n" \
    "        mfa_multiply_visited<MFA_BK, THREADS>(p, queries, douts, visited, first_key, own_block, is_visited,\n" \
    "                                              thread_number, products, dweights);\n" \
    "        if (is_visited) {\n" \
    "            const bool dirty = mfa_is_dirty(products);\n" \
    "            mfa_differentiate<false>(p, head_terms, row_terms, first_row, first_key, lane, products, dweights);\n" \
    "            mfa_add_product(products, visited.first, dirty, sums);\n" \
    "        }\n" \
    "    }\n" \
    "    mfa_write_block(mfa_result_rows_of(dquery, p.dquery, sequence.queries, head, p.head_dim), lane_row, query_count,\n" \
    "                    own_block, mfa_fragment_column(lane), sums);\n" \
    "}\n"

#define BACKWARD_SINKS_METAL_0 \
    "#line 1 \"backward_sinks.metal\"\n" \
    "/* The gradient of sinks. A threadgroup owns a head and adds up its rows in a fixed order. */\n"

#define BACKWARD_SINKS_METAL_1 \
    "#line 3 \"backward_sinks.metal\"\n" \
    "\n" \
    "#define THREADS (32 * MFA_SINKS_SIMDGROUPS)\n" \
    "\n" \
    "[[kernel, max_total_threads_per_threadgroup(THREADS)]] void\n" \
    "attention_backward_sinks(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_SEQUENCE_ARGUMENTS,\n" \
    "                         const device float *logsumexp [[buffer(MFA_BUFFER_LOGSUMEXP)]],\n" \
    "                         const device float *sinks [[buffer(MFA_BUFFER_SINKS)]],\n" \
    "                         const device mfa_metal_delta *deltas [[buffer(MFA_BUFFER_DELTA)]],\n" \
    "                         device float *dsinks [[buffer(MFA_BUFFER_DSINKS)]],\n" \
    "                         uint threadgroup_number [[threadgroup_position_in_grid]],\n" \
    "                         uint thread_number [[thread_index_in_threadgroup]],\n" \
    "                         uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {\n" \
    "    threadgroup float partial[MFA_SINKS_SIMDGROUPS];\n" \
    "    const mfa_index head = p.first_threadgroup + threadgroup_number;\n" \
    "    const float sink = sinks[head * p.sinks.head];\n" \
    "    float sum = 0;\n" \
    "    if (sink != -INFINITY)\n" \
    "        for (mfa_index batch = 0; batch < p.batch; ++batch) {\n" \
    "            const mfa_sequence sequence = mfa_sequence_of(p, MFA_LISTS, batch);\n" \
    "            const mfa_origin origin = sequence.queries;\n" \
    "            for (mfa_index row = thread_number; row < sequence.extent.query_count; row += THREADS) {\n" \
    "                const float share =\n" \
    "                    precise::exp(sink - logsumexp[mfa_place(p.logsumexp, origin.batch, head, origin.row + row)]);\n" \
    "                sum -= share * deltas[mfa_stored_row(p, sequence, head, row)].delta;\n" \
    "            }\n" \
    "        }\n" \
    "    sum = simd_sum(sum);\n" \
    "    if (lane == 0)\n" \
    "        partial[simdgroup] = sum;\n" \
    "    threadgroup_barrier(mem_flags::mem_threadgroup);\n" \
    "    if (thread_number == 0) {\n" \
    "        float total = 0;\n" \
    "        for (int i = 0; i < MFA_SINKS_SIMDGROUPS; ++i)\n" \
    "            total += partial[i];\n" \
    "        dsinks[head * p.dsinks.head] = total;\n" \
    "    }\n" \
    "}\n"

#define BLOCKS_METAL_0 \
    "#line 1 \"blocks.metal\"\n" \
    "/*\n" \
    " * Which blocks of the scores count, made of the caller's lists into lines of words that mfa_walk.h reads. A threadgroup\n" \
    " * makes a line, which is a row of blocks of one batch and head:\n" \
    " *\n" \
    " *   clear the line\n" \
    " *   set the bits of the blocks that are listed, and note where masks are listed for them\n" \
    " *   look these masks up\n" \
    " *\n" \
    " * Lists may be in memory that the host cannot read, and are not trusted: none is read beyond its end, and what is not\n" \
    " * there is left out. Bits of a word come from several threads, in any order, to the same effect.\n" \
    " */\n"

#define BLOCKS_METAL_1 \
    "#line 13 \"blocks.metal\"\n" \
    "\n" \
    "constant bool has_block_table [[function_constant(MFA_CONSTANT_BLOCK_TABLE)]];\n" \
    "constant bool has_block_lists [[function_constant(MFA_CONSTANT_BLOCK_LISTS)]];\n" \
    "constant bool has_full_lists [[function_constant(MFA_CONSTANT_FULL_LISTS)]];\n" \
    "\n" \
    "static inline void clear(device atomic<uint> *words, mfa_index count, uint thread_number) {\n" \
    "    for (mfa_index i = thread_number; i < count; i += MFA_BLOCKS_THREADS)\n" \
    "        atomic_store_explicit(words + i, 0u, memory_order_relaxed);\n" \
    "}\n" \
    "\n" \
    "static inline void set_bit(device atomic<uint> *words, mfa_index block) {\n" \
    "    atomic_fetch_or_explicit(words + block / MFA_BLOCK_BITS, 1u << (block % MFA_BLOCK_BITS), memory_order_relaxed);\n" \
    "}\n" \
    "\n" \
    "/* One of the lists, as far as it is there. */\n" \
    "struct list {\n" \
    "    const device int *blocks;\n" \
    "    mfa_index stride, count;\n" \
    "};\n" \
    "\n" \
    "static inline list list_of(const device int *numbers, constant mfa_metal_strides &number_strides,\n" \
    "                           const device int *blocks, constant mfa_metal_strides &strides, mfa_index batch,\n" \
    "                           mfa_index head, mfa_index row, mfa_index most) {\n" \
    "    list found;\n" \
    "    found.blocks = blocks + mfa_place(strides, batch, head, row);\n" \
    "    found.stride = strides.column;\n" \
    "    found.count = min(mfa_index(numbers[mfa_place(number_strides, batch, head, row)]), most);\n" \
    "    return found;\n" \
    "}\n" \
    "\n" \
    "[[kernel, max_total_threads_per_threadgroup(MFA_BLOCKS_THREADS)]] void attention_blocks(\n" \
    "    constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]],\n" \
    "    const device uchar *table [[buffer(MFA_BUFFER_BLOCK_MASK), function_constant(has_block_table)]],\n" \
    "    const device int *numbers [[buffer(MFA_BUFFER_KV_NUM_BLOCKS), function_constant(has_block_lists)]],\n" \
    "    const device int *indices [[buffer(MFA_BUFFER_KV_INDICES), function_constant(has_block_lists)]],\n" \
    "    const device int *full_numbers [[buffer(MFA_BUFFER_FULL_KV_NUM_BLOCKS), function_constant(has_full_lists)]],\n" \
    "    const device int *full_indices [[buffer(MFA_BUFFER_FULL_KV_INDICES), function_constant(has_full_lists)]],\n" \
    "    const device int *mask_indices [[buffer(MFA_BUFFER_MASK_INDICES), function_constant(has_block_masks)]],\n" \
    "    device atomic<uint> *lines [[buffer(MFA_BUFFER_BLOCKS)]], uint threadgroup_number [[threadgroup_position_in_grid]],\n" \
    "    uint thread_number [[thread_index_in_threadgroup]]) {\n" \
    "    mfa_index number = p.first_threadgroup + threadgroup_number;\n" \
    "    device atomic<uint> *visible = lines + number * p.blocks.row;\n" \
    "    device atomic<uint> *full = visible + p.block_words, *masks = full + p.block_words;\n" \
    "    const mfa_index row = number % p.block_lines;\n" \
    "    number /= p.block_lines;\n" \
    "    const mfa_index head = number % p.block_heads, batch = number / p.block_heads;\n" \
    "\n" \
    "    clear(visible, p.blocks.row, thread_number);\n" \
    "    threadgroup_barrier(mem_flags::mem_device);\n" \
    "\n" \
    "    if (has_block_table) {\n" \
    "        const device uchar *flags = table + mfa_place(p.block_mask, batch, head, row);\n" \
    "        for (mfa_index block = thread_number; block < p.block_columns; block += MFA_BLOCKS_THREADS)\n" \
    "            if (flags[block * p.block_mask.column] != 0)\n" \
    "                set_bit(visible, block);\n" \
    "    }\n" \
    "    if (has_block_lists) {\n" \
    "        const list listed = list_of(numbers, p.kv_num_blocks, indices, p.kv_indices, batch, head, row, p.listed_blocks);\n" \
    "        for (mfa_index i = thread_number; i < listed.count; i += MFA_BLOCKS_THREADS) {\n" \
    "            const mfa_index block = listed.blocks[i * listed.stride];\n" \
    "            if (block < 0 || block >= p.block_columns)\n" \
    "                continue;\n" \
    "            set_bit(visible, block);\n" \
    "            if (has_block_masks) /* of a block that is listed twice, the last */\n" \
    "                atomic_fetch_max_explicit(masks + block, uint(i) + 1, memory_order_relaxed);\n" \
    "        }\n" \
    "    }\n" \
    "    if (has_full_lists) {\n" \
    "        const list listed = list_of(full_numbers, p.full_kv_num_blocks, full_indices, p.full_kv_indices, batch, head,\n" \
    "                                    row, p.listed_full_blocks);\n" \
    "        for (mfa_index i = thread_number; i < listed.count; i += MFA_BLOCKS_THREADS) {\n" \
    "            const mfa_index block = listed.blocks[i * listed.stride];\n" \
    "            if (block < 0 || block >= p.block_columns)\n" \
    "                continue;\n" \
    "            set_bit(visible, block);\n" \
    "            set_bit(full, block);\n" \
    "        }\n" \
    "    }\n" \
    "    if (has_block_masks) {\n" \
    "        const device int *chosen = mask_indices + mfa_place(p.mask_indices, batch, head, row);\n" \
    "        threadgroup_barrier(mem_flags::mem_device);\n" \
    "        for (mfa_index block = thread_number; block < p.block_columns; block += MFA_BLOCKS_THREADS) {\n" \
    "            const mfa_index at = mfa_index(atomic_load_explicit(masks + block, memory_order_relaxed)) - 1;\n" \
    "            const mfa_index mask = at >= 0 && at < p.listed_masks ? chosen[at * p.mask_indices.column] : -1;\n" \
    "            const bool is_there = mask >= 0 && mask < p.mask_count;\n" \
    "            atomic_store_explicit(masks + block, is_there ? uint(mask) + 1 : 0u, memory_order_relaxed);\n" \
    "        }\n" \
    "    }\n" \
    "}\n"

#define COMBINE_METAL_0 \
    "#line 1 \"combine.metal\"\n" \
    "/* Adds what decode found out about parts of the keys, in order: a simdgroup for each row. */\n"

#define COMBINE_METAL_1 \
    "#line 3 \"combine.metal\"\n" \
    "\n" \
    "/* Weight of one part, whose largest score is natural. */\n" \
    "static inline float part_weight(const device float *part, mfa_index value_dim, float reference) {\n" \
    "    return fast::exp2((part[value_dim] - reference) * MFA_LOG2_E);\n" \
    "}\n" \
    "\n" \
    "[[kernel, max_total_threads_per_threadgroup(32 * MFA_SIMDGROUPS)]] void\n" \
    "attention_combine(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_SEQUENCE_ARGUMENTS,\n" \
    "                  device MFA_O *out [[buffer(MFA_BUFFER_OUT)]],\n" \
    "                  device float *logsumexp [[buffer(MFA_BUFFER_LOGSUMEXP), function_constant(has_logsumexp)]],\n" \
    "                  const device float *sinks [[buffer(MFA_BUFFER_SINKS), function_constant(has_sinks)]],\n" \
    "                  const device float *value_scale\n" \
    "                  [[buffer(MFA_BUFFER_VALUE_SCALE), function_constant(has_value_scale)]],\n" \
    "                  const device float *partials [[buffer(MFA_BUFFER_PARTIALS)]],\n" \
    "                  uint threadgroup_number [[threadgroup_position_in_grid]],\n" \
    "                  uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {\n" \
    "    const mfa_index number = (p.first_threadgroup + threadgroup_number) * MFA_SIMDGROUPS + simdgroup;\n" \
    "    if (number >= p.stored_batches * p.heads * p.stored_rows)\n" \
    "        return;\n" \
    "    const mfa_index row = number % p.stored_rows, head = number / p.stored_rows % p.heads;\n" \
    "    mfa_origin origin;\n" \
    "    origin.batch = number / p.stored_rows / p.heads;\n" \
    "    origin.row = 0;\n" \
    "    const mfa_index value_dim = p.value_dim, splits = p.splits, width = value_dim + MFA_PARTIAL_EXTRA;\n" \
    "    const device float *parts = partials + number * splits * width;\n" \
    "\n" \
    "    device MFA_O *to = mfa_row_at(mfa_result_rows_of(out, p.out, origin, head, value_dim), row);\n" \
    "    const mfa_lists lists = MFA_LISTS;\n" \
    "    const mfa_index sequence = mfa_sequence_at(p, lists, origin.batch, row);\n" \
    "    if (has_sequences && !mfa_has_row(mfa_sequence_of(p, lists, sequence), row)) {\n" \
    "        for (mfa_index column = lane; column < value_dim; column += 32)\n" \
    "            to[column * p.out.column] = MFA_O(0);\n" \
    "        if (has_logsumexp && lane == 0)\n" \
    "            logsumexp[mfa_place(p.logsumexp, origin.batch, head, row)] = -INFINITY;\n" \
    "        return;\n" \
    "    }\n" \
    "\n" \
    "    float most = -INFINITY, sum = 0;\n" \
    "    for (mfa_index s = 0; s < splits; ++s)\n" \
    "        most = max(most, parts[s * width + value_dim]);\n" \
    "    const float reference = mfa_reference(most);\n" \
    "    for (mfa_index s = 0; s < splits; ++s)\n" \
    "        sum += parts[s * width + value_dim + 1] * part_weight(parts + s * width, value_dim, reference);\n" \
    "\n" \
    "    const float value_factor =\n" \
    "        has_value_scale ? mfa_factor(value_scale, p.value_scale, sequence, head / p.group) : 1.0f;\n" \
    "    const mfa_row_end end =\n" \
    "        mfa_finish_row(p, most, sum, has_sinks ? sinks[head * p.sinks.head] : -INFINITY, value_factor);\n" \
    "    for (mfa_index column = lane; column < value_dim; column += 32) {\n" \
    "        float total = 0;\n" \
    "        for (mfa_index s = 0; s < splits; ++s)\n" \
    "            total += part_weight(parts + s * width, value_dim, reference) * parts[s * width + column];\n" \
    "        to[column * p.out.column] = MFA_O(total * end.factor);\n" \
    "    }\n" \
    "    if (has_logsumexp && lane == 0)\n" \
    "        logsumexp[mfa_place(p.logsumexp, origin.batch, head, row)] = end.logsumexp;\n" \
    "}\n"

#define DECODE_METAL_0 \
    "#line 1 \"decode.metal\"\n" \
    "/*\n" \
    " * The forward pass for few queries, bound by reading keys and values: each is read once, straight into registers. A\n" \
    " * threadgroup computes sums over one part of the keys for MFA_BQ = 8 rows, which are the queries of all heads that\n" \
    " * share a key/value head: row r is head r % group of query r / group. Its simdgroups take tiles of keys in turn and add\n" \
    " * up at the end; combine.metal adds the parts.\n" \
    " *\n" \
    " *   for each tile of keys of this simdgroup that some row sees:\n" \
    " *     scores = transpose(keys . queries transposed)\n" \
    " *     weights = exp(scores - running maximum), running sums\n" \
    " *     sums = sums * correction + weights . values\n" \
    " *\n" \
    " * A lane reads MFA_VECTOR neighbours of a row where a fragment has two. So the columns of two fragments interleave:\n" \
    " * fragment t of columns 16 c .. 16 c + 15 has the columns 16 c + 4 n + 2 t and the next, n = 0 .. 3. A sum over columns\n" \
    " * does not mind, and columns of the output know their place.\n" \
    " */\n"

#define DECODE_METAL_2 \
    "#line 18 \"decode.metal\"\n" \
    "\n" \
    "enum {\n" \
    "    KEY_FRAGMENTS = MFA_BK / 8,\n" \
    "    CHUNK = 4 * MFA_VECTOR,\n" \
    "    CHUNK_FRAGMENTS = MFA_VECTOR / 2,\n" \
    "    DEPTH_CHUNKS = MFA_D / (4 * MFA_VECTOR),\n" \
    "    VALUE_CHUNKS = MFA_DV / (4 * MFA_VECTOR)\n" \
    "};\n" \
    "\n" \
    "static_assert(MFA_BQ == 8, \"one fragment of rows\");\n" \
    "static_assert(MFA_D % CHUNK == 0 && MFA_DV % CHUNK == 0, \"whole chunks\");\n" \
    "\n" \
    "/* Two queries, at fragment_column and the next, as a fragment of their transpose: queries have columns there. */\n" \
    "static inline vec<MFA_T, 2> read_transposed(const device MFA_T *first, const device MFA_T *second,\n" \
    "                                            mfa_index column_stride, int column, mfa_index head_dim) {\n" \
    "    const mfa_index place = column * column_stride;\n" \
    "    const bool inside = column < head_dim;\n" \
    "    return inside ? vec<MFA_T, 2>(first[place], second[place]) : vec<MFA_T, 2>(MFA_T(0));\n" \
    "}\n" \
    "\n" \
    "/* What a lane reads of a key or value at once, where `exists`, else zeros. */\n" \
    "typedef vec<MFA_T, MFA_VECTOR> piece_t;\n" \
    "\n" \
    "template <typename S>\n" \
    "static inline piece_t read_piece(mfa_rows<S> rows, mfa_found_row<S> row, int column, bool exists) {\n" \
    "    return exists ? piece_t(mfa_read_found<MFA_VECTOR>(rows, row, column)) : piece_t(MFA_T(0));\n" \
    "}\n" \
    "\n" \
    "/* This lane's rows of a tile: every eighth from `key` on, as far as there are any. */\n" \
    "template <typename S> struct lane_rows {\n" \
    "    mfa_found_row<S> rows[KEY_FRAGMENTS];\n" \
    "};\n" \
    "\n" \
    "template <typename S> static inline lane_rows<S> find_rows(mfa_rows<S> rows, mfa_index key, mfa_span keys) {\n" \
    "    lane_rows<S> found;\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < KEY_FRAGMENTS; ++f)\n" \
    "        if (key + 8 * f >= keys.begin && key + 8 * f < keys.end)\n" \
    "            mfa_find_row(found.rows[f], rows, key + 8 * f);\n" \
    "    return found;\n" \
    "}\n" \
    "\n" \
    "/* Adds products of some columns of keys, or of values in their place, and of queries. This lane has `column` and those\n" \
    "   behind it of every eighth key from `key` on. */\n" \
    "template <typename S>\n" \
    "static inline void add_products(mfa_rows<S> rows, lane_rows<S> found, mfa_index key, mfa_span keys, int column,\n" \
    "                                thread vec<MFA_T, 2> (&queries)[CHUNK_FRAGMENTS],\n" \
    "                                thread float2 (&scores)[KEY_FRAGMENTS]) {\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < KEY_FRAGMENTS; ++f) {\n" \
    "        const mfa_index own_key = key + 8 * f;\n" \
    "        const piece_t piece = read_piece(rows, found.rows[f], column, own_key >= keys.begin && own_key < keys.end);\n" \
    "#pragma unroll\n" \
    "        for (int t = 0; t < CHUNK_FRAGMENTS; ++t)\n" \
    "            scores[f] =\n" \
    "                mfa_multiply_add<MFA_T, MFA_T>(vec<MFA_T, 2>(piece[2 * t], piece[2 * t + 1]), queries[t], scores[f]);\n" \
    "    }\n" \
    "}\n" \
    "\n" \
    "/* sums += scale weights . values, of integers: columns one after the other, so that few have a sum of their own. This\n" \
    "   lane has `column` and those behind it of every eighth key from `key` on, in each of the chunks. */\n" \
    "static inline void add_integers(mfa_rows<MFA_V> rows, lane_rows<MFA_V> found, mfa_index key, mfa_span keys, int column,\n" \
    "                                float scale, thread float2 (&weights)[KEY_FRAGMENTS],\n" \
    "                                thread float2 (&sums)[VALUE_CHUNKS * CHUNK_FRAGMENTS]) {\n" \
    "#pragma unroll\n" \
    "    for (int c = 0; c < VALUE_CHUNKS; ++c) {\n" \
    "        float2 tile_sums[CHUNK_FRAGMENTS];\n" \
    "#pragma unroll\n" \
    "        for (int t = 0; t < CHUNK_FRAGMENTS; ++t)\n" \
    "            tile_sums[t] = float2(0);\n" \
    "#pragma unroll\n" \
    "        for (int f = 0; f < KEY_FRAGMENTS; ++f) {\n" \
    "            const mfa_index own_key = key + 8 * f;\n" \
    "            const piece_t piece =\n" \
    "                read_piece(rows, found.rows[f], column + CHUNK * c, own_key >= keys.begin && own_key < keys.end);\n" \
    "#pragma unroll\n" \
    "            for (int t = 0; t < CHUNK_FRAGMENTS; ++t)\n" \
    "                tile_sums[t] =\n" \
    "                    mfa_add_weighted(weights[f], vec<MFA_T, 2>(piece[2 * t], piece[2 * t + 1]), tile_sums[t]);\n" \
    "        }\n" \
    "#pragma unroll\n" \
    "        for (int t = 0; t < CHUNK_FRAGMENTS; ++t)\n" \
    "            sums[c * CHUNK_FRAGMENTS + t] = fma(tile_sums[t], float2(scale), sums[c * CHUNK_FRAGMENTS + t]);\n" \
    "    }\n" \
    "}\n" \
    "\n" \
    "[[kernel, max_total_threads_per_threadgroup(32 * MFA_SIMDGROUPS)]] void\n" \
    "attention_decode(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_FORWARD_ARGUMENTS, MFA_KEY_ARGUMENTS,\n" \
    "                 MFA_BIAS_ARGUMENTS, MFA_SEQUENCE_ARGUMENTS, device float *partials [[buffer(MFA_BUFFER_PARTIALS)]],\n" \
    "                 uint threadgroup_number [[threadgroup_position_in_grid]],\n" \
    "                 uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {\n" \
    "    threadgroup float all_max[MFA_SIMDGROUPS][MFA_BQ];\n" \
    "    threadgroup float all_sum[MFA_SIMDGROUPS][MFA_BQ];\n" \
    "    threadgroup float totals[MFA_BQ][MFA_DV];\n" \
    "\n" \
    "    mfa_index number = p.first_threadgroup + threadgroup_number;\n" \
    "    const mfa_index split = number % p.splits;\n" \
    "    number /= p.splits;\n" \
    "    const mfa_index first_row = number % p.query_tiles * MFA_BQ;\n" \
    "    number /= p.query_tiles;\n" \
    "    const mfa_index value_block = number % p.value_blocks;\n" \
    "    number /= p.value_blocks;\n" \
    "    const mfa_index kv_head = number % p.kv_heads, batch = number / p.kv_heads, group = p.group;\n" \
    "\n" \
    "    const mfa_sequence sequence = mfa_sequence_of(p, MFA_LISTS, batch);\n" \
    "    const mfa_extent extent = sequence.extent;\n" \
    "    const mfa_index row_count = extent.query_count * group, last_row = min(first_row + MFA_BQ, row_count) - 1;\n" \
    "    if (has_sequences && last_row < first_row)\n" \
    "        return;\n" \
    "    const int first_column = int(value_block) * MFA_DV;\n" \
    "    const mfa_biases biases = MFA_BIASES;\n" \
    "    const mfa_rows<MFA_K> key_rows = mfa_key_rows(p, MFA_KEYS, sequence, kv_head);\n" \
    "    const mfa_rows<MFA_V> value_rows = mfa_value_rows(p, MFA_KEYS, sequence, kv_head);\n" \
    "\n" \
    "    /* This lane's row of scores; lanes beyond the last row repeat it, and write nothing. */\n" \
    "    const int fragment_row = mfa_fragment_row(lane), fragment_column = mfa_fragment_column(lane);\n" \
    "    const mfa_index row = min(first_row + fragment_row, last_row);\n" \
    "    const mfa_index head = kv_head * group + row % group, query_row = row / group;\n" \
    "    const mfa_scoring scoring = mfa_scaled(p, mfa_scoring_of(p, biases, sequence, head), MFA_QUERIES, batch, kv_head);\n" \
    "    mfa_mask_row mask_row;\n" \
    "    if (has_mask)\n" \
    "        mask_row = mfa_mask_row_of(p, biases, batch, head, query_row);\n" \
    "\n" \
    "    /* Sequences have as many splits, each of them as long as its sequence needs. */\n" \
    "    mfa_index split_size = p.split_keys;\n" \
    "    if (has_sequences)\n" \
    "        split_size = max((extent.key_count + p.splits * MFA_BK - 1) / (p.splits * MFA_BK), mfa_index(1)) * MFA_BK;\n" \
    "    const mfa_span split_keys = mfa_span_of(split * split_size, (split + 1) * split_size);\n" \
    "    const mfa_span rows_here = mfa_span_of(first_row / group, last_row / group + 1);\n" \
    "    const mfa_span keys = mfa_span_cut(mfa_rule_keys_some_see(extent, rows_here), split_keys);\n" \
    "\n" \
    "    /* Rows of several heads have blocks of their own each. */\n" \
    "    const mfa_blocks blocks = mfa_blocks_of(p, biases, batch, head);\n" \
    "    mfa_softmax_row state = mfa_softmax_row_of(\n" \
    "        query_row, mfa_span_cut(mfa_rule_keys_some_see(extent, mfa_span_of(query_row, query_row + 1)), split_keys));\n" \
    "\n" \
    "    mfa_metal_query_terms rounded;\n" \
    "    if (has_integer_keys)\n" \
    "        rounded = mfa_query_terms_of(p, MFA_QUERIES, sequence, head, query_row);\n" \
    "\n" \
    "    const mfa_index row_a = min(first_row + fragment_column, last_row), row_b = min(row_a + 1, last_row);\n" \
    "    const mfa_index head_a = kv_head * group + row_a % group, head_b = kv_head * group + row_b % group;\n" \
    "    const mfa_rows<MFA_T> queries_a = mfa_query_rows(p, MFA_QUERIES, sequence, head_a);\n" \
    "    const mfa_index head_dim = p.head_dim, query_stride = queries_a.column_stride;\n" \
    "    const device MFA_T *query_a = mfa_row_at(queries_a, row_a / group);\n" \
    "    const device MFA_T *query_b = mfa_row_at(mfa_query_rows(p, MFA_QUERIES, sequence, head_b), row_b / group);\n" \
    "    const device MFA_T *query_value_a = query_a, *query_value_b = query_b;\n" \
    "    if (has_query_value) {\n" \
    "        query_value_a = mfa_row_at(mfa_query_value_rows(p, MFA_QUERIES, sequence, head_a), row_a / group);\n" \
    "        query_value_b = mfa_row_at(mfa_query_value_rows(p, MFA_QUERIES, sequence, head_b), row_b / group);\n" \
    "    }\n" \
    "    /* Of a fragment's row of the transposed queries. */\n" \
    "    const int query_column = fragment_row / 2 * MFA_VECTOR + fragment_row % 2;\n" \
    "#if MFA_RESIDENT\n" \
    "    vec<MFA_T, 2> resident_query[DEPTH_CHUNKS][CHUNK_FRAGMENTS];\n" \
    "#pragma unroll\n" \
    "    for (int c = 0; c < DEPTH_CHUNKS; ++c)\n" \
    "#pragma unroll\n" \
    "        for (int t = 0; t < CHUNK_FRAGMENTS; ++t)\n" \
    "            resident_query[c][t] =\n" \
    "                read_transposed(query_a, query_b, query_stride, CHUNK * c + query_column + 2 * t, head_dim);\n" \
    "#endif\n" \
    "\n" \
    "    float2 sums[VALUE_CHUNKS * CHUNK_FRAGMENTS];\n" \
    "#pragma unroll\n" \
    "    for (int n = 0; n < VALUE_CHUNKS * CHUNK_FRAGMENTS; ++n)\n" \
    "        sums[n] = float2(0);\n" \
    "\n" \
    "    for (mfa_index first_key = (keys.begin / MFA_BK + simdgroup) * MFA_BK; first_key < keys.end;\n" \
    "         first_key += MFA_BK * MFA_SIMDGROUPS) {\n" \
    "        mfa_lane_pairs pairs;\n" \
    "        if (has_blocks) {\n" \
    "            pairs = mfa_lane_pairs_of<MFA_BK, false>(blocks, state.row, first_key, state.keys, fragment_column);\n" \
    "            if (!simd_any(pairs.visible != 0))\n" \
    "                continue;\n" \
    "        }\n" \
    "        float2 mask_bias[KEY_FRAGMENTS];\n" \
    "        if (has_mask && !simd_any(mfa_read_bias(mask_row, pairs, state, first_key, fragment_column, mask_bias)))\n" \
    "            continue;\n" \
    "\n" \
    "        float2 scores[KEY_FRAGMENTS];\n" \
    "#pragma unroll\n" \
    "        for (int f = 0; f < KEY_FRAGMENTS; ++f)\n" \
    "            scores[f] = float2(0);\n" \
    "        const lane_rows<MFA_K> own_keys = find_rows(key_rows, first_key + fragment_row, keys);\n" \
    "        const lane_rows<MFA_V> own_values = find_rows(value_rows, first_key + fragment_row, keys);\n" \
    "#if MFA_RESIDENT\n" \
    "#pragma unroll\n" \
    "#endif\n" \
    "        for (int c = 0; c < DEPTH_CHUNKS; ++c) {\n" \
    "            vec<MFA_T, 2> columns[CHUNK_FRAGMENTS];\n" \
    "#pragma unroll\n" \
    "            for (int t = 0; t < CHUNK_FRAGMENTS; ++t) {\n" \
    "#if MFA_RESIDENT\n" \
    "                columns[t] = resident_query[c][t];\n" \
    "#else\n" \
    "                columns[t] =\n" \
    "                    read_transposed(query_a, query_b, query_stride, CHUNK * c + query_column + 2 * t, head_dim);\n" \
    "#endif\n" \
    "            }\n" \
    "            add_products(key_rows, own_keys, first_key + fragment_row, keys,\n" \
    "                         CHUNK * c + fragment_column / 2 * MFA_VECTOR, columns, scores);\n" \
    "        }\n" \
    "        for (int column = 0; has_query_value && column < value_rows.length; column += CHUNK) {\n" \
    "            vec<MFA_T, 2> columns[CHUNK_FRAGMENTS];\n" \
    "#pragma unroll\n" \
    "            for (int t = 0; t < CHUNK_FRAGMENTS; ++t)\n" \
    "                columns[t] = read_transposed(query_value_a, query_value_b, p.query_value.column,\n" \
    "                                             column + query_column + 2 * t, p.value_dim);\n" \
    "            add_products(value_rows, own_values, first_key + fragment_row, keys,\n" \
    "                         column + fragment_column / 2 * MFA_VECTOR, columns, scores);\n" \
    "        }\n" \
    "\n" \
    "#pragma unroll\n" \
    "        for (int f = 0; f < KEY_FRAGMENTS; ++f)\n" \
    "            scores[f] = mfa_transpose(scores[f], lane);\n" \
    "        if (has_integer_keys)\n" \
    "            mfa_scale_products(key_rows, rounded, state.keys, first_key, fragment_column, scores);\n" \
    "        mfa_score_row(scoring, pairs, state, false, first_key, fragment_column, mask_bias, scores);\n" \
    "        const uint hidden = mfa_hidden_keys(scores);\n" \
    "        const float correction = mfa_weigh_row(state, scores);\n" \
    "#pragma unroll\n" \
    "        for (int n = 0; n < VALUE_CHUNKS * CHUNK_FRAGMENTS; ++n)\n" \
    "            sums[n] *= correction;\n" \
    "        if (has_dropout)\n" \
    "            mfa_drop_row(mfa_dropout_of(p, batch, head), query_row, first_key, fragment_column, scores);\n" \
    "\n" \
    "        const int value_column = first_column + fragment_column / 2 * MFA_VECTOR;\n" \
    "        if (has_integer_values) {\n" \
    "            const float scale = mfa_round_weights(value_rows, state.keys, first_key, fragment_column, scores);\n" \
    "            add_integers(value_rows, own_values, first_key + fragment_row, keys, value_column, scale, scores, sums);\n" \
    "            continue;\n" \
    "        }\n" \
    "        bool not_finite = false;\n" \
    "#pragma unroll\n" \
    "        for (int f = 0; f < KEY_FRAGMENTS; ++f) {\n" \
    "            const mfa_index own_key = first_key + 8 * f + fragment_row;\n" \
    "#pragma unroll\n" \
    "            for (int c = 0; c < VALUE_CHUNKS; ++c) {\n" \
    "                piece_t piece = read_piece(value_rows, own_values.rows[f], value_column + CHUNK * c,\n" \
    "                                           own_key >= keys.begin && own_key < keys.end);\n" \
    "                not_finite = not_finite || !mfa_is_finite<MFA_VECTOR, MFA_T>(piece);\n" \
    "                piece = mfa_only_finite<MFA_VECTOR, MFA_T>(piece);\n" \
    "#pragma unroll\n" \
    "                for (int t = 0; t < CHUNK_FRAGMENTS; ++t)\n" \
    "                    sums[c * CHUNK_FRAGMENTS + t] = mfa_add_weighted(\n" \
    "                        scores[f], vec<MFA_T, 2>(piece[2 * t], piece[2 * t + 1]), sums[c * CHUNK_FRAGMENTS + t]);\n" \
    "            }\n" \
    "        }\n" \
    "        if (simd_any(not_finite))\n" \
    "            mfa_add_not_finite<CHUNK_FRAGMENTS>(value_rows, first_key, keys, first_column, lane, hidden, scores, sums);\n" \
    "    }\n" \
    "\n" \
    "    /* Simdgroups add up in order. */\n" \
    "    const float row_max = state.most, row_sum = mfa_row_sum(state.sum);\n" \
    "    if (fragment_column == 0) {\n" \
    "        all_max[simdgroup][fragment_row] = row_max;\n" \
    "        all_sum[simdgroup][fragment_row] = row_sum;\n" \
    "    }\n" \
    "    threadgroup_barrier(mem_flags::mem_threadgroup);\n" \
    "    float most = -INFINITY, total = 0;\n" \
    "    for (int s = 0; s < MFA_SIMDGROUPS; ++s)\n" \
    "        most = max(most, all_max[s][fragment_row]);\n" \
    "    const float reference = mfa_reference(most);\n" \
    "    for (int s = 0; s < MFA_SIMDGROUPS; ++s)\n" \
    "        total += all_sum[s][fragment_row] * mfa_weight(all_max[s][fragment_row], reference);\n" \
    "    const float correction = mfa_weight(row_max, reference);\n" \
    "    for (uint s = 0; s < MFA_SIMDGROUPS; ++s) {\n" \
    "        if (s == simdgroup)\n" \
    "#pragma unroll\n" \
    "            for (int c = 0; c < VALUE_CHUNKS; ++c)\n" \
    "#pragma unroll\n" \
    "                for (int t = 0; t < CHUNK_FRAGMENTS; ++t)\n" \
    "                    for (int i = 0; i < 2; ++i) {\n" \
    "                        const int column = CHUNK * c + fragment_column / 2 * MFA_VECTOR + 2 * t + i;\n" \
    "                        const float mine = sums[c * CHUNK_FRAGMENTS + t][i] * correction;\n" \
    "                        totals[fragment_row][column] = s == 0 ? mine : totals[fragment_row][column] + mine;\n" \
    "                    }\n" \
    "        threadgroup_barrier(mem_flags::mem_threadgroup);\n" \
    "    }\n" \
    "\n" \
    "    const mfa_index width = p.value_dim + MFA_PARTIAL_EXTRA;\n" \
    "    const mfa_index columns = min(mfa_index(MFA_DV), p.value_dim - first_column);\n" \
    "    for (mfa_index r = simdgroup; first_row + r <= last_row; r += MFA_SIMDGROUPS) {\n" \
    "        const mfa_index to_head = kv_head * group + (first_row + r) % group, to_row = (first_row + r) / group;\n" \
    "        device float *part = partials + (mfa_stored_row(p, sequence, to_head, to_row) * p.splits + split) * width;\n" \
    "        for (mfa_index column = lane; column < columns; column += 32)\n" \
    "            part[first_column + column] =\n" \
    "                totals[r][column] *\n" \
    "                (has_integer_values ? mfa_column_scale(value_rows.coding, int(first_column + column)) : 1.0f);\n" \
    "    }\n" \
    "    if (simdgroup == 0 && value_block == 0 && fragment_column == 0 && first_row + fragment_row <= last_row) {\n" \
    "        device float *part = partials + (mfa_stored_row(p, sequence, head, query_row) * p.splits + split) * width;\n" \
    "        part[p.value_dim] = mfa_to_natural(most);\n" \
    "        part[p.value_dim + 1] = total;\n" \
    "    }\n" \
    "}\n"

#define FILL_METAL_0 \
    "#line 1 \"fill.metal\"\n" \
    "/* Gives each element of a result the value of a row that no sequence has: 0, or -inf in logsumexp. */\n"

#define FILL_METAL_1 \
    "#line 3 \"fill.metal\"\n" \
    "\n" \
    "#define THREADS (32 * MFA_FILL_SIMDGROUPS)\n" \
    "\n" \
    "[[kernel, max_total_threads_per_threadgroup(THREADS)]] void attention_fill(\n" \
    "    constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], device MFA_G *result [[buffer(MFA_BUFFER_FILLED)]],\n" \
    "    uint threadgroup_number [[threadgroup_position_in_grid]], uint thread_number [[thread_index_in_threadgroup]]) {\n" \
    "    const mfa_index heads = p.filled_size.head, rows = p.filled_size.row;\n" \
    "    const mfa_index first_row = (p.first_threadgroup + threadgroup_number) * MFA_FILL_ROWS;\n" \
    "    const mfa_index end = min(first_row + MFA_FILL_ROWS, p.filled_size.batch * heads * rows);\n" \
    "    const uint columns = uint(p.filled_size.column), count = uint(end - first_row) * columns;\n" \
    "    for (uint i = thread_number; i < count; i += THREADS) {\n" \
    "        const mfa_index row = first_row + i / columns, column = i % columns;\n" \
    "        result[mfa_place(p.filled, row / rows / heads, row / rows % heads, row % rows) + column * p.filled.column] =\n" \
    "            has_logsumexp ? MFA_G(-INFINITY) : MFA_G(0);\n" \
    "    }\n" \
    "}\n"

#define FORWARD_METAL_0 \
    "#line 1 \"forward.metal\"\n" \
    "/*\n" \
    " * The forward pass. A threadgroup computes MFA_BQ rows of one head, each simdgroup some of them:\n" \
    " *\n" \
    " *   for each tile of keys that some row sees:\n" \
    " *     stage keys, transposed, and values in threadgroup memory\n" \
    " *     scores = queries . keys                    (of rows that see the tile)\n" \
    " *     weights = exp(scores - running maximum), running sums\n" \
    " *     out = out * correction + weights . values\n" \
    " *   divide, and write out and logsumexp\n" \
    " *\n" \
    " * Queries, scores and out are fragments in registers. Queries outside, keys inside: FlashAttention-2 (Dao, 2023). A\n" \
    " * simdgroup has whole rows, so that it alone needs their maximum, as in MLX's steel attention.\n" \
    " */\n"

#define FORWARD_METAL_2 \
    "#line 16 \"forward.metal\"\n" \
    "\n" \
    "enum {\n" \
    "    THREADS = 32 * MFA_SIMDGROUPS,\n" \
    "    SIMDGROUP_ROWS = MFA_BQ / MFA_SIMDGROUPS,\n" \
    "    ROW_FRAGMENTS = MFA_BQ / MFA_SIMDGROUPS / 8,\n" \
    "    KEY_FRAGMENTS = MFA_BK / 8,\n" \
    "    BLOCK_FRAGMENTS = MFA_BD / 8,\n" \
    "    DEPTH_BLOCKS = MFA_D / MFA_BD,\n" \
    "    VALUE_FRAGMENTS = MFA_DV / 8,\n" \
    "    KEY_LEAD = mfa_lead<MFA_T>(MFA_BK),\n" \
    "    VALUE_LEAD = mfa_lead<MFA_T>(MFA_DV),\n" \
    "    KEY_PIECES = MFA_BD * mfa_lead<MFA_T>(MFA_BK) / MFA_VECTOR,\n" \
    "    VALUE_PIECES = MFA_BK * mfa_lead<MFA_T>(MFA_DV) / MFA_VECTOR\n" \
    "};\n" \
    "\n" \
    "static_assert(MFA_BQ % (8 * MFA_SIMDGROUPS) == 0, \"each simdgroup has whole fragments of rows\");\n" \
    "static_assert(MFA_D % MFA_BD == 0 && MFA_BD % 8 == 0 && MFA_DV % 8 == 0, \"matrices are 8 wide\");\n" \
    "static_assert(!MFA_RESIDENT || MFA_BD == MFA_D, \"registers are not indexed at run time\");\n" \
    "\n" \
    "/* A fragment of queries; rows beyond the last are zero. */\n" \
    "static inline vec<MFA_T, 2> read_query(mfa_rows<MFA_T> queries, mfa_index row, mfa_index query_count, int column) {\n" \
    "    return row < query_count ? mfa_read<2>(queries, row, column) : vec<MFA_T, 2>(MFA_T(0));\n" \
    "}\n" \
    "\n" \
    "/* Adds products of fragments of queries and of staged keys; `columns`: what this lane has of the first of these. */\n" \
    "static inline void add_products(thread vec<MFA_T, 2> (&queries)[ROW_FRAGMENTS], const threadgroup MFA_T *columns,\n" \
    "                                thread float2 (&scores)[ROW_FRAGMENTS][KEY_FRAGMENTS]) {\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < KEY_FRAGMENTS; ++f) {\n" \
    "        const vec<MFA_T, 2> some = mfa_read_staged(columns + 8 * f);\n" \
    "#pragma unroll\n" \
    "        for (int r = 0; r < ROW_FRAGMENTS; ++r)\n" \
    "            scores[r][f] = mfa_multiply_add<MFA_T, MFA_T>(queries[r], some, scores[r][f]);\n" \
    "    }\n" \
    "}\n" \
    "\n" \
    "[[kernel, max_total_threads_per_threadgroup(32 * MFA_SIMDGROUPS)]] void\n" \
    "attention_forward(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]], MFA_FORWARD_ARGUMENTS, MFA_KEY_ARGUMENTS,\n" \
    "                  MFA_BIAS_ARGUMENTS, MFA_SEQUENCE_ARGUMENTS, device MFA_O *out [[buffer(MFA_BUFFER_OUT)]],\n" \
    "                  device float *logsumexp [[buffer(MFA_BUFFER_LOGSUMEXP), function_constant(has_logsumexp)]],\n" \
    "                  const device float *sinks [[buffer(MFA_BUFFER_SINKS), function_constant(has_sinks)]],\n" \
    "                  const device float *value_scale\n" \
    "                  [[buffer(MFA_BUFFER_VALUE_SCALE), function_constant(has_value_scale)]],\n" \
    "                  MFA_THREAD_ARGUMENTS) {\n" \
    "    threadgroup vec<MFA_T, MFA_VECTOR> staged_keys[KEY_PIECES];\n" \
    "    threadgroup vec<MFA_T, MFA_VECTOR> staged_values[VALUE_PIECES];\n" \
    "    threadgroup uint votes[2][MFA_SIMDGROUPS], not_finite[MFA_SIMDGROUPS];\n" \
    "    threadgroup MFA_T *keys = (threadgroup MFA_T *)staged_keys, *values = (threadgroup MFA_T *)staged_values;\n" \
    "\n" \
    "    /* The costliest causal rows, the last, come first. */\n" \
    "    mfa_index number = p.first_threadgroup + threadgroup_number;\n" \
    "    const mfa_index tile_number = p.query_tiles - 1 - number % p.query_tiles;\n" \
    "    number /= p.query_tiles;\n" \
    "    const mfa_index value_block = number % p.value_blocks;\n" \
    "    number /= p.value_blocks;\n" \
    "    const mfa_index head = number % p.heads, kv_head = head / p.group;\n" \
    "    const mfa_lists lists = MFA_LISTS;\n" \
    "    const mfa_tile own_tile = mfa_query_tile<MFA_BQ>(p, lists, number / p.heads, tile_number);\n" \
    "    const mfa_sequence sequence = mfa_sequence_of(p, lists, own_tile.sequence);\n" \
    "    const mfa_extent extent = sequence.extent;\n" \
    "    const mfa_index batch = sequence.number, first_row = own_tile.first, query_count = extent.query_count;\n" \
    "    if (!mfa_tile_exists(own_tile, query_count))\n" \
    "        return;\n" \
    "\n" \
    "    const mfa_biases biases = MFA_BIASES;\n" \
    "    const mfa_blocks blocks = mfa_blocks_of(p, biases, batch, head);\n" \
    "    const mfa_rows<MFA_T> queries = mfa_query_rows(p, MFA_QUERIES, sequence, head);\n" \
    "    mfa_rows<MFA_T> query_values;\n" \
    "    if (has_query_value)\n" \
    "        query_values = mfa_query_value_rows(p, MFA_QUERIES, sequence, head);\n" \
    "    const mfa_rows<MFA_K> key_rows = mfa_key_rows(p, MFA_KEYS, sequence, kv_head);\n" \
    "    const mfa_rows<MFA_V> value_rows = mfa_value_rows(p, MFA_KEYS, sequence, kv_head);\n" \
    "    const mfa_scoring scoring = mfa_scaled(p, mfa_scoring_of(p, biases, sequence, head), MFA_QUERIES, batch, kv_head);\n" \
    "\n" \
    "    /* This lane's first row, and its columns in each fragment; further rows are 8 apart. */\n" \
    "    const int fragment_row = mfa_fragment_row(lane), fragment_column = mfa_fragment_column(lane);\n" \
    "    const mfa_index simdgroup_row = first_row + SIMDGROUP_ROWS * simdgroup, lane_row = simdgroup_row + fragment_row;\n" \
    "\n" \
    "    mfa_softmax_row rows[ROW_FRAGMENTS];\n" \
    "    mfa_metal_query_terms rounded[ROW_FRAGMENTS];\n" \
    "    mfa_mask_row mask_rows[ROW_FRAGMENTS];\n" \
    "#pragma unroll\n" \
    "    for (int r = 0; r < ROW_FRAGMENTS; ++r) {\n" \
    "        const mfa_index row = lane_row + 8 * r;\n" \
    "        rows[r] = mfa_softmax_row_of(row, mfa_rule_keys_some_see(extent, mfa_span_of(row, row + 1)));\n" \
    "        if (has_mask)\n" \
    "            mask_rows[r] = mfa_mask_row_of(p, biases, batch, head, min(row, query_count - 1));\n" \
    "        if (has_integer_keys)\n" \
    "            rounded[r] = mfa_query_terms_of(p, MFA_QUERIES, sequence, head, min(row, query_count - 1));\n" \
    "    }\n" \
    "    const mfa_walk walk = mfa_walk_over_keys(extent, blocks, mfa_span_of(first_row, first_row + MFA_BQ));\n" \
    "    const mfa_walk own_walk =\n" \
    "        mfa_walk_over_keys(extent, blocks, mfa_span_of(simdgroup_row, simdgroup_row + SIMDGROUP_ROWS));\n" \
    "\n" \
    "#if MFA_RESIDENT\n" \
    "    vec<MFA_T, 2> resident_query[ROW_FRAGMENTS][BLOCK_FRAGMENTS];\n" \
    "#pragma unroll\n" \
    "    for (int r = 0; r < ROW_FRAGMENTS; ++r)\n" \
    "#pragma unroll\n" \
    "        for (int d = 0; d < BLOCK_FRAGMENTS; ++d)\n" \
    "            resident_query[r][d] = read_query(queries, lane_row + 8 * r, query_count, 8 * d + fragment_column);\n" \
    "#endif\n" \
    "\n" \
    "    float2 sums[ROW_FRAGMENTS][VALUE_FRAGMENTS];\n" \
    "#pragma unroll\n" \
    "    for (int r = 0; r < ROW_FRAGMENTS; ++r)\n" \
    "#pragma unroll\n" \
    "        for (int c = 0; c < VALUE_FRAGMENTS; ++c)\n" \
    "            sums[r][c] = float2(0);\n" \
    "\n" \
    "    uint round = 0;\n" \
    "    for (mfa_index first_key = mfa_walk_first<MFA_BK>(walk); first_key < walk.visited.end;\n" \
    "         first_key = mfa_walk_next<MFA_BK>(walk, first_key + MFA_BK)) {\n" \
    "        const mfa_span tile = mfa_span_of(first_key, first_key + MFA_BK);\n" \
    "        const bool whole = mfa_span_holds(mfa_rule_keys_all_see(extent, own_walk.own), tile);\n" \
    "        bool is_visited = mfa_walk_visits(own_walk, tile); /* by this simdgroup */\n" \
    "\n" \
    "        mfa_lane_pairs pairs[ROW_FRAGMENTS];\n" \
    "        if (has_blocks && is_visited) {\n" \
    "            const bool blocks_are_whole = whole && mfa_blocks_are_whole(blocks, own_walk.own, tile);\n" \
    "#pragma unroll\n" \
    "            for (int r = 0; r < ROW_FRAGMENTS; ++r)\n" \
    "                pairs[r] = blocks_are_whole ? mfa_whole_pairs()\n" \
    "                                            : mfa_lane_pairs_of<MFA_BK, false>(blocks, rows[r].row, first_key,\n" \
    "                                                                               rows[r].keys, fragment_column);\n" \
    "        }\n" \
    "\n" \
    "        float2 mask_bias[ROW_FRAGMENTS][KEY_FRAGMENTS];\n" \
    "        if (has_mask) {\n" \
    "            bool any = false;\n" \
    "            if (is_visited)\n" \
    "#pragma unroll\n" \
    "                for (int r = 0; r < ROW_FRAGMENTS; ++r)\n" \
    "                    any |= mfa_read_bias(mask_rows[r], pairs[r], rows[r], first_key, fragment_column, mask_bias[r]);\n" \
    "            is_visited = simd_any(any);\n" \
    "            round ^= 1;\n" \
    "            if (lane == 0)\n" \
    "                votes[round][simdgroup] = is_visited;\n" \
    "        }\n" \
    "\n" \
    "        float2 scores[ROW_FRAGMENTS][KEY_FRAGMENTS];\n" \
    "#pragma unroll\n" \
    "        for (int r = 0; r < ROW_FRAGMENTS; ++r)\n" \
    "#pragma unroll\n" \
    "            for (int f = 0; f < KEY_FRAGMENTS; ++f)\n" \
    "                scores[r][f] = float2(0);\n" \
    "\n" \
    "        bool is_staged = true;\n" \
    "        for (int block = 0; block < DEPTH_BLOCKS && is_staged; ++block) {\n" \
    "            threadgroup_barrier(mem_flags::mem_threadgroup);\n" \
    "            if (has_mask) {\n" \
    "                uint all_votes = 0;\n" \
    "                for (int s = 0; s < MFA_SIMDGROUPS; ++s)\n" \
    "                    all_votes |= votes[round][s];\n" \
    "                is_staged = all_votes != 0;\n" \
    "            }\n" \
    "            if (is_staged) {\n" \
    "                const mfa_span part = mfa_walk_part(walk, first_key, MFA_BK);\n" \
    "                const int begin = int(part.begin), end = int(part.end);\n" \
    "                mfa_stage<MFA_BK, MFA_BD, true, false, THREADS>(keys, key_rows, first_key, begin, end, block * MFA_BD,\n" \
    "                                                                thread_number);\n" \
    "                if (block == DEPTH_BLOCKS - 1) {\n" \
    "                    const bool found = simd_any(mfa_stage<MFA_BK, MFA_DV, false, true, THREADS>(\n" \
    "                        values, value_rows, first_key, begin, end, int(value_block) * MFA_DV, thread_number));\n" \
    "                    if (lane == 0)\n" \
    "                        not_finite[simdgroup] = found;\n" \
    "                }\n" \
    "                threadgroup_barrier(mem_flags::mem_threadgroup);\n" \
    "                if (is_visited)\n" \
    "#if MFA_RESIDENT\n" \
    "#pragma unroll\n" \
    "#endif\n" \
    "                    for (int d = 0; d < BLOCK_FRAGMENTS; ++d) {\n" \
    "                        vec<MFA_T, 2> part[ROW_FRAGMENTS];\n" \
    "#pragma unroll\n" \
    "                        for (int r = 0; r < ROW_FRAGMENTS; ++r) {\n" \
    "#if MFA_RESIDENT\n" \
    "                            part[r] = resident_query[r][d];\n" \
    "#else\n" \
    "                            part[r] = read_query(queries, lane_row + 8 * r, query_count,\n" \
    "                                                 block * MFA_BD + 8 * d + fragment_column);\n" \
    "#endif\n" \
    "                        }\n" \
    "                        add_products(part, keys + (8 * d + fragment_row) * KEY_LEAD + fragment_column, scores);\n" \
    "                    }\n" \
    "            }\n" \
    "        }\n" \
    "        /* Values take the place of keys. */\n" \
    "        for (int column = 0; has_query_value && is_staged && column < value_rows.length; column += MFA_BD) {\n" \
    "            const mfa_span part = mfa_walk_part(walk, first_key, MFA_BK);\n" \
    "            threadgroup_barrier(mem_flags::mem_threadgroup);\n" \
    "            mfa_stage<MFA_BK, MFA_BD, true, false, THREADS>(keys, value_rows, first_key, int(part.begin), int(part.end),\n" \
    "                                                            column, thread_number);\n" \
    "            threadgroup_barrier(mem_flags::mem_threadgroup);\n" \
    "            for (int d = 0; d < BLOCK_FRAGMENTS && is_visited; ++d) {\n" \
    "                vec<MFA_T, 2> part[ROW_FRAGMENTS];\n" \
    "#pragma unroll\n" \
    "                for (int r = 0; r < ROW_FRAGMENTS; ++r)\n" \
    "                    part[r] = read_query(query_values, lane_row + 8 * r, query_count, column + 8 * d + fragment_column);\n" \
    "                add_products(part, keys + (8 * d + fragment_row) * KEY_LEAD + fragment_column, scores);\n" \
    "            }\n" \
    "        }\n" \
    "        if (!is_visited)\n" \
    "            continue;\n" \
    "\n" \
    "        uint any_not_finite = 0, hidden[ROW_FRAGMENTS];\n" \
    "        float correction[ROW_FRAGMENTS], weight_scale[ROW_FRAGMENTS];\n" \
    "        for (int s = 0; s < MFA_SIMDGROUPS; ++s)\n" \
    "            any_not_finite |= not_finite[s];\n" \
    "#pragma unroll\n" \
    "        for (int r = 0; r < ROW_FRAGMENTS; ++r) {\n" \
    "            if (has_integer_keys)\n" \
    "                mfa_scale_products(key_rows, rounded[r], rows[r].keys, first_key, fragment_column, scores[r]);\n" \
    "            mfa_score_row(scoring, pairs[r], rows[r], whole, first_key, fragment_column, mask_bias[r], scores[r]);\n" \
    "            if (any_not_finite != 0)\n" \
    "                hidden[r] = mfa_hidden_keys(scores[r]);\n" \
    "            correction[r] = mfa_weigh_row(rows[r], scores[r]);\n" \
    "            if (has_dropout)\n" \
    "                mfa_drop_row(mfa_dropout_of(p, batch, head), rows[r].row, first_key, fragment_column, scores[r]);\n" \
    "            if (has_integer_values)\n" \
    "                weight_scale[r] = mfa_round_weights(value_rows, rows[r].keys, first_key, fragment_column, scores[r]);\n" \
    "        }\n" \
    "        /* Each tile has a sum of its own: long sums of floats lose digits. */\n" \
    "#pragma unroll\n" \
    "        for (int c = 0; c < VALUE_FRAGMENTS; ++c) {\n" \
    "            float2 tile_sums[ROW_FRAGMENTS];\n" \
    "#pragma unroll\n" \
    "            for (int r = 0; r < ROW_FRAGMENTS; ++r)\n" \
    "                tile_sums[r] = float2(0);\n" \
    "#pragma unroll\n" \
    "            for (int f = 0; f < KEY_FRAGMENTS; ++f) {\n" \
    "                const vec<MFA_T, 2> part =\n" \
    "                    mfa_read_staged(values + (8 * f + fragment_row) * VALUE_LEAD + 8 * c + fragment_column);\n" \
    "#pragma unroll\n" \
    "                for (int r = 0; r < ROW_FRAGMENTS; ++r)\n" \
    "                    tile_sums[r] = mfa_add_weighted(scores[r][f], part, tile_sums[r]);\n" \
    "            }\n" \
    "#pragma unroll\n" \
    "            for (int r = 0; r < ROW_FRAGMENTS; ++r) {\n" \
    "                if (has_integer_values)\n" \
    "                    tile_sums[r] *= weight_scale[r];\n" \
    "                sums[r][c] = fma(sums[r][c], float2(correction[r]), tile_sums[r]);\n" \
    "            }\n" \
    "        }\n" \
    "        if (any_not_finite != 0)\n" \
    "#pragma unroll\n" \
    "            for (int r = 0; r < ROW_FRAGMENTS; ++r)\n" \
    "                mfa_add_not_finite<1>(value_rows, first_key, walk.visited, int(value_block) * MFA_DV, lane, hidden[r],\n" \
    "                                      scores[r], sums[r]);\n" \
    "    }\n" \
    "\n" \
    "    const mfa_result_rows<MFA_O> outs = mfa_result_rows_of(out, p.out, sequence.queries, head, p.value_dim);\n" \
    "    const float sink = has_sinks ? sinks[head * p.sinks.head] : -INFINITY;\n" \
    "    const float value_factor = has_value_scale ? mfa_factor(value_scale, p.value_scale, batch, kv_head) : 1.0f;\n" \
    "#pragma unroll\n" \
    "    for (int r = 0; r < ROW_FRAGMENTS; ++r) {\n" \
    "        const mfa_index row = rows[r].row;\n" \
    "        const mfa_row_end end =\n" \
    "            mfa_finish_row(p, mfa_to_natural(rows[r].most), mfa_row_sum(rows[r].sum), sink, value_factor);\n" \
    "        if (row < query_count) {\n" \
    "#pragma unroll\n" \
    "            for (int c = 0; c < VALUE_FRAGMENTS; ++c) {\n" \
    "                const int column = int(value_block) * MFA_DV + 8 * c + fragment_column;\n" \
    "                if (has_integer_values)\n" \
    "                    sums[r][c] = mfa_scale_columns(value_rows, column, sums[r][c]);\n" \
    "                mfa_write_pair(outs, row, column, sums[r][c] * end.factor);\n" \
    "            }\n" \
    "            if (has_logsumexp && value_block == 0 && fragment_column == 0)\n" \
    "                logsumexp[mfa_place(p.logsumexp, sequence.queries.batch, head, sequence.queries.row + row)] =\n" \
    "                    end.logsumexp;\n" \
    "        }\n" \
    "    }\n" \
    "}\n"

#define MFA_ARGUMENTS_H_0 \
    "#line 1 \"mfa_arguments.h\"\n" \
    "/*\n" \
    " * Kernel arguments that belong together: MFA_..._ARGUMENTS declares them, and the macro behind it makes one value of\n" \
    " * what a kernel was given. A new operand is a line here and in that value, not in each kernel.\n" \
    " */\n" \
    "#ifndef MFA_ARGUMENTS_H\n" \
    "#define MFA_ARGUMENTS_H\n" \
    "\n"

#define MFA_ARGUMENTS_H_1 \
    "#line 9 \"mfa_arguments.h\"\n" \
    "\n" \
    "/* ------------------------------------------------------------------ keys and values */\n" \
    "\n" \
    "#define MFA_KEY_ARGUMENTS                                                                                         \\\n" \
    "    const device MFA_K *key [[buffer(MFA_BUFFER_KEY)]], const device MFA_V *value [[buffer(MFA_BUFFER_VALUE)]],   \\\n" \
    "        const device uchar *key_scales [[buffer(MFA_BUFFER_KEY_SCALES), function_constant(has_key_codes)]],       \\\n" \
    "        const device uchar *key_zero_points                                                                       \\\n" \
    "        [[buffer(MFA_BUFFER_KEY_ZERO_POINTS), function_constant(has_key_zero_points)]],                           \\\n" \
    "        const device float *key_mean [[buffer(MFA_BUFFER_KEY_MEAN), function_constant(has_key_mean)]],            \\\n" \
    "        const device uchar *value_scales [[buffer(MFA_BUFFER_VALUE_SCALES), function_constant(has_value_codes)]], \\\n" \
    "        const device uchar *value_zero_points                                                                     \\\n" \
    "        [[buffer(MFA_BUFFER_VALUE_ZERO_POINTS), function_constant(has_value_zero_points)]]\n" \
    "#define MFA_KEYS mfa_keys_of(key, value, key_scales, key_zero_points, key_mean, value_scales, value_zero_points)\n" \
    "\n" \
    "/* Those that are there. */\n" \
    "struct mfa_keys {\n" \
    "    const device MFA_K *key;\n" \
    "    const device MFA_V *value;\n" \
    "    mfa_code_terms key_terms, value_terms;\n" \
    "};\n" \
    "\n" \
    "inline mfa_keys mfa_keys_of(const device MFA_K *key, const device MFA_V *value, const device uchar *key_scales,\n" \
    "                            const device uchar *key_zero_points, const device float *key_mean,\n" \
    "                            const device uchar *value_scales, const device uchar *value_zero_points) {\n" \
    "    mfa_keys keys;\n" \
    "    keys.key = key;\n" \
    "    keys.value = value;\n" \
    "    if (has_key_codes)\n" \
    "        keys.key_terms.scales = key_scales;\n" \
    "    if (has_key_zero_points)\n" \
    "        keys.key_terms.zero_points = key_zero_points;\n" \
    "    if (has_key_mean)\n" \
    "        keys.key_terms.mean = key_mean;\n" \
    "    if (has_value_codes)\n" \
    "        keys.value_terms.scales = value_scales;\n" \
    "    if (has_value_zero_points)\n" \
    "        keys.value_terms.zero_points = value_zero_points;\n" \
    "    return keys;\n" \
    "}\n" \
    "\n" \
    "inline mfa_rows<MFA_K> mfa_key_rows(constant mfa_metal_params &p, mfa_keys keys, mfa_sequence sequence,\n" \
    "                                    mfa_index kv_head) {\n" \
    "    mfa_rows<MFA_K> rows = mfa_cache_rows_of(keys.key, p, p.key, sequence, kv_head, p.head_dim);\n" \
    "    mfa_find_coding(rows.coding, p.key_coding, key_codes, keys.key_terms, sequence, mfa_key_origin(sequence), kv_head);\n" \
    "    return rows;\n" \
    "}\n" \
    "\n" \
    "inline mfa_rows<MFA_V> mfa_value_rows(constant mfa_metal_params &p, mfa_keys keys, mfa_sequence sequence,\n" \
    "                                      mfa_index kv_head) {\n" \
    "    mfa_rows<MFA_V> rows = mfa_cache_rows_of(keys.value, p, p.value, sequence, kv_head, p.value_dim);\n" \
    "    mfa_find_coding(rows.coding, p.value_coding, value_codes, keys.value_terms, sequence, mfa_key_origin(sequence),\n" \
    "                    kv_head);\n" \
    "    return rows;\n" \
    "}\n" \
    "\n" \
    "/* ------------------------------------------------------------------ queries of the forward pass */\n" \
    "\n" \
    "#define MFA_FORWARD_ARGUMENTS                                                                                   \\\n" \
    "    const device MFA_T *query [[buffer(MFA_BUFFER_QUERY)]],                                                     \\\n" \
    "        const device mfa_metal_query_terms *query_terms                                                         \\\n" \
    "        [[buffer(MFA_BUFFER_QUERY_TERMS), function_constant(has_integer_keys)]],                                \\\n" \
    "        const device MFA_T *query_value [[buffer(MFA_BUFFER_QUERY_VALUE), function_constant(has_query_value)]], \\\n" \
    "        const device float *query_scale [[buffer(MFA_BUFFER_QUERY_SCALE), function_constant(has_query_scale)]], \\\n" \
    "        const device float *key_scale [[buffer(MFA_BUFFER_KEY_SCALE), function_constant(has_key_scale)]]\n" \
    "#define MFA_QUERIES mfa_queries_of(query, query_terms, query_value, query_scale, key_scale)\n" \
    "\n" \
    "/* Those that are there. */\n" \
    "struct mfa_queries {\n" \
    "    const device MFA_T *query, *query_value;\n" \
    "    const device mfa_metal_query_terms *terms;\n" \
    "    const device float *query_scale, *key_scale;\n" \
    "};\n" \
    "\n" \
    "inline mfa_queries mfa_queries_of(const device MFA_T *query, const device mfa_metal_query_terms *terms,\n" \
    "                                  const device MFA_T *query_value, const device float *query_scale,\n" \
    "                                  const device float *key_scale) {\n" \
    "    mfa_queries queries;\n" \
    "    queries.query = query;\n" \
    "    if (has_integer_keys)\n" \
    "        queries.terms = terms;\n" \
    "    if (has_query_value)\n" \
    "        queries.query_value = query_value;\n" \
    "    if (has_query_scale)\n" \
    "        queries.query_scale = query_scale;\n" \
    "    if (has_key_scale)\n" \
    "        queries.key_scale = key_scale;\n" \
    "    return queries;\n" \
    "}\n" \
    "\n" \
    "inline mfa_rows<MFA_T> mfa_query_rows(constant mfa_metal_params &p, mfa_queries queries, mfa_sequence sequence,\n" \
    "                                      mfa_index head) {\n" \
    "    if (has_own_queries)\n" \
    "        return mfa_rows_of(queries.query, p.turned, sequence.queries, head, p.head_dim);\n" \
    "    return mfa_rows_of(queries.query, p.query, sequence.queries, head, p.head_dim);\n" \
    "}\n" \
    "\n" \
    "/* There have to be some. */\n" \
    "inline mfa_rows<MFA_T> mfa_query_value_rows(constant mfa_metal_params &p, mfa_queries queries, mfa_sequence sequence,\n" \
    "                                            mfa_index head) {\n" \
    "    return mfa_rows_of(queries.query_value, p.query_value, sequence.queries, head, p.value_dim);\n" \
    "}\n" \
    "\n" \
    "/* ------------------------------------------------------------------ what is added to scores, or hides them */\n" \
    "\n" \
    "#define MFA_BIAS_ARGUMENTS                                                                                            \\\n" \
    "    const device uchar *bool_mask [[buffer(MFA_BUFFER_BOOL_MASK), function_constant(has_bool_mask)]],                 \\\n" \
    "        const device uchar *additive_mask [[buffer(MFA_BUFFER_ADDITIVE_MASK), function_constant(has_additive_mask)]], \\\n" \
    "        const device float *alibi_slopes [[buffer(MFA_BUFFER_ALIBI_SLOPES), function_constant(has_alibi)]],           \\\n" \
    "        const device mfa_u32 *block_words [[buffer(MFA_BUFFER_BLOCKS), function_constant(has_blocks)]],               \\\n" \
    "        const device uchar *block_masks [[buffer(MFA_BUFFER_MASKS), function_constant(has_block_masks)]]\n" \
    "#define MFA_BIASES mfa_biases_of(bool_mask, additive_mask, alibi_slopes, block_words, block_masks)\n" \
    "\n" \
    "/* Those that are there. */\n" \
    "struct mfa_biases {\n" \
    "    const device uchar *bool_mask, *additive_mask;\n" \
    "    const device float *alibi_slopes;\n" \
    "    const device mfa_u32 *block_words;\n" \
    "    const device uchar *block_masks;\n" \
    "};\n" \
    "\n" \
    "inline mfa_biases mfa_biases_of(const device uchar *bool_mask, const device uchar *additive_mask,\n" \
    "                                const device float *alibi_slopes, const device mfa_u32 *block_words,\n" \
    "                                const device uchar *block_masks) {\n" \
    "    mfa_biases biases;\n" \
    "    if (has_bool_mask)\n" \
    "        biases.bool_mask = bool_mask;\n" \
    "    if (has_additive_mask)\n" \
    "        biases.additive_mask = additive_mask;\n" \
    "    if (has_alibi)\n" \
    "        biases.alibi_slopes = alibi_slopes;\n" \
    "    if (has_blocks)\n" \
    "        biases.block_words = block_words;\n" \
    "    if (has_block_masks)\n" \
    "        biases.block_masks = block_masks;\n" \
    "    return biases;\n" \
    "}\n" \
    "\n" \
    "/* ------------------------------------------------------------------ what the backward pass reads of rows */\n" \
    "\n" \
    "#define MFA_QUERY_ARGUMENTS                                                                                        \\\n" \
    "    const device MFA_T *query [[buffer(MFA_BUFFER_QUERY)]], const device MFA_DO *dout [[buffer(MFA_BUFFER_DOUT)]], \\\n" \
    "        const device float *logsumexp [[buffer(MFA_BUFFER_LOGSUMEXP)]],                                            \\\n" \
    "        const device mfa_metal_delta *deltas [[buffer(MFA_BUFFER_DELTA)]]\n" \
    "\n" \
    "/* ------------------------------------------------------------------ where a thread is */\n" \
    "\n" \
    "#define MFA_THREAD_ARGUMENTS                                                                                      \\\n" \
    "    uint threadgroup_number [[threadgroup_position_in_grid]], uint thread_number [[thread_index_in_threadgroup]], \\\n" \
    "        uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]\n" \
    "\n" \
    "#endif\n"

#define MFA_BACKWARD_QUERIES_H_0 \
    "#line 1 \"mfa_backward_queries.h\"\n" \
    "/* What the kernels that own query rows share: dQ and dBias. */\n" \
    "#ifndef MFA_BACKWARD_QUERIES_H\n" \
    "#define MFA_BACKWARD_QUERIES_H\n" \
    "\n"

#define MFA_BACKWARD_QUERIES_H_2 \
    "#line 7 \"mfa_backward_queries.h\"\n" \
    "\n" \
    "#define THREADS (32 * MFA_SIMDGROUPS)\n" \
    "\n" \
    "enum {\n" \
    "    KEY_MATRICES = MFA_BK / 8,\n" \
    "    STAGED_KEYS = MFA_BK * mfa_lead<MFA_T>(MFA_BD) / MFA_VECTOR,\n" \
    "    STAGED_VALUES = MFA_BK * mfa_lead<MFA_T>(MFA_DV) / MFA_VECTOR\n" \
    "};\n" \
    "\n" \
    "static_assert(MFA_BQ == 8 * MFA_SIMDGROUPS, \"a simdgroup owns 8 rows\");\n" \
    "static_assert(MFA_D % MFA_BD == 0 && MFA_BD % 8 == 0 && MFA_DV % 8 == 0 && MFA_BK % 8 == 0, \"matrices are 8 wide\");\n" \
    "static_assert(!MFA_RESIDENT || MFA_BD == MFA_D, \"registers are not indexed at run time\");\n" \
    "\n" \
    "typedef mfa_owned_rows<MFA_T, MFA_T, MFA_HEAD_DEPTH> mfa_owned_queries;\n" \
    "typedef mfa_owned_rows<mfa_dout_type, MFA_DO, MFA_VALUE_DEPTH> mfa_owned_douts;\n" \
    "typedef mfa_visited_rows<MFA_T, MFA_K, MFA_T, MFA_V> mfa_visited_keys;\n" \
    "typedef mfa_matrices<float, KEY_MATRICES> mfa_key_products;\n" \
    "\n" \
    "/* Products of queries and keys become gradients of scores. `dweights` are products of dout and values. */\n" \
    "template <bool OF_BIAS, bool WHOLE>\n" \
    "inline void mfa_differentiate_as(constant mfa_metal_params &p, mfa_head_terms head, mfa_row_terms terms, mfa_index row,\n" \
    "                                 mfa_index first_key, int column, thread mfa_key_products &products,\n" \
    "                                 thread mfa_key_products &dweights) {\n" \
    "    mfa_lane_pairs pairs = mfa_whole_pairs();\n" \
    "    if (has_blocks && !WHOLE)\n" \
    "        pairs = mfa_lane_pairs_of<MFA_BK, false>(\n" \
    "            head.blocks, row, first_key, mfa_rule_keys_some_see(head.extent, mfa_span_of(row, row + 1)), column);\n" \
    "    float2 factors[KEY_MATRICES];\n" \
    "    if (has_dropout)\n" \
    "        mfa_dropout_factors<KEY_MATRICES>(head.dropout, row, first_key, column, factors);\n" \
    "#pragma clang loop unroll(full)\n" \
    "    for (int j = 0; j < KEY_MATRICES; ++j)\n" \
    "#pragma clang loop unroll(full)\n" \
    "        for (int i = 0; i < 2; ++i) {\n" \
    "            mfa_pair_terms pair =\n" \
    "                mfa_pair_terms_of<WHOLE>(p, head, row, first_key + j * 8 + column + i,\n" \
    "                                         mfa_lane_bit(pairs.visible, j, i), mfa_lane_bit(pairs.full, j, i));\n" \
    "            if (has_dropout)\n" \
    "                pair.drop_factor = factors[j][i];\n" \
    "            products.m[j].thread_elements()[i] =\n" \
    "                mfa_score_gradient_of<OF_BIAS>(p.softmax_scale, head, products.m[j].thread_elements()[i],\n" \
    "                                               dweights.m[j].thread_elements()[i], terms, pair)\n" \
    "                    .gradient;\n" \
    "        }\n" \
    "}\n" \
    "\n" \
    "/* Does so for the lane's row of the simdgroup's 8 from first_row on. */\n" \
    "template <bool OF_BIAS>\n" \
    "inline void mfa_differentiate(constant mfa_metal_params &p, mfa_head_terms head, mfa_row_terms terms,\n" \
    "                              mfa_index first_row, mfa_index first_key, uint lane, thread mfa_key_products &products,\n" \
    "                              thread mfa_key_products &dweights) {\n" \
    "    const mfa_index row = first_row + mfa_fragment_row(lane);\n" \
    "    const int column = mfa_fragment_column(lane);\n" \
    "    if (mfa_scores_are_whole(head, mfa_span_of(first_row, first_row + 8), mfa_span_of(first_key, first_key + MFA_BK)))\n" \
    "        mfa_differentiate_as<OF_BIAS, true>(p, head, terms, row, first_key, column, products, dweights);\n" \
    "    else\n" \
    "        mfa_differentiate_as<OF_BIAS, false>(p, head, terms, row, first_key, column, products, dweights);\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define MFA_BACKWARD_SCORE_H_0 \
    "#line 1 \"mfa_backward_score.h\"\n" \
    "/*\n" \
    " * What happens between the products of a tile: scores become weights, and gradients of weights become gradients of\n" \
    " * scores.\n" \
    " *\n" \
    " *   weight = exp(score - logsumexp), times the dropout factor\n" \
    " *   gradient = scale * softcap' * weight' * (dout . value - delta), 0 where hidden\n" \
    " *\n" \
    " * weight' is the weight before dropout, whose factor is in dout . value.\n" \
    " */\n" \
    "#ifndef MFA_BACKWARD_SCORE_H\n" \
    "#define MFA_BACKWARD_SCORE_H\n" \
    "\n"

#define MFA_BACKWARD_SCORE_H_2 \
    "#line 15 \"mfa_backward_score.h\"\n" \
    "\n" \
    "/* A number times log2(e) as a sum. Scores and logsumexp cancel, so that the rounding of single floats would show in the\n" \
    "   weight. */\n" \
    "struct mfa_exponent {\n" \
    "    float value, rest;\n" \
    "};\n" \
    "\n" \
    "inline mfa_exponent mfa_exponent_of(float x) {\n" \
    "    mfa_exponent exponent;\n" \
    "    exponent.value = x * MFA_LOG2_E;\n" \
    "    exponent.rest = isinf(exponent.value) ? 0.0f : fma(x, MFA_LOG2_E_REST, fma(x, MFA_LOG2_E, -exponent.value));\n" \
    "    return exponent;\n" \
    "}\n" \
    "\n" \
    "/* What a row knows about each of its weights. */\n" \
    "struct mfa_row_terms {\n" \
    "    mfa_exponent reference; /* logsumexp, as it is if scores are natural; +inf for a row that sees nothing */\n" \
    "    float delta, taint;\n" \
    "};\n" \
    "\n" \
    "inline mfa_row_terms mfa_row_terms_of(constant mfa_metal_params &p, const device float *logsumexp,\n" \
    "                                      const device mfa_metal_delta *deltas, mfa_sequence sequence, mfa_index head,\n" \
    "                                      mfa_index row) {\n" \
    "    mfa_row_terms terms;\n" \
    "    terms.reference.value = INFINITY;\n" \
    "    terms.reference.rest = 0;\n" \
    "    terms.delta = terms.taint = 0;\n" \
    "    if (row < sequence.extent.query_count) {\n" \
    "        float reference = logsumexp[mfa_place(p.logsumexp, sequence.queries.batch, head, sequence.queries.row + row)];\n" \
    "        reference = reference == -INFINITY ? INFINITY : reference;\n" \
    "        if (scores_are_natural)\n" \
    "            terms.reference.value = reference;\n" \
    "        else\n" \
    "            terms.reference = mfa_exponent_of(reference);\n" \
    "        const mfa_index place = mfa_stored_row(p, sequence, head, row);\n" \
    "        terms.delta = deltas[place].delta;\n" \
    "        terms.taint = deltas[place].taint;\n" \
    "    }\n" \
    "    return terms;\n" \
    "}\n" \
    "\n" \
    "/* What the rows of one head share. */\n" \
    "struct mfa_head_terms {\n" \
    "    mfa_biases biases;\n" \
    "    mfa_index batch, head;\n" \
    "    mfa_extent extent;\n" \
    "    mfa_blocks blocks;\n" \
    "    mfa_scoring scoring;\n" \
    "    mfa_exponent factor; /* softmax_scale */\n" \
    "    mfa_dropout dropout;\n" \
    "};\n" \
    "\n" \
    "inline mfa_head_terms mfa_head_terms_of(constant mfa_metal_params &p, mfa_biases biases, mfa_sequence sequence,\n" \
    "                                        mfa_index head) {\n" \
    "    mfa_head_terms terms;\n" \
    "    terms.biases = biases;\n" \
    "    terms.batch = sequence.number;\n" \
    "    terms.head = head;\n" \
    "    terms.extent = sequence.extent;\n" \
    "    terms.blocks = mfa_blocks_of(p, biases, sequence.number, head);\n" \
    "    terms.scoring = mfa_scoring_of(p, biases, sequence, head);\n" \
    "    terms.factor = mfa_exponent_of(p.softmax_scale);\n" \
    "    if (has_dropout)\n" \
    "        terms.dropout = mfa_dropout_of(p, sequence.number, head);\n" \
    "    return terms;\n" \
    "}\n" \
    "\n" \
    "/* What a pair of a row and a key has beside its products. */\n" \
    "struct mfa_pair_terms {\n" \
    "    bool visible;\n" \
    "    float bias, drop_factor;\n" \
    "};\n" \
    "\n" \
    "/* Whether nothing hides any pair of a tile. */\n" \
    "inline bool mfa_scores_are_whole(mfa_head_terms head, mfa_span rows, mfa_span keys) {\n" \
    "    return !(has_blocks ? has_additive_mask : has_mask) && mfa_tile_is_whole(head.extent, head.blocks, rows, keys);\n" \
    "}\n" \
    "\n" \
    "/* Visibility and bias; nothing is read of a mask where bounds or blocks hide the pair. WHOLE: nothing hides any of the\n" \
    "   tile. `counts` and `is_full`: what blocks and bounds say, if there are blocks. */\n" \
    "template <bool WHOLE>\n" \
    "inline mfa_pair_terms mfa_pair_terms_of(constant mfa_metal_params &p, mfa_head_terms head, mfa_index row, mfa_index key,\n" \
    "                                        bool counts, bool is_full) {\n" \
    "    mfa_pair_terms pair;\n" \
    "    float mask_bias = 0;\n" \
    "    pair.visible = WHOLE || (has_blocks ? counts : mfa_pair_is_visible(head.extent, row, key));\n" \
    "    pair.drop_factor = 1;\n" \
    "    if (has_mask && !WHOLE && pair.visible) {\n" \
    "        mask_bias =\n" \
    "            mfa_mask_bias(mfa_mask_row_of(p, head.biases, head.batch, head.head, row), key, has_blocks && is_full);\n" \
    "        pair.visible = mask_bias != -INFINITY;\n" \
    "    }\n" \
    "    pair.bias = mfa_bias(head.scoring, mask_bias, row, key);\n" \
    "    return pair;\n" \
    "}\n" \
    "\n" \
    "struct mfa_score_gradient {\n" \
    "    float weight, gradient;\n" \
    "};\n" \
    "\n" \
    "/* OF_BIAS: the gradient of what is added to the score, instead of that of the product of query and key. */\n" \
    "template <bool OF_BIAS>\n" \
    "inline mfa_score_gradient mfa_score_gradient_of(float softmax_scale, mfa_head_terms head, float product, float dweight,\n" \
    "                                                mfa_row_terms row, mfa_pair_terms pair) {\n" \
    "    float chain = OF_BIAS ? 1.0f : softmax_scale, score;\n" \
    "    if (scores_are_natural) {\n" \
    "        float bent;\n" \
    "        score = mfa_score(head.scoring, product, pair.bias, bent) - row.reference.value;\n" \
    "        if (has_softcap && !OF_BIAS)\n" \
    "            chain *= (1.0f - bent) * (1.0f + bent); /* cancels less than 1 - bent * bent */\n" \
    "        score = fma(score, MFA_LOG2_E, score * MFA_LOG2_E_REST);\n" \
    "    } else {\n" \
    "        const float rest = fma(product, head.factor.rest, -row.reference.rest);\n" \
    "        score = fma(product, head.factor.value, -row.reference.value);\n" \
    "        score = score == -INFINITY ? score : score + rest; /* which may be the opposite infinity */\n" \
    "    }\n" \
    "    mfa_score_gradient result;\n" \
    "    result.weight = result.gradient = 0;\n" \
    "    if (pair.visible && score != -INFINITY) {\n" \
    "        const float weight = fast::exp2(score);\n" \
    "        result.gradient = weight * chain * (dweight * pair.drop_factor - row.delta);\n" \
    "        result.weight = (weight + row.taint) * pair.drop_factor;\n" \
    "    }\n" \
    "    return result;\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define MFA_BACKWARD_TILE_H_0 \
    "#line 1 \"mfa_backward_tile.h\"\n" \
    "/*\n" \
    " * The products of the backward pass. A simdgroup owns 8 rows of one pair of operands and visits tiles of rows of the\n" \
    " * other pair, which its threadgroup has staged:\n" \
    " *\n" \
    " *   dQ, dBias   own query and dout, visit key and value\n" \
    " *   dK and dV   own key and value, visit query and dout\n" \
    " *\n" \
    " * Either way it multiplies first operand by first (scores) and second by second (gradients of the weights), and then\n" \
    " * what became of these by the visited rows. Matrices of weights keep owned rows as rows, so that they never leave the\n" \
    " * registers.\n" \
    " */\n" \
    "#ifndef MFA_BACKWARD_TILE_H\n" \
    "#define MFA_BACKWARD_TILE_H\n" \
    "\n"

#define MFA_BACKWARD_TILE_H_2 \
    "#line 17 \"mfa_backward_tile.h\"\n" \
    "\n" \
    "/* What dout is multiplied as: halves are not multiplied by bfloats, and float costs no precision. */\n" \
    "typedef conditional_t<is_same_v<MFA_T, MFA_DO>, MFA_T, float> mfa_dout_type;\n" \
    "\n" \
    "enum {\n" \
    "    MFA_HEAD_BLOCKS = MFA_D / MFA_BD, /* of the head dimension */\n" \
    "    MFA_HEAD_DEPTH = MFA_BD / 8,      /* matrices of one */\n" \
    "    MFA_VALUE_DEPTH = MFA_DV / 8      /* matrices of a block of the value dimension */\n" \
    "};\n" \
    "\n" \
    "template <typename T, int COUNT> struct mfa_matrices {\n" \
    "    simdgroup_matrix<T, 8, 8> m[COUNT];\n" \
    "};\n" \
    "\n" \
    "template <int COUNT> inline mfa_matrices<float, COUNT> mfa_zeros() {\n" \
    "    mfa_matrices<float, COUNT> zeros;\n" \
    "#pragma clang loop unroll(full)\n" \
    "    for (int i = 0; i < COUNT; ++i)\n" \
    "        zeros.m[i] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);\n" \
    "    return zeros;\n" \
    "}\n" \
    "\n" \
    "/* ------------------------------------------------------------------ owned rows */\n" \
    "\n" \
    "/* One of the simdgroup's 8 rows, as the lane sees it that holds a pair of each of its matrices. */\n" \
    "template <typename S> struct mfa_lane_row {\n" \
    "    mfa_rows<S> rows;\n" \
    "    mfa_found_row<S> row;\n" \
    "    int column; /* of the lane in a matrix */\n" \
    "};\n" \
    "\n" \
    "/* Reads as zero from row `count` on. */\n" \
    "template <typename S>\n" \
    "inline mfa_lane_row<S> mfa_lane_row_of(mfa_rows<S> rows, mfa_index row, mfa_index count, uint lane) {\n" \
    "    mfa_lane_row<S> found;\n" \
    "    const mfa_index existing = min(row, count - 1);\n" \
    "    found.rows = rows;\n" \
    "    if (has_pages)\n" \
    "        found.rows = mfa_rows_from(rows, existing);\n" \
    "    found.column = mfa_fragment_column(lane);\n" \
    "    if (row >= count)\n" \
    "        found.rows.length = 0;\n" \
    "    mfa_find_row(found.row, found.rows, has_pages ? 0 : existing);\n" \
    "    return found;\n" \
    "}\n" \
    "\n" \
    "template <typename T, typename S>\n" \
    "inline simdgroup_matrix<T, 8, 8> mfa_read_matrix(mfa_lane_row<S> row, int first_column) {\n" \
    "    const vec<typename mfa_storage<S>::element, 2> pair =\n" \
    "        mfa_read_found<2>(row.rows, row.row, first_column + row.column);\n" \
    "    return mfa_matrix<T>(vec<T, 2>(T(pair[0]), T(pair[1])));\n" \
    "}\n" \
    "\n" \
    "/* Owned rows that stay in registers, and those that are read anew for each tile because there are too many columns. */\n" \
    "template <typename T, typename S, int DEPTH> struct mfa_resident_rows {\n" \
    "    typedef T element;\n" \
    "    enum { depth = DEPTH };\n" \
    "    mfa_matrices<T, DEPTH> matrices;\n" \
    "};\n" \
    "template <typename T, typename S, int DEPTH> struct mfa_reread_rows {\n" \
    "    typedef T element;\n" \
    "    enum { depth = DEPTH };\n" \
    "    mfa_lane_row<S> row;\n" \
    "};\n" \
    "\n" \
    "template <typename T, typename S, int DEPTH>\n" \
    "inline void mfa_own(thread mfa_resident_rows<T, S, DEPTH> &rows, mfa_lane_row<S> row) {\n" \
    "#pragma clang loop unroll(full)\n" \
    "    for (int i = 0; i < DEPTH; ++i)\n" \
    "        rows.matrices.m[i] = mfa_read_matrix<T>(row, i * 8);\n" \
    "}\n" \
    "template <typename T, typename S, int DEPTH>\n" \
    "inline void mfa_own(thread mfa_reread_rows<T, S, DEPTH> &rows, mfa_lane_row<S> row) {\n" \
    "    rows.row = row;\n" \
    "}\n" \
    "\n" \
    "template <typename T, typename S, int DEPTH>\n" \
    "inline simdgroup_matrix<T, 8, 8> mfa_owned_matrix(thread const mfa_resident_rows<T, S, DEPTH> &rows, int, int i) {\n" \
    "    return rows.matrices.m[i];\n" \
    "}\n" \
    "template <typename T, typename S, int DEPTH>\n" \
    "inline simdgroup_matrix<T, 8, 8> mfa_owned_matrix(thread const mfa_reread_rows<T, S, DEPTH> &rows, int block, int i) {\n" \
    "    return mfa_read_matrix<T>(rows.row, (block * DEPTH + i) * 8);\n" \
    "}\n" \
    "\n" \
    "template <typename T, typename S, int DEPTH>\n" \
    "using mfa_owned_rows = conditional_t<MFA_RESIDENT != 0, mfa_resident_rows<T, S, DEPTH>, mfa_reread_rows<T, S, DEPTH>>;\n" \
    "\n" \
    "/* ------------------------------------------------------------------ visited rows */\n" \
    "\n" \
    "/* A pair of operands, and where tiles of them are staged. */\n" \
    "template <typename V1, typename S1, typename V2, typename S2> struct mfa_visited_rows {\n" \
    "    mfa_rows<S1> first_rows;\n" \
    "    mfa_rows<S2> second_rows;\n" \
    "    threadgroup V1 *first;\n" \
    "    threadgroup V2 *second;\n" \
    "    mfa_index count;\n" \
    "};\n" \
    "\n" \
    "/* ------------------------------------------------------------------ products */\n" \
    "\n" \
    "/* products += rows . tile^T, over one block of columns. */\n" \
    "template <typename ROWS, typename V, int COUNT>\n" \
    "inline void mfa_multiply_turned(thread const ROWS &rows, int block, threadgroup const V *tile,\n" \
    "                                thread mfa_matrices<float, COUNT> &products) {\n" \
    "    constexpr int lead = mfa_lead<V>(ROWS::depth * 8);\n" \
    "#pragma clang loop unroll(full)\n" \
    "    for (int i = 0; i < ROWS::depth; ++i) {\n" \
    "        const simdgroup_matrix<typename ROWS::element, 8, 8> left = mfa_owned_matrix(rows, block, i);\n" \
    "#pragma clang loop unroll(full)\n" \
    "        for (int j = 0; j < COUNT; ++j) {\n" \
    "            simdgroup_matrix<V, 8, 8> right;\n" \
    "            simdgroup_load(right, tile + j * 8 * lead + i * 8, lead, ulong2(0, 0), true);\n" \
    "            simdgroup_multiply_accumulate(products.m[j], left, right, products.m[j]);\n" \
    "        }\n" \
    "    }\n" \
    "}\n" \
    "\n" \
    "/*\n" \
    " * Stages the rows row .. row + ROWS - 1 of both visited operands and multiplies the owned ones by them, block by block\n" \
    " * of columns; `last_block`, which comes last, is still staged afterwards. `is_visited` is false for a simdgroup that\n" \
    " * has nothing to multiply, which stages all the same.\n" \
    " */\n" \
    "template <int ROWS, int THREADS, typename OWNED1, typename OWNED2, typename VISITED>\n" \
    "inline void mfa_multiply_visited(constant mfa_metal_params &p, thread const OWNED1 &owned_first,\n" \
    "                                 thread const OWNED2 &owned_second, thread const VISITED &visited, mfa_index row,\n" \
    "                                 int last_block, bool is_visited, uint thread_number,\n" \
    "                                 thread mfa_matrices<float, ROWS / 8> &first_products,\n" \
    "                                 thread mfa_matrices<float, ROWS / 8> &second_products) {\n" \
    "    const int existing = int(min(visited.count - row, mfa_index(ROWS)));\n" \
    "    const int blocks = MFA_RESIDENT ? 1 : max(int(MFA_HEAD_BLOCKS), int(p.value_blocks));\n" \
    "    for (int i = 1; i <= blocks; ++i) {\n" \
    "        const int block = MFA_RESIDENT ? 0 : (last_block + i) % blocks;\n" \
    "        const bool in_head = block < MFA_HEAD_BLOCKS, in_value = block < int(p.value_blocks);\n" \
    "        threadgroup_barrier(mem_flags::mem_threadgroup);\n" \
    "        if (in_head)\n" \
    "            mfa_stage<ROWS, MFA_BD, false, false, THREADS>(visited.first, visited.first_rows, row, 0, existing,\n" \
    "                                                           block * MFA_BD, thread_number);\n" \
    "        if (in_value)\n" \
    "            mfa_stage<ROWS, MFA_DV, false, false, THREADS>(visited.second, visited.second_rows, row, 0, existing,\n" \
    "                                                           block * MFA_DV, thread_number);\n" \
    "        threadgroup_barrier(mem_flags::mem_threadgroup);\n" \
    "        if (is_visited && in_head)\n" \
    "            mfa_multiply_turned(owned_first, block, visited.first, first_products);\n" \
    "        if (is_visited && in_value)\n" \
    "            mfa_multiply_turned(owned_second, block, visited.second, second_products);\n" \
    "    }\n" \
    "}\n" \
    "\n" \
    "template <typename V> inline void mfa_zero_non_finite(thread simdgroup_matrix<V, 8, 8> &matrix) {\n" \
    "#pragma clang loop unroll(full)\n" \
    "    for (int i = 0; i < 2; ++i)\n" \
    "        if (!isfinite(float(matrix.thread_elements()[i])))\n" \
    "            matrix.thread_elements()[i] = V(0);\n" \
    "}\n" \
    "\n" \
    "template <bool DIRTY, int COUNT, typename V, int DEPTH>\n" \
    "inline void mfa_add_product_as(thread const mfa_matrices<float, COUNT> &left, threadgroup const V *tile,\n" \
    "                               thread mfa_matrices<float, DEPTH> &sums) {\n" \
    "    constexpr int lead = mfa_lead<V>(DEPTH * 8);\n" \
    "#pragma clang loop unroll(full)\n" \
    "    for (int i = 0; i < DEPTH; ++i) {\n" \
    "        simdgroup_matrix<float, 8, 8> sum = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);\n" \
    "#pragma clang loop unroll(full)\n" \
    "        for (int j = 0; j < COUNT; ++j) {\n" \
    "            simdgroup_matrix<V, 8, 8> right;\n" \
    "            simdgroup_load(right, tile + j * 8 * lead + i * 8, lead);\n" \
    "            if (DIRTY)\n" \
    "                mfa_zero_non_finite(right);\n" \
    "            simdgroup_multiply_accumulate(sum, left.m[j], right, sum);\n" \
    "        }\n" \
    "        for (int e = 0; e < 2; ++e)\n" \
    "            sums.m[i].thread_elements()[e] += sum.thread_elements()[e];\n" \
    "    }\n" \
    "}\n" \
    "\n" \
    "/* sums += left . tile, which has a sum of its own: long sums of floats lose digits. If the tile is `dirty`, its\n" \
    "   non-finite values count as 0: pairs that see them have NaN on the left, and the others, which have 0 there, must add\n" \
    "   nothing. */\n" \
    "template <int COUNT, typename V, int DEPTH>\n" \
    "inline void mfa_add_product(thread const mfa_matrices<float, COUNT> &left, threadgroup const V *tile, bool dirty,\n" \
    "                            thread mfa_matrices<float, DEPTH> &sums) {\n" \
    "    if (dirty)\n" \
    "        mfa_add_product_as<true>(left, tile, sums);\n" \
    "    else\n" \
    "        mfa_add_product_as<false>(left, tile, sums);\n" \
    "}\n" \
    "\n" \
    "/* Whether a visited row may hold non-finite values: its product with each owned row is then non-finite, too. All lanes\n" \
    "   get the same answer. */\n" \
    "template <int COUNT> inline bool mfa_is_dirty(thread mfa_matrices<float, COUNT> &products) {\n" \
    "    bool found = false;\n" \
    "#pragma clang loop unroll(full)\n" \
    "    for (int j = 0; j < COUNT; ++j)\n" \
    "        found = found || !isfinite(products.m[j].thread_elements()[0]) || !isfinite(products.m[j].thread_elements()[1]);\n" \
    "    return simd_any(found);\n" \
    "}\n" \
    "\n" \
    "/* Writes one block of columns of a row, of which there are `count`. */\n" \
    "template <typename G, int DEPTH>\n" \
    "inline void mfa_write_block(mfa_result_rows<G> rows, mfa_index row, mfa_index count, int block, int column,\n" \
    "                            thread mfa_matrices<float, DEPTH> &sums) {\n" \
    "    if (row >= count)\n" \
    "        return;\n" \
    "    if (has_pages) {\n" \
    "        rows.first = mfa_row_at(rows, row);\n" \
    "        rows.paging = mfa_no_paging();\n" \
    "        row = 0;\n" \
    "    }\n" \
    "#pragma clang loop unroll(full)\n" \
    "    for (int i = 0; i < DEPTH; ++i)\n" \
    "        mfa_write_pair(rows, row, (block * DEPTH + i) * 8 + column,\n" \
    "                       float2(sums.m[i].thread_elements()[0], sums.m[i].thread_elements()[1]));\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define MFA_CODES_H_0 \
    "#line 1 \"mfa_codes.h\"\n" \
    "/* Codes of keys and values: how they are unpacked, and what they stand for, scale * (code - zero point) + mean. */\n" \
    "#ifndef MFA_CODES_H\n" \
    "#define MFA_CODES_H\n" \
    "\n"

#define MFA_CODES_H_1 \
    "#line 6 \"mfa_codes.h\"\n" \
    "\n" \
    "/* ------------------------------------------------------------------ how elements are stored */\n" \
    "\n" \
    "/* Two codes of 4 bits, the first in the low half. */\n" \
    "struct mfa_int4 {\n" \
    "    uchar pair;\n" \
    "};\n" \
    "struct mfa_uint4 {\n" \
    "    uchar pair;\n" \
    "};\n" \
    "\n" \
    "/* Of a type that elements are stored as: what is read of them, how many are staged at once, and how many one of the type\n" \
    "   holds. */\n" \
    "template <typename S> struct mfa_storage {\n" \
    "    typedef S element;\n" \
    "    enum { are_codes = false, piece = MFA_VECTOR, count = 1, lowest = 0, highest = 0 };\n" \
    "};\n" \
    "template <> struct mfa_storage<char> {\n" \
    "    typedef float element;\n" \
    "    enum { are_codes = true, piece = MFA_CODES_VECTOR, count = 1, lowest = -128, highest = 127 };\n" \
    "};\n" \
    "template <> struct mfa_storage<uchar> {\n" \
    "    typedef float element;\n" \
    "    enum { are_codes = true, piece = MFA_CODES_VECTOR, count = 1, lowest = 0, highest = 255 };\n" \
    "};\n" \
    "template <> struct mfa_storage<mfa_int4> {\n" \
    "    typedef float element;\n" \
    "    enum { are_codes = true, piece = MFA_CODES_VECTOR, count = 2, lowest = -8, highest = 7 };\n" \
    "};\n" \
    "template <> struct mfa_storage<mfa_uint4> {\n" \
    "    typedef float element;\n" \
    "    enum { are_codes = true, piece = MFA_CODES_VECTOR, count = 2, lowest = 0, highest = 15 };\n" \
    "};\n" \
    "\n" \
    "/* From one element to another, both at the beginning of a byte. */\n" \
    "template <typename S> inline mfa_index mfa_units(mfa_index elements) { return elements / mfa_storage<S>::count; }\n" \
    "\n" \
    "inline float mfa_signed_half(uint bits) { return float(int((bits & 15) ^ 8) - 8); }\n" \
    "inline float mfa_unsigned_half(uint bits) { return float(bits & 15); }\n" \
    "\n" \
    "inline float mfa_code_at(const device char *codes, mfa_index place) { return float(codes[place]); }\n" \
    "inline float mfa_code_at(const device uchar *codes, mfa_index place) { return float(codes[place]); }\n" \
    "inline float mfa_code_at(const device mfa_int4 *codes, mfa_index place) {\n" \
    "    return mfa_signed_half(uint(codes[place / 2].pair) >> 4 * (place & 1));\n" \
    "}\n" \
    "inline float mfa_code_at(const device mfa_uint4 *codes, mfa_index place) {\n" \
    "    return mfa_unsigned_half(uint(codes[place / 2].pair) >> 4 * (place & 1));\n" \
    "}\n" \
    "\n" \
    "/* COUNT codes side by side, in one load. */\n" \
    "template <int COUNT> inline vec<float, COUNT> mfa_unpack(const device char *codes) {\n" \
    "    const vec<char, COUNT> piece = *(const device vec<char, COUNT> *)codes;\n" \
    "    return vec<float, COUNT>(piece);\n" \
    "}\n" \
    "template <int COUNT> inline vec<float, COUNT> mfa_unpack(const device uchar *codes) {\n" \
    "    const vec<uchar, COUNT> piece = *(const device vec<uchar, COUNT> *)codes;\n" \
    "    return vec<float, COUNT>(piece);\n" \
    "}\n" \
    "template <int COUNT> inline vec<float, COUNT> mfa_unpack(const device mfa_int4 *codes) {\n" \
    "    const uint bits = *(const device conditional_t<COUNT == 2, uchar, ushort> *)codes;\n" \
    "    vec<float, COUNT> piece;\n" \
    "#pragma unroll\n" \
    "    for (int i = 0; i < COUNT; ++i)\n" \
    "        piece[i] = mfa_signed_half(bits >> 4 * i);\n" \
    "    return piece;\n" \
    "}\n" \
    "template <int COUNT> inline vec<float, COUNT> mfa_unpack(const device mfa_uint4 *codes) {\n" \
    "    const uint bits = *(const device conditional_t<COUNT == 2, uchar, ushort> *)codes;\n" \
    "    vec<float, COUNT> piece;\n" \
    "#pragma unroll\n" \
    "    for (int i = 0; i < COUNT; ++i)\n" \
    "        piece[i] = mfa_unsigned_half(bits >> 4 * i);\n" \
    "    return piece;\n" \
    "}\n" \
    "\n" \
    "/* MFA_CODES_VECTOR of them, likewise. */\n" \
    "struct mfa_code_parts {\n" \
    "    vec<float, MFA_VECTOR> parts[MFA_CODES_VECTOR / MFA_VECTOR];\n" \
    "};\n" \
    "\n" \
    "inline mfa_code_parts mfa_unpack_parts(const device char *codes) {\n" \
    "    const vec<uint, 2> words = *(const device vec<uint, 2> *)codes;\n" \
    "    mfa_code_parts found;\n" \
    "#pragma unroll\n" \
    "    for (int i = 0; i < 8; ++i)\n" \
    "        found.parts[i / 4][i % 4] = float(int(words[i / 4] << 8 * (3 - i % 4)) >> 24);\n" \
    "    return found;\n" \
    "}\n" \
    "inline mfa_code_parts mfa_unpack_parts(const device uchar *codes) {\n" \
    "    const vec<uint, 2> words = *(const device vec<uint, 2> *)codes;\n" \
    "    mfa_code_parts found;\n" \
    "#pragma unroll\n" \
    "    for (int i = 0; i < 8; ++i)\n" \
    "        found.parts[i / 4][i % 4] = float(words[i / 4] >> 8 * (i % 4) & 255);\n" \
    "    return found;\n" \
    "}\n" \
    "inline mfa_code_parts mfa_unpack_parts(const device mfa_int4 *codes) {\n" \
    "    const uint word = *(const device uint *)codes;\n" \
    "    mfa_code_parts found;\n" \
    "#pragma unroll\n" \
    "    for (int i = 0; i < 8; ++i)\n" \
    "        found.parts[i / 4][i % 4] = mfa_signed_half(word >> 4 * i);\n" \
    "    return found;\n" \
    "}\n" \
    "inline mfa_code_parts mfa_unpack_parts(const device mfa_uint4 *codes) {\n" \
    "    const uint word = *(const device uint *)codes;\n" \
    "    mfa_code_parts found;\n" \
    "#pragma unroll\n" \
    "    for (int i = 0; i < 8; ++i)\n" \
    "        found.parts[i / 4][i % 4] = mfa_unsigned_half(word >> 4 * i);\n" \
    "    return found;\n" \
    "}\n" \
    "\n" \
    "/* ------------------------------------------------------------------ what codes stand for */\n" \
    "\n" \
    "/* Those that are there. */\n" \
    "struct mfa_code_terms {\n" \
    "    const device uchar *scales, *zero_points;\n" \
    "    const device float *mean;\n" \
    "};\n" \
    "\n" \
    "/* Of the rows of one head. Rows of floats stand for themselves. */\n" \
    "template <bool ARE_CODES> struct mfa_coding {};\n" \
    "template <> struct mfa_coding<true> {\n" \
    "    constant mfa_metal_coding *strides;\n" \
    "    uint kind;                               /* MFA_CODES_... */\n" \
    "    mfa_code_terms terms;                    /* of all heads, but for the mean */\n" \
    "    mfa_index first_scale, first_zero_point; /* of the head, where its rows begin or on page 0 */\n" \
    "    mfa_index first_row;                     /* where a row is stored, less its number */\n" \
    "};\n" \
    "\n" \
    "inline void mfa_find_coding(thread mfa_coding<false> &, constant mfa_metal_coding &, uint, mfa_code_terms, mfa_sequence,\n" \
    "                            mfa_origin, mfa_index) {}\n" \
    "inline void mfa_find_coding(thread mfa_coding<true> &coding, constant mfa_metal_coding &strides, uint kind,\n" \
    "                            mfa_code_terms terms, mfa_sequence sequence, mfa_origin origin, mfa_index head) {\n" \
    "    coding.strides = &strides;\n" \
    "    coding.kind = kind;\n" \
    "    coding.terms = terms;\n" \
    "    coding.first_scale = mfa_place(strides.scales, origin.batch, head, 0);\n" \
    "    coding.first_zero_point = mfa_place(strides.zero_points, origin.batch, head, 0);\n" \
    "    coding.first_row = origin.row;\n" \
    "    if ((kind & MFA_CODES_MEAN) != 0)\n" \
    "        coding.terms.mean = terms.mean + mfa_place(strides.mean, sequence.number, head, 0);\n" \
    "}\n" \
    "\n" \
    "/* To rows that begin where one lies. */\n" \
    "inline void mfa_move_coding(thread mfa_coding<false> &, mfa_origin) {}\n" \
    "inline void mfa_move_coding(thread mfa_coding<true> &coding, mfa_origin origin) {\n" \
    "    coding.first_scale += origin.batch * coding.strides->scales.batch;\n" \
    "    coding.first_zero_point += origin.batch * coding.strides->zero_points.batch;\n" \
    "    coding.first_row += origin.row;\n" \
    "}\n" \
    "\n" \
    "/* Where the scale and the zero point of an element are. */\n" \
    "struct mfa_code_place {\n" \
    "    mfa_index scale, zero_point;\n" \
    "};\n" \
    "\n" \
    "/* Of a row, before what columns add. */\n" \
    "inline mfa_code_place mfa_code_row(mfa_coding<true> coding, mfa_origin origin) {\n" \
    "    const mfa_index row = coding.first_row + origin.row, shift = coding.strides->row_shift;\n" \
    "    const mfa_index line = shift >= 0 ? row >> shift : mfa_quotient(row, coding.strides->rows);\n" \
    "    mfa_code_place place;\n" \
    "    place.scale = coding.first_scale + mfa_place(coding.strides->scales, origin.batch, 0, line);\n" \
    "    place.zero_point = coding.first_zero_point + mfa_place(coding.strides->zero_points, origin.batch, 0, line);\n" \
    "    return place;\n" \
    "}\n" \
    "\n" \
    "inline mfa_code_place mfa_code_column(mfa_coding<true> coding, mfa_code_place place, int column) {\n" \
    "    mfa_index group = 0;\n" \
    "    if ((coding.kind & MFA_CODES_COLUMNS) != 0)\n" \
    "        group = column;\n" \
    "    else if ((coding.kind & MFA_CODES_GROUPS) != 0)\n" \
    "        group = mfa_index(mfa_u64(column) * coding.strides->columns_inverse >> 40);\n" \
    "    place.scale += group * coding.strides->scales.column;\n" \
    "    place.zero_point += group * coding.strides->zero_points.column;\n" \
    "    return place;\n" \
    "}\n" \
    "\n" \
    "inline float mfa_scale_at(mfa_coding<true> coding, mfa_code_place place) {\n" \
    "    return (coding.kind & MFA_CODES_HALF_SCALES) != 0 ? float(((const device half *)coding.terms.scales)[place.scale])\n" \
    "                                                      : ((const device float *)coding.terms.scales)[place.scale];\n" \
    "}\n" \
    "\n" \
    "/* What is read of an element is times. */\n" \
    "inline float mfa_factor_at(mfa_coding<true> coding, mfa_code_place place) {\n" \
    "    return (coding.kind & MFA_CODES_INTEGERS) != 0 ? 1.0f : mfa_scale_at(coding, place);\n" \
    "}\n" \
    "\n" \
    "inline float mfa_zero_point_at(mfa_coding<true> coding, mfa_code_place place) {\n" \
    "    if ((coding.kind & MFA_CODES_ZERO_POINTS) == 0)\n" \
    "        return 0;\n" \
    "    if ((coding.kind & MFA_CODES_SIGNED_BYTES) != 0)\n" \
    "        return float(((const device char *)coding.terms.zero_points)[place.zero_point]);\n" \
    "    if ((coding.kind & MFA_CODES_UNSIGNED_BYTES) != 0)\n" \
    "        return float(coding.terms.zero_points[place.zero_point]);\n" \
    "    return float(((const device int *)coding.terms.zero_points)[place.zero_point]);\n" \
    "}\n" \
    "\n" \
    "/* Of a row, or of a group of its columns: what all have in common. */\n" \
    "struct mfa_code_line {\n" \
    "    mfa_code_place place;\n" \
    "    float scale, zero_point; /* but where columns have their own */\n" \
    "};\n" \
    "\n" \
    "inline mfa_code_line mfa_code_line_at(mfa_coding<true> coding, mfa_code_place place) {\n" \
    "    mfa_code_line line;\n" \
    "    line.place = place;\n" \
    "    line.scale = mfa_factor_at(coding, place);\n" \
    "    line.zero_point = mfa_zero_point_at(coding, place);\n" \
    "    return line;\n" \
    "}\n" \
    "\n" \
    "/* Found once for all pieces of the row, if it can be. */\n" \
    "inline mfa_code_line mfa_code_line_of(mfa_coding<true> coding, mfa_origin origin) {\n" \
    "    mfa_code_line line;\n" \
    "    line.place = mfa_code_row(coding, origin);\n" \
    "    if ((coding.kind & (MFA_CODES_COLUMNS | MFA_CODES_GROUPS)) == 0)\n" \
    "        line = mfa_code_line_at(coding, line.place);\n" \
    "    return line;\n" \
    "}\n" \
    "\n" \
    "/* For columns from `column` on; groups have whole pieces. */\n" \
    "inline mfa_code_line mfa_code_group(mfa_coding<true> coding, mfa_code_line line, int column) {\n" \
    "    if ((coding.kind & MFA_CODES_GROUPS) != 0)\n" \
    "        return mfa_code_line_at(coding, mfa_code_column(coding, line.place, column));\n" \
    "    return line;\n" \
    "}\n" \
    "\n" \
    "/* What codes of columns from `column` on stand for, or are read as, the first `count` of them. */\n" \
    "template <int COUNT>\n" \
    "inline vec<float, COUNT> mfa_decode(mfa_coding<true> coding, mfa_code_line line, int column, int count,\n" \
    "                                    vec<float, COUNT> codes) {\n" \
    "    const mfa_code_place row = line.place;\n" \
    "#pragma unroll\n" \
    "    for (int i = 0; i < COUNT; ++i)\n" \
    "        if (i < count) {\n" \
    "            if ((coding.kind & MFA_CODES_COLUMNS) != 0)\n" \
    "                line = mfa_code_line_at(coding, mfa_code_column(coding, row, column + i));\n" \
    "            codes[i] = line.scale * (codes[i] - line.zero_point);\n" \
    "            if ((coding.kind & MFA_CODES_MEAN) != 0 && (coding.kind & MFA_CODES_INTEGERS) == 0)\n" \
    "                codes[i] += coding.terms.mean[(column + i) * coding.strides->mean.column];\n" \
    "        }\n" \
    "    return codes;\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define MFA_CONSTANTS_H_0 \
    "#line 1 \"mfa_constants.h\"\n" \
    "/* Logarithms' constants, for every backend. */\n" \
    "#ifndef MFA_CONSTANTS_H\n" \
    "#define MFA_CONSTANTS_H\n" \
    "\n" \
    "#define MFA_LOG2_E 1.4426950408889634f\n" \
    "#define MFA_LOG2_E_REST 1.92596303e-8f /* log2(e) - MFA_LOG2_E */\n" \
    "#define MFA_LN_2 0.6931471805599453f\n" \
    "\n" \
    "#endif\n"

#define MFA_DROPOUT_H_0 \
    "#line 1 \"mfa_dropout.h\"\n" \
    "/* Dropout as mfa_rule_dropout_bits has it, for the weights that a lane holds of a row. */\n" \
    "#ifndef MFA_DROPOUT_H\n" \
    "#define MFA_DROPOUT_H\n" \
    "\n"

#define MFA_DROPOUT_H_1 \
    "#line 6 \"mfa_dropout.h\"\n" \
    "\n" \
    "struct mfa_dropout {\n" \
    "    mfa_philox_key key;\n" \
    "    mfa_u32 threshold;\n" \
    "    float factor;\n" \
    "    mfa_index batch, head;\n" \
    "};\n" \
    "\n" \
    "inline mfa_dropout mfa_dropout_of(constant mfa_metal_params &p, mfa_index batch, mfa_index head) {\n" \
    "    mfa_dropout dropout;\n" \
    "    dropout.key.word[0] = p.dropout_key.word[0];\n" \
    "    dropout.key.word[1] = p.dropout_key.word[1];\n" \
    "    dropout.threshold = p.dropout_threshold;\n" \
    "    dropout.factor = p.keep_factor;\n" \
    "    dropout.batch = batch;\n" \
    "    dropout.head = head;\n" \
    "    return dropout;\n" \
    "}\n" \
    "\n" \
    "/* 0 for a weight that is dropped. */\n" \
    "inline float mfa_dropout_factor(mfa_dropout dropout, mfa_index row, mfa_index key) {\n" \
    "    return mfa_rule_dropout_bits(dropout.key, dropout.batch, dropout.head, row, key) < dropout.threshold\n" \
    "               ? 0.0f\n" \
    "               : dropout.factor;\n" \
    "}\n" \
    "\n" \
    "/* Factors of the keys first_key + 8 f + column and the next, for each fragment f. first_key is a multiple of 8 *\n" \
    "   FRAGMENTS, which is 8, 16, 32, 64 or 128: one call of Philox then serves every other fragment. */\n" \
    "template <int FRAGMENTS>\n" \
    "inline void mfa_dropout_factors(mfa_dropout dropout, mfa_index row, mfa_index first_key, int column,\n" \
    "                                thread float2 (&factors)[FRAGMENTS]) {\n" \
    "    const int calls = FRAGMENTS < 2 ? FRAGMENTS : 2;\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < calls; ++f)\n" \
    "        for (int i = 0; i < 2; ++i) {\n" \
    "            const mfa_index key = first_key + 8 * f + column + i;\n" \
    "            const mfa_philox result =\n" \
    "                mfa_rule_philox(mfa_rule_dropout_counter(dropout.batch, dropout.head, row, key), dropout.key);\n" \
    "            const int slice = int(key % MFA_DROPOUT_COLUMNS / MFA_DROPOUT_LANES);\n" \
    "#pragma unroll\n" \
    "            for (int g = f; g < FRAGMENTS; g += 2)\n" \
    "                factors[g][i] =\n" \
    "                    mfa_rule_dropout_slice(result, slice + g / 2) < dropout.threshold ? 0.0f : dropout.factor;\n" \
    "        }\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define MFA_FRAGMENT_H_0 \
    "#line 1 \"mfa_fragment.h\"\n" \
    "/*\n" \
    " * 8x8 matrices spread over the 32 lanes of a simdgroup: a fragment is what one lane holds, two neighbours of a row.\n" \
    " * Which ones is stated here alone; it is so on every Apple GPU so far (MLX relies on it too):\n" \
    " *\n" \
    " *   lane    0  1  8  9     columns 0 1 | 2 3 | 4 5 | 6 7  of row 0\n" \
    " *           2  3 10 11                                    row 1\n" \
    " *           ...\n" \
    " *          16 17 24 25                                    row 4, and so on\n" \
    " *\n" \
    " * Arrays of fragments are registers only if every index is known when compiling: hence the loops with #pragma unroll.\n" \
    " */\n" \
    "#ifndef MFA_FRAGMENT_H\n" \
    "#define MFA_FRAGMENT_H\n" \
    "\n"

#define MFA_FRAGMENT_H_1 \
    "#line 16 \"mfa_fragment.h\"\n" \
    "\n" \
    "inline int mfa_fragment_row(uint lane) { return int((lane >> 2 & 4) + (lane >> 1 & 3)); }\n" \
    "\n" \
    "/* The first of the two columns. */\n" \
    "inline int mfa_fragment_column(uint lane) { return int((lane >> 1 & 4) + (lane << 1 & 2)); }\n" \
    "\n" \
    "/* The lane that holds an element. */\n" \
    "inline ushort mfa_fragment_lane(int row, int column) {\n" \
    "    return ushort((row & 4) << 2 | (row & 3) << 1 | (column & 4) << 1 | (column >> 1 & 1));\n" \
    "}\n" \
    "\n" \
    "template <typename T> inline simdgroup_matrix<T, 8, 8> mfa_matrix(vec<T, 2> pair) {\n" \
    "    simdgroup_matrix<T, 8, 8> matrix;\n" \
    "    matrix.thread_elements()[0] = pair[0];\n" \
    "    matrix.thread_elements()[1] = pair[1];\n" \
    "    return matrix;\n" \
    "}\n" \
    "\n" \
    "/* left . right + sum; inputs multiply in their own types, sums are float. */\n" \
    "template <typename L, typename R> inline float2 mfa_multiply_add(vec<L, 2> left, vec<R, 2> right, float2 sum) {\n" \
    "    simdgroup_matrix<float, 8, 8> matrix = mfa_matrix<float>(sum);\n" \
    "    simdgroup_multiply_accumulate(matrix, mfa_matrix<L>(left), mfa_matrix<R>(right), matrix);\n" \
    "    return float2(matrix.thread_elements()[0], matrix.thread_elements()[1]);\n" \
    "}\n" \
    "\n" \
    "/* Over the four lanes that hold a row. */\n" \
    "inline float mfa_row_max(float x) {\n" \
    "    x = max(x, simd_shuffle_xor(x, ushort(1)));\n" \
    "    return max(x, simd_shuffle_xor(x, ushort(8)));\n" \
    "}\n" \
    "\n" \
    "inline float mfa_row_sum(float x) {\n" \
    "    x += simd_shuffle_xor(x, ushort(1));\n" \
    "    return x + simd_shuffle_xor(x, ushort(8));\n" \
    "}\n" \
    "\n" \
    "inline float2 mfa_transpose(float2 pair, uint lane) {\n" \
    "    const int row = mfa_fragment_row(lane), column = mfa_fragment_column(lane);\n" \
    "    float2 transposed;\n" \
    "    for (int i = 0; i < 2; ++i) {\n" \
    "        const ushort from = mfa_fragment_lane(column + i, row);\n" \
    "        const float even = simd_shuffle(pair[0], from), odd = simd_shuffle(pair[1], from);\n" \
    "        transposed[i] = (row & 1) != 0 ? odd : even;\n" \
    "    }\n" \
    "    return transposed;\n" \
    "}\n" \
    "\n" \
    "template <typename T> inline vec<T, 2> mfa_round(float2 pair) { return vec<T, 2>(T(pair[0]), T(pair[1])); }\n" \
    "\n" \
    "#endif\n"

#define MFA_INTEGERS_H_0 \
    "#line 1 \"mfa_integers.h\"\n" \
    "/*\n" \
    " * Products of codes as integers (SageAttention, Zhang et al., 2024). Codes less their zero points, and what queries and\n" \
    " * weights are rounded to, have no more than 8 bits and a sign, which every MFA_T has exactly. Scales come in outside of\n" \
    " * the products: those of queries and of rows of keys behind them, those of rows of values in the weights; those of\n" \
    " * columns of keys in the queries, before these are rounded, and those of columns of values at a row's end.\n" \
    " */\n" \
    "#ifndef MFA_INTEGERS_H\n" \
    "#define MFA_INTEGERS_H\n" \
    "\n"

#define MFA_INTEGERS_H_2 \
    "#line 12 \"mfa_integers.h\"\n" \
    "\n" \
    "/* Scales are normal numbers, as GPUs take others for 0. */\n" \
    "constant float mfa_least_scale = 1.17549435e-38f;\n" \
    "\n" \
    "inline float mfa_scale_for(float most, float largest) { return max(most / largest, mfa_least_scale); }\n" \
    "\n" \
    "/* ------------------------------------------------------------------ scales of codes */\n" \
    "\n" \
    "inline bool mfa_columns_have_scales(mfa_coding<true> coding) {\n" \
    "    return (coding.kind & (MFA_CODES_COLUMNS | MFA_CODES_GROUPS)) != 0;\n" \
    "}\n" \
    "\n" \
    "inline float mfa_row_scale(mfa_coding<false>, mfa_origin) { return 1; }\n" \
    "inline float mfa_row_scale(mfa_coding<true> coding, mfa_origin origin) {\n" \
    "    return mfa_columns_have_scales(coding) ? 1.0f : mfa_scale_at(coding, mfa_code_row(coding, origin));\n" \
    "}\n" \
    "\n" \
    "/* Which is then all rows'. */\n" \
    "inline float mfa_column_scale(mfa_coding<false>, int) { return 1; }\n" \
    "inline float mfa_column_scale(mfa_coding<true> coding, int column) {\n" \
    "    mfa_origin first;\n" \
    "    first.batch = first.row = 0;\n" \
    "    return mfa_columns_have_scales(coding)\n" \
    "               ? mfa_scale_at(coding, mfa_code_column(coding, mfa_code_row(coding, first), column))\n" \
    "               : 1.0f;\n" \
    "}\n" \
    "\n" \
    "/* ------------------------------------------------------------------ queries */\n" \
    "\n" \
    "/* What a column of keys is, as a query that is rounded knows it. */\n" \
    "inline float mfa_key_mean(mfa_coding<false>, int) { return 0; }\n" \
    "inline float mfa_key_mean(mfa_coding<true> coding, int column) {\n" \
    "    return (coding.kind & MFA_CODES_MEAN) != 0 ? coding.terms.mean[column * coding.strides->mean.column] : 0.0f;\n" \
    "}\n" \
    "\n" \
    "inline mfa_metal_query_terms mfa_query_terms_of(constant mfa_metal_params &p, mfa_queries queries,\n" \
    "                                                mfa_sequence sequence, mfa_index head, mfa_index row) {\n" \
    "    return queries.terms[mfa_stored_row(p, sequence, head, row)];\n" \
    "}\n" \
    "\n" \
    "/* Rounds a row, which may stay where it is: a simdgroup's work. */\n" \
    "inline mfa_metal_query_terms mfa_round_query(mfa_rows<MFA_T> from, mfa_rows<MFA_K> keys, mfa_result_rows<MFA_T> to,\n" \
    "                                             mfa_index row, uint lane) {\n" \
    "    const device MFA_T *source = mfa_row_at(from, row);\n" \
    "    device MFA_T *target = mfa_row_at(to, row);\n" \
    "    float most = 0, mean = 0;\n" \
    "    for (int column = int(lane); column < from.length; column += 32) {\n" \
    "        const float x = float(source[column * from.column_stride]);\n" \
    "        most = max(most, fabs(x * mfa_column_scale(keys.coding, column)));\n" \
    "        mean = fma(x, mfa_key_mean(keys.coding, column), mean);\n" \
    "    }\n" \
    "    mfa_metal_query_terms terms;\n" \
    "    terms.scale = mfa_scale_for(simd_max(most), 127);\n" \
    "    terms.mean = simd_sum(mean);\n" \
    "    for (int column = int(lane); column < from.length; column += 32) {\n" \
    "        const float x = float(source[column * from.column_stride]);\n" \
    "        target[column * to.column_stride] = MFA_T(rint(x * mfa_column_scale(keys.coding, column) / terms.scale));\n" \
    "    }\n" \
    "    return terms;\n" \
    "}\n" \
    "\n" \
    "/* Products of rounded queries and codes become those of queries and keys, where the row sees the key: the scales of\n" \
    "   other keys may not be there. */\n" \
    "template <int FRAGMENTS>\n" \
    "inline void mfa_scale_products(mfa_rows<MFA_K> keys, mfa_metal_query_terms terms, mfa_span seen, mfa_index first_key,\n" \
    "                               int column, thread float2 (&products)[FRAGMENTS]) {\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < FRAGMENTS; ++f)\n" \
    "        for (int i = 0; i < 2; ++i) {\n" \
    "            const mfa_index key = first_key + 8 * f + column + i;\n" \
    "            if (key >= seen.begin && key < seen.end)\n" \
    "                products[f][i] =\n" \
    "                    fma(products[f][i], terms.scale * mfa_row_scale(keys.coding, mfa_row_origin(keys.paging, key)),\n" \
    "                        terms.mean);\n" \
    "        }\n" \
    "}\n" \
    "\n" \
    "/* ------------------------------------------------------------------ weights */\n" \
    "\n" \
    "/* Rounds a row's weights, which take in the scales of the values that they are for; returns the scale of them all. */\n" \
    "template <int FRAGMENTS>\n" \
    "inline float mfa_round_weights(mfa_rows<MFA_V> values, mfa_span seen, mfa_index first_key, int column,\n" \
    "                               thread float2 (&weights)[FRAGMENTS]) {\n" \
    "    float most = 0;\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < FRAGMENTS; ++f)\n" \
    "        for (int i = 0; i < 2; ++i) {\n" \
    "            const mfa_index key = first_key + 8 * f + column + i;\n" \
    "            if (key >= seen.begin && key < seen.end)\n" \
    "                weights[f][i] *= mfa_row_scale(values.coding, mfa_row_origin(values.paging, key));\n" \
    "            most = max(most, weights[f][i]);\n" \
    "        }\n" \
    "    const float scale = mfa_scale_for(mfa_row_max(most), 255);\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < FRAGMENTS; ++f)\n" \
    "        weights[f] = rint(weights[f] / scale);\n" \
    "    return scale;\n" \
    "}\n" \
    "\n" \
    "/* Columns column and column + 1 of a row's sums. */\n" \
    "inline float2 mfa_scale_columns(mfa_rows<MFA_V> values, int column, float2 sums) {\n" \
    "    for (int i = 0; i < 2; ++i)\n" \
    "        if (column + i < values.length)\n" \
    "            sums[i] *= mfa_column_scale(values.coding, column + i);\n" \
    "    return sums;\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define MFA_KERNEL_H_0 \
    "#line 1 \"mfa_kernel.h\"\n" \
    "/* What every kernel begins with: the standard library, the parameters, and the features of this specialisation. */\n" \
    "#ifndef MFA_KERNEL_H\n" \
    "#define MFA_KERNEL_H\n" \
    "\n" \
    "#include <metal_stdlib>\n" \
    "using namespace metal;\n" \
    "\n"

#define MFA_KERNEL_H_1 \
    "#line 9 \"mfa_kernel.h\"\n" \
    "\n" \
    "constant bool has_logsumexp [[function_constant(MFA_CONSTANT_LOGSUMEXP)]];\n" \
    "constant bool has_bool_mask [[function_constant(MFA_CONSTANT_BOOL_MASK)]];\n" \
    "constant uint additive_mask_type [[function_constant(MFA_CONSTANT_ADDITIVE_MASK)]];\n" \
    "constant bool has_alibi [[function_constant(MFA_CONSTANT_ALIBI)]];\n" \
    "constant bool has_sinks [[function_constant(MFA_CONSTANT_SINKS)]];\n" \
    "constant bool has_softcap [[function_constant(MFA_CONSTANT_SOFTCAP)]];\n" \
    "constant bool has_dropout [[function_constant(MFA_CONSTANT_DROPOUT)]];\n" \
    "constant bool exact_weights [[function_constant(MFA_CONSTANT_EXACT_WEIGHTS)]];\n" \
    "constant bool has_huge_scale [[function_constant(MFA_CONSTANT_HUGE_SCALE)]];\n" \
    "constant bool has_vectors [[function_constant(MFA_CONSTANT_VECTORS)]];\n" \
    "constant bool has_blocks [[function_constant(MFA_CONSTANT_BLOCKS)]];\n" \
    "constant uint lists_there [[function_constant(MFA_CONSTANT_LISTS)]];\n" \
    "constant bool has_chunk [[function_constant(MFA_CONSTANT_CHUNK)]];\n" \
    "constant bool has_block_masks [[function_constant(MFA_CONSTANT_BLOCK_MASKS)]];\n" \
    "constant bool has_query_value [[function_constant(MFA_CONSTANT_QUERY_VALUE)]];\n" \
    "constant uint scales_there [[function_constant(MFA_CONSTANT_SCALES)]];\n" \
    "constant uint key_codes [[function_constant(MFA_CONSTANT_KEY_CODES)]];\n" \
    "constant uint value_codes [[function_constant(MFA_CONSTANT_VALUE_CODES)]];\n" \
    "constant bool has_rotary [[function_constant(MFA_CONSTANT_ROTARY)]];\n" \
    "constant bool is_interleaved [[function_constant(MFA_CONSTANT_INTERLEAVED)]];\n" \
    "constant bool has_float_cosines [[function_constant(MFA_CONSTANT_FLOAT_COSINES)]];\n" \
    "constant bool has_float_sines [[function_constant(MFA_CONSTANT_FLOAT_SINES)]];\n" \
    "\n" \
    "constant bool has_additive_mask = additive_mask_type != 0;\n" \
    "constant bool has_mask = has_bool_mask || has_additive_mask;\n" \
    "constant bool blocks_are_masked = has_blocks && (has_bool_mask || has_block_masks); /* those that are not full */\n" \
    "\n" \
    "constant bool has_sequences = (lists_there & MFA_LIST_SEQUENCES) != 0;\n" \
    "constant bool has_query_starts = (lists_there & MFA_LIST_QUERY_STARTS) != 0;\n" \
    "constant bool has_key_starts = (lists_there & MFA_LIST_KEY_STARTS) != 0;\n" \
    "constant bool has_query_lengths = (lists_there & MFA_LIST_QUERY_LENGTHS) != 0;\n" \
    "constant bool has_key_lengths = (lists_there & MFA_LIST_KEY_LENGTHS) != 0;\n" \
    "constant bool has_left_padding = (lists_there & MFA_LIST_LEFT_PADDING) != 0;\n" \
    "constant bool has_key_batches = (lists_there & MFA_LIST_KEY_BATCHES) != 0;\n" \
    "constant bool has_pages = (lists_there & MFA_LIST_PAGE_TABLE) != 0;\n" \
    "constant bool has_append = (lists_there & MFA_LIST_APPEND) != 0;\n" \
    "constant bool has_new_starts = (lists_there & MFA_LIST_NEW_STARTS) != 0;\n" \
    "constant bool has_rotary_positions = (lists_there & MFA_LIST_ROTARY_POSITIONS) != 0;\n" \
    "\n" \
    "constant bool has_query_scale = (scales_there & MFA_SCALE_QUERY) != 0;\n" \
    "constant bool has_key_scale = (scales_there & MFA_SCALE_KEY) != 0;\n" \
    "constant bool has_value_scale = (scales_there & MFA_SCALE_VALUE) != 0;\n" \
    "\n" \
    "constant bool has_key_codes = (key_codes & MFA_CODES_SCALES) != 0;\n" \
    "constant bool has_key_zero_points = (key_codes & MFA_CODES_ZERO_POINTS) != 0;\n" \
    "constant bool has_key_mean = (key_codes & MFA_CODES_MEAN) != 0;\n" \
    "constant bool has_integer_keys = (key_codes & MFA_CODES_INTEGERS) != 0;     /* and queries */\n" \
    "constant bool has_own_queries = has_rotary || has_integer_keys;             /* written by kernels before this */\n" \
    "constant bool has_integer_values = (value_codes & MFA_CODES_INTEGERS) != 0; /* and weights */\n" \
    "constant bool has_value_codes = (value_codes & MFA_CODES_SCALES) != 0;\n" \
    "constant bool has_value_zero_points = (value_codes & MFA_CODES_ZERO_POINTS) != 0;\n" \
    "\n" \
    "/* Elements from an operand's first to column 0 of a row. */\n" \
    "inline mfa_index mfa_place(constant mfa_metal_strides &strides, mfa_index batch, mfa_index head, mfa_index row) {\n" \
    "    return batch * strides.batch + head * strides.head + row * strides.row;\n" \
    "}\n" \
    "\n" \
    "/* Of numbers that are not negative. GPUs have no instruction that divides 64 bits. */\n" \
    "inline mfa_index mfa_quotient(mfa_index number, mfa_index divisor) {\n" \
    "    return (number | divisor) >> 32 == 0 ? mfa_index(mfa_u32(number) / mfa_u32(divisor)) : number / divisor;\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define MFA_PARAMS_H_0 \
    "#line 1 \"mfa_params.h\"\n" \
    "/*\n" \
    " * What the host tells the kernels: the problem, and the numbers of buffers and function constants. C and Metal read\n" \
    " * this file alike.\n" \
    " *\n" \
    " * The host compiles each source with these macros, which the tile table (src/metal/tiles.h) and the call determine:\n" \
    " *\n" \
    " *   MFA_T   type of query, and in which products are computed     half, bfloat or float\n" \
    " *   MFA_K   type as which keys are stored            as MFA_T, or of codes: char, uchar, mfa_int4 or mfa_uint4\n" \
    " *   MFA_V   type as which values are stored          likewise\n" \
    " *   MFA_O   type of out\n" \
    " *   MFA_DO  type of dout                           backward only\n" \
    " *   MFA_G   type of the gradient that is written   backward only; of dK and dV, that of dkey\n" \
    " *   MFA_GV  type of dvalue                         dK and dV only\n" \
    " *   MFA_D   head dimension, rounded up to a multiple of 8 (decode: 16)\n" \
    " *   MFA_BD  how much of it is staged at once, and in the backward pass summed by a threadgroup; divides MFA_D\n" \
    " *   MFA_DV  columns of values that a threadgroup accumulates, a multiple of 8 (decode: 16)\n" \
    " *   MFA_BQ, MFA_BK  query rows and keys of a tile               MFA_SIMDGROUPS  of a threadgroup\n" \
    " *   MFA_RESIDENT  1: query tiles stay in registers; 0: they are read anew for each key tile. Backward: rows of both\n" \
    " *   operands\n" \
    " *                 that a simdgroup owns\n" \
    " *\n" \
    " * Threadgroups are numbered in one dimension, batch outermost; those of one dispatch start at first_threadgroup.\n" \
    " */\n" \
    "#ifndef MFA_PARAMS_H\n" \
    "#define MFA_PARAMS_H\n" \
    "\n"

#define MFA_PARAMS_H_3 \
    "#line 30 \"mfa_params.h\"\n" \
    "\n" \
    "/* Strides count elements, in the order batch, head, row, column; 0 where broadcast. A buffer is bound at element 0, 0,\n" \
    "   0, 0. */\n" \
    "typedef struct mfa_metal_strides {\n" \
    "    mfa_index batch, head, row, column;\n" \
    "} mfa_metal_strides;\n" \
    "\n" \
    "/* What codes stand for: scale * (code - zero point) + mean. */\n" \
    "typedef struct mfa_metal_coding {\n" \
    "    mfa_metal_strides scales, zero_points, mean;\n" \
    "    mfa_index rows, columns; /* that share a scale; 0: all */\n" \
    "    mfa_index row_shift;     /* their logarithm, 63 if all share one; -1: they are no power of two */\n" \
    "    mfa_u64 columns_inverse; /* 2^40 / columns that share a scale, rounded up */\n" \
    "} mfa_metal_coding;\n" \
    "\n" \
    "typedef struct mfa_metal_params {\n" \
    "    mfa_index first_threadgroup; /* number of this dispatch's first threadgroup */\n" \
    "\n" \
    "    mfa_index batch, heads, kv_heads, group; /* group = heads / kv_heads */\n" \
    "    mfa_index query_count, key_count, head_dim, value_dim;\n" \
    "    mfa_index offset, window_left, window_right; /* for mfa_rules.h; -1: unbounded */\n" \
    "    mfa_index block_rows, block_keys;            /* of a block */\n" \
    "    mfa_index block_lines, block_columns;        /* rows and columns of blocks, and words of a bit for each column */\n" \
    "    mfa_index block_words, block_heads;          /* heads that have blocks of their own; 1: all have the same */\n" \
    "    mfa_index listed_blocks, listed_full_blocks, listed_masks; /* at the most, in a row of each list */\n" \
    "    mfa_index mask_count;\n" \
    "\n" \
    "    mfa_index stored_batches, stored_rows; /* of query, as it lies */\n" \
    "    mfa_index cache_batches, cache_rows;   /* of key, as it lies: batches or pages, and rows of each */\n" \
    "    mfa_index cache_capacity;              /* rows that a sequence has room for, where none is packed */\n" \
    "    mfa_index is_bottom_right;             /* with sequences: offset = keys - queries, else 0 */\n" \
    "    mfa_index chunk;\n" \
    "    mfa_index new_rows;                  /* of new_key, as it lies */\n" \
    "    mfa_index rotary_rows, rotary_pairs; /* of the tables; 0 pairs: nothing is turned */\n" \
    "    mfa_index queries_step;              /* rotary positions of queries follow each other; else all have the first's */\n" \
    "\n" \
    "    mfa_index query_tiles, key_tiles,\n" \
    "        value_blocks;             /* ceil(query_count / MFA_BQ) and so on; decode: of group * query_count */\n" \
    "    mfa_index splits, split_keys; /* decode: parts of the keys, and keys of each, a multiple of MFA_BK */\n" \
    "\n" \
    "    mfa_metal_strides query, key, value, out, logsumexp;\n" \
    "    mfa_metal_strides bool_mask, additive_mask, alibi_slopes; /* stretched to (B, H, Nq, Nkv), slopes to (B, H, 1, 1) */\n" \
    "    mfa_metal_strides blocks;                                 /* of MFA_BUFFER_BLOCKS; .row: words of a line */\n" \
    "    mfa_metal_strides sinks;                                  /* only .head */\n" \
    "    mfa_metal_strides kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices, block_mask, mask_indices;\n" \
    "    mfa_metal_strides masks; /* .batch: from mask to mask */\n" \
    "    mfa_metal_strides query_starts, key_starts, query_lengths, key_lengths, left_padding, key_batches, page_table;\n" \
    "    mfa_metal_strides query_value, query_scale, key_scale, value_scale;\n" \
    "    mfa_metal_strides new_key, new_value, new_starts, rotary_cos, rotary_sin, rotary_positions;\n" \
    "    mfa_metal_coding key_coding, value_coding;\n" \
    "    mfa_metal_strides dout, dquery, dkey, dvalue, dbias, dsinks, delta, dlogsumexp;\n" \
    "    mfa_metal_strides dbias_size;          /* sizes of dbias: full, or 1 where it is summed */\n" \
    "    mfa_metal_strides turned;              /* of MFA_BUFFER_TURNED */\n" \
    "    mfa_metal_strides filled, filled_size; /* the result that fill.metal fills, and its sizes */\n" \
    "\n" \
    "    float softmax_scale;\n" \
    "    float softcap;\n" \
    "    float keep_factor;          /* dropout: what a weight that is kept is multiplied by, 1 / (1 - dropout_p) */\n" \
    "    mfa_u32 dropout_threshold;  /* mfa_rule_dropout_threshold */\n" \
    "    mfa_philox_key dropout_key; /* mfa_rule_dropout_key */\n" \
    "} mfa_metal_params;\n" \
    "\n" \
    "/* Members lie in the same places for host and kernels: their types have the same sizes, and those of 8 bytes come\n" \
    "   first, so that nothing is padded. */\n" \
    "#ifdef __METAL_VERSION__\n" \
    "static_assert(sizeof(mfa_index) == 8 && sizeof(mfa_u32) == 4 && sizeof(float) == 4, \"types of fixed size\");\n" \
    "#else\n" \
    "#include <stddef.h>\n" \
    "_Static_assert(sizeof(mfa_index) == 8 && sizeof(mfa_u32) == 4 && sizeof(float) == 4, \"types of fixed size\");\n" \
    "_Static_assert(offsetof(mfa_metal_params, dropout_key) + sizeof(mfa_philox_key) == sizeof(mfa_metal_params),\n" \
    "               \"no padding\");\n" \
    "#endif\n" \
    "\n" \
    "/* One kernel has 31 of them at the most. What only forward calls have and what only backward calls have share numbers,\n" \
    "   and so does what only some kernels are given (src/metal/operands.m) with what these do without. */\n" \
    "enum {\n" \
    "    MFA_BUFFER_PARAMS = 0,\n" \
    "    MFA_BUFFER_QUERY = 1,\n" \
    "    MFA_BUFFER_KEY = 2,\n" \
    "    MFA_BUFFER_VALUE = 3,\n" \
    "    MFA_BUFFER_OUT = 4,\n" \
    "    MFA_BUFFER_LOGSUMEXP = 5,     /* bound if MFA_CONSTANT_LOGSUMEXP, or in backward */\n" \
    "    MFA_BUFFER_BOOL_MASK = 6,     /* bound if MFA_CONSTANT_BOOL_MASK */\n" \
    "    MFA_BUFFER_ADDITIVE_MASK = 7, /* bound if MFA_CONSTANT_ADDITIVE_MASK */\n" \
    "    MFA_BUFFER_ALIBI_SLOPES = 8,  /* bound if MFA_CONSTANT_ALIBI */\n" \
    "    MFA_BUFFER_SINKS = 9,         /* bound if MFA_CONSTANT_SINKS */\n" \
    "    /* float (B, H, Nq, splits, value_dim + MFA_PARTIAL_EXTRA), contiguous: sums not yet divided, then the row's maximum\n" \
    "       in natural units and its sum of weights. Written by decode, read by combine. */\n" \
    "    MFA_BUFFER_PARTIALS = 10,\n" \
    "    MFA_BUFFER_DOUT = 11,\n" \
    "    MFA_BUFFER_DELTA = 12, /* mfa_metal_delta (B, H, Nq), contiguous; written by prepare */\n" \
    "    MFA_BUFFER_DQUERY = 13,\n" \
    "    MFA_BUFFER_DKEY = 14,\n" \
    "    MFA_BUFFER_DVALUE = 15,\n" \
    "    MFA_BUFFER_DBIAS = 10,\n" \
    "    /* mfa_u32 (B or 1, H or 1, rows of blocks, words of a line), contiguous. A line has bits of the blocks that count,\n" \
    "       bits of those in which bool_mask and masks are not looked at, in block_words words each, and, if\n" \
    "       MFA_CONSTANT_BLOCK_MASKS, for each block 1 + the number of its mask; 0: none. Written by blocks. */\n" \
    "    MFA_BUFFER_BLOCKS = 18,\n" \
    "    MFA_BUFFER_MASKS = 19, /* bound if MFA_CONSTANT_BLOCK_MASKS */\n" \
    "\n" \
    "    MFA_BUFFER_FILLED = 1, /* the result that fill.metal fills, and nothing else */\n" \
    "\n" \
    "    MFA_BUFFER_KV_NUM_BLOCKS = 13, /* lists of blocks: bound where they are read, and nothing else but scratch memory */\n" \
    "    MFA_BUFFER_KV_INDICES = 14,\n" \
    "    MFA_BUFFER_FULL_KV_NUM_BLOCKS = 15,\n" \
    "    MFA_BUFFER_FULL_KV_INDICES = 16,\n" \
    "    MFA_BUFFER_BLOCK_MASK = 17,\n" \
    "    MFA_BUFFER_MASK_INDICES = 20,\n" \
    "\n" \
    "    MFA_BUFFER_QUERY_STARTS = 20, /* sequences and pages */\n" \
    "    MFA_BUFFER_KEY_STARTS = 21,\n" \
    "    MFA_BUFFER_QUERY_LENGTHS = 22,\n" \
    "    MFA_BUFFER_KEY_LENGTHS = 23,\n" \
    "    MFA_BUFFER_LEFT_PADDING = 24,\n" \
    "    MFA_BUFFER_KEY_BATCHES = 25,\n" \
    "    MFA_BUFFER_PAGE_TABLE = 26,\n" \
    "\n" \
    "    MFA_BUFFER_KEY_SCALES = 28, /* quantisation */\n" \
    "    MFA_BUFFER_KEY_ZERO_POINTS = 29,\n" \
    "    MFA_BUFFER_KEY_MEAN = 30,\n" \
    "    MFA_BUFFER_VALUE_SCALES = 16,\n" \
    "    MFA_BUFFER_VALUE_ZERO_POINTS = 17,\n" \
    "\n" \
    "    MFA_BUFFER_DSINKS = 1, /* of backward_sinks alone */\n" \
    "\n" \
    "    MFA_BUFFER_OWN_DELTA = 1,  /* the caller's; of prepare alone, bound if MFA_CONSTANT_OWN_DELTA */\n" \
    "    MFA_BUFFER_DLOGSUMEXP = 2, /* of prepare alone, bound if MFA_CONSTANT_DLOGSUMEXP */\n" \
    "\n" \
    "    MFA_BUFFER_QUERY_VALUE = 11, /* these of the forward pass only */\n" \
    "    MFA_BUFFER_QUERY_TERMS = 12, /* mfa_metal_query_terms (B, H, Nq), contiguous; written by quantise. Bound if\n" \
    "                                    MFA_CODES_INTEGERS */\n" \
    "    MFA_BUFFER_QUERY_SCALE = 13,\n" \
    "    MFA_BUFFER_KEY_SCALE = 14,\n" \
    "    MFA_BUFFER_VALUE_SCALE = 15,\n" \
    "    MFA_BUFFER_NEW_STARTS = 27,\n" \
    "\n" \
    "    MFA_BUFFER_NEW_KEY = 4, /* of append, rotate and quantise alone */\n" \
    "    MFA_BUFFER_NEW_VALUE = 5,\n" \
    "    MFA_BUFFER_ROTARY_COS = 6,\n" \
    "    MFA_BUFFER_ROTARY_SIN = 7,\n" \
    "    MFA_BUFFER_ROTARY_POSITIONS = 8,\n" \
    "    MFA_BUFFER_TURNED = 9 /* MFA_T, as query, contiguous; written by rotate and quantise. Others have it for query */\n" \
    "};\n" \
    "\n" \
    "enum { MFA_PARTIAL_EXTRA = 2 };\n" \
    "\n" \
    "/* Of a row in the backward pass: rowsum(dout * out) - dlogsumexp, and 0, or NaN if dout holds non-finite values. */\n" \
    "typedef struct mfa_metal_delta {\n" \
    "    float delta, taint;\n" \
    "} mfa_metal_delta;\n" \
    "\n" \
    "/* Of a query that is rounded: what its integers are times, and its product with the mean of keys. */\n" \
    "typedef struct mfa_metal_query_terms {\n" \
    "    float scale, mean;\n" \
    "} mfa_metal_query_terms;\n" \
    "\n" \
    "/* Rows and simdgroups of threadgroups that have no row in the tile table: of those that append, rotate or quantise, that fill,\n" \
    "   and that compute delta and the gradient of sinks. */\n" \
    "enum { MFA_APPEND_ROWS = 8, MFA_APPEND_SIMDGROUPS = 4 };\n" \
    "enum { MFA_FILL_ROWS = 32, MFA_FILL_SIMDGROUPS = 4 };\n" \
    "enum { MFA_PREPARE_ROWS = 32, MFA_PREPARE_SIMDGROUPS = 4, MFA_SINKS_SIMDGROUPS = 8 };\n" \
    "\n" \
    "/* Threads that make a line of MFA_BUFFER_BLOCKS. */\n" \
    "enum { MFA_BLOCKS_THREADS = 128 };\n" \
    "\n" \
    "/* Function constants: flags (bool) but for MFA_CONSTANT_ADDITIVE_MASK, MFA_CONSTANT_LISTS, MFA_CONSTANT_SCALES,\n" \
    "   MFA_CONSTANT_KEY_CODES and MFA_CONSTANT_VALUE_CODES, each a uint. Each has a value in each pipeline. */\n" \
    "enum {\n" \
    "    MFA_CONSTANT_LOGSUMEXP = 0,     /* logsumexp is written, or filled */\n" \
    "    MFA_CONSTANT_BOOL_MASK = 1,     /* there is one */\n" \
    "    MFA_CONSTANT_ADDITIVE_MASK = 2, /* MFA_MASK_... */\n" \
    "    MFA_CONSTANT_ALIBI = 3,\n" \
    "    MFA_CONSTANT_SINKS = 4,\n" \
    "    MFA_CONSTANT_SOFTCAP = 5,\n" \
    "    MFA_CONSTANT_DROPOUT = 6,\n" \
    "    MFA_CONSTANT_EXACT_WEIGHTS = 7, /* softmax weights stay float32; of no consequence for float inputs */\n" \
    "    /* The rows of every operand and result (logsumexp, masks and what codes stand for aside) have their elements side by side (column\n" \
    "       stride 1), begin at multiples of MFA_VECTOR elements from address 0, and have a length that is a multiple of\n" \
    "       MFA_VECTOR; of codes, MFA_CODES_VECTOR. */\n" \
    "    MFA_CONSTANT_VECTORS = 8,\n" \
    "    MFA_CONSTANT_DKEY = 9, /* dkey is wanted, and dvalue: of the kernel that can write both */\n" \
    "    MFA_CONSTANT_DVALUE = 10,\n" \
    "    MFA_CONSTANT_HUGE_SCALE = 11, /* softmax_scale times log2(e) leaves the range of float */\n" \
    "    MFA_CONSTANT_BLOCKS = 12,\n" \
    "    MFA_CONSTANT_LISTS = 13, /* MFA_LIST_... */\n" \
    "    MFA_CONSTANT_CHUNK = 14,\n" \
    "    MFA_CONSTANT_QUERY_VALUE = 15,\n" \
    "    MFA_CONSTANT_SCALES = 16,        /* MFA_SCALE_... */\n" \
    "    MFA_CONSTANT_ROTARY = 17,        /* queries and new keys are turned by their positions */\n" \
    "    MFA_CONSTANT_INTERLEAVED = 18,   /* in pairs of neighbours; else half of what is turned apart */\n" \
    "    MFA_CONSTANT_FLOAT_COSINES = 19, /* the table is float; else MFA_T, as query */\n" \
    "    MFA_CONSTANT_FLOAT_SINES = 20,\n" \
    "    MFA_CONSTANT_BLOCK_MASKS = 21, /* some blocks have masks of their own */\n" \
    "    MFA_CONSTANT_BLOCK_TABLE = 22, /* of the kernel that makes words of lists: which there are */\n" \
    "    MFA_CONSTANT_BLOCK_LISTS = 23,\n" \
    "    MFA_CONSTANT_FULL_LISTS = 24,\n" \
    "    MFA_CONSTANT_OUT = 25, /* of prepare: out is there; else delta is read */\n" \
    "    MFA_CONSTANT_OWN_DELTA = 26,\n" \
    "    MFA_CONSTANT_KEY_CODES = 27, /* MFA_CODES_... */\n" \
    "    MFA_CONSTANT_VALUE_CODES = 28,\n" \
    "    MFA_CONSTANT_ZERO_CLIPPED = 29, /* codes at an end of their range have no gradients */\n" \
    "    MFA_CONSTANT_DLOGSUMEXP = 30,   /* of prepare: logsumexp has a gradient */\n" \
    "    MFA_CONSTANTS\n" \
    "};\n" \
    "\n" \
    "enum { MFA_VECTOR = 4, MFA_CODES_VECTOR = 8 };\n" \
    "\n" \
    "/* What says how long sequences are and where they lie; a set is a sum. */\n" \
    "enum {\n" \
    "    MFA_LIST_SEQUENCES = 1, /* set beside any other: sequences have lengths and places of their own */\n" \
    "    MFA_LIST_QUERY_STARTS = 2,\n" \
    "    MFA_LIST_KEY_STARTS = 4,\n" \
    "    MFA_LIST_QUERY_LENGTHS = 8,\n" \
    "    MFA_LIST_KEY_LENGTHS = 16,\n" \
    "    MFA_LIST_LEFT_PADDING = 32,\n" \
    "    MFA_LIST_KEY_BATCHES = 64,\n" \
    "    MFA_LIST_PAGE_TABLE = 128,\n" \
    "    MFA_LIST_APPEND = 256, /* new rows come behind those of key_lengths */\n" \
    "    MFA_LIST_NEW_STARTS = 512,\n" \
    "    MFA_LIST_ROTARY_POSITIONS = 1024\n" \
    "};\n" \
    "\n" \
    "/* Factors of stored values; a set is a sum. */\n" \
    "enum { MFA_SCALE_QUERY = 1, MFA_SCALE_KEY = 2, MFA_SCALE_VALUE = 4 };\n" \
    "\n" \
    "/* What codes stand for; a set is a sum. */\n" \
    "enum {\n" \
    "    MFA_CODES_SCALES = 1, /* set beside any other: there are codes */\n" \
    "    MFA_CODES_HALF_SCALES = 2,\n" \
    "    MFA_CODES_COLUMNS = 4, /* each column has a scale of its own */\n" \
    "    MFA_CODES_GROUPS = 8,  /* columns have scales by groups */\n" \
    "    MFA_CODES_ZERO_POINTS = 16,\n" \
    "    MFA_CODES_SIGNED_BYTES = 32, /* what zero points are; int if neither */\n" \
    "    MFA_CODES_UNSIGNED_BYTES = 64,\n" \
    "    MFA_CODES_MEAN = 128,\n" \
    "    MFA_CODES_INTEGERS = 256 /* rows are read as codes less their zero points (mfa_integers.h) */\n" \
    "};\n" \
    "\n" \
    "enum { MFA_MASK_NONE = 0, MFA_MASK_FP16 = 1, MFA_MASK_BF16 = 2, MFA_MASK_FP32 = 3 };\n" \
    "\n" \
    "#endif\n"

#define MFA_PHILOX_H_0 \
    "#line 1 \"mfa_philox.h\"\n" \
    "/* Which weights dropout drops: value-only functions for every backend, as in mfa_rules.h. */\n" \
    "#ifndef MFA_PHILOX_H\n" \
    "#define MFA_PHILOX_H\n" \
    "\n"

#define MFA_PHILOX_H_1 \
    "#line 6 \"mfa_philox.h\"\n" \
    "\n" \
    "/*\n" \
    " * Dropout. One call of Philox4x32-10 (Salmon, Moraes, Dror and Shaw, 2011) decides about 8 columns of a row, 16 apart,\n" \
    " * so that 16 lanes that each make a call have 8 vectors of adjacent columns:\n" \
    " *\n" \
    " *   key      the first two words of Philox of (offset low, offset high, 0, 0) with the key (seed low, seed high)\n" \
    " *   counter  (16 * (column / 128) + column % 16, row, head, batch), each modulo 2^32\n" \
    " *   bits     slice s = column % 128 / 16: word s / 2 of the result, its low half for even s, its high half for odd s\n" \
    " *\n" \
    " * A weight is dropped if its bits are below round(65536 * dropout_p).\n" \
    " */\n" \
    "enum { MFA_DROPOUT_COLUMNS = 128, MFA_DROPOUT_LANES = 16, MFA_PHILOX_ROUNDS = 10 };\n" \
    "#define MFA_PHILOX_FIRST 0xd2511f53u\n" \
    "#define MFA_PHILOX_SECOND 0xcd9e8d57u\n" \
    "\n" \
    "typedef struct {\n" \
    "    mfa_u32 word[4];\n" \
    "} mfa_philox;\n" \
    "\n" \
    "typedef struct {\n" \
    "    mfa_u32 word[2];\n" \
    "} mfa_philox_key;\n" \
    "\n" \
    "static inline mfa_philox_key mfa_rule_philox_next_key(mfa_philox_key key) {\n" \
    "    key.word[0] += 0x9e3779b9u;\n" \
    "    key.word[1] += 0xbb67ae85u;\n" \
    "    return key;\n" \
    "}\n" \
    "\n" \
    "static inline mfa_philox mfa_rule_philox_round(mfa_philox x, mfa_philox_key key) {\n" \
    "    mfa_u64 first = (mfa_u64)MFA_PHILOX_FIRST * x.word[0], second = (mfa_u64)MFA_PHILOX_SECOND * x.word[2];\n" \
    "    mfa_philox y;\n" \
    "    y.word[0] = (mfa_u32)(second >> 32) ^ x.word[1] ^ key.word[0];\n" \
    "    y.word[1] = (mfa_u32)second;\n" \
    "    y.word[2] = (mfa_u32)(first >> 32) ^ x.word[3] ^ key.word[1];\n" \
    "    y.word[3] = (mfa_u32)first;\n" \
    "    return y;\n" \
    "}\n" \
    "\n" \
    "static inline mfa_philox mfa_rule_philox(mfa_philox counter, mfa_philox_key key) {\n" \
    "    for (int i = 0; i < MFA_PHILOX_ROUNDS; ++i) {\n" \
    "        counter = mfa_rule_philox_round(counter, key);\n" \
    "        key = mfa_rule_philox_next_key(key);\n" \
    "    }\n" \
    "    return counter;\n" \
    "}\n" \
    "\n" \
    "static inline mfa_philox_key mfa_rule_dropout_key(mfa_u64 seed, mfa_u64 offset) {\n" \
    "    mfa_philox counter = {{(mfa_u32)offset, (mfa_u32)(offset >> 32), 0, 0}};\n" \
    "    mfa_philox_key key = {{(mfa_u32)seed, (mfa_u32)(seed >> 32)}};\n" \
    "    counter = mfa_rule_philox(counter, key);\n" \
    "    key.word[0] = counter.word[0];\n" \
    "    key.word[1] = counter.word[1];\n" \
    "    return key;\n" \
    "}\n" \
    "\n" \
    "static inline mfa_philox mfa_rule_dropout_counter(mfa_index batch, mfa_index head, mfa_index row, mfa_index column) {\n" \
    "    mfa_index call = MFA_DROPOUT_LANES * (column / MFA_DROPOUT_COLUMNS) + column % MFA_DROPOUT_LANES;\n" \
    "    mfa_philox counter = {{(mfa_u32)call, (mfa_u32)row, (mfa_u32)head, (mfa_u32)batch}};\n" \
    "    return counter;\n" \
    "}\n" \
    "\n" \
    "/* Of slice 0 .. 7 of a call's result. */\n" \
    "static inline mfa_u32 mfa_rule_dropout_slice(mfa_philox result, int slice) {\n" \
    "    return result.word[slice / 2] >> (slice % 2 * 16) & 0xffffu;\n" \
    "}\n" \
    "\n" \
    "static inline mfa_u32 mfa_rule_dropout_bits(mfa_philox_key key, mfa_index batch, mfa_index head, mfa_index row,\n" \
    "                                            mfa_index column) {\n" \
    "    mfa_philox result = mfa_rule_philox(mfa_rule_dropout_counter(batch, head, row, column), key);\n" \
    "    return mfa_rule_dropout_slice(result, (int)(column % MFA_DROPOUT_COLUMNS / MFA_DROPOUT_LANES));\n" \
    "}\n" \
    "\n" \
    "static inline mfa_u32 mfa_rule_dropout_threshold(float dropout_p) { return (mfa_u32)(dropout_p * 65536.0f + 0.5f); }\n" \
    "\n" \
    "#endif\n"

#define MFA_ROTARY_H_0 \
    "#line 1 \"mfa_rotary.h\"\n" \
    "/*\n" \
    " * Rotary embedding: column pairs (x, y) of a row become (x cos - y sin, x sin + y cos), for the angles of its position.\n" \
    " * RoFormer (Su et al., 2021).\n" \
    " */\n" \
    "#ifndef MFA_ROTARY_H\n" \
    "#define MFA_ROTARY_H\n" \
    "\n"

#define MFA_ROTARY_H_1 \
    "#line 9 \"mfa_rotary.h\"\n" \
    "\n" \
    "#define MFA_ROTARY_ARGUMENTS                                                                             \\\n" \
    "    const device uchar *rotary_cos [[buffer(MFA_BUFFER_ROTARY_COS), function_constant(has_rotary)]],     \\\n" \
    "        const device uchar *rotary_sin [[buffer(MFA_BUFFER_ROTARY_SIN), function_constant(has_rotary)]], \\\n" \
    "        const device int *rotary_positions                                                               \\\n" \
    "        [[buffer(MFA_BUFFER_ROTARY_POSITIONS), function_constant(has_rotary_positions)]]\n" \
    "#define MFA_ROTARY mfa_rotary_of(rotary_cos, rotary_sin, rotary_positions)\n" \
    "\n" \
    "/* What is there. */\n" \
    "struct mfa_rotary {\n" \
    "    const device uchar *cosines, *sines;\n" \
    "    const device int *positions;\n" \
    "};\n" \
    "\n" \
    "inline mfa_rotary mfa_rotary_of(const device uchar *cosines, const device uchar *sines, const device int *positions) {\n" \
    "    mfa_rotary rotary;\n" \
    "    if (has_rotary) {\n" \
    "        rotary.cosines = cosines;\n" \
    "        rotary.sines = sines;\n" \
    "    }\n" \
    "    if (has_rotary_positions)\n" \
    "        rotary.positions = positions;\n" \
    "    return rotary;\n" \
    "}\n" \
    "\n" \
    "/* Of the first new key and of the first query. */\n" \
    "inline mfa_index mfa_rotary_position(constant mfa_metal_params &p, mfa_rotary rotary, mfa_sequence sequence) {\n" \
    "    if (has_rotary_positions)\n" \
    "        return mfa_list_entry(rotary.positions, p.rotary_positions.column, sequence.number, p.rotary_rows);\n" \
    "    return sequence.filled;\n" \
    "}\n" \
    "\n" \
    "inline float mfa_angle(const device uchar *table, bool is_float, constant mfa_metal_strides &strides,\n" \
    "                       mfa_index position, mfa_index pair) {\n" \
    "    const mfa_index place = position * strides.row + pair * strides.column;\n" \
    "    return is_float ? ((const device float *)table)[place] : float(((const device MFA_T *)table)[place]);\n" \
    "}\n" \
    "\n" \
    "/* A column of a row, turned likewise. */\n" \
    "template <typename S>\n" \
    "inline float mfa_turned_column(constant mfa_metal_params &p, mfa_rotary rotary, mfa_index position,\n" \
    "                               const device S *source, mfa_index stride, mfa_index column) {\n" \
    "    const mfa_index pairs = has_rotary ? p.rotary_pairs : 0, place = min(position, p.rotary_rows - 1);\n" \
    "    const float own = float(source[column * stride]);\n" \
    "    if (column >= 2 * pairs)\n" \
    "        return own;\n" \
    "    const bool is_second = is_interleaved ? (column & 1) != 0 : column >= pairs;\n" \
    "    const mfa_index apart = is_interleaved ? mfa_index(1) : pairs, first = is_second ? column - apart : column;\n" \
    "    const mfa_index pair = is_interleaved ? first / 2 : first;\n" \
    "    const float other = float(source[(is_second ? first : first + apart) * stride]);\n" \
    "    const float cosine = mfa_angle(rotary.cosines, has_float_cosines, p.rotary_cos, place, pair);\n" \
    "    const float sine = mfa_angle(rotary.sines, has_float_sines, p.rotary_sin, place, pair);\n" \
    "    return is_second ? other * sine + own * cosine : own * cosine - other * sine;\n" \
    "}\n" \
    "\n" \
    "/* Copies a row, turned, if there are tables, by a position, which is cut to those that they have: a simdgroup's work. */\n" \
    "template <typename S>\n" \
    "inline void mfa_turn_row(constant mfa_metal_params &p, mfa_rotary rotary, mfa_index position, mfa_rows<S> from,\n" \
    "                         mfa_index row, mfa_result_rows<S> to, mfa_index to_row, uint lane) {\n" \
    "    const device S *source = mfa_row_at(from, row);\n" \
    "    device S *target = mfa_row_at(to, to_row);\n" \
    "    const mfa_index pairs = has_rotary ? p.rotary_pairs : 0, place = min(position, p.rotary_rows - 1);\n" \
    "    for (mfa_index pair = lane; pair < pairs; pair += 32) {\n" \
    "        const mfa_index first = is_interleaved ? 2 * pair : pair, second = first + (is_interleaved ? 1 : pairs);\n" \
    "        const float x = float(source[first * from.column_stride]), y = float(source[second * from.column_stride]);\n" \
    "        const float cosine = mfa_angle(rotary.cosines, has_float_cosines, p.rotary_cos, place, pair);\n" \
    "        const float sine = mfa_angle(rotary.sines, has_float_sines, p.rotary_sin, place, pair);\n" \
    "        target[first * to.column_stride] = S(x * cosine - y * sine);\n" \
    "        target[second * to.column_stride] = S(x * sine + y * cosine);\n" \
    "    }\n" \
    "    for (mfa_index column = 2 * pairs + lane; column < from.length; column += 32)\n" \
    "        target[column * to.column_stride] = source[column * from.column_stride];\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define MFA_ROWS_H_0 \
    "#line 1 \"mfa_rows.h\"\n" \
    "/* Rows of an operand in device memory: how a row is addressed, and how pieces of it are read, written and staged. */\n" \
    "#ifndef MFA_ROWS_H\n" \
    "#define MFA_ROWS_H\n" \
    "\n"

#define MFA_ROWS_H_1 \
    "#line 6 \"mfa_rows.h\"\n" \
    "\n" \
    "/* Of a sequence, with pages: which of them its rows lie in. */\n" \
    "struct mfa_paging {\n" \
    "    bool is_paged; /* this operand */\n" \
    "    const device int *entries;\n" \
    "    mfa_index entry_stride, page_stride, first_row, page_rows, last_page;\n" \
    "};\n" \
    "\n" \
    "inline mfa_paging mfa_paging_of(constant mfa_metal_params &p, constant mfa_metal_strides &strides,\n" \
    "                                mfa_sequence sequence) {\n" \
    "    mfa_paging paging;\n" \
    "    if (has_pages) {\n" \
    "        paging.is_paged = true;\n" \
    "        paging.entries = sequence.pages;\n" \
    "        paging.entry_stride = p.page_table.column;\n" \
    "        paging.page_stride = strides.batch;\n" \
    "        paging.first_row = sequence.keys.row;\n" \
    "        paging.page_rows = p.cache_rows;\n" \
    "        paging.last_page = p.cache_batches - 1;\n" \
    "    }\n" \
    "    return paging;\n" \
    "}\n" \
    "\n" \
    "inline mfa_paging mfa_no_paging() {\n" \
    "    mfa_paging paging;\n" \
    "    if (has_pages)\n" \
    "        paging.is_paged = false;\n" \
    "    return paging;\n" \
    "}\n" \
    "\n" \
    "/* The page that a row lies in, and which of the page's rows it is; without pages the row itself. */\n" \
    "inline mfa_origin mfa_row_origin(mfa_paging paging, mfa_index row) {\n" \
    "    mfa_origin origin;\n" \
    "    origin.batch = 0;\n" \
    "    origin.row = row;\n" \
    "    if (has_pages && paging.is_paged) {\n" \
    "        const mfa_index place = paging.first_row + row, entry = mfa_quotient(place, paging.page_rows);\n" \
    "        origin.batch = mfa_rule_clamp(paging.entries[entry * paging.entry_stride], paging.last_page);\n" \
    "        origin.row = place - entry * paging.page_rows;\n" \
    "    }\n" \
    "    return origin;\n" \
    "}\n" \
    "\n" \
    "/* Elements from row 0 of a sequence, or from its first page's row 0 on page 0, to a row. */\n" \
    "inline mfa_index mfa_row_place(mfa_paging paging, mfa_index row_stride, mfa_origin origin) {\n" \
    "    return (has_pages && paging.is_paged ? origin.batch * paging.page_stride : 0) + origin.row * row_stride;\n" \
    "}\n" \
    "\n" \
    "/* The rows of one head. Columns from `length` on read as zero. */\n" \
    "template <typename S> struct mfa_rows {\n" \
    "    const device S *first;\n" \
    "    mfa_index row_stride, column_stride;\n" \
    "    int length;\n" \
    "    mfa_paging paging;\n" \
    "    mfa_coding<mfa_storage<S>::are_codes> coding; /* what codes stand for */\n" \
    "};\n" \
    "\n" \
    "/* The same of a result. Columns from `length` on are not written. */\n" \
    "template <typename S> struct mfa_result_rows {\n" \
    "    device S *first;\n" \
    "    mfa_index row_stride, column_stride;\n" \
    "    int length;\n" \
    "    mfa_paging paging;\n" \
    "};\n" \
    "\n" \
    "template <typename S>\n" \
    "inline mfa_rows<S> mfa_rows_of(const device S *operand, constant mfa_metal_strides &strides, mfa_origin origin,\n" \
    "                               mfa_index head, mfa_index length) {\n" \
    "    mfa_rows<S> rows;\n" \
    "    rows.first = operand + mfa_units<S>(mfa_place(strides, origin.batch, head, origin.row));\n" \
    "    rows.row_stride = strides.row;\n" \
    "    rows.column_stride = strides.column;\n" \
    "    rows.length = int(length);\n" \
    "    rows.paging = mfa_no_paging();\n" \
    "    return rows;\n" \
    "}\n" \
    "\n" \
    "template <typename S>\n" \
    "inline mfa_result_rows<S> mfa_result_rows_of(device S *result, constant mfa_metal_strides &strides, mfa_origin origin,\n" \
    "                                             mfa_index head, mfa_index length) {\n" \
    "    mfa_result_rows<S> rows;\n" \
    "    rows.first = result + mfa_units<S>(mfa_place(strides, origin.batch, head, origin.row));\n" \
    "    rows.row_stride = strides.row;\n" \
    "    rows.column_stride = strides.column;\n" \
    "    rows.length = int(length);\n" \
    "    rows.paging = mfa_no_paging();\n" \
    "    return rows;\n" \
    "}\n" \
    "\n" \
    "/* Where a sequence's keys begin in memory, for rows to be counted from. */\n" \
    "inline mfa_origin mfa_key_origin(mfa_sequence sequence) {\n" \
    "    mfa_origin origin = sequence.keys;\n" \
    "    if (has_pages)\n" \
    "        origin.batch = origin.row = 0;\n" \
    "    return origin;\n" \
    "}\n" \
    "\n" \
    "/* Keys, values and their gradients. */\n" \
    "template <typename S>\n" \
    "inline mfa_rows<S> mfa_cache_rows_of(const device S *operand, constant mfa_metal_params &p,\n" \
    "                                     constant mfa_metal_strides &strides, mfa_sequence sequence, mfa_index head,\n" \
    "                                     mfa_index length) {\n" \
    "    mfa_rows<S> rows = mfa_rows_of(operand, strides, mfa_key_origin(sequence), head, length);\n" \
    "    rows.paging = mfa_paging_of(p, strides, sequence);\n" \
    "    return rows;\n" \
    "}\n" \
    "template <typename S>\n" \
    "inline mfa_result_rows<S> mfa_cache_result_rows_of(device S *result, constant mfa_metal_params &p,\n" \
    "                                                   constant mfa_metal_strides &strides, mfa_sequence sequence,\n" \
    "                                                   mfa_index head, mfa_index length) {\n" \
    "    mfa_result_rows<S> rows = mfa_result_rows_of(result, strides, mfa_key_origin(sequence), head, length);\n" \
    "    rows.paging = mfa_paging_of(p, strides, sequence);\n" \
    "    return rows;\n" \
    "}\n" \
    "\n" \
    "/* Column 0 of a row. */\n" \
    "template <typename S> inline const device S *mfa_row_at(mfa_rows<S> rows, mfa_index row) {\n" \
    "    return rows.first + mfa_units<S>(mfa_row_place(rows.paging, rows.row_stride, mfa_row_origin(rows.paging, row)));\n" \
    "}\n" \
    "template <typename S> inline device S *mfa_row_at(mfa_result_rows<S> rows, mfa_index row) {\n" \
    "    return rows.first + mfa_units<S>(mfa_row_place(rows.paging, rows.row_stride, mfa_row_origin(rows.paging, row)));\n" \
    "}\n" \
    "\n" \
    "/* Rows that begin at one of them, which then is row 0 and has no page to be looked up. */\n" \
    "template <typename S> inline mfa_rows<S> mfa_rows_from(mfa_rows<S> rows, mfa_index row) {\n" \
    "    const mfa_origin origin = mfa_row_origin(rows.paging, row);\n" \
    "    rows.first += mfa_units<S>(mfa_row_place(rows.paging, rows.row_stride, origin));\n" \
    "    mfa_move_coding(rows.coding, origin);\n" \
    "    rows.paging = mfa_no_paging();\n" \
    "    return rows;\n" \
    "}\n" \
    "\n" \
    "/* A row that pieces are read of, one after the other: of codes, what all of them need. */\n" \
    "template <typename S, bool ARE_CODES = mfa_storage<S>::are_codes != 0> struct mfa_found_row {\n" \
    "    mfa_index row;\n" \
    "};\n" \
    "template <typename S> struct mfa_found_row<S, true> {\n" \
    "    const device S *start;\n" \
    "    mfa_code_line line;\n" \
    "};\n" \
    "\n" \
    "template <typename S> inline void mfa_find_row(thread mfa_found_row<S, false> &found, mfa_rows<S>, mfa_index row) {\n" \
    "    found.row = row;\n" \
    "}\n" \
    "template <typename S> inline void mfa_find_row(thread mfa_found_row<S, true> &found, mfa_rows<S> rows, mfa_index row) {\n" \
    "    const mfa_origin origin = mfa_row_origin(rows.paging, row);\n" \
    "    found.start = rows.first + mfa_units<S>(mfa_row_place(rows.paging, rows.row_stride, origin));\n" \
    "    found.line = mfa_code_line_of(rows.coding, origin);\n" \
    "}\n" \
    "\n" \
    "template <int COUNT, typename S>\n" \
    "inline vec<S, COUNT> mfa_read_found(mfa_rows<S> rows, mfa_found_row<S, false> found, int column) {\n" \
    "    const device S *start = mfa_row_at(rows, found.row);\n" \
    "    vec<S, COUNT> piece = vec<S, COUNT>(S(0));\n" \
    "    if (has_vectors) {\n" \
    "        if (column < rows.length)\n" \
    "            piece = *(const device vec<S, COUNT> *)(start + column);\n" \
    "    } else {\n" \
    "#pragma unroll\n" \
    "        for (int i = 0; i < COUNT; ++i)\n" \
    "            if (column + i < rows.length)\n" \
    "                piece[i] = start[(column + i) * rows.column_stride];\n" \
    "    }\n" \
    "    return piece;\n" \
    "}\n" \
    "\n" \
    "template <int COUNT, typename S>\n" \
    "inline vec<float, COUNT> mfa_read_found(mfa_rows<S> rows, mfa_found_row<S, true> found, int column) {\n" \
    "    vec<float, COUNT> piece = vec<float, COUNT>(0);\n" \
    "    if (column >= rows.length)\n" \
    "        return piece;\n" \
    "    if (has_vectors) {\n" \
    "        piece = mfa_unpack<COUNT>(found.start + mfa_units<S>(column));\n" \
    "    } else {\n" \
    "#pragma unroll\n" \
    "        for (int i = 0; i < COUNT; ++i)\n" \
    "            if (column + i < rows.length)\n" \
    "                piece[i] = mfa_code_at(found.start, (column + i) * rows.column_stride);\n" \
    "    }\n" \
    "    return mfa_decode<COUNT>(rows.coding, mfa_code_group(rows.coding, found.line, column), column,\n" \
    "                             has_vectors ? COUNT : rows.length - column, piece);\n" \
    "}\n" \
    "\n" \
    "/* Columns column .. column + COUNT - 1 of a row, where COUNT divides MFA_VECTOR and `column`. */\n" \
    "template <int COUNT, typename S>\n" \
    "inline vec<typename mfa_storage<S>::element, COUNT> mfa_read(mfa_rows<S> rows, mfa_index row, int column) {\n" \
    "    mfa_found_row<S> found;\n" \
    "    mfa_find_row(found, rows, row);\n" \
    "    return mfa_read_found<COUNT>(rows, found, column);\n" \
    "}\n" \
    "\n" \
    "/* As many as are staged at once. */\n" \
    "template <typename S> struct mfa_parts {\n" \
    "    enum { count = mfa_storage<S>::piece / MFA_VECTOR };\n" \
    "    vec<typename mfa_storage<S>::element, MFA_VECTOR> parts[count];\n" \
    "};\n" \
    "\n" \
    "template <typename S> inline mfa_parts<S> mfa_read_parts(mfa_rows<S> rows, mfa_found_row<S, false> found, int column) {\n" \
    "    mfa_parts<S> piece;\n" \
    "    piece.parts[0] = mfa_read_found<MFA_VECTOR>(rows, found, column);\n" \
    "    return piece;\n" \
    "}\n" \
    "template <typename S> inline mfa_parts<S> mfa_read_parts(mfa_rows<S> rows, mfa_found_row<S, true> found, int column) {\n" \
    "    mfa_parts<S> piece;\n" \
    "    if (has_vectors && column < rows.length) {\n" \
    "        const mfa_code_line line = mfa_code_group(rows.coding, found.line, column);\n" \
    "        const mfa_code_parts codes = mfa_unpack_parts(found.start + mfa_units<S>(column));\n" \
    "#pragma unroll\n" \
    "        for (int i = 0; i < mfa_parts<S>::count; ++i)\n" \
    "            piece.parts[i] =\n" \
    "                mfa_decode<MFA_VECTOR>(rows.coding, line, column + i * MFA_VECTOR, MFA_VECTOR, codes.parts[i]);\n" \
    "    } else {\n" \
    "#pragma unroll\n" \
    "        for (int i = 0; i < mfa_parts<S>::count; ++i)\n" \
    "            piece.parts[i] = mfa_read_found<MFA_VECTOR>(rows, found, column + i * MFA_VECTOR);\n" \
    "    }\n" \
    "    return piece;\n" \
    "}\n" \
    "\n" \
    "/* Columns column and column + 1 of a row. */\n" \
    "template <typename S> inline void mfa_write_pair(mfa_result_rows<S> rows, mfa_index row, int column, float2 pair) {\n" \
    "    device S *start = mfa_row_at(rows, row);\n" \
    "    if (has_vectors) {\n" \
    "        if (column < rows.length)\n" \
    "            *(device vec<S, 2> *)(start + column) = vec<S, 2>(S(pair[0]), S(pair[1]));\n" \
    "    } else {\n" \
    "        for (int i = 0; i < 2; ++i)\n" \
    "            if (column + i < rows.length)\n" \
    "                start[(column + i) * rows.column_stride] = S(pair[i]);\n" \
    "    }\n" \
    "}\n" \
    "\n" \
    "/* inf and NaN times 0 are NaN. */\n" \
    "template <int COUNT, typename T> inline bool mfa_is_finite(vec<T, COUNT> elements) {\n" \
    "    float sum = 0;\n" \
    "#pragma unroll\n" \
    "    for (int i = 0; i < COUNT; ++i)\n" \
    "        sum = fma(float(elements[i]), 0.0f, sum);\n" \
    "    return sum == 0;\n" \
    "}\n" \
    "\n" \
    "template <int COUNT, typename T> inline vec<T, COUNT> mfa_only_finite(vec<T, COUNT> elements) {\n" \
    "#pragma unroll\n" \
    "    for (int i = 0; i < COUNT; ++i)\n" \
    "        elements[i] = isfinite(float(elements[i])) ? elements[i] : T(0);\n" \
    "    return elements;\n" \
    "}\n" \
    "\n" \
    "/* From one row of a staged tile to the next: 16 bytes more than it holds, so that rows begin in different memory banks.\n" \
    "   */\n" \
    "template <typename V> constexpr int mfa_lead(int columns) { return columns + 16 / int(sizeof(V)); }\n" \
    "\n" \
    "/*\n" \
    " * Copies ROWS x COLUMNS elements, from row first_row and column first_column on, to threadgroup memory, from the type\n" \
    " * that they are stored in to the one that is computed with: element (r, c) goes to r * mfa_lead<V>(COLUMNS) + c, or to\n" \
    " * c * mfa_lead<V>(ROWS) + r if TRANSPOSED. Rows outside begin .. end - 1, counted from first_row, are not read, and\n" \
    " * become zero. If FINITE, so do non-finite values; true if this thread met any.\n" \
    " */\n" \
    "template <int ROWS, int COLUMNS, bool TRANSPOSED, bool FINITE, int THREADS, typename V, typename S>\n" \
    "inline bool mfa_stage(threadgroup V *tile, mfa_rows<S> rows, mfa_index first_row, int begin, int end, int first_column,\n" \
    "                      uint thread_number) {\n" \
    "    constexpr int size = mfa_storage<S>::piece, across = COLUMNS / size,\n" \
    "                  lead = mfa_lead<V>(TRANSPOSED ? ROWS : COLUMNS);\n" \
    "    static_assert(COLUMNS % size == 0, \"whole pieces\");\n" \
    "    bool found = false;\n" \
    "    for (int number = int(thread_number); number < ROWS * across; number += THREADS) {\n" \
    "        const int row = number / across, first = number % across * size;\n" \
    "        mfa_parts<S> piece;\n" \
    "        const bool exists = row >= begin && row < end;\n" \
    "        if (exists) {\n" \
    "            mfa_found_row<S> at;\n" \
    "            mfa_find_row(at, rows, first_row + row);\n" \
    "            piece = mfa_read_parts(rows, at, first_column + first);\n" \
    "        }\n" \
    "#pragma unroll\n" \
    "        for (int part = 0; part < mfa_parts<S>::count; ++part) {\n" \
    "            const int column = first + part * MFA_VECTOR;\n" \
    "            vec<V, MFA_VECTOR> elements = vec<V, MFA_VECTOR>(V(0));\n" \
    "            if (exists)\n" \
    "                elements = vec<V, MFA_VECTOR>(piece.parts[part]);\n" \
    "            if (FINITE && !mfa_is_finite<MFA_VECTOR, V>(elements)) {\n" \
    "                found = true;\n" \
    "                elements = mfa_only_finite<MFA_VECTOR, V>(elements);\n" \
    "            }\n" \
    "            if (TRANSPOSED) {\n" \
    "                for (int i = 0; i < MFA_VECTOR; ++i)\n" \
    "                    tile[(column + i) * lead + row] = elements[i];\n" \
    "            } else {\n" \
    "                *(threadgroup vec<V, MFA_VECTOR> *)(tile + row * lead + column) = elements;\n" \
    "            }\n" \
    "        }\n" \
    "    }\n" \
    "    return found;\n" \
    "}\n" \
    "\n" \
    "/* Two neighbours in threadgroup memory, the first at an even place. */\n" \
    "template <typename V> inline vec<V, 2> mfa_read_staged(const threadgroup V *first) {\n" \
    "    return *(const threadgroup vec<V, 2> *)first;\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define MFA_RULES_H_0 \
    "#line 1 \"mfa_rules.h\"\n" \
    "/*\n" \
    " * Which keys a row of attention sees, which rows see a key, and what is added to scores, written once for every\n" \
    " * backend: value-only functions in the subset of C that C and the Metal Shading Language share (no pointers, so no\n" \
    " * address spaces).\n" \
    " */\n" \
    "#ifndef MFA_RULES_H\n" \
    "#define MFA_RULES_H\n" \
    "\n"

#define MFA_RULES_H_1 \
    "#line 10 \"mfa_rules.h\"\n" \
    "\n" \
    "/* Numbers from begin to end - 1: rows, keys or tiles. None if end <= begin. */\n" \
    "typedef struct {\n" \
    "    mfa_index begin, end;\n" \
    "} mfa_span;\n" \
    "\n" \
    "static inline mfa_span mfa_span_of(mfa_index begin, mfa_index end) {\n" \
    "    mfa_span span;\n" \
    "    span.begin = begin;\n" \
    "    span.end = end;\n" \
    "    return span;\n" \
    "}\n" \
    "\n" \
    "static inline bool mfa_span_is_empty(mfa_span span) { return span.end <= span.begin; }\n" \
    "\n" \
    "/* What both have. */\n" \
    "static inline mfa_span mfa_span_cut(mfa_span a, mfa_span b) {\n" \
    "    return mfa_span_of(a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end);\n" \
    "}\n" \
    "\n" \
    "static inline bool mfa_spans_meet(mfa_span a, mfa_span b) { return !mfa_span_is_empty(mfa_span_cut(a, b)); }\n" \
    "\n" \
    "/* Whether `inner`, which is not empty, lies in `outer`. */\n" \
    "static inline bool mfa_span_holds(mfa_span outer, mfa_span inner) {\n" \
    "    return outer.begin <= inner.begin && inner.end <= outer.end;\n" \
    "}\n" \
    "\n" \
    "/* The numbers of tiles of `size` that a span, which begins at 0 or later, meets. */\n" \
    "static inline mfa_span mfa_span_tiles(mfa_span span, mfa_index size) {\n" \
    "    return mfa_span_of(span.begin / size, mfa_span_is_empty(span) ? span.begin / size : (span.end - 1) / size + 1);\n" \
    "}\n" \
    "\n" \
    "/* One sequence. Row i stands at key i + offset; left and right count the keys on either side of it that it sees;\n" \
    "   negative: unbounded. */\n" \
    "typedef struct {\n" \
    "    mfa_index query_count, key_count;\n" \
    "    mfa_index offset, left, right;\n" \
    "    mfa_index chunk; /* keys come in chunks of so many, and a row sees that of its own place; 0: off */\n" \
    "} mfa_extent;\n" \
    "\n" \
    "static inline mfa_index mfa_rule_clamp(mfa_index x, mfa_index most) { return x < 0 ? 0 : x > most ? most : x; }\n" \
    "\n" \
    "/* Where the chunk of a place, which may be negative, begins. */\n" \
    "static inline mfa_index mfa_rule_chunk_begin(mfa_index chunk, mfa_index place) {\n" \
    "    return (place >= 0 ? place / chunk : -((-place - 1) / chunk) - 1) * chunk;\n" \
    "}\n" \
    "\n" \
    "/* The keys that causal, window and chunk bounds let a row see. */\n" \
    "static inline mfa_span mfa_rule_keys_of_row(mfa_extent e, mfa_index row) {\n" \
    "    const mfa_span keys =\n" \
    "        mfa_span_of(e.left < 0 ? 0 : mfa_rule_clamp(row + e.offset - e.left, e.key_count),\n" \
    "                    e.right < 0 ? e.key_count : mfa_rule_clamp(row + e.offset + e.right + 1, e.key_count));\n" \
    "    if (e.chunk == 0)\n" \
    "        return keys;\n" \
    "    const mfa_index begin = mfa_rule_chunk_begin(e.chunk, row + e.offset);\n" \
    "    return mfa_span_cut(keys,\n" \
    "                        mfa_span_of(mfa_rule_clamp(begin, e.key_count), mfa_rule_clamp(begin + e.chunk, e.key_count)));\n" \
    "}\n" \
    "\n" \
    "/* The keys that some of the rows see, and those that lie between. Later rows see later keys. */\n" \
    "static inline mfa_span mfa_rule_keys_some_see(mfa_extent e, mfa_span rows) {\n" \
    "    const mfa_span existing = mfa_span_cut(rows, mfa_span_of(0, e.query_count));\n" \
    "    if (mfa_span_is_empty(existing))\n" \
    "        return mfa_span_of(0, 0);\n" \
    "    return mfa_span_of(mfa_rule_keys_of_row(e, existing.begin).begin, mfa_rule_keys_of_row(e, existing.end - 1).end);\n" \
    "}\n" \
    "\n" \
    "/* The keys that each of the rows sees; none if some of them are not there. */\n" \
    "static inline mfa_span mfa_rule_keys_all_see(mfa_extent e, mfa_span rows) {\n" \
    "    if (mfa_span_is_empty(rows) || rows.begin < 0 || rows.end > e.query_count)\n" \
    "        return mfa_span_of(0, 0);\n" \
    "    return mfa_span_of(mfa_rule_keys_of_row(e, rows.end - 1).begin, mfa_rule_keys_of_row(e, rows.begin).end);\n" \
    "}\n" \
    "\n" \
    "/* The rows that see some of the keys, and those that lie between. */\n" \
    "static inline mfa_span mfa_rule_rows_some_see(mfa_extent e, mfa_span keys) {\n" \
    "    const mfa_span existing = mfa_span_cut(keys, mfa_span_of(0, e.key_count));\n" \
    "    if (mfa_span_is_empty(existing))\n" \
    "        return mfa_span_of(0, 0);\n" \
    "    const mfa_span rows =\n" \
    "        mfa_span_of(e.right < 0 ? 0 : mfa_rule_clamp(existing.begin - e.offset - e.right, e.query_count),\n" \
    "                    e.left < 0 ? e.query_count : mfa_rule_clamp(existing.end - e.offset + e.left, e.query_count));\n" \
    "    if (e.chunk == 0)\n" \
    "        return rows;\n" \
    "    return mfa_span_cut(rows, mfa_span_of(mfa_rule_chunk_begin(e.chunk, existing.begin) - e.offset,\n" \
    "                                          mfa_rule_chunk_begin(e.chunk, existing.end - 1) + e.chunk - e.offset));\n" \
    "}\n" \
    "\n" \
    "/*\n" \
    " * Blocks. Scores may be cut into blocks of some rows and keys, with a bit for each that is set if any of its scores\n" \
    " * counts; those of a row of blocks follow each other in words of 32.\n" \
    " */\n" \
    "enum { MFA_BLOCK_BITS = 32 };\n" \
    "\n" \
    "static inline bool mfa_rule_bit(mfa_u32 word, mfa_index block) { return (word >> (block % MFA_BLOCK_BITS) & 1u) != 0; }\n" \
    "\n" \
    "/* Times a product of a stored query and a stored key, given their factors, before softcap. */\n" \
    "static inline float mfa_rule_scale(float scale, float query, float key) { return scale * (query * key); }\n" \
    "\n" \
    "static inline float mfa_rule_alibi(float slope, mfa_index row, mfa_index offset, mfa_index key) {\n" \
    "    mfa_index distance = row + offset - key;\n" \
    "    return -slope * (float)(distance < 0 ? -distance : distance);\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define MFA_SCORE_H_0 \
    "#line 1 \"mfa_score.h\"\n" \
    "/*\n" \
    " * From the product of a query and a key to the key's weight. Scores are in units that make the common case cheap:\n" \
    " * base-2 logarithms if there is nothing but a scale, else natural ones, in which a bias as large as a float can be\n" \
    " * stays finite.\n" \
    " */\n" \
    "#ifndef MFA_SCORE_H\n" \
    "#define MFA_SCORE_H\n" \
    "\n"

#define MFA_SCORE_H_1 \
    "#line 10 \"mfa_score.h\"\n" \
    "\n" \
    "constant bool scores_are_natural =\n" \
    "    has_mask || has_alibi || has_softcap || has_huge_scale || has_query_scale || has_key_scale;\n" \
    "\n" \
    "inline float mfa_to_natural(float score) { return scores_are_natural ? score : score * MFA_LN_2; }\n" \
    "inline float mfa_from_natural(float score) { return scores_are_natural ? score : score * MFA_LOG2_E; }\n" \
    "\n" \
    "/* What the weights of a row are relative to, so that -inf - reference is not NaN where there is no score yet. */\n" \
    "inline float mfa_reference(float most) { return most == -INFINITY ? 0.0f : most; }\n" \
    "\n" \
    "/* exp(score - reference) */\n" \
    "inline float mfa_weight(float score, float reference) {\n" \
    "    const float distance = score - reference;\n" \
    "    return fast::exp2(scores_are_natural ? distance * MFA_LOG2_E : distance);\n" \
    "}\n" \
    "\n" \
    "/* What the rows of one head share. */\n" \
    "struct mfa_scoring {\n" \
    "    float scale, softcap, slope;\n" \
    "    mfa_index offset;\n" \
    "};\n" \
    "\n" \
    "inline mfa_scoring mfa_scoring_of(constant mfa_metal_params &p, mfa_biases biases, mfa_sequence sequence,\n" \
    "                                  mfa_index head) {\n" \
    "    mfa_scoring scoring;\n" \
    "    scoring.scale = mfa_from_natural(p.softmax_scale);\n" \
    "    scoring.softcap = has_softcap ? p.softcap : 0.0f;\n" \
    "    scoring.slope = has_alibi ? biases.alibi_slopes[mfa_place(p.alibi_slopes, sequence.number, head, 0)] : 0.0f;\n" \
    "    scoring.offset = sequence.extent.offset;\n" \
    "    return scoring;\n" \
    "}\n" \
    "\n" \
    "/* The factor of a batch and key/value head. */\n" \
    "inline float mfa_factor(const device float *factors, constant mfa_metal_strides &strides, mfa_index batch,\n" \
    "                        mfa_index kv_head) {\n" \
    "    return factors[mfa_place(strides, batch, kv_head, 0)];\n" \
    "}\n" \
    "\n" \
    "/* Of stored queries and keys, which have factors. */\n" \
    "inline mfa_scoring mfa_scaled(constant mfa_metal_params &p, mfa_scoring scoring, mfa_queries queries, mfa_index batch,\n" \
    "                              mfa_index kv_head) {\n" \
    "    if (has_query_scale || has_key_scale)\n" \
    "        scoring.scale = mfa_rule_scale(\n" \
    "            scoring.scale, has_query_scale ? mfa_factor(queries.query_scale, p.query_scale, batch, kv_head) : 1.0f,\n" \
    "            has_key_scale ? mfa_factor(queries.key_scale, p.key_scale, batch, kv_head) : 1.0f);\n" \
    "    return scoring;\n" \
    "}\n" \
    "\n" \
    "/* softcap * tanh(score / softcap); `bent` is that tanh. Near 0 it is the score, whose quotient may be too small for a\n" \
    "   GPU. */\n" \
    "inline float mfa_bend(float score, float softcap, float bent) {\n" \
    "    return fabs(score) < softcap * (1.0f / 8192) ? score : softcap * bent;\n" \
    "}\n" \
    "\n" \
    "/* What is added to a score. `mask_bias` is what mfa_mask_bias said. */\n" \
    "inline float mfa_bias(mfa_scoring scoring, float mask_bias, mfa_index row, mfa_index key) {\n" \
    "    float bias = has_mask ? mask_bias : 0.0f;\n" \
    "    if (has_alibi)\n" \
    "        bias += mfa_rule_alibi(scoring.slope, row, scoring.offset, key);\n" \
    "    return bias;\n" \
    "}\n" \
    "\n" \
    "/* softcap(scale q.k) + bias. `bent` becomes the tanh of a softcap, if there is one. */\n" \
    "inline float mfa_score(mfa_scoring scoring, float product, float bias, thread float &bent) {\n" \
    "    float score = product * scoring.scale;\n" \
    "    if (has_softcap) {\n" \
    "        bent = precise::tanh(score / scoring.softcap);\n" \
    "        score = mfa_bend(score, scoring.softcap, bent);\n" \
    "    }\n" \
    "    return has_mask || has_alibi ? score + bias : score;\n" \
    "}\n" \
    "\n" \
    "/* One row of the masks, read where it lies. */\n" \
    "struct mfa_mask_row {\n" \
    "    const device uchar *bool_mask, *additive_mask; /* of key 0 */\n" \
    "    mfa_index bool_stride, additive_stride;        /* from key to key; additive_stride counts elements */\n" \
    "};\n" \
    "\n" \
    "inline int mfa_mask_size() { return additive_mask_type == MFA_MASK_FP32 ? 4 : 2; }\n" \
    "\n" \
    "inline mfa_mask_row mfa_mask_row_of(constant mfa_metal_params &p, mfa_biases biases, mfa_index batch, mfa_index head,\n" \
    "                                    mfa_index row) {\n" \
    "    mfa_mask_row mask;\n" \
    "    if (has_bool_mask) {\n" \
    "        mask.bool_mask = biases.bool_mask + mfa_place(p.bool_mask, batch, head, row);\n" \
    "        mask.bool_stride = p.bool_mask.column;\n" \
    "    }\n" \
    "    if (has_additive_mask) {\n" \
    "        mask.additive_mask = biases.additive_mask + mfa_place(p.additive_mask, batch, head, row) * mfa_mask_size();\n" \
    "        mask.additive_stride = p.additive_mask.column;\n" \
    "    }\n" \
    "    return mask;\n" \
    "}\n" \
    "\n" \
    "/* What the masks add to the score of a key; -inf hides it. In a full block, bool_mask hides nothing. */\n" \
    "inline float mfa_mask_bias(mfa_mask_row mask, mfa_index key, bool is_full) {\n" \
    "    float bias = 0;\n" \
    "    if (has_additive_mask) {\n" \
    "        const mfa_index place = key * mask.additive_stride;\n" \
    "        if (additive_mask_type == MFA_MASK_FP16)\n" \
    "            bias = float(((const device half *)mask.additive_mask)[place]);\n" \
    "        else if (additive_mask_type == MFA_MASK_BF16)\n" \
    "            bias = float(((const device bfloat *)mask.additive_mask)[place]);\n" \
    "        else\n" \
    "            bias = ((const device float *)mask.additive_mask)[place];\n" \
    "    }\n" \
    "    if (has_bool_mask && !is_full)\n" \
    "        bias = mask.bool_mask[key * mask.bool_stride] ? bias : -INFINITY;\n" \
    "    return bias;\n" \
    "}\n" \
    "\n" \
    "/* What a row's sums become at its end. */\n" \
    "struct mfa_row_end {\n" \
    "    float factor, logsumexp; /* the sums of values times factor are the output, in which dropout's factor is */\n" \
    "};\n" \
    "\n" \
    "/* `most` is the largest score, in natural units, and `sum` that of the weights relative to it. `sink`: -inf for none.\n" \
    "   `value_factor`: that of stored values */\n" \
    "inline mfa_row_end mfa_finish_row(constant mfa_metal_params &p, float most, float sum, float sink, float value_factor) {\n" \
    "    mfa_row_end end;\n" \
    "    end.factor = 1;\n" \
    "    if (has_sinks) {\n" \
    "        const float most_of_keys = most;\n" \
    "        most = sink > most ? sink : most;\n" \
    "        if (most != -INFINITY || isnan(sink)) {\n" \
    "            end.factor = precise::exp(most_of_keys - most);\n" \
    "            sum = sum * end.factor + precise::exp(sink - most);\n" \
    "        }\n" \
    "    }\n" \
    "    end.factor = sum == 0 ? 0.0f : end.factor / sum * p.keep_factor * value_factor;\n" \
    "    end.logsumexp = sum == 0 ? -INFINITY : most + precise::log(sum);\n" \
    "    return end;\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define MFA_SEQUENCES_H_0 \
    "#line 1 \"mfa_sequences.h\"\n" \
    "/*\n" \
    " * Sequences: how many queries and keys each has, where its rows lie, and which tile of it a threadgroup has. All of it\n" \
    " * comes from the lists as the caller has them, cut to what is there: nobody has checked those in private storage.\n" \
    " */\n" \
    "#ifndef MFA_SEQUENCES_H\n" \
    "#define MFA_SEQUENCES_H\n" \
    "\n"

#define MFA_SEQUENCES_H_1 \
    "#line 9 \"mfa_sequences.h\"\n" \
    "\n" \
    "/* ------------------------------------------------------------------ lists */\n" \
    "\n" \
    "#define MFA_SEQUENCE_ARGUMENTS                                                                                      \\\n" \
    "    const device int *query_starts [[buffer(MFA_BUFFER_QUERY_STARTS), function_constant(has_query_starts)]],        \\\n" \
    "        const device int *key_starts [[buffer(MFA_BUFFER_KEY_STARTS), function_constant(has_key_starts)]],          \\\n" \
    "        const device int *query_lengths [[buffer(MFA_BUFFER_QUERY_LENGTHS), function_constant(has_query_lengths)]], \\\n" \
    "        const device int *key_lengths [[buffer(MFA_BUFFER_KEY_LENGTHS), function_constant(has_key_lengths)]],       \\\n" \
    "        const device int *left_padding [[buffer(MFA_BUFFER_LEFT_PADDING), function_constant(has_left_padding)]],    \\\n" \
    "        const device int *key_batches [[buffer(MFA_BUFFER_KEY_BATCHES), function_constant(has_key_batches)]],       \\\n" \
    "        const device int *page_table [[buffer(MFA_BUFFER_PAGE_TABLE), function_constant(has_pages)]],               \\\n" \
    "        const device int *new_starts [[buffer(MFA_BUFFER_NEW_STARTS), function_constant(has_new_starts)]]\n" \
    "#define MFA_LISTS                                                                                             \\\n" \
    "    mfa_lists_of(query_starts, key_starts, query_lengths, key_lengths, left_padding, key_batches, page_table, \\\n" \
    "                 new_starts)\n" \
    "\n" \
    "/* Those that are there. */\n" \
    "struct mfa_lists {\n" \
    "    const device int *query_starts, *key_starts, *query_lengths, *key_lengths, *left_padding, *key_batches, *page_table;\n" \
    "    const device int *new_starts;\n" \
    "};\n" \
    "\n" \
    "inline mfa_lists mfa_lists_of(const device int *query_starts, const device int *key_starts,\n" \
    "                              const device int *query_lengths, const device int *key_lengths,\n" \
    "                              const device int *left_padding, const device int *key_batches,\n" \
    "                              const device int *page_table, const device int *new_starts) {\n" \
    "    mfa_lists lists;\n" \
    "    if (has_query_starts)\n" \
    "        lists.query_starts = query_starts;\n" \
    "    if (has_key_starts)\n" \
    "        lists.key_starts = key_starts;\n" \
    "    if (has_query_lengths)\n" \
    "        lists.query_lengths = query_lengths;\n" \
    "    if (has_key_lengths)\n" \
    "        lists.key_lengths = key_lengths;\n" \
    "    if (has_left_padding)\n" \
    "        lists.left_padding = left_padding;\n" \
    "    if (has_key_batches)\n" \
    "        lists.key_batches = key_batches;\n" \
    "    if (has_pages)\n" \
    "        lists.page_table = page_table;\n" \
    "    if (has_new_starts)\n" \
    "        lists.new_starts = new_starts;\n" \
    "    return lists;\n" \
    "}\n" \
    "\n" \
    "/* An entry of a list, at most `most`. */\n" \
    "inline mfa_index mfa_list_entry(const device int *list, mfa_index stride, mfa_index i, mfa_index most) {\n" \
    "    return mfa_rule_clamp(list[i * stride], most);\n" \
    "}\n" \
    "\n" \
    "/* The rows of a sequence, of the `rows` that a packed operand has for `count` sequences. */\n" \
    "inline mfa_span mfa_packed_rows(const device int *starts, mfa_index stride, mfa_index count, mfa_index rows,\n" \
    "                                mfa_index number) {\n" \
    "    const mfa_index begin = mfa_list_entry(starts, stride, number, rows);\n" \
    "    return mfa_span_of(begin, max(begin, mfa_list_entry(starts, stride, min(number + 1, count), rows)));\n" \
    "}\n" \
    "\n" \
    "/* ------------------------------------------------------------------ one sequence */\n" \
    "\n" \
    "/* Where its row 0 lies in an operand. */\n" \
    "struct mfa_origin {\n" \
    "    mfa_index batch, row;\n" \
    "};\n" \
    "\n" \
    "struct mfa_sequence {\n" \
    "    mfa_index number;\n" \
    "    mfa_extent extent;\n" \
    "    mfa_origin queries, keys;\n" \
    "    const device int *pages; /* its part of the page table; `keys` then counts from the first page's first row on */\n" \
    "    /* Where rows are appended: the first of these keys, of which there are as many as follow it, and where they come\n" \
    "       from; and how many rows the cache had before, padding included. */\n" \
    "    mfa_index first_new, filled;\n" \
    "    mfa_origin added;\n" \
    "};\n" \
    "\n" \
    "inline void mfa_find_queries(constant mfa_metal_params &p, mfa_lists lists, thread mfa_sequence &sequence) {\n" \
    "    mfa_index count = p.stored_rows;\n" \
    "    if (has_query_starts) {\n" \
    "        const mfa_span rows =\n" \
    "            mfa_packed_rows(lists.query_starts, p.query_starts.column, p.batch, p.stored_rows, sequence.number);\n" \
    "        sequence.queries.batch = 0;\n" \
    "        sequence.queries.row = rows.begin;\n" \
    "        count = rows.end - rows.begin;\n" \
    "    }\n" \
    "    if (has_query_lengths)\n" \
    "        count = mfa_list_entry(lists.query_lengths, p.query_lengths.column, sequence.number, count);\n" \
    "    sequence.extent.query_count = min(count, p.query_count);\n" \
    "}\n" \
    "\n" \
    "/* How many rows are appended, where there is room for `most`. */\n" \
    "inline mfa_index mfa_find_new(constant mfa_metal_params &p, mfa_lists lists, mfa_index most,\n" \
    "                              thread mfa_sequence &sequence) {\n" \
    "    mfa_index count = p.new_rows;\n" \
    "    sequence.added.batch = sequence.number;\n" \
    "    sequence.added.row = 0;\n" \
    "    if (has_new_starts) {\n" \
    "        const mfa_span rows =\n" \
    "            mfa_packed_rows(lists.new_starts, p.new_starts.column, p.batch, p.new_rows, sequence.number);\n" \
    "        sequence.added.batch = 0;\n" \
    "        sequence.added.row = rows.begin;\n" \
    "        count = rows.end - rows.begin;\n" \
    "    }\n" \
    "    return min(count, most);\n" \
    "}\n" \
    "\n" \
    "inline void mfa_find_keys(constant mfa_metal_params &p, mfa_lists lists, thread mfa_sequence &sequence) {\n" \
    "    mfa_index count = p.cache_capacity;\n" \
    "    if (has_key_starts) {\n" \
    "        const mfa_span rows =\n" \
    "            mfa_packed_rows(lists.key_starts, p.key_starts.column, p.batch, p.cache_rows, sequence.number);\n" \
    "        sequence.keys.batch = 0;\n" \
    "        sequence.keys.row = rows.begin;\n" \
    "        count = rows.end - rows.begin;\n" \
    "    }\n" \
    "    if (has_key_batches)\n" \
    "        sequence.keys.batch =\n" \
    "            mfa_list_entry(lists.key_batches, p.key_batches.column, sequence.number, p.cache_batches - 1);\n" \
    "    if (has_pages)\n" \
    "        sequence.pages = lists.page_table + sequence.number * p.page_table.row;\n" \
    "    const mfa_index capacity = count;\n" \
    "    if (has_key_lengths)\n" \
    "        count = mfa_list_entry(lists.key_lengths, p.key_lengths.column, sequence.number, count);\n" \
    "    sequence.filled = count;\n" \
    "    if (has_left_padding) {\n" \
    "        const mfa_index padding = mfa_list_entry(lists.left_padding, p.left_padding.column, sequence.number, count);\n" \
    "        sequence.keys.row += padding;\n" \
    "        count -= padding;\n" \
    "    }\n" \
    "    sequence.first_new = min(count, p.key_count);\n" \
    "    if (has_append)\n" \
    "        count += mfa_find_new(p, lists, capacity - sequence.filled, sequence);\n" \
    "    sequence.extent.key_count = min(count, p.key_count);\n" \
    "}\n" \
    "\n" \
    "inline mfa_sequence mfa_sequence_of(constant mfa_metal_params &p, mfa_lists lists, mfa_index number) {\n" \
    "    mfa_sequence sequence;\n" \
    "    sequence.number = sequence.queries.batch = sequence.keys.batch = number;\n" \
    "    sequence.queries.row = sequence.keys.row = 0;\n" \
    "    sequence.extent.query_count = p.query_count;\n" \
    "    sequence.extent.key_count = p.key_count;\n" \
    "    sequence.extent.offset = p.offset;\n" \
    "    sequence.extent.left = p.window_left;\n" \
    "    sequence.extent.right = p.window_right;\n" \
    "    sequence.extent.chunk = has_chunk ? p.chunk : 0;\n" \
    "    if (has_sequences) {\n" \
    "        mfa_find_queries(p, lists, sequence);\n" \
    "        mfa_find_keys(p, lists, sequence);\n" \
    "        sequence.extent.offset =\n" \
    "            p.is_bottom_right != 0 ? sequence.extent.key_count - sequence.extent.query_count : mfa_index(0);\n" \
    "    }\n" \
    "    return sequence;\n" \
    "}\n" \
    "\n" \
    "/* A row of a sequence, counted among all rows that there are of a head, in scratch memory. */\n" \
    "inline mfa_index mfa_stored_row(constant mfa_metal_params &p, mfa_sequence sequence, mfa_index head, mfa_index row) {\n" \
    "    return (sequence.queries.batch * p.heads + head) * p.stored_rows + sequence.queries.row + row;\n" \
    "}\n" \
    "\n" \
    "/* ------------------------------------------------------------------ tiles of sequences */\n" \
    "\n" \
    "/*\n" \
    " * The last of `count` sequences whose rows begin at `place` or before it. In tiles of SIZE rows, where TILES: a\n" \
    " * sequence's begin at tile starts[number] / SIZE + number, which leaves each sequence as many as it can need.\n" \
    " */\n" \
    "template <int SIZE, bool TILES>\n" \
    "inline mfa_index mfa_find_sequence(const device int *starts, mfa_index stride, mfa_index count, mfa_index rows,\n" \
    "                                   mfa_index place) {\n" \
    "    mfa_index low = 0, high = count;\n" \
    "    while (low + 1 < high) {\n" \
    "        const mfa_index middle = (low + high) / 2;\n" \
    "        if (mfa_list_entry(starts, stride, middle, rows) / SIZE + (TILES ? middle : 0) <= place)\n" \
    "            low = middle;\n" \
    "        else\n" \
    "            high = middle;\n" \
    "    }\n" \
    "    return low;\n" \
    "}\n" \
    "\n" \
    "/* The number of the only sequence that a row as it lies may be of. */\n" \
    "inline mfa_index mfa_sequence_at(constant mfa_metal_params &p, mfa_lists lists, mfa_index batch, mfa_index row) {\n" \
    "    if (has_query_starts)\n" \
    "        return mfa_find_sequence<1, false>(lists.query_starts, p.query_starts.column, p.batch, p.stored_rows, row);\n" \
    "    return batch;\n" \
    "}\n" \
    "\n" \
    "inline bool mfa_has_row(mfa_sequence sequence, mfa_index row) {\n" \
    "    return row >= sequence.queries.row && row < sequence.queries.row + sequence.extent.query_count;\n" \
    "}\n" \
    "\n" \
    "/* Rows or keys of one sequence. */\n" \
    "struct mfa_tile {\n" \
    "    mfa_index sequence, first;\n" \
    "};\n" \
    "\n" \
    "template <int SIZE>\n" \
    "inline mfa_tile mfa_packed_tile(const device int *starts, mfa_index stride, mfa_index count, mfa_index rows,\n" \
    "                                mfa_index place) {\n" \
    "    mfa_tile tile;\n" \
    "    tile.sequence = mfa_find_sequence<SIZE, true>(starts, stride, count, rows, place);\n" \
    "    tile.first = (place - mfa_list_entry(starts, stride, tile.sequence, rows) / SIZE - tile.sequence) * SIZE;\n" \
    "    return tile;\n" \
    "}\n" \
    "\n" \
    "template <int SIZE>\n" \
    "inline mfa_tile mfa_query_tile(constant mfa_metal_params &p, mfa_lists lists, mfa_index batch, mfa_index place) {\n" \
    "    if (has_query_starts)\n" \
    "        return mfa_packed_tile<SIZE>(lists.query_starts, p.query_starts.column, p.batch, p.stored_rows, place);\n" \
    "    mfa_tile tile;\n" \
    "    tile.sequence = batch;\n" \
    "    tile.first = place * SIZE;\n" \
    "    return tile;\n" \
    "}\n" \
    "\n" \
    "template <int SIZE>\n" \
    "inline mfa_tile mfa_key_tile(constant mfa_metal_params &p, mfa_lists lists, mfa_index batch, mfa_index place) {\n" \
    "    if (has_key_starts)\n" \
    "        return mfa_packed_tile<SIZE>(lists.key_starts, p.key_starts.column, p.batch, p.cache_rows, place);\n" \
    "    mfa_tile tile;\n" \
    "    tile.sequence = batch;\n" \
    "    tile.first = place * SIZE;\n" \
    "    return tile;\n" \
    "}\n" \
    "\n" \
    "/* Whether a tile has rows at all, of the `count` of its sequence. */\n" \
    "inline bool mfa_tile_exists(mfa_tile tile, mfa_index count) {\n" \
    "    return !has_sequences || (tile.first >= 0 && tile.first < count);\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define MFA_SOFTMAX_H_0 \
    "#line 1 \"mfa_softmax.h\"\n" \
    "/*\n" \
    " * Online softmax (Milakov and Gimelshein, 2018) over rows of scores that lie in fragments: each of the four lanes of a\n" \
    " * row holds two neighbouring keys of each fragment, those from first_key + 8 f + column on.\n" \
    " */\n" \
    "#ifndef MFA_SOFTMAX_H\n" \
    "#define MFA_SOFTMAX_H\n" \
    "\n"

#define MFA_SOFTMAX_H_3 \
    "#line 11 \"mfa_softmax.h\"\n" \
    "\n" \
    "/* A row of the output, and the keys that bounds let it see. */\n" \
    "struct mfa_softmax_row {\n" \
    "    mfa_index row;\n" \
    "    mfa_span keys;\n" \
    "    float most, sum; /* the largest score so far; this lane's weights so far, relative to it */\n" \
    "};\n" \
    "\n" \
    "inline mfa_softmax_row mfa_softmax_row_of(mfa_index row, mfa_span keys) {\n" \
    "    mfa_softmax_row state;\n" \
    "    state.row = row;\n" \
    "    state.keys = keys;\n" \
    "    state.most = -INFINITY;\n" \
    "    state.sum = 0;\n" \
    "    return state;\n" \
    "}\n" \
    "\n" \
    "/* Reads the masks; false if this lane's keys are all hidden. */\n" \
    "template <int FRAGMENTS>\n" \
    "inline bool mfa_read_bias(mfa_mask_row mask, mfa_lane_pairs pairs, mfa_softmax_row state, mfa_index first_key,\n" \
    "                          int column, thread float2 (&bias)[FRAGMENTS]) {\n" \
    "    bool any = false;\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < FRAGMENTS; ++f)\n" \
    "        for (int i = 0; i < 2; ++i) {\n" \
    "            const mfa_index key = first_key + 8 * f + column + i;\n" \
    "            const bool visible =\n" \
    "                key >= state.keys.begin && key < state.keys.end && (!has_blocks || mfa_lane_bit(pairs.visible, f, i));\n" \
    "            bias[f][i] = visible ? mfa_mask_bias(mask, key, has_blocks && mfa_lane_bit(pairs.full, f, i)) : -INFINITY;\n" \
    "            any = any || bias[f][i] != -INFINITY;\n" \
    "        }\n" \
    "    return any;\n" \
    "}\n" \
    "\n" \
    "/* Products become scores, with what mfa_read_bias read. `whole`: the row sees the whole tile, but for what blocks and\n" \
    "   masks hide. */\n" \
    "template <int FRAGMENTS>\n" \
    "inline void mfa_score_row(mfa_scoring scoring, mfa_lane_pairs pairs, mfa_softmax_row state, bool whole,\n" \
    "                          mfa_index first_key, int column, thread float2 (&mask_bias)[FRAGMENTS],\n" \
    "                          thread float2 (&scores)[FRAGMENTS]) {\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < FRAGMENTS; ++f)\n" \
    "        for (int i = 0; i < 2; ++i) {\n" \
    "            const mfa_index key = first_key + 8 * f + column + i;\n" \
    "            float bent;\n" \
    "            const float score = mfa_score(scoring, scores[f][i],\n" \
    "                                          mfa_bias(scoring, has_mask ? mask_bias[f][i] : 0.0f, state.row, key), bent);\n" \
    "            const bool visible = (whole || (key >= state.keys.begin && key < state.keys.end)) &&\n" \
    "                                 (!has_blocks || mfa_lane_bit(pairs.visible, f, i));\n" \
    "            scores[f][i] = visible && !(has_mask && mask_bias[f][i] == -INFINITY) ? score : -INFINITY;\n" \
    "        }\n" \
    "}\n" \
    "\n" \
    "/* Scores become weights. Returns what earlier sums of values are to be multiplied by. */\n" \
    "template <int FRAGMENTS> inline float mfa_weigh_row(thread mfa_softmax_row &state, thread float2 (&scores)[FRAGMENTS]) {\n" \
    "    float most = state.most;\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < FRAGMENTS; ++f)\n" \
    "        most = max(most, max(scores[f][0], scores[f][1]));\n" \
    "    most = mfa_row_max(most);\n" \
    "    const float reference = mfa_reference(most), correction = mfa_weight(state.most, reference);\n" \
    "    state.most = most;\n" \
    "    float sum = 0;\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < FRAGMENTS; ++f)\n" \
    "        for (int i = 0; i < 2; ++i) {\n" \
    "            scores[f][i] = mfa_weight(scores[f][i], reference);\n" \
    "            sum += scores[f][i];\n" \
    "        }\n" \
    "    state.sum = fma(state.sum, correction, sum);\n" \
    "    return correction;\n" \
    "}\n" \
    "\n" \
    "/* After the row's sum, which ignores dropout, is taken. Dropout's factor, with which weights could leave the range of\n" \
    "   half, comes in at the row's end. */\n" \
    "template <int FRAGMENTS>\n" \
    "inline void mfa_drop_row(mfa_dropout dropout, mfa_index row, mfa_index first_key, int column,\n" \
    "                         thread float2 (&weights)[FRAGMENTS]) {\n" \
    "    float2 factors[FRAGMENTS];\n" \
    "    dropout.factor = 1;\n" \
    "    mfa_dropout_factors(dropout, row, first_key, column, factors);\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < FRAGMENTS; ++f)\n" \
    "        weights[f] *= factors[f];\n" \
    "}\n" \
    "\n" \
    "/* A bit for each of the lane's keys: those that scored -inf, hidden ones among them, whose values take part in nothing.\n" \
    "   */\n" \
    "template <int FRAGMENTS> inline uint mfa_hidden_keys(thread float2 (&scores)[FRAGMENTS]) {\n" \
    "    uint hidden = 0;\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < FRAGMENTS; ++f)\n" \
    "        for (int i = 0; i < 2; ++i)\n" \
    "            hidden |= scores[f][i] == -INFINITY ? 1u << (2 * f + i) : 0u;\n" \
    "    return hidden;\n" \
    "}\n" \
    "\n" \
    "/*\n" \
    " * Adds the non-finite ones of the values first_key .. first_key + 8 FRAGMENTS - 1, as far as `keys` has them, weighted,\n" \
    " * to the sums of rows that see them: in a product of matrices, weights of 0 would spread them to other rows.\n" \
    " * SPAN: fragments whose columns interleave (decode.metal), or 1. `hidden`: see mfa_hidden_keys\n" \
    " */\n" \
    "template <int SPAN, int FRAGMENTS, int SUMS>\n" \
    "inline void mfa_add_not_finite(mfa_rows<MFA_V> values, mfa_index first_key, mfa_span keys, int first_column, uint lane,\n" \
    "                               uint hidden, thread float2 (&weights)[FRAGMENTS], thread float2 (&sums)[SUMS]) {\n" \
    "    const int row = mfa_fragment_row(lane), column = first_column + SPAN * mfa_fragment_column(lane);\n" \
    "#pragma unroll\n" \
    "    for (int f = 0; f < FRAGMENTS; ++f)\n" \
    "        for (int k = 0; k < 8; ++k) {\n" \
    "            const mfa_index key = first_key + 8 * f + k;\n" \
    "            if (key < keys.begin || key >= keys.end)\n" \
    "                continue;\n" \
    "            const ushort from = mfa_fragment_lane(row, k);\n" \
    "            const float even = simd_shuffle(weights[f][0], from), odd = simd_shuffle(weights[f][1], from);\n" \
    "            const float weight = (k & 1) != 0 ? odd : even;\n" \
    "            const bool is_seen = (simd_shuffle(hidden, from) >> (2 * f + (k & 1)) & 1) == 0;\n" \
    "#pragma unroll\n" \
    "            for (int n = 0; n < SUMS; ++n) {\n" \
    "                const vec<MFA_T, 2> pair =\n" \
    "                    vec<MFA_T, 2>(mfa_read<2>(values, key, column + 8 * SPAN * (n / SPAN) + 2 * (n % SPAN)));\n" \
    "                for (int i = 0; i < 2; ++i)\n" \
    "                    if (is_seen && !isfinite(float(pair[i])))\n" \
    "                        sums[n][i] += weight * float(pair[i]);\n" \
    "            }\n" \
    "        }\n" \
    "}\n" \
    "\n" \
    "/* sum + weights . values */\n" \
    "inline float2 mfa_add_weighted(float2 weights, vec<MFA_T, 2> values, float2 sum) {\n" \
    "    return exact_weights ? mfa_multiply_add<float, MFA_T>(weights, values, sum)\n" \
    "                         : mfa_multiply_add<MFA_T, MFA_T>(mfa_round<MFA_T>(weights), values, sum);\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define MFA_TYPES_H_0 \
    "#line 1 \"mfa_types.h\"\n" \
    "/* Integers of fixed size, by one name in C and in the Metal Shading Language. */\n" \
    "#ifndef MFA_TYPES_H\n" \
    "#define MFA_TYPES_H\n" \
    "\n" \
    "#ifdef __METAL_VERSION__\n" \
    "typedef long mfa_index;\n" \
    "typedef uint mfa_u32;\n" \
    "typedef ulong mfa_u64;\n" \
    "#else\n" \
    "#include <stdbool.h>\n" \
    "#include <stdint.h>\n" \
    "typedef int64_t mfa_index;\n" \
    "typedef uint32_t mfa_u32;\n" \
    "typedef uint64_t mfa_u64;\n" \
    "#endif\n" \
    "\n" \
    "#endif\n"

#define MFA_WALK_H_0 \
    "#line 1 \"mfa_walk.h\"\n" \
    "/*\n" \
    " * Which tiles of the scores are visited: every loop over tiles asks here. Causal and window bounds leave one run of\n" \
    " * keys to a row, and one run of rows to a key; blocks of the problem may leave holes in it.\n" \
    " */\n" \
    "#ifndef MFA_WALK_H\n" \
    "#define MFA_WALK_H\n" \
    "\n"

#define MFA_WALK_H_1 \
    "#line 9 \"mfa_walk.h\"\n" \
    "\n" \
    "/* ------------------------------------------------------------------ blocks */\n" \
    "\n" \
    "/* Of one head. Unused without blocks. */\n" \
    "struct mfa_blocks {\n" \
    "    const device mfa_u32 *lines; /* as MFA_BUFFER_BLOCKS has them */\n" \
    "    mfa_index line_stride, words;\n" \
    "    mfa_index rows, keys; /* of a block */\n" \
    "    const device uchar *masks;\n" \
    "    mfa_index mask_stride, mask_row_stride, mask_key_stride;\n" \
    "};\n" \
    "\n" \
    "inline mfa_blocks mfa_blocks_of(constant mfa_metal_params &p, mfa_biases biases, mfa_index batch, mfa_index head) {\n" \
    "    mfa_blocks blocks;\n" \
    "    if (has_blocks) {\n" \
    "        blocks.lines = biases.block_words + mfa_place(p.blocks, batch, head, 0);\n" \
    "        blocks.line_stride = p.blocks.row;\n" \
    "        blocks.words = p.block_words;\n" \
    "        blocks.rows = p.block_rows;\n" \
    "        blocks.keys = p.block_keys;\n" \
    "    }\n" \
    "    if (has_block_masks) {\n" \
    "        blocks.masks = biases.block_masks;\n" \
    "        blocks.mask_stride = p.masks.batch;\n" \
    "        blocks.mask_row_stride = p.masks.row;\n" \
    "        blocks.mask_key_stride = p.masks.column;\n" \
    "    }\n" \
    "    return blocks;\n" \
    "}\n" \
    "\n" \
    "/* As mfa_span_tiles. */\n" \
    "inline mfa_span mfa_blocks_met(mfa_span span, mfa_index size) {\n" \
    "    const mfa_index first = mfa_quotient(span.begin, size);\n" \
    "    return mfa_span_of(first, mfa_span_is_empty(span) ? first : mfa_quotient(span.end - 1, size) + 1);\n" \
    "}\n" \
    "\n" \
    "/* Ones at the bits of a word that stand for columns of a span that meets it. */\n" \
    "inline mfa_u32 mfa_block_bits(mfa_span columns, mfa_index word) {\n" \
    "    const mfa_index first = word * MFA_BLOCK_BITS;\n" \
    "    const mfa_index begin = max(columns.begin - first, mfa_index(0));\n" \
    "    const mfa_index end = min(columns.end - first, mfa_index(MFA_BLOCK_BITS));\n" \
    "    return ~0u << begin & ~0u >> (MFA_BLOCK_BITS - end);\n" \
    "}\n" \
    "\n" \
    "/* The first of some columns of blocks that counts in one of some rows of blocks; columns.end: there is none. */\n" \
    "inline mfa_index mfa_next_block_column(mfa_blocks blocks, mfa_span rows, mfa_span columns) {\n" \
    "    for (mfa_index word = columns.begin / MFA_BLOCK_BITS; word * MFA_BLOCK_BITS < columns.end; ++word) {\n" \
    "        mfa_u32 bits = 0;\n" \
    "        for (mfa_index row = rows.begin; row < rows.end; ++row)\n" \
    "            bits |= blocks.lines[row * blocks.line_stride + word];\n" \
    "        bits &= mfa_block_bits(columns, word);\n" \
    "        if (bits != 0) {\n" \
    "            mfa_index column = word * MFA_BLOCK_BITS;\n" \
    "            for (; (bits & 1) == 0; bits >>= 1)\n" \
    "                ++column;\n" \
    "            return column;\n" \
    "        }\n" \
    "    }\n" \
    "    return columns.end;\n" \
    "}\n" \
    "\n" \
    "/* The first of some rows of blocks in which one of some columns counts; rows.end: there is none. */\n" \
    "inline mfa_index mfa_next_block_row(mfa_blocks blocks, mfa_span rows, mfa_span columns) {\n" \
    "    mfa_index row = rows.begin;\n" \
    "    while (row < rows.end && mfa_next_block_column(blocks, mfa_span_of(row, row + 1), columns) >= columns.end)\n" \
    "        ++row;\n" \
    "    return row;\n" \
    "}\n" \
    "\n" \
    "/* Whether of all blocks that hold a pair of the rows and keys each pair counts, and no mask is looked at. */\n" \
    "inline bool mfa_blocks_are_whole(mfa_blocks blocks, mfa_span rows, mfa_span keys) {\n" \
    "    const mfa_span across = mfa_blocks_met(rows, blocks.rows), columns = mfa_blocks_met(keys, blocks.keys);\n" \
    "    const mfa_index first = blocks_are_masked ? blocks.words : 0; /* the bits of full ones */\n" \
    "    bool all = true;\n" \
    "    for (mfa_index row = across.begin; row < across.end; ++row)\n" \
    "        for (mfa_index word = columns.begin / MFA_BLOCK_BITS; word * MFA_BLOCK_BITS < columns.end; ++word)\n" \
    "            all = all && (~blocks.lines[row * blocks.line_stride + first + word] & mfa_block_bits(columns, word)) == 0;\n" \
    "    return all;\n" \
    "}\n" \
    "\n" \
    "/*\n" \
    " * What blocks say of the pairs that a lane holds of a tile: one row and several keys, or one key and several rows, of\n" \
    " * which it has two neighbours of each 8, from `column` on. Their bits follow each other.\n" \
    " */\n" \
    "struct mfa_lane_pairs {\n" \
    "    uint visible, full; /* full: bool_mask is not looked at */\n" \
    "};\n" \
    "\n" \
    "/* Bits of those before a place of the tile. */\n" \
    "inline uint mfa_lane_bits(mfa_index place, int size, int column) {\n" \
    "    const int end = int(max(min(place, mfa_index(size)), mfa_index(0)));\n" \
    "    return (1u << (end / 8 * 2 + max(min(end % 8 - column, 2), 0))) - 1;\n" \
    "}\n" \
    "\n" \
    "/* What blocks hide nothing of. */\n" \
    "inline mfa_lane_pairs mfa_whole_pairs() {\n" \
    "    mfa_lane_pairs pairs;\n" \
    "    pairs.visible = pairs.full = ~0u;\n" \
    "    return pairs;\n" \
    "}\n" \
    "\n" \
    "/* Of a row and a tile of SIZE keys that begins at `first`, or of a key and a tile of rows, of which `bounds` are those\n" \
    "   that are seen or see, as far as bounds tell. */\n" \
    "template <int SIZE, bool OVER_ROWS>\n" \
    "inline mfa_lane_pairs mfa_lane_pairs_of(mfa_blocks blocks, mfa_index own, mfa_index first, mfa_span bounds,\n" \
    "                                        int column) {\n" \
    "    static_assert(SIZE <= 64, \"lanes have bits for their pairs\");\n" \
    "    mfa_lane_pairs pairs;\n" \
    "    pairs.visible = pairs.full = 0;\n" \
    "    const mfa_span part = mfa_span_cut(mfa_span_of(0, SIZE), mfa_span_of(bounds.begin - first, bounds.end - first));\n" \
    "    if (mfa_span_is_empty(part))\n" \
    "        return pairs;\n" \
    "    const mfa_index own_size = OVER_ROWS ? blocks.keys : blocks.rows, size = OVER_ROWS ? blocks.rows : blocks.keys;\n" \
    "    const mfa_index own_block = mfa_quotient(own, own_size);\n" \
    "    mfa_index block = mfa_quotient(first + part.begin, size);\n" \
    "    for (mfa_index begin = block * size - first; begin < part.end; begin += size, ++block) {\n" \
    "        uint bits = mfa_lane_bits(min(begin + size, part.end), SIZE, column) &\n" \
    "                    ~mfa_lane_bits(max(begin, part.begin), SIZE, column);\n" \
    "        const mfa_index at = OVER_ROWS ? own_block : block;\n" \
    "        const device mfa_u32 *line = blocks.lines + (OVER_ROWS ? block : own_block) * blocks.line_stride;\n" \
    "        if (bits == 0 || !mfa_rule_bit(line[at / MFA_BLOCK_BITS], at))\n" \
    "            continue;\n" \
    "        if (blocks_are_masked && mfa_rule_bit(line[blocks.words + at / MFA_BLOCK_BITS], at)) {\n" \
    "            pairs.full |= bits;\n" \
    "        } else if (has_block_masks) {\n" \
    "            const mfa_index mask = mfa_index(line[2 * blocks.words + at]) - 1;\n" \
    "            const mfa_index own_stride = OVER_ROWS ? blocks.mask_key_stride : blocks.mask_row_stride;\n" \
    "            const mfa_index stride = OVER_ROWS ? blocks.mask_row_stride : blocks.mask_key_stride;\n" \
    "            const device uchar *places =\n" \
    "                blocks.masks + mask * blocks.mask_stride + (own - own_block * own_size) * own_stride - begin * stride;\n" \
    "            for (int i = 0; i < SIZE / 4 && mask >= 0; ++i)\n" \
    "                if ((bits >> i & 1) != 0 && places[(i / 2 * 8 + column + i % 2) * stride] == 0)\n" \
    "                    bits &= ~(1u << i);\n" \
    "        }\n" \
    "        pairs.visible |= bits;\n" \
    "    }\n" \
    "    return pairs;\n" \
    "}\n" \
    "\n" \
    "inline bool mfa_lane_bit(uint bits, int f, int i) { return (bits >> (2 * f + i) & 1) != 0; }\n" \
    "\n" \
    "/* ------------------------------------------------------------------ walks */\n" \
    "\n" \
    "/* Over tiles of keys, for some rows of a head; or over tiles of rows, for some keys. */\n" \
    "struct mfa_walk {\n" \
    "    bool over_rows;\n" \
    "    mfa_span own, visited; /* of each, those that may see or be seen as far as bounds tell */\n" \
    "    mfa_blocks blocks;\n" \
    "    mfa_span own_blocks; /* rows or columns of blocks */\n" \
    "};\n" \
    "\n" \
    "inline mfa_walk mfa_walk_over_keys(mfa_extent extent, mfa_blocks blocks, mfa_span rows) {\n" \
    "    mfa_walk walk;\n" \
    "    walk.over_rows = false;\n" \
    "    walk.own = mfa_span_cut(rows, mfa_span_of(0, extent.query_count));\n" \
    "    walk.visited = mfa_rule_keys_some_see(extent, rows);\n" \
    "    walk.blocks = blocks;\n" \
    "    if (has_blocks)\n" \
    "        walk.own_blocks = mfa_blocks_met(walk.own, blocks.rows);\n" \
    "    return walk;\n" \
    "}\n" \
    "\n" \
    "inline mfa_walk mfa_walk_over_rows(mfa_extent extent, mfa_blocks blocks, mfa_span keys) {\n" \
    "    mfa_walk walk;\n" \
    "    walk.over_rows = true;\n" \
    "    walk.own = mfa_span_cut(keys, mfa_span_of(0, extent.key_count));\n" \
    "    walk.visited = mfa_rule_rows_some_see(extent, keys);\n" \
    "    walk.blocks = blocks;\n" \
    "    if (has_blocks)\n" \
    "        walk.own_blocks = mfa_blocks_met(walk.own, blocks.keys);\n" \
    "    return walk;\n" \
    "}\n" \
    "\n" \
    "/* The first place of `span`, not empty, in a block that counts for what is owned; span.end or more: there is none. */\n" \
    "inline mfa_index mfa_walk_find(mfa_walk walk, mfa_span span) {\n" \
    "    const mfa_index size = walk.over_rows ? walk.blocks.rows : walk.blocks.keys;\n" \
    "    const mfa_span among = mfa_blocks_met(span, size);\n" \
    "    const mfa_index found = walk.over_rows ? mfa_next_block_row(walk.blocks, among, walk.own_blocks)\n" \
    "                                           : mfa_next_block_column(walk.blocks, walk.own_blocks, among);\n" \
    "    return found == among.end ? span.end : max(found * size, span.begin);\n" \
    "}\n" \
    "\n" \
    "/* Whether a tile is visited: some pair of it may be seen. */\n" \
    "inline bool mfa_walk_visits(mfa_walk walk, mfa_span tile) {\n" \
    "    const mfa_span part = mfa_span_cut(walk.visited, tile);\n" \
    "    return !mfa_span_is_empty(part) && (!has_blocks || mfa_walk_find(walk, part) < part.end);\n" \
    "}\n" \
    "\n" \
    "/* Where the first tile that is visited begins, of those of SIZE that begin at `first` or behind it, a multiple of SIZE;\n" \
    "   walk.visited.end or more behind the last. */\n" \
    "template <int SIZE> inline mfa_index mfa_walk_next(mfa_walk walk, mfa_index first) {\n" \
    "    const mfa_span rest = mfa_span_cut(walk.visited, mfa_span_of(first, walk.visited.end));\n" \
    "    if (!has_blocks || mfa_span_is_empty(rest))\n" \
    "        return first;\n" \
    "    const mfa_index found = mfa_walk_find(walk, rest);\n" \
    "    return found < rest.end ? found / SIZE * SIZE : rest.end;\n" \
    "}\n" \
    "\n" \
    "template <int SIZE> inline mfa_index mfa_walk_first(mfa_walk walk) {\n" \
    "    return mfa_span_is_empty(walk.visited) ? walk.visited.end\n" \
    "                                           : mfa_walk_next<SIZE>(walk, walk.visited.begin / SIZE * SIZE);\n" \
    "}\n" \
    "\n" \
    "/* The part of a tile that bounds let be seen, counted from where the tile begins. */\n" \
    "inline mfa_span mfa_walk_part(mfa_walk walk, mfa_index first, int size) {\n" \
    "    return mfa_span_of(max(walk.visited.begin - first, mfa_index(0)), min(walk.visited.end - first, mfa_index(size)));\n" \
    "}\n" \
    "\n" \
    "/* Whether each of some rows, all of which exist, sees each of some keys, without a look at masks; with blocks, whether\n" \
    "   no look is needed but at the additive mask. */\n" \
    "inline bool mfa_tile_is_whole(mfa_extent extent, mfa_blocks blocks, mfa_span rows, mfa_span keys) {\n" \
    "    return mfa_span_holds(mfa_rule_keys_all_see(extent, rows), keys) &&\n" \
    "           (!has_blocks || mfa_blocks_are_whole(blocks, rows, keys));\n" \
    "}\n" \
    "\n" \
    "/* Whether causal and window bounds let a row see a key. */\n" \
    "inline bool mfa_pair_is_visible(mfa_extent extent, mfa_index row, mfa_index key) {\n" \
    "    return row < extent.query_count && mfa_span_holds(mfa_rule_keys_of_row(extent, row), mfa_span_of(key, key + 1));\n" \
    "}\n" \
    "\n" \
    "#endif\n"

#define QUANTISE_METAL_0 \
    "#line 1 \"quantise.metal\"\n" \
    "/* Rounds queries to integers, each row with a scale of its own, for products with codes of keys. A threadgroup takes some\n" \
    "   rows of one sequence, each simdgroup some heads of them. */\n"

#define QUANTISE_METAL_1 \
    "#line 4 \"quantise.metal\"\n" \
    "\n" \
    "[[kernel, max_total_threads_per_threadgroup(32 * MFA_APPEND_SIMDGROUPS)]] void\n" \
    "attention_quantise(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]],\n" \
    "                   const device MFA_T *query [[buffer(MFA_BUFFER_QUERY)]],\n" \
    "                   device MFA_T *turned [[buffer(MFA_BUFFER_TURNED)]],\n" \
    "                   device mfa_metal_query_terms *terms [[buffer(MFA_BUFFER_QUERY_TERMS)]], MFA_KEY_ARGUMENTS,\n" \
    "                   MFA_SEQUENCE_ARGUMENTS, uint threadgroup_number [[threadgroup_position_in_grid]],\n" \
    "                   uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {\n" \
    "    const mfa_index number = p.first_threadgroup + threadgroup_number;\n" \
    "    const mfa_lists lists = MFA_LISTS;\n" \
    "    const mfa_tile tile = mfa_query_tile<MFA_APPEND_ROWS>(p, lists, number / p.query_tiles, number % p.query_tiles);\n" \
    "    const mfa_sequence sequence = mfa_sequence_of(p, lists, tile.sequence);\n" \
    "    if (!mfa_tile_exists(tile, sequence.extent.query_count))\n" \
    "        return;\n" \
    "    const mfa_index rows = min(mfa_index(MFA_APPEND_ROWS), sequence.extent.query_count - tile.first);\n" \
    "    for (mfa_index i = simdgroup; i < rows * p.heads; i += MFA_APPEND_SIMDGROUPS) {\n" \
    "        const mfa_index head = i % p.heads, row = tile.first + i / p.heads;\n" \
    "        const mfa_result_rows<MFA_T> to = mfa_result_rows_of(turned, p.turned, sequence.queries, head, p.head_dim);\n" \
    "        mfa_rows<MFA_T> from = mfa_rows_of(query, p.query, sequence.queries, head, p.head_dim);\n" \
    "        if (has_rotary)\n" \
    "            from = mfa_rows_of((const device MFA_T *)turned, p.turned, sequence.queries, head, p.head_dim);\n" \
    "        const mfa_metal_query_terms found =\n" \
    "            mfa_round_query(from, mfa_key_rows(p, MFA_KEYS, sequence, head / p.group), to, row, lane);\n" \
    "        if (lane == 0)\n" \
    "            terms[mfa_stored_row(p, sequence, head, row)] = found;\n" \
    "    }\n" \
    "}\n"

#define ROTATE_METAL_0 \
    "#line 1 \"rotate.metal\"\n" \
    "/* Copies queries, turned by their positions. A threadgroup takes some rows of one sequence, each simdgroup some heads of\n" \
    "   them. */\n"

#define ROTATE_METAL_1 \
    "#line 4 \"rotate.metal\"\n" \
    "\n" \
    "[[kernel, max_total_threads_per_threadgroup(32 * MFA_APPEND_SIMDGROUPS)]] void\n" \
    "attention_rotate(constant mfa_metal_params &p [[buffer(MFA_BUFFER_PARAMS)]],\n" \
    "                 const device MFA_T *query [[buffer(MFA_BUFFER_QUERY)]],\n" \
    "                 device MFA_T *turned [[buffer(MFA_BUFFER_TURNED)]], MFA_ROTARY_ARGUMENTS, MFA_SEQUENCE_ARGUMENTS,\n" \
    "                 uint threadgroup_number [[threadgroup_position_in_grid]],\n" \
    "                 uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {\n" \
    "    const mfa_index number = p.first_threadgroup + threadgroup_number;\n" \
    "    const mfa_lists lists = MFA_LISTS;\n" \
    "    const mfa_rotary rotary = MFA_ROTARY;\n" \
    "    const mfa_tile tile = mfa_query_tile<MFA_APPEND_ROWS>(p, lists, number / p.query_tiles, number % p.query_tiles);\n" \
    "    const mfa_sequence sequence = mfa_sequence_of(p, lists, tile.sequence);\n" \
    "    if (!mfa_tile_exists(tile, sequence.extent.query_count))\n" \
    "        return;\n" \
    "    const mfa_index position = mfa_rotary_position(p, rotary, sequence);\n" \
    "    const mfa_index rows = min(mfa_index(MFA_APPEND_ROWS), sequence.extent.query_count - tile.first);\n" \
    "    for (mfa_index i = simdgroup; i < rows * p.heads; i += MFA_APPEND_SIMDGROUPS) {\n" \
    "        const mfa_index head = i % p.heads, row = tile.first + i / p.heads;\n" \
    "        mfa_turn_row(p, rotary, position + (p.queries_step != 0 ? row : 0),\n" \
    "                     mfa_rows_of(query, p.query, sequence.queries, head, p.head_dim), row,\n" \
    "                     mfa_result_rows_of(turned, p.turned, sequence.queries, head, p.head_dim), row, lane);\n" \
    "    }\n" \
    "}\n"

const mfai_metal_source_t mfai_metal_sources[] = {
    {"append",
     APPEND_METAL_0
     MFA_ROTARY_H_0
     MFA_ROWS_H_0
     MFA_CODES_H_0
     MFA_SEQUENCES_H_0
     MFA_KERNEL_H_0
     MFA_PARAMS_H_0
     MFA_CONSTANTS_H_0
     MFA_PHILOX_H_0
     MFA_TYPES_H_0
     MFA_PHILOX_H_1
     MFA_RULES_H_0
     MFA_RULES_H_1
     MFA_PARAMS_H_3
     MFA_KERNEL_H_1
     MFA_SEQUENCES_H_1
     MFA_CODES_H_1
     MFA_ROWS_H_1
     MFA_ROTARY_H_1
     APPEND_METAL_1},
    {"backward_bias",
     BACKWARD_BIAS_METAL_0
     MFA_BACKWARD_QUERIES_H_0
     MFA_BACKWARD_SCORE_H_0
     MFA_DROPOUT_H_0
     MFA_KERNEL_H_0
     MFA_PARAMS_H_0
     MFA_CONSTANTS_H_0
     MFA_PHILOX_H_0
     MFA_TYPES_H_0
     MFA_PHILOX_H_1
     MFA_RULES_H_0
     MFA_RULES_H_1
     MFA_PARAMS_H_3
     MFA_KERNEL_H_1
     MFA_DROPOUT_H_1
     MFA_SCORE_H_0
     MFA_WALK_H_0
     MFA_ARGUMENTS_H_0
     MFA_ROWS_H_0
     MFA_CODES_H_0
     MFA_SEQUENCES_H_0
     MFA_SEQUENCES_H_1
     MFA_CODES_H_1
     MFA_ROWS_H_1
     MFA_ARGUMENTS_H_1
     MFA_WALK_H_1
     MFA_SCORE_H_1
     MFA_BACKWARD_SCORE_H_2
     MFA_BACKWARD_TILE_H_0
     MFA_FRAGMENT_H_0
     MFA_FRAGMENT_H_1
     MFA_BACKWARD_TILE_H_2
     MFA_BACKWARD_QUERIES_H_2
     BACKWARD_BIAS_METAL_1},
    {"backward_key",
     BACKWARD_KEY_METAL_0
     MFA_BACKWARD_SCORE_H_0
     MFA_DROPOUT_H_0
     MFA_KERNEL_H_0
     MFA_PARAMS_H_0
     MFA_CONSTANTS_H_0
     MFA_PHILOX_H_0
     MFA_TYPES_H_0
     MFA_PHILOX_H_1
     MFA_RULES_H_0
     MFA_RULES_H_1
     MFA_PARAMS_H_3
     MFA_KERNEL_H_1
     MFA_DROPOUT_H_1
     MFA_SCORE_H_0
     MFA_WALK_H_0
     MFA_ARGUMENTS_H_0
     MFA_ROWS_H_0
     MFA_CODES_H_0
     MFA_SEQUENCES_H_0
     MFA_SEQUENCES_H_1
     MFA_CODES_H_1
     MFA_ROWS_H_1
     MFA_ARGUMENTS_H_1
     MFA_WALK_H_1
     MFA_SCORE_H_1
     MFA_BACKWARD_SCORE_H_2
     MFA_BACKWARD_TILE_H_0
     MFA_FRAGMENT_H_0
     MFA_FRAGMENT_H_1
     MFA_BACKWARD_TILE_H_2
     BACKWARD_KEY_METAL_2},
    {"backward_prepare",
     BACKWARD_PREPARE_METAL_0
     MFA_ROWS_H_0
     MFA_CODES_H_0
     MFA_SEQUENCES_H_0
     MFA_KERNEL_H_0
     MFA_PARAMS_H_0
     MFA_CONSTANTS_H_0
     MFA_PHILOX_H_0
     MFA_TYPES_H_0
     MFA_PHILOX_H_1
     MFA_RULES_H_0
     MFA_RULES_H_1
     MFA_PARAMS_H_3
     MFA_KERNEL_H_1
     MFA_SEQUENCES_H_1
     MFA_CODES_H_1
     MFA_ROWS_H_1
     BACKWARD_PREPARE_METAL_1},
    {"backward_query",
     BACKWARD_QUERY_METAL_0
     MFA_BACKWARD_QUERIES_H_0
     MFA_BACKWARD_SCORE_H_0
     MFA_DROPOUT_H_0
     MFA_KERNEL_H_0
     MFA_PARAMS_H_0
     MFA_CONSTANTS_H_0
     MFA_PHILOX_H_0
     MFA_TYPES_H_0
     MFA_PHILOX_H_1
     MFA_RULES_H_0
     MFA_RULES_H_1
     MFA_PARAMS_H_3
     MFA_KERNEL_H_1
     MFA_DROPOUT_H_1
     MFA_SCORE_H_0
     MFA_WALK_H_0
     MFA_ARGUMENTS_H_0
     MFA_ROWS_H_0
     MFA_CODES_H_0
     MFA_SEQUENCES_H_0
     MFA_SEQUENCES_H_1
     MFA_CODES_H_1
     MFA_ROWS_H_1
     MFA_ARGUMENTS_H_1
     MFA_WALK_H_1
     MFA_SCORE_H_1
     MFA_BACKWARD_SCORE_H_2
     MFA_BACKWARD_TILE_H_0
     MFA_FRAGMENT_H_0
     MFA_FRAGMENT_H_1
     MFA_BACKWARD_TILE_H_2
     MFA_BACKWARD_QUERIES_H_2
     BACKWARD_QUERY_METAL_1},
    {"backward_sinks",
     BACKWARD_SINKS_METAL_0
     MFA_SEQUENCES_H_0
     MFA_KERNEL_H_0
     MFA_PARAMS_H_0
     MFA_CONSTANTS_H_0
     MFA_PHILOX_H_0
     MFA_TYPES_H_0
     MFA_PHILOX_H_1
     MFA_RULES_H_0
     MFA_RULES_H_1
     MFA_PARAMS_H_3
     MFA_KERNEL_H_1
     MFA_SEQUENCES_H_1
     BACKWARD_SINKS_METAL_1},
    {"blocks",
     BLOCKS_METAL_0
     MFA_KERNEL_H_0
     MFA_PARAMS_H_0
     MFA_CONSTANTS_H_0
     MFA_PHILOX_H_0
     MFA_TYPES_H_0
     MFA_PHILOX_H_1
     MFA_RULES_H_0
     MFA_RULES_H_1
     MFA_PARAMS_H_3
     MFA_KERNEL_H_1
     BLOCKS_METAL_1},
    {"combine",
     COMBINE_METAL_0
     MFA_SCORE_H_0
     MFA_WALK_H_0
     MFA_ARGUMENTS_H_0
     MFA_ROWS_H_0
     MFA_CODES_H_0
     MFA_SEQUENCES_H_0
     MFA_KERNEL_H_0
     MFA_PARAMS_H_0
     MFA_CONSTANTS_H_0
     MFA_PHILOX_H_0
     MFA_TYPES_H_0
     MFA_PHILOX_H_1
     MFA_RULES_H_0
     MFA_RULES_H_1
     MFA_PARAMS_H_3
     MFA_KERNEL_H_1
     MFA_SEQUENCES_H_1
     MFA_CODES_H_1
     MFA_ROWS_H_1
     MFA_ARGUMENTS_H_1
     MFA_WALK_H_1
     MFA_SCORE_H_1
     COMBINE_METAL_1},
    {"decode",
     DECODE_METAL_0
     MFA_INTEGERS_H_0
     MFA_ARGUMENTS_H_0
     MFA_ROWS_H_0
     MFA_CODES_H_0
     MFA_SEQUENCES_H_0
     MFA_KERNEL_H_0
     MFA_PARAMS_H_0
     MFA_CONSTANTS_H_0
     MFA_PHILOX_H_0
     MFA_TYPES_H_0
     MFA_PHILOX_H_1
     MFA_RULES_H_0
     MFA_RULES_H_1
     MFA_PARAMS_H_3
     MFA_KERNEL_H_1
     MFA_SEQUENCES_H_1
     MFA_CODES_H_1
     MFA_ROWS_H_1
     MFA_ARGUMENTS_H_1
     MFA_FRAGMENT_H_0
     MFA_FRAGMENT_H_1
     MFA_INTEGERS_H_2
     MFA_SOFTMAX_H_0
     MFA_DROPOUT_H_0
     MFA_DROPOUT_H_1
     MFA_SCORE_H_0
     MFA_WALK_H_0
     MFA_WALK_H_1
     MFA_SCORE_H_1
     MFA_SOFTMAX_H_3
     DECODE_METAL_2},
    {"fill",
     FILL_METAL_0
     MFA_KERNEL_H_0
     MFA_PARAMS_H_0
     MFA_CONSTANTS_H_0
     MFA_PHILOX_H_0
     MFA_TYPES_H_0
     MFA_PHILOX_H_1
     MFA_RULES_H_0
     MFA_RULES_H_1
     MFA_PARAMS_H_3
     MFA_KERNEL_H_1
     FILL_METAL_1},
    {"forward",
     FORWARD_METAL_0
     MFA_INTEGERS_H_0
     MFA_ARGUMENTS_H_0
     MFA_ROWS_H_0
     MFA_CODES_H_0
     MFA_SEQUENCES_H_0
     MFA_KERNEL_H_0
     MFA_PARAMS_H_0
     MFA_CONSTANTS_H_0
     MFA_PHILOX_H_0
     MFA_TYPES_H_0
     MFA_PHILOX_H_1
     MFA_RULES_H_0
     MFA_RULES_H_1
     MFA_PARAMS_H_3
     MFA_KERNEL_H_1
     MFA_SEQUENCES_H_1
     MFA_CODES_H_1
     MFA_ROWS_H_1
     MFA_ARGUMENTS_H_1
     MFA_FRAGMENT_H_0
     MFA_FRAGMENT_H_1
     MFA_INTEGERS_H_2
     MFA_SOFTMAX_H_0
     MFA_DROPOUT_H_0
     MFA_DROPOUT_H_1
     MFA_SCORE_H_0
     MFA_WALK_H_0
     MFA_WALK_H_1
     MFA_SCORE_H_1
     MFA_SOFTMAX_H_3
     FORWARD_METAL_2},
    {"quantise",
     QUANTISE_METAL_0
     MFA_INTEGERS_H_0
     MFA_ARGUMENTS_H_0
     MFA_ROWS_H_0
     MFA_CODES_H_0
     MFA_SEQUENCES_H_0
     MFA_KERNEL_H_0
     MFA_PARAMS_H_0
     MFA_CONSTANTS_H_0
     MFA_PHILOX_H_0
     MFA_TYPES_H_0
     MFA_PHILOX_H_1
     MFA_RULES_H_0
     MFA_RULES_H_1
     MFA_PARAMS_H_3
     MFA_KERNEL_H_1
     MFA_SEQUENCES_H_1
     MFA_CODES_H_1
     MFA_ROWS_H_1
     MFA_ARGUMENTS_H_1
     MFA_FRAGMENT_H_0
     MFA_FRAGMENT_H_1
     MFA_INTEGERS_H_2
     QUANTISE_METAL_1},
    {"rotate",
     ROTATE_METAL_0
     MFA_ROTARY_H_0
     MFA_ROWS_H_0
     MFA_CODES_H_0
     MFA_SEQUENCES_H_0
     MFA_KERNEL_H_0
     MFA_PARAMS_H_0
     MFA_CONSTANTS_H_0
     MFA_PHILOX_H_0
     MFA_TYPES_H_0
     MFA_PHILOX_H_1
     MFA_RULES_H_0
     MFA_RULES_H_1
     MFA_PARAMS_H_3
     MFA_KERNEL_H_1
     MFA_SEQUENCES_H_1
     MFA_CODES_H_1
     MFA_ROWS_H_1
     MFA_ROTARY_H_1
     ROTATE_METAL_1},
    {0, 0},
};
#endif
