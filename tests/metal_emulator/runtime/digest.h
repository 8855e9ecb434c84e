// 128 bits that name a compiled module: FNV-1a.
#ifndef METAL_EMULATOR_DIGEST_H
#define METAL_EMULATOR_DIGEST_H

#include <stddef.h>

typedef struct {
    unsigned __int128 state;
} emui_digest;

enum { EMUI_DIGEST_TEXT = 33 };

emui_digest emui_digest_begin(void);
void emui_digest_add(emui_digest *digest, const void *bytes, size_t size); // its size too
void emui_digest_text(const emui_digest *digest, char text[EMUI_DIGEST_TEXT]);

#endif
