#include "launch_settings.h"

#include "settings.h"

emu_order emu_launch_settings_order(void) {
    static const char *const orders[] = {
        [EMU_ORDER_FIFO] = "fifo",
        [EMU_ORDER_REVERSE] = "reverse",
        [EMU_ORDER_LIFO] = "lifo",
        [EMU_ORDER_RANDOM] = "random",
    };
    return (emu_order)emu_setting_choice("METAL_EMULATOR_ORDER", orders, sizeof orders / sizeof orders[0]);
}

uint64_t emu_launch_settings_seed(void) { return emu_setting_number("METAL_EMULATOR_SEED", 0); }

void emu_launch_settings_apply(emu_launch *launch) {
    launch->order = emu_launch_settings_order();
    launch->seed = emu_launch_settings_seed();
    launch->fast_ulps = (uint32_t)emu_setting_number("METAL_EMULATOR_FAST_ULPS", 0);
}
