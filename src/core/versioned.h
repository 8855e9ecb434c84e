/* Structs that carry their size: copied in and out so that library and caller may differ in version. */
#ifndef MFA_CORE_VERSIONED_H
#define MFA_CORE_VERSIONED_H

#include "core/status.h"

/*
 * Copies the caller's struct over `known`, which holds the defaults. A caller's struct that is larger than ours
 * is accepted only if what we do not know is zero.
 * @param least  bytes that the first release of the struct had
 */
mfa_status_t mfai_struct_import(const char *name, const void *caller, size_t least, size_t size, void *known);

/* Copies as much of `known` as the caller has room for; the caller's struct_size stays. */
mfa_status_t mfai_struct_export(const char *name, void *caller, size_t least, size_t size, const void *known);

#endif
