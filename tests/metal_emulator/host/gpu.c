#include <stddef.h>

#include "gpu.h"
#include "settings.h"

/* Sizes are those of machines with 16 GB. The paravirtual GPU is what hosted macOS runners have: ggml's logs of one
   show no Apple family, no simdgroup functions and this working set (llama.cpp issue 8617). */
static const emu_gpu gpus[] = {
    {"apple7", "Apple M1 (emulated)", 7, true, true, 11453251584, 8589934592},
    {"apple8", "Apple M2 (emulated)", 8, true, true, 11453251584, 8589934592},
    {"apple9", "Apple M3 (emulated)", 9, true, true, 12713115648, 9534832640},
    {"apple10", "Apple M5 (emulated)", 10, true, true, 12713115648, 9534832640},
    {"paravirtual", "Apple Paravirtual device (emulated)", 0, false, false, 5010800000, 3758096384},
};

enum { GPU_COUNT = sizeof gpus / sizeof gpus[0] };

const emu_gpu *emu_gpu_selected(void) {
    const char *keys[GPU_COUNT];
    for (size_t i = 0; i < GPU_COUNT; ++i)
        keys[i] = gpus[i].key;
    return &gpus[emu_setting_choice("METAL_EMULATOR_GPU", keys, GPU_COUNT)];
}
