#include "core/append.h"

#include "core/integers.h"
#include "core/lists.h"

static mfa_status_t check_format(const char *name, const mfai_view_t *view, const char *model_name,
                                 const mfai_view_t *model) {
    MFAI_REQUIRE(view->format == model->format, "%s.precision is %s, expected %s's, %s", name,
                 mfai_formats[view->format].name, model_name, mfai_formats[model->format].name);
    return MFA_SUCCESS;
}

/* New rows of codes are given as queries are. */
static mfa_status_t check_new(const char *name, const mfai_view_t *rows, const char *cache_name,
                              const mfai_view_t *cache, const mfai_problem_t *p) {
    return mfai_view_has_codes(cache) ? check_format(name, rows, "query", &p->query)
                                      : check_format(name, rows, cache_name, cache);
}

/* Rows that are quantised anew have scales of their own. */
static mfa_status_t check_scales(const char *name, const mfai_quantization_t *quantization, const mfai_view_t *cache) {
    const mfai_view_t *scales = &quantization->scales;
    MFAI_REQUIRE(quantization->rows <= 1,
                 "%s.rows is %" PRId64 ", expected 0 or 1: new rows would change the scale of those before them", name,
                 quantization->rows);
    MFAI_REQUIRE(!scales->present || quantization->rows == 0 ||
                     (scales->shape[0] == cache->shape[0] && scales->shape[1] == cache->shape[1]),
                 "%s.scales has shape (%" PRId64 ", %" PRId64 ", ...), expected (%" PRId64 ", %" PRId64
                 ", ...): new rows write theirs",
                 name, scales->shape[0], scales->shape[1], cache->shape[0], cache->shape[1]);
    return MFA_SUCCESS;
}

static mfa_status_t check_table(const char *name, const mfai_view_t *table, const mfai_problem_t *p) {
    MFAI_REQUIRE(table->format == MFAI_FORMAT_FP32 || table->format == p->query.format,
                 "%s.precision is %s, expected FP32 or query's, %s", name, mfai_formats[table->format].name,
                 mfai_formats[p->query.format].name);
    return MFA_SUCCESS;
}

static mfa_status_t check_rotary(const mfai_problem_t *p) {
    MFAI_REQUIRE(p->rotary_cos.present || !p->rotary_positions.present,
                 "append.rotary_positions is set, but append.rotary_cos is NULL");
    if (!p->rotary_cos.present)
        return MFA_SUCCESS;
    MFAI_REQUIRE(p->rotary_sin.present, "append.rotary_cos is set, but append.rotary_sin is NULL");
    MFAI_TRY(check_table("append.rotary_cos", &p->rotary_cos, p));
    MFAI_TRY(check_table("append.rotary_sin", &p->rotary_sin, p));
    const int64_t pairs = p->rotary_cos.shape[3];
    MFAI_REQUIRE(pairs >= 1 && pairs <= p->head_dim / 2,
                 "append.rotary_cos has %" PRId64 " columns, expected 1 to %" PRId64
                 ", half of query's head_dim %" PRId64,
                 pairs, p->head_dim / 2, p->head_dim);
    return MFA_SUCCESS;
}

mfa_status_t mfai_append_check(const mfai_problem_t *p) {
    if (!p->new_key.present)
        return MFA_SUCCESS;
    MFAI_REQUIRE(p->key_lengths.present,
                 "append is set, but sequences.key_lengths is NULL, expected the rows that the cache has before");
    MFAI_TRY(check_new("append.key", &p->new_key, "key", &p->key, p));
    MFAI_TRY(check_new("append.value", &p->new_value, "value", &p->value, p));
    MFAI_TRY(check_scales("key_quantization", &p->key_quantization, &p->key));
    MFAI_TRY(check_scales("value_quantization", &p->value_quantization, &p->value));
    return check_rotary(p);
}

mfa_status_t mfai_append_read(const mfai_problem_t *p, int64_t i, int64_t capacity, int64_t padding,
                              mfai_length_t *length, mfai_place_t *place) {
    if (!p->new_key.present)
        return MFA_SUCCESS;
    *place = mfai_list_place(&p->new_starts, i);
    length->new_first = length->keys - padding;
    length->new = mfai_list_rows(&p->new_starts, i, p->new_key.shape[2]);
    MFAI_REQUIRE(length->new <= capacity - length->keys,
                 "append.key has %" PRId64 " rows for sequence %" PRId64 ", whose cache has room for %" PRId64
                 " behind the %" PRId64 " of sequences.key_lengths[%" PRId64 "]",
                 length->new, i, capacity - length->keys, length->keys, i);
    length->rotary = length->keys;
    length->keys += length->new;
    return mfai_list_read("append.rotary_positions", &p->rotary_positions, i, INT32_MAX, "a position", &length->rotary);
}

mfa_status_t mfai_append_check_positions(const mfai_problem_t *p) {
    if (!p->rotary_cos.present || p->lengths == NULL)
        return MFA_SUCCESS;
    for (int64_t i = 0; i < p->batch; ++i) {
        const mfai_length_t *length = &p->lengths[i];
        const int64_t queries = mfai_queries_step(p) ? length->queries : length->queries > 0;
        const int64_t most = mfai_max(length->new, queries);
        MFAI_REQUIRE(most == 0 || length->rotary <= p->rotary_cos.shape[2] - most,
                     "append.rotary_cos has %" PRId64 " positions, but sequence %" PRId64 " has rows at %" PRId64
                     " to %" PRId64,
                     p->rotary_cos.shape[2], i, length->rotary, length->rotary + most - 1);
    }
    return MFA_SUCCESS;
}
