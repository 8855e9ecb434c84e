/*
 * mfa.h for C++20: handles that release themselves, spans for arrays, whose sizes are held to shapes, and
 * exceptions for statuses.
 *
 * An mfa::attention is a plain struct of tensors, which mfa::forward and mfa::backward make descriptors of: it may be
 * kept, copied and used for many calls. Tensors name memory of the program's, and nothing is copied.
 */
#ifndef MFA_HPP
#define MFA_HPP

#include <mfa.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace mfa {

/* What the library refuses, with its message. What this file refuses itself, sizes that disagree, is a
   std::invalid_argument. */
class error : public std::runtime_error {
  public:
    error(mfa_status_t status, const std::string &message) : std::runtime_error(message), status_(status) {}
    mfa_status_t status() const noexcept { return status_; }

  private:
    mfa_status_t status_;
};

inline void check(mfa_status_t status) {
    if (status != MFA_SUCCESS)
        throw error(status, mfa_last_error_message(nullptr));
}

/* Owns a context; may be moved and not copied. One that was moved from is refused by every call. */
class context {
  public:
    explicit context(mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT) {
        check_library();
        mfa_context_t handle = nullptr;
        check(mfa_create_context_with_options(&options, &handle));
        handle_.reset(handle);
    }

    static context with_threads(int threads) {
        mfa_context_options_t options = MFA_CONTEXT_OPTIONS_INIT;
        options.num_threads = threads;
        return context(options);
    }

    mfa_context_t get() const {
        if (!handle_)
            throw std::invalid_argument("context was moved from, expected one that owns its handle");
        return handle_.get();
    }

  private:
    static void check_library() {
        int major, minor, patch;
        mfa_get_version(&major, &minor, &patch);
        const std::array found{major, minor, patch};
        if (found < std::array{MFA_VERSION_MAJOR, MFA_VERSION_MINOR, MFA_VERSION_PATCH})
            throw std::runtime_error("libmfa is version " + dotted(major, minor, patch) +
                                     ", older than the mfa.h that this was compiled with, " +
                                     dotted(MFA_VERSION_MAJOR, MFA_VERSION_MINOR, MFA_VERSION_PATCH));
    }

    static std::string dotted(int major, int minor, int patch) {
        return std::to_string(major) + '.' + std::to_string(minor) + '.' + std::to_string(patch);
    }

    struct destroy {
        void operator()(mfa_context_t handle) const noexcept { mfa_destroy_context(handle); }
    };
    std::unique_ptr<std::remove_pointer_t<mfa_context_t>, destroy> handle_;
};

/* (batch, heads, rows, columns) */
using shape = std::array<std::int64_t, 4>;

template <class T> constexpr mfa_precision_t precision_of() {
    if constexpr (std::is_same_v<T, float>)
        return MFA_PRECISION_FP32;
    else if constexpr (std::is_same_v<T, std::int8_t>)
        return MFA_PRECISION_INT8;
    else if constexpr (std::is_same_v<T, std::uint8_t>)
        return MFA_PRECISION_UINT8;
    else if constexpr (std::is_same_v<T, std::int32_t>)
        return MFA_PRECISION_INT32;
    else {
        static_assert(std::is_same_v<T, bool>, "elements are float, int8_t, uint8_t, int32_t or bool");
        return MFA_PRECISION_BOOL;
    }
}

/* An operand that is read: packed, over elements that the program owns. */
class input {
  public:
    template <class T, std::size_t count>
    input(std::span<T, count> elements, const shape &sizes)
        : input(const_cast<std::remove_const_t<T> *>(elements.data()), elements.size(),
                precision_of<std::remove_const_t<T>>(), sizes) {}
    template <class T> input(const std::vector<T> &elements, const shape &sizes) : input(std::span(elements), sizes) {}
    template <class T> input(const std::vector<T> &&, const shape &) = delete;

    const mfa_tensor_t *get() const noexcept { return &tensor_; }

  protected:
    input(void *elements, std::size_t count, mfa_precision_t precision, const shape &sizes) {
        std::int64_t stride = 1;
        for (std::size_t axis = 4; axis-- > 0; stride *= sizes[axis]) {
            if (sizes[axis] < 0 || (sizes[axis] && stride > INT64_MAX / sizes[axis]))
                throw std::invalid_argument("a shape has " + std::to_string(sizes[axis]) + " on axis " +
                                            std::to_string(axis) + ", expected 0 or more, and no more than memory has");
            tensor_.shape[axis] = sizes[axis];
            tensor_.stride[axis] = stride;
        }
        if (static_cast<std::uint64_t>(stride) != count)
            throw std::invalid_argument("a span has " + std::to_string(count) + " elements, expected the " +
                                        std::to_string(stride) + " of its shape");
        tensor_.precision = precision;
        tensor_.data = elements;
    }

  private:
    mfa_tensor_t tensor_ = MFA_TENSOR_INIT;
};

/* One that is written. What is written may be read, so that it is an input too. */
class output : public input {
  public:
    template <class T, std::size_t count>
    output(std::span<T, count> elements, const shape &sizes)
        : input(static_cast<void *>(elements.data()), elements.size(), precision_of<T>(), sizes) {}
    template <class T> output(std::vector<T> &elements, const shape &sizes) : output(std::span(elements), sizes) {}
};

