// Barriers. They order only the memory that their flags name.
namespace metal {
enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return (mem_flags)((uint)a | (uint)b); }

inline void threadgroup_barrier(mem_flags flags, EMU_SITE) { emu::emu_threadgroup_barrier((uint)flags, file, line); }
inline void simdgroup_barrier(mem_flags flags, EMU_SITE) { emu::emu_simdgroup_barrier((uint)flags, file, line); }
} // namespace metal
