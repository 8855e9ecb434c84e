/* Structs older and newer than the library. Each is allocated at its exact size, so that ASan sees a read past it. */
#include "core/versioned.h"

#include <stdlib.h>

#include "check.h"

typedef struct {
    uint32_t struct_size;
    int32_t first;
    int64_t second;
} thing;

static void *exactly(uint32_t size, int fill) {
    unsigned char *bytes = malloc(size);
    memset(bytes, fill, size);
    memcpy(bytes, &size, sizeof size);
    return bytes;
}

static void test_import(void) {
    thing known = {sizeof known, 10, 20};
    CHECK_FAILS(mfai_struct_import("thing", NULL, 8, sizeof known, &known), MFA_ERROR_INVALID_ARGS, "thing is NULL");

    void *tiny = exactly(4, 0);
    CHECK_FAILS(mfai_struct_import("thing", tiny, 8, sizeof known, &known), MFA_ERROR_INVALID_ARGS, "struct_size is 4");
    free(tiny);
    const uint32_t garbage = 0xfffffff0u; /* as a struct on the stack that was never set up may hold */
    CHECK_FAILS(mfai_struct_import("thing", &garbage, 8, sizeof known, &known), MFA_ERROR_INVALID_ARGS,
                "struct_size is 4294967280, expected at most");

    void *older = exactly(8, 1);
    CHECK(mfai_struct_import("thing", older, 8, sizeof known, &known) == MFA_SUCCESS);
    CHECK(known.first == 0x01010101 && known.second == 20); /* what it lacks keeps its default */
    free(older);

    unsigned char *newer = exactly(sizeof known + 16, 0);
    CHECK(mfai_struct_import("thing", newer, 8, sizeof known, &known) == MFA_SUCCESS);
    CHECK(known.first == 0 && known.second == 0);
    newer[sizeof known + 15] = 1;
    CHECK_FAILS(mfai_struct_import("thing", newer, 8, sizeof known, &known), MFA_ERROR_UNSUPPORTED, "byte 31");
    free(newer);
}

static void test_export(void) {
    const thing known = {sizeof known, 10, 20};
    CHECK_FAILS(mfai_struct_export("thing", NULL, 8, sizeof known, &known), MFA_ERROR_INVALID_ARGS, "thing is NULL");
    void *older = exactly(8, 1);
    CHECK(mfai_struct_export("thing", older, 8, sizeof known, &known) == MFA_SUCCESS);
    int32_t first;
    uint32_t size;
    memcpy(&size, older, 4);
    memcpy(&first, (char *)older + 4, 4);
    CHECK(size == 8 && first == 10);
    free(older);
    unsigned char *newer = exactly(sizeof known + 1, 7);
    CHECK(mfai_struct_export("thing", newer, 8, sizeof known, &known) == MFA_SUCCESS);
    memcpy(&size, newer, 4);
    CHECK(size == sizeof known + 1 && newer[sizeof known] == 7);
    free(newer);
}

int main(void) {
    test_import();
    test_export();
    return check_report();
}
