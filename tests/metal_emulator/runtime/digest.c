#include "digest.h"

#include <stdint.h>
#include <stdio.h>

static void mix(emui_digest *digest, const unsigned char *bytes, size_t size) {
    const unsigned __int128 prime = (unsigned __int128)1 << 88 | 0x13b;
    for (size_t i = 0; i < size; ++i)
        digest->state = (digest->state ^ bytes[i]) * prime;
}

emui_digest emui_digest_begin(void) {
    return (emui_digest){(unsigned __int128)0x6c62272e07bb0142u << 64 | 0x62b821756295c58du};
}

void emui_digest_add(emui_digest *digest, const void *bytes, size_t size) {
    const uint64_t length = size;
    mix(digest, (const unsigned char *)&length, sizeof length);
    mix(digest, bytes, size);
}

void emui_digest_text(const emui_digest *digest, char text[EMUI_DIGEST_TEXT]) {
    snprintf(text, EMUI_DIGEST_TEXT, "%016llx%016llx", (unsigned long long)(digest->state >> 64),
             (unsigned long long)digest->state);
}
