/* Spans of keys and rows against a look at every pair. */
#include "mfa_rules.h"

#include "check.h"

static bool sees(mfa_extent e, mfa_index row, mfa_index key) {
    const mfa_index at = row + e.offset;
    return row >= 0 && row < e.query_count && key >= 0 && key < e.key_count && (e.left < 0 || key >= at - e.left) &&
           (e.right < 0 || key <= at + e.right) &&
           (e.chunk == 0 || (key + 64 * e.chunk) / e.chunk == (at + 64 * e.chunk) / e.chunk);
}

static bool in(mfa_span span, mfa_index x) { return x >= span.begin && x < span.end; }

static void check_row(mfa_extent e, mfa_index row) {
    const mfa_span keys = mfa_rule_keys_of_row(e, row);
    for (mfa_index key = 0; key < e.key_count; ++key)
        CHECK(in(keys, key) == sees(e, row, key));
    CHECK(keys.begin >= 0 && keys.begin <= e.key_count && keys.end >= 0 && keys.end <= e.key_count);
}

/* `some` is the smallest run that holds every key that a row of `rows` sees, and `all` has those that each row sees. */
static void check_rows(mfa_extent e, mfa_span rows) {
    const mfa_span some = mfa_rule_keys_some_see(e, rows), all = mfa_rule_keys_all_see(e, rows);
    mfa_span needed = mfa_span_of(e.key_count, 0);
    for (mfa_index key = 0; key < e.key_count; ++key) {
        bool any = false, each = rows.end <= e.query_count;
        for (mfa_index row = rows.begin; row < rows.end; ++row) {
            any = any || sees(e, row, key);
            each = each && sees(e, row, key);
        }
        if (any)
            needed = mfa_span_of(needed.begin < key ? needed.begin : key, key + 1);
        CHECK(in(all, key) == each);
    }
    CHECK(mfa_span_is_empty(needed) ? true : mfa_span_holds(some, needed));
    /* Tight where each row sees something: rows outside the keys may widen it. */
    bool full = rows.end <= e.query_count;
    for (mfa_index row = rows.begin; row < rows.end; ++row)
        full = full && !mfa_span_is_empty(mfa_rule_keys_of_row(e, row));
    CHECK(!full || (some.begin == needed.begin && some.end == needed.end));
}

static void check_keys(mfa_extent e, mfa_span keys) {
    const mfa_span some = mfa_rule_rows_some_see(e, keys);
    CHECK(some.begin >= 0 && some.end <= e.query_count);
    for (mfa_index row = 0; row < e.query_count; ++row)
        for (mfa_index key = keys.begin; key < keys.end; ++key)
            CHECK(!sees(e, row, key) || in(some, row));
    for (mfa_index row = some.begin; row < some.end; ++row) {
        bool between = false;
        for (mfa_index key = keys.begin; key < keys.end && key < e.key_count; ++key)
            between = between || sees(e, row, key);
        CHECK(between);
    }
}

static void check_extent(mfa_extent e) {
    for (mfa_index row = 0; row < e.query_count; ++row)
        check_row(e, row);
    for (mfa_index begin = 0; begin < e.query_count; ++begin)
        for (mfa_index end = begin + 1; end <= e.query_count + 1; ++end)
            check_rows(e, mfa_span_of(begin, end));
    for (mfa_index begin = 0; begin < e.key_count; ++begin)
        for (mfa_index end = begin + 1; end <= e.key_count + 1; ++end)
            check_keys(e, mfa_span_of(begin, end));
    CHECK(mfa_span_is_empty(mfa_rule_keys_some_see(e, mfa_span_of(1, 1))));
    CHECK(mfa_span_is_empty(mfa_rule_keys_all_see(e, mfa_span_of(1, 1))));
    CHECK(mfa_span_is_empty(mfa_rule_rows_some_see(e, mfa_span_of(1, 1))));
}

static void test_spans(void) {
    const mfa_span some = mfa_span_of(3, 7);
    CHECK(!mfa_span_is_empty(some) && mfa_span_is_empty(mfa_span_of(3, 3)) && mfa_span_is_empty(mfa_span_of(4, 3)));
    CHECK(mfa_spans_meet(some, mfa_span_of(6, 9)) && !mfa_spans_meet(some, mfa_span_of(7, 9)));
    CHECK(mfa_span_holds(some, mfa_span_of(3, 7)) && !mfa_span_holds(some, mfa_span_of(3, 8)));
    for (mfa_index begin = 0; begin < 9; ++begin)
        for (mfa_index end = 0; end < 12; ++end)
            for (mfa_index size = 1; size < 5; ++size) {
                const mfa_span tiles = mfa_span_tiles(mfa_span_of(begin, end), size);
                for (mfa_index tile = 0; tile < 12; ++tile)
                    CHECK(in(tiles, tile) ==
                          mfa_spans_meet(mfa_span_of(begin, end), mfa_span_of(tile * size, (tile + 1) * size)));
            }
}

int main(void) {
    test_spans();
    for (mfa_index queries = 0; queries < 6; ++queries)
        for (mfa_index keys = 0; keys < 7; ++keys)
            for (mfa_index offset = -7; offset < 8; ++offset)
                for (mfa_index left = -1; left < 5; ++left)
                    for (mfa_index right = -1; right < 5; ++right)
                        for (mfa_index chunk = 0; chunk < 5; ++chunk)
                            check_extent((mfa_extent){queries, keys, offset, left, right, chunk});
    return check_report();
}
