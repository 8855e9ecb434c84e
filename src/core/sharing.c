#include "core/sharing.h"

#include <stdlib.h>

#include "core/integers.h"
#include "core/lists.h"

/* Entries of a sequence's line of the page table; without pages one, its batch. */
typedef struct {
    int64_t begin, end;
} slots_t;

/* Those in which some of its rows lie, counted with those that left padding skips. */
static slots_t slots_of(const mfai_problem_t *p, int64_t first, int64_t count) {
    if (count == 0)
        return (slots_t){0, 0};
    if (!p->page_table.present)
        return (slots_t){0, 1};
    return (slots_t){first / p->key.shape[2], (first + count - 1) / p->key.shape[2] + 1};
}

static int64_t padding_of(const mfai_problem_t *p, int64_t b) {
    return p->left_padding.present ? mfai_list_entry(&p->left_padding, b) : 0;
}

static slots_t reached(const mfai_problem_t *p, int64_t b) { return slots_of(p, padding_of(p, b), p->lengths[b].keys); }

static slots_t written(const mfai_problem_t *p, int64_t b) {
    if (p->pass == MFAI_BACKWARD)
        return reached(p, b);
    return slots_of(p, padding_of(p, b) + p->lengths[b].new_first, p->lengths[b].new);
}

static int32_t unit_of(const mfai_problem_t *p, int64_t b, int64_t slot) {
    return p->page_table.present ? mfai_list_at(&p->page_table, 0, 0, b, slot) : mfai_list_entry(&p->key_batches, b);
}

/* What is written to the same place as slot (b, slot): the first there is, other than this. */
static mfa_status_t refuse(const mfai_problem_t *p, int64_t b, int64_t slot) {
    const int32_t unit = unit_of(p, b, slot);
    const char *const when = p->pass == MFAI_BACKWARD ? "in a backward call" : "if new rows are written to it";
    for (int64_t other = 0; other < p->batch; ++other) {
        const slots_t slots = written(p, other);
        for (int64_t i = slots.begin; i < slots.end; ++i) {
            if (unit_of(p, other, i) != unit || (other == b && i == slot))
                continue;
            if (p->page_table.present)
                return mfai_fail(MFA_ERROR_INVALID_ARGS,
                                 "pages.page_table[%" PRId64 ", %" PRId64 "] is %d, as [%" PRId64 ", %" PRId64
                                 "] is, expected each page once %s",
                                 b, slot, unit, other, i, when);
            return mfai_fail(MFA_ERROR_INVALID_ARGS,
                             "sequences.key_batches[%" PRId64 "] is %d, as [%" PRId64
                             "] is, expected each batch once %s",
                             b, unit, other, when);
        }
    }
    return MFA_SUCCESS;
}

/* A bit for each place up to the last that is written to. */
typedef struct {
    unsigned char *bits;
    int64_t count;
} marks_t;

static bool is_marked(const marks_t *marks, int32_t unit) {
    return unit < marks->count && marks->bits[unit / 8] >> unit % 8 & 1;
}

static int64_t count_places(const mfai_problem_t *p) {
    int64_t count = 0;
    for (int64_t b = 0; b < p->batch; ++b) {
        const slots_t slots = written(p, b);
        for (int64_t i = slots.begin; i < slots.end; ++i)
            count = mfai_max(count, (int64_t)unit_of(p, b, i) + 1);
    }
    return count;
}

static mfa_status_t mark_written(const mfai_problem_t *p, marks_t *marks) {
    for (int64_t b = 0; b < p->batch; ++b) {
        const slots_t slots = written(p, b);
        for (int64_t i = slots.begin; i < slots.end; ++i) {
            const int32_t unit = unit_of(p, b, i);
            if (is_marked(marks, unit))
                return refuse(p, b, i);
            marks->bits[unit / 8] |= (unsigned char)(1 << unit % 8);
        }
    }
    return MFA_SUCCESS;
}

static mfa_status_t check_others(const mfai_problem_t *p, const marks_t *marks) {
    for (int64_t b = 0; b < p->batch; ++b) {
        const slots_t slots = reached(p, b), own = written(p, b);
        for (int64_t i = slots.begin; i < slots.end; ++i)
            if ((i < own.begin || i >= own.end) && is_marked(marks, unit_of(p, b, i)))
                return refuse(p, b, i);
    }
    return MFA_SUCCESS;
}

mfa_status_t mfai_sharing_check(const mfai_problem_t *p) {
    const bool writes = p->pass == MFAI_BACKWARD || p->new_key.present;
    if (!writes || !(p->page_table.present || p->key_batches.present))
        return MFA_SUCCESS;
    if (p->lengths == NULL)
        return p->pass == MFAI_FORWARD
                   ? MFA_SUCCESS
                   : mfai_fail(MFA_ERROR_UNSUPPORTED,
                               "%s needs lists that the CPU can read in a backward call, to see that no two sequences "
                               "share gradients of keys",
                               p->page_table.present ? "pages" : "sequences.key_batches");
    marks_t marks = {.count = count_places(p)};
    marks.bits = calloc((size_t)marks.count / 8 + 1, 1);
    if (marks.bits == NULL)
        return mfai_fail(MFA_ERROR_MEMORY_ALLOCATION, "no memory for a bit for each of %" PRId64 " %s", marks.count,
                         p->page_table.present ? "pages" : "batches");
    mfa_status_t status = mark_written(p, &marks);
    if (status == MFA_SUCCESS && p->pass == MFAI_FORWARD)
        status = check_others(p, &marks);
    free(marks.bits);
    return status;
}
