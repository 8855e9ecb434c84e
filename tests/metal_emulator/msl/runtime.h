// What kernels ask of the emulator.
#include "../kernel_interface.h"

// Every collective names the line that it stands on, which tells divergent threads apart.
#define EMU_SITE const __constant char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace emu {
using metal::vec;

extern "C" {
ulong emu_threadgroup_address(__global emu_variable *which);
__attribute__((const)) uint emu_position(int attribute, int axis);
void emu_threadgroup_barrier(uint memory, const __constant char *file, int line);
void emu_simdgroup_barrier(uint memory, const __constant char *file, int line);
// All lanes' values in the order of lanes, then one of all ones, then room for a result.
ulong emu_exchange(const void *value, uint size, const __constant char *what, const __constant char *file, int line);
bool emu_exchange_completed_here(void); // this lane came last, and goes on first
__attribute__((const)) uint emu_lane_count(void);
float2 emu_matrix_multiply(float2 a, float2 b, float2 c, const __constant char *file, int line);
void emu_matrix_access(const __constant char *what, const __constant char *file, int line);
float emu_exp(float x);
float emu_exp2(float x);
float emu_exp10(float x);
float emu_promised_finite(float x);
float emu_perturb(float result);
}

// The values that a kernel's attributes name, in whatever type its parameter has.
struct position {
    int attribute;
    template <class T> operator T() const { return convert<T>((__private T *)0); }

  private:
    template <class T, class S> T convert(__private S *) const { return (T)emu_position(attribute, 0); }
    template <class T, class S, int N> T convert(__private vec<S, N> *) const {
        T result;
        for (int i = 0; i < N; ++i)
            result[i] = (S)emu_position(attribute, i);
        return result;
    }
};

// An address, in whatever pointer or reference type a kernel's parameter has.
struct argument {
    ulong address;
    template <class T> operator __global T *() const { return (__global T *)address; }
    template <class T> operator __local T *() const { return (__local T *)address; }
    template <class T> operator __constant T *() const { return (__constant T *)address; }
    template <class T> operator __global T &() const { return *(__global T *)address; }
    template <class T> operator __local T &() const { return *(__local T *)address; }
    template <class T> operator __constant T &() const { return *(__constant T *)address; }
};
} // namespace emu
