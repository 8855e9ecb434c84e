"""
    Quantized(codes, scales)

Keys or values as 8-bit codes, (head_dim, rows, heads, batch), each of which stands for itself times the scale of its head,
of sizes (1, 1, heads or 1, batch or 1).
"""
struct Quantized{Codes<:AbstractArray{Int8,4},Scales<:AbstractArray{Float32,4}}
    codes::Codes
    scales::Scales
end

Base.size(quantized::Quantized) = size(quantized.codes)

"""
    Blocks(mask, rows, keys)

Blocks of `rows` rows by `keys` keys that count. `mask` has a flag for each, (blocks of keys, blocks of rows, heads or 1,
batch or 1).
"""
struct Blocks{Mask<:AbstractArray{Bool,4}}
    mask::Mask
    rows::Int
    keys::Int
end

precision(::AbstractArray{Float16}) = MFA_PRECISION_FP16
precision(::AbstractArray{Float32}) = MFA_PRECISION_FP32
precision(::AbstractArray{Int8}) = MFA_PRECISION_INT8
precision(::AbstractArray{Bool}) = MFA_PRECISION_BOOL

const Operand = Union{AbstractArray{Float32,4},AbstractArray{Float16,4}}

"""
    Attention(out, query, key, value; causal = false, window = (-1, -1), alignment = :top_left, scale = nothing,
              blocks = nothing, logsumexp = nothing)

A forward call, ready for `run!(attention, context)` any number of times: sizes are checked and the descriptor is made. It
keeps its arrays alive, which may change their numbers between runs, not their sizes.

`query` is (head_dim, rows, heads, batch), `key` and `value` are (head_dim, keys, heads, batch) or `Quantized`, with as many
heads or a divisor. `window` is how many keys a row sees before and behind its own, -1 for all. Row i stands at key i
(`:top_left`), or the last row at the last key (`:bottom_right`). `logsumexp`, (1, rows, heads, batch), is written too.
"""
mutable struct Attention
    descriptor::mfa_attention_desc_t
    tensors::Vector{mfa_tensor_t}
    blocks::Vector{mfa_blocks_t}
    quantizations::Vector{mfa_quantization_t}
    operands::Vector{Any}

    function Attention(
        out::Operand,
        query::Operand,
        key::Union{Operand,Quantized},
        value::Union{Operand,Quantized};
        causal::Bool = false,
        window::Tuple{Integer,Integer} = (-1, -1),
        alignment::Symbol = :top_left,
        scale::Union{Nothing,Real} = nothing,
        blocks::Union{Nothing,Blocks} = nothing,
        logsumexp::Union{Nothing,AbstractArray{Float32,4}} = nothing,
    )
        check_sizes(out, query, key, value, logsumexp)
        alignments = (top_left = MFA_ALIGN_TOP_LEFT, bottom_right = MFA_ALIGN_BOTTOM_RIGHT)
        haskey(alignments, alignment) ||
            throw(ArgumentError("alignment: $alignment, expected one of $(keys(alignments))"))
        # Room for all, since what has been pointed to may not move.
        call = new(mfa_attention_desc_t(), sizehint!(mfa_tensor_t[], 8), sizehint!(mfa_blocks_t[], 1),
                   sizehint!(mfa_quantization_t[], 2), Any[])
        call.descriptor = mfa_attention_desc_t(
            flags = (causal ? MFA_ATTENTION_CAUSAL : UInt32(0)) |
                    (scale === nothing ? UInt32(0) : MFA_ATTENTION_LITERAL_SCALE),
            query = keep!(call, query),
            key = keep!(call, key),
            value = keep!(call, value),
            out = keep!(call, out),
            logsumexp = logsumexp === nothing ? C_NULL : keep!(call, logsumexp),
            softmax_scale = scale === nothing ? 0 : scale,
            alignment = alignments[alignment],
            window_left = window[1],
            window_right = window[2],
            blocks = blocks === nothing ? C_NULL : keep!(call, blocks),
            key_quantization = key isa Quantized ? quantization!(call, key) : C_NULL,
            value_quantization = value isa Quantized ? quantization!(call, value) : C_NULL,
        )
        return call
    end
