/* A call says so when it is to hold more than it has room for. */
#import "metal/call.h"

#include "check.h"

int main(void) {
    static mfai_metal_call_t call;
    mfai_metal_dispatch_t *dispatch;
    for (int i = 0; i < MFAI_METAL_DISPATCHES; ++i)
        CHECK(mfai_metal_call_add_dispatch(&call, "forward", &dispatch) == MFA_SUCCESS);
    CHECK(dispatch == &call.dispatches[MFAI_METAL_DISPATCHES - 1]);
    CHECK_FAILS(mfai_metal_call_add_dispatch(&call, "combine", &dispatch), MFA_ERROR_EXECUTION_FAILED,
                "kernel combine is one more than a Metal call has room for, 12");
    CHECK(call.dispatch_count == MFAI_METAL_DISPATCHES);
    for (unsigned i = 0; i < MFAI_METAL_SCRATCHES; ++i)
        CHECK(mfai_metal_call_add_scratch(&call, i, 1) == MFA_SUCCESS);
    CHECK_FAILS(mfai_metal_call_add_scratch(&call, 17, 1), MFA_ERROR_EXECUTION_FAILED,
                "the scratch memory of buffer 17 is one more than a Metal call has room for, 4");
    CHECK(call.scratch_count == MFAI_METAL_SCRATCHES);
    return check_report();
}