/* Owns codes of 8 bits and their scales, one for each head. */
class quantised {
  public:
    quantised(std::vector<std::int8_t> codes, std::vector<float> scales, const shape &sizes)
        : codes_(std::move(codes)), scales_(std::move(scales)), sizes_(sizes) {
        check_sizes();
    }

    /* Quantises float32 elements, symmetrically. */
    static quantised of(const context &context, const input &values) {
        const std::int64_t *sizes = values.get()->shape;
        quantised made({sizes[0], sizes[1], sizes[2], sizes[3]});
        const output codes(made.codes_, made.sizes_), scales(made.scales_, made.scales_sizes());
        mfa_quantization_t quantization = MFA_QUANTIZATION_INIT;
        quantization.scales = scales.get();
        mfa_quantize_desc_t desc = MFA_QUANTIZE_DESC_INIT;
        desc.input = values.get(), desc.codes = codes.get(), desc.quantization = &quantization;
        check(mfa_quantize(context.get(), &desc));
        return made;
    }

    input tensor() const { return {codes_, sizes_}; }
    input scales() const { return {scales_, scales_sizes()}; }

  private:
    explicit quantised(const shape &sizes)
        : codes_(static_cast<std::size_t>(sizes[0] * sizes[1] * sizes[2] * sizes[3])),
          scales_(static_cast<std::size_t>(sizes[0] * sizes[1])), sizes_(sizes) {}

    void check_sizes() const { tensor(), scales(); } /* they throw */
    shape scales_sizes() const { return {sizes_[0], sizes_[1], 1, 1}; }

    std::vector<std::int8_t> codes_;
    std::vector<float> scales_;
    shape sizes_;
};

/* A key or a value: elements as they are, or with the scales of codes. A quantised tensor has to outlive the calls. */
class operand : public input {
  public:
    operand(const input &elements) : input(elements) {}
    operand(const quantised &codes) : input(codes.tensor()), scales_(codes.scales()) {}
    operand(const quantised &&) = delete; /* would be gone before the call */

    const input *scales() const noexcept { return scales_ ? &*scales_ : nullptr; }

  private:
    std::optional<input> scales_;
};

/* Blocks of `rows` queries by `keys` keys; the mask says which of them count. */
struct block_mask {
    std::int64_t rows, keys;
    input mask;
};

/* A sliding window, counted from the row's own key. */
struct window_size {
    std::int64_t left, right;
};

struct attention {
    input query;
    operand key, value;
    output out;
    std::optional<output> logsumexp = {};
    bool causal = false;
    std::optional<window_size> window = {};
    std::int32_t alignment = MFA_ALIGN_TOP_LEFT;
    std::optional<block_mask> blocks = {};
    float softmax_scale = 0; /* 0: 1 / sqrt(columns) */
};

struct gradients {
    attention forward; /* its out and logsumexp are what the forward call wrote */
    input dout;
    output dquery, dkey, dvalue;
};

namespace detail {

/* A descriptor and the structs that it points to; points into the attention that it is of. */
struct described {
    explicit described(const attention &a) {
        desc.query = a.query.get(), desc.key = a.key.get(), desc.value = a.value.get(), desc.out = a.out.get();
        desc.logsumexp = a.logsumexp ? a.logsumexp->get() : nullptr;
        desc.flags = a.causal ? MFA_ATTENTION_CAUSAL : 0;
        desc.alignment = a.causal || a.window ? a.alignment : MFA_ALIGN_NONE;
        desc.softmax_scale = a.softmax_scale;
        if (a.window)
            desc.window_left = a.window->left, desc.window_right = a.window->right;
        if (a.blocks) {
            blocks.block_rows = a.blocks->rows, blocks.block_keys = a.blocks->keys;
            blocks.block_mask = a.blocks->mask.get();
            desc.blocks = &blocks;
        }
        desc.key_quantization = quantization(a.key, key);
        desc.value_quantization = quantization(a.value, value);
    }
    described(const described &) = delete;
    described &operator=(const described &) = delete;

    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;

  private:
    static const mfa_quantization_t *quantization(const operand &of, mfa_quantization_t &into) {
        into.scales = of.scales() ? of.scales()->get() : nullptr;
        return into.scales ? &into : nullptr;
    }

    mfa_blocks_t blocks = MFA_BLOCKS_INIT;
    mfa_quantization_t key = MFA_QUANTIZATION_INIT, value = MFA_QUANTIZATION_INIT;
};

} // namespace detail

inline void forward(const context &context, const attention &attention) {
    const detail::described described(attention);
    check(mfa_attention_forward_desc(context.get(), &described.desc));
}

inline void backward(const context &context, const gradients &gradients) {
    const detail::described described(gradients.forward);
    mfa_attention_backward_desc_t desc = MFA_ATTENTION_BACKWARD_DESC_INIT;
    desc.forward = &described.desc, desc.dout = gradients.dout.get();
    desc.dquery = gradients.dquery.get(), desc.dkey = gradients.dkey.get(), desc.dvalue = gradients.dvalue.get();
    check(mfa_attention_backward_desc(context.get(), &desc));
}

} // namespace mfa

#endif
