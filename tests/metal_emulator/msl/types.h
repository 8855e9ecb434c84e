// Scalars and vectors under their Metal names.
typedef unsigned char uchar, uint8_t;
typedef unsigned short ushort, uint16_t;
typedef unsigned int uint, uint32_t;
typedef unsigned long ulong, uint64_t, size_t;
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t, ptrdiff_t;
typedef __bf16 bfloat;

namespace metal {
template <class T, int N> using vec = T __attribute__((ext_vector_type(N)));

template <class T> struct vector_traits {
    using element = T;
    enum { width = 1 };
};
template <class T, int N> struct vector_traits<vec<T, N>> {
    using element = T;
    enum { width = N };
};
} // namespace metal

#define EMU_VECTORS(T)                                  \
    typedef T T##2 __attribute__((ext_vector_type(2))); \
    typedef T T##3 __attribute__((ext_vector_type(3))); \
    typedef T T##4 __attribute__((ext_vector_type(4)));
EMU_VECTORS(char)
EMU_VECTORS(uchar)
EMU_VECTORS(short)
EMU_VECTORS(ushort)
EMU_VECTORS(int)
EMU_VECTORS(uint)
EMU_VECTORS(long)
EMU_VECTORS(ulong)
EMU_VECTORS(half)
EMU_VECTORS(bfloat)
EMU_VECTORS(float)
#undef EMU_VECTORS
