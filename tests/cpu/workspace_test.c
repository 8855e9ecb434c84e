/* Scratch memory: aligned, as large as asked for, kept for the next call, never in two hands at once. */
#include "cpu/workspace.h"

#include <pthread.h>
#include <stdint.h>

#include "check.h"

static void fill(mfai_workspace_t *workspace, size_t size, int byte) {
    memset(mfai_workspace_memory(workspace), byte, size);
}

static void test_sizes(void) {
    static const size_t sizes[] = {0, 1, 63, 64, 65, 4096, 1000003};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        mfai_workspace_list_t list = {0};
        mfai_workspace_t *workspace = mfai_workspace_take(&list, sizes[i]);
        CHECK(workspace != NULL && (uintptr_t)mfai_workspace_memory(workspace) % 64 == 0);
        fill(workspace, sizes[i], 1); /* under the address sanitizer, a check */
        mfai_workspace_give(&list, workspace);
        mfai_workspace_list_trim(&list);
    }
    mfai_workspace_list_t list = {0};
    CHECK(mfai_workspace_take(&list, SIZE_MAX) == NULL);
    CHECK(mfai_workspace_take(&list, PTRDIFF_MAX) == NULL);
}

static void test_reuse(void) {
    mfai_workspace_list_t list = {0};
    mfai_workspace_t *first = mfai_workspace_take(&list, 1000);
    mfai_workspace_t *second = mfai_workspace_take(&list, 1000);
    CHECK(first != NULL && second != NULL && first != second);
    mfai_workspace_give(&list, first);
    CHECK(mfai_workspace_take(&list, 900) == first);
    mfai_workspace_give(&list, first);
    mfai_workspace_t *larger = mfai_workspace_take(&list, 100000); /* in place of the first */
    CHECK(larger != NULL && list.free == NULL);
    fill(larger, 100000, 2);
    mfai_workspace_give(&list, larger);
    mfai_workspace_give(&list, second);
    mfai_workspace_list_trim(&list);
    CHECK(list.free == NULL);
    mfai_workspace_list_trim(&list);
}

enum { THREADS = 4, ROUNDS = 2000 };

typedef struct {
    mfai_workspace_list_t *list;
    int byte, wrong;
} user_t;

static void *use(void *argument) {
    user_t *user = argument;
    for (int round = 0; round < ROUNDS; ++round) {
        const size_t size = 64 + (size_t)(round * 37 % 500);
        mfai_workspace_t *workspace = mfai_workspace_take(user->list, size);
        if (workspace == NULL) {
            ++user->wrong;
            continue;
        }
        fill(workspace, size, user->byte);
        for (size_t i = 0; i < size; ++i)
            user->wrong += mfai_workspace_memory(workspace)[i] != user->byte;
        mfai_workspace_give(user->list, workspace);
    }
    return NULL;
}

static void test_threads(void) {
    mfai_workspace_list_t list = {0};
    pthread_t threads[THREADS];
    user_t users[THREADS];
    for (int i = 0; i < THREADS; ++i) {
        users[i] = (user_t){.list = &list, .byte = i + 1};
        CHECK(pthread_create(&threads[i], NULL, use, &users[i]) == 0);
    }
    for (int i = 0; i < THREADS; ++i)
        CHECK(pthread_join(threads[i], NULL) == 0 && users[i].wrong == 0);
    mfai_workspace_list_trim(&list);
}

int main(void) {
    test_sizes();
    test_reuse();
    test_threads();
    return check_report();
}
