/* A region of a file compiled for more than the build's baseline: any build of these sources, without flags for single
   files, gets the instructions, and only there. */
#ifndef MFA_CPU_TARGET_H
#define MFA_CPU_TARGET_H

#define TARGET_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define TARGET_BEGIN(features) \
    TARGET_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END TARGET_PRAGMA(clang attribute pop)
#else
#define TARGET_BEGIN(features) TARGET_PRAGMA(GCC push_options) TARGET_PRAGMA(GCC target(features))
#define TARGET_END TARGET_PRAGMA(GCC pop_options)
#endif

#endif