end

function check_sizes(out, query, key, value, logsumexp)
    columns, rows, heads, batch = size(query)
    expected(name, array, sizes) =
        size(array) == sizes || throw(DimensionMismatch("$name: sizes $(size(array)), expected $sizes"))
    expected("key", key, (columns, size(key)[2:3]..., batch))
    expected("value", value, (size(value)[1], size(key)[2:3]..., batch))
    expected("out", out, (size(value)[1], rows, heads, batch))
    logsumexp === nothing || expected("logsumexp", logsumexp, (1, rows, heads, batch))
    return nothing
end

"Where a copy of `element` lies from now on."
function keep!(elements::Vector, element)
    push!(elements, element)
    return pointer(elements, length(elements))
end

function keep!(call::Attention, array::AbstractArray)
    push!(call.operands, array)
    return keep!(
        call.tensors,
        mfa_tensor_t(
            precision = precision(array),
            data = pointer(array),
            shape = reverse(size(array)),
            stride = reverse(strides(array)),
        ),
    )
end

keep!(call::Attention, quantized::Quantized) = keep!(call, quantized.codes)

quantization!(call::Attention, quantized::Quantized) =
    keep!(call.quantizations, mfa_quantization_t(scales = keep!(call, quantized.scales)))

keep!(call::Attention, blocks::Blocks) = keep!(
    call.blocks,
    mfa_blocks_t(block_rows = blocks.rows, block_keys = blocks.keys, block_mask = keep!(call, blocks.mask)),
)

"    run!(attention, context)\n\nRuns the call and waits for it."
function run!(call::Attention, context::Context)
    descriptor = Ref(call.descriptor)
    GC.@preserve call context descriptor check(
        attention_forward(open_handle(context), Base.unsafe_convert(Ptr{mfa_attention_desc_t}, descriptor)),
    )
    return nothing
end

"    forward!(context, out, query, key, value; keywords...)\n\nWrites `out`, with the keywords of `Attention`."
function forward!(context::Context, out, query, key, value; keywords...)
    run!(Attention(out, query, key, value; keywords...), context)
    return out
end

"""
    backward!(context, dquery, dkey, dvalue, dout, out, query, key, value; logsumexp, keywords...)

Writes the gradients, from `out` and `logsumexp` as `forward!` with the same keywords has written them.
"""
function backward!(
    context::Context, dquery::Operand, dkey::Operand, dvalue::Operand, dout::Operand, out, query, key, value;
    logsumexp, keywords...,
)
    for (name, gradient, operand) in
        (("dquery", dquery, query), ("dkey", dkey, key), ("dvalue", dvalue, value), ("dout", dout, out))
        size(gradient) == size(operand) ||
            throw(DimensionMismatch("$name: sizes $(size(gradient)), expected $(size(operand))"))
    end
    call = Attention(out, query, key, value; logsumexp = logsumexp, keywords...)
    # A list of its own: that of the forward call is full.
    gradients = Attention(dout, dquery, dkey, dvalue)
    forward = Ref(call.descriptor)
    GC.@preserve call gradients forward context begin
        descriptor = Ref(
            mfa_attention_backward_desc_t(
                forward = Base.unsafe_convert(Ptr{mfa_attention_desc_t}, forward),
                dout = gradients.descriptor.out,
                dquery = gradients.descriptor.query,
                dkey = gradients.descriptor.key,
                dvalue = gradients.descriptor.value,
            ),
        )
        GC.@preserve descriptor check(
            attention_backward(
                open_handle(context),
                Base.unsafe_convert(Ptr{mfa_attention_backward_desc_t}, descriptor),
            ),
        )
    end
    return dquery, dkey, dvalue
end
