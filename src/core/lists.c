#include "core/lists.h"

mfa_status_t mfai_list_read(const char *name, const mfai_view_t *list, int64_t i, int64_t most, const char *whose,
                            int64_t *length) {
    if (!list->present)
        return MFA_SUCCESS;
    const int32_t value = mfai_list_entry(list, i);
    MFAI_REQUIRE(value >= 0 && value <= most, "%s[%" PRId64 "] is %d, expected 0 to %" PRId64 ", %s", name, i, value,
                 most, whose);
    *length = value;
    return MFA_SUCCESS;
}

mfa_status_t mfai_list_check_starts(const char *name, const mfai_view_t *starts, int64_t rows) {
    if (!starts->present)
        return MFA_SUCCESS;
    int32_t before = 0;
    for (int64_t i = 0; i < starts->shape[3]; ++i) {
        const int32_t start = mfai_list_entry(starts, i);
        MFAI_REQUIRE(i > 0 || start == 0, "%s[0] is %d, expected 0", name, start);
        MFAI_REQUIRE(start >= before, "%s[%" PRId64 "] is %d, expected at least %d, the one before", name, i, start,
                     before);
        before = start;
    }
    MFAI_REQUIRE(before <= rows, "%s[%" PRId64 "] is %d, expected at most %" PRId64 ", the rows that are there", name,
                 starts->shape[3] - 1, before, rows);
    return MFA_SUCCESS;
}
