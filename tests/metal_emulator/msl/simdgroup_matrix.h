// 8x8 matrices spread over a simdgroup: each lane holds two neighbours of a row.
namespace emu {
// Lanes go through 4x4 blocks of 2x2 lanes, as on every Apple GPU so far.
inline int matrix_row() { return ((lane() >> 2) & 4) + ((lane() >> 1) & 3); }
inline int matrix_column() { return ((lane() >> 1) & 4) + ((lane() & 1) << 1); }
} // namespace emu

namespace metal {
template <class T, int Columns, int Rows> struct simdgroup_matrix {
    static_assert(Columns == 8 && Rows == 8, "simdgroup matrices are 8x8");
    vec<T, 2> elements;

    simdgroup_matrix() = default;
    explicit simdgroup_matrix(T diagonal) {
        const int row = emu::matrix_row(), column = emu::matrix_column();
        elements = (vec<T, 2>)(row == column ? diagonal : (T)0, row == column + 1 ? diagonal : (T)0);
    }
    __private vec<T, 2> &thread_elements() __private { return elements; }
    const __private vec<T, 2> &thread_elements() const __private { return elements; }
};

typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;

template <class T, int Columns, int Rows> simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T value) {
    simdgroup_matrix<T, Columns, Rows> result;
    result.elements = (vec<T, 2>)value;
    return result;
}

#define EMU_MATRIX_LOAD(space)                                                                                    \
    template <class T>                                                                                            \
    void simdgroup_load(__private simdgroup_matrix<T, 8, 8> &to, const space T *from, ulong elements_per_row = 8, \
                        ulong2 origin = (ulong2)0, bool transpose = false, EMU_SITE) {                            \
        emu::emu_matrix_access("simdgroup_load", file, line);                                                     \
        const ulong row = emu::matrix_row(), column = emu::matrix_column();                                       \
        for (uint i = 0; i < 2; ++i) {                                                                            \
            const ulong y = transpose ? column + i : row, x = transpose ? row : column + i;                       \
            to.elements[i] = from[(origin.y + y) * elements_per_row + origin.x + x];                              \
        }                                                                                                         \
    }
#define EMU_MATRIX_STORE(space)                                                                   \
    template <class T>                                                                            \
    void simdgroup_store(simdgroup_matrix<T, 8, 8> from, space T *to, ulong elements_per_row = 8, \
                         ulong2 origin = (ulong2)0, bool transpose = false, EMU_SITE) {           \
        emu::emu_matrix_access("simdgroup_store", file, line);                                    \
        const ulong row = emu::matrix_row(), column = emu::matrix_column();                       \
        for (uint i = 0; i < 2; ++i) {                                                            \
            const ulong y = transpose ? column + i : row, x = transpose ? row : column + i;       \
            to[(origin.y + y) * elements_per_row + origin.x + x] = from.elements[i];              \
        }                                                                                         \
    }
EMU_MATRIX_LOAD(__global)
EMU_MATRIX_LOAD(__local)
EMU_MATRIX_LOAD(__constant)
EMU_MATRIX_STORE(__global)
EMU_MATRIX_STORE(__local)
#undef EMU_MATRIX_LOAD
#undef EMU_MATRIX_STORE

template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(__private simdgroup_matrix<D, 8, 8> &d, simdgroup_matrix<A, 8, 8> a,
                                   simdgroup_matrix<B, 8, 8> b, simdgroup_matrix<C, 8, 8> c, EMU_SITE) {
    const float2 product = emu::emu_matrix_multiply(__builtin_convertvector(a.elements, float2),
                                                    __builtin_convertvector(b.elements, float2),
                                                    __builtin_convertvector(c.elements, float2), file, line);
    d.elements = __builtin_convertvector(product, vec<D, 2>);
}

template <class D, class A, class B>
void simdgroup_multiply(__private simdgroup_matrix<D, 8, 8> &d, simdgroup_matrix<A, 8, 8> a,
                        simdgroup_matrix<B, 8, 8> b, EMU_SITE) {
    simdgroup_multiply_accumulate(d, a, b, make_filled_simdgroup_matrix<float, 8, 8>(0.0f), file, line);
}
} // namespace metal
