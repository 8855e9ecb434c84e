/* The kernels as text, embedded by metal/embed.py when the library is built. */
#ifndef MFA_METAL_SOURCES_H
#define MFA_METAL_SOURCES_H

typedef struct {
    const char *name; /* of the file in metal/, without .metal */
    const char *text; /* with every local #include in place */
} mfai_metal_source_t;

extern const mfai_metal_source_t mfai_metal_sources[]; /* ends with a NULL name */

#endif
