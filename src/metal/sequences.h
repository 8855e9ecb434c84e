/* What sequences, whose lists the host does not read, make of a call's grids. */
#ifndef MFA_METAL_SEQUENCES_H
#define MFA_METAL_SEQUENCES_H

#import "metal/call.h"

/* Tiles of one head, and heads of how many batches there are: packed sequences share the tiles of one. */
typedef struct {
    int64_t tiles, batches;
} mfai_metal_grid_t;

mfai_metal_grid_t mfai_metal_query_grid(const mfai_metal_call_t *call, const mfai_problem_t *problem, int tile_rows);
mfai_metal_grid_t mfai_metal_key_grid(const mfai_metal_call_t *call, const mfai_problem_t *problem, int tile_keys);
mfai_metal_grid_t mfai_metal_new_grid(const mfai_problem_t *problem, int tile_rows); /* of rows that are appended */

/* Adds what gives the results of a pass their values where no sequence has rows; nothing, if it is known that there are
   no such rows. What writes these results is to wait. */
mfa_status_t mfai_metal_add_fills(mfai_metal_call_t *call, const mfai_problem_t *problem);

#endif
