# What mfa.h declares, as far as it is used here. Structs have its fields in its order; keywords that are left out are
# those of its MFA_..._INIT.

const HEADER_VERSION = (0, 1, 0)

const MFA_SUCCESS = Int32(0)
const MFA_ERROR_INVALID_ARGS = Int32(1)

const MFA_PRECISION_DEFAULT = Int32(-1)
const MFA_PRECISION_FP16 = Int32(0)
const MFA_PRECISION_FP32 = Int32(2)
const MFA_PRECISION_INT8 = Int32(3)
const MFA_PRECISION_BOOL = Int32(5)

const MFA_BACKEND_AUTO = Int32(0)
const MFA_BACKEND_CPU = Int32(1)
const MFA_BACKEND_METAL = Int32(2)

const MFA_ALIGN_NONE = Int32(0)
const MFA_ALIGN_TOP_LEFT = Int32(1)
const MFA_ALIGN_BOTTOM_RIGHT = Int32(2)

const MFA_ATTENTION_CAUSAL = UInt32(1)
const MFA_ATTENTION_LITERAL_SCALE = UInt32(2)

Base.@kwdef struct mfa_context_options_t
    struct_size::UInt32 = sizeof(mfa_context_options_t)
    backend::Int32 = MFA_BACKEND_AUTO
    device::Int32 = 0
    num_threads::Int32 = 0
    cpu_isa::Int32 = 0
    flags::UInt32 = 0
end

Base.@kwdef struct mfa_tensor_t
    struct_size::UInt32 = sizeof(mfa_tensor_t)
    precision::Int32 = MFA_PRECISION_FP32
    data::Ptr{Cvoid} = C_NULL
    buffer::Ptr{Cvoid} = C_NULL
    byte_offset::UInt64 = 0
    shape::NTuple{4,Int64} = (0, 0, 0, 0)
    stride::NTuple{4,Int64} = (0, 0, 0, 0)
end

Base.@kwdef struct mfa_blocks_t
    struct_size::UInt32 = sizeof(mfa_blocks_t)
    reserved::UInt32 = 0
    block_rows::Int64 = 0
    block_keys::Int64 = 0
    kv_num_blocks::Ptr{mfa_tensor_t} = C_NULL
    kv_indices::Ptr{mfa_tensor_t} = C_NULL
    full_kv_num_blocks::Ptr{mfa_tensor_t} = C_NULL
    full_kv_indices::Ptr{mfa_tensor_t} = C_NULL
    block_mask::Ptr{mfa_tensor_t} = C_NULL
    masks::Ptr{mfa_tensor_t} = C_NULL
    mask_indices::Ptr{mfa_tensor_t} = C_NULL
end

Base.@kwdef struct mfa_quantization_t
    struct_size::UInt32 = sizeof(mfa_quantization_t)
    reserved::UInt32 = 0
    rows::Int64 = 0
    columns::Int64 = 0
    scales::Ptr{mfa_tensor_t} = C_NULL
    zero_points::Ptr{mfa_tensor_t} = C_NULL
    mean::Ptr{mfa_tensor_t} = C_NULL
end

Base.@kwdef struct mfa_attention_desc_t
    struct_size::UInt32 = sizeof(mfa_attention_desc_t)
    flags::UInt32 = 0
    query::Ptr{mfa_tensor_t} = C_NULL
    key::Ptr{mfa_tensor_t} = C_NULL
    value::Ptr{mfa_tensor_t} = C_NULL
    out::Ptr{mfa_tensor_t} = C_NULL
    logsumexp::Ptr{mfa_tensor_t} = C_NULL
    bool_mask::Ptr{mfa_tensor_t} = C_NULL
    additive_mask::Ptr{mfa_tensor_t} = C_NULL
    alibi_slopes::Ptr{mfa_tensor_t} = C_NULL
    sinks::Ptr{mfa_tensor_t} = C_NULL
    softmax_scale::Float32 = 0
    softcap::Float32 = 0
    alignment::Int32 = MFA_ALIGN_NONE
    intermediate_precision::Int32 = MFA_PRECISION_DEFAULT
    window_left::Int64 = -1
    window_right::Int64 = -1
    dropout_p::Float32 = 0
    reserved::UInt32 = 0
    dropout_seed::UInt64 = 0
    dropout_offset::UInt64 = 0
    query_value::Ptr{mfa_tensor_t} = C_NULL
    chunk::Int64 = 0
    sequences::Ptr{Cvoid} = C_NULL
    pages::Ptr{Cvoid} = C_NULL
    blocks::Ptr{mfa_blocks_t} = C_NULL
    append::Ptr{Cvoid} = C_NULL
    scales::Ptr{Cvoid} = C_NULL
    key_quantization::Ptr{mfa_quantization_t} = C_NULL
    value_quantization::Ptr{mfa_quantization_t} = C_NULL
    compute_mode::Int32 = 0
    reserved2::UInt32 = 0
end

Base.@kwdef struct mfa_attention_backward_desc_t
    struct_size::UInt32 = sizeof(mfa_attention_backward_desc_t)
    flags::UInt32 = 0
    forward::Ptr{mfa_attention_desc_t} = C_NULL
    dout::Ptr{mfa_tensor_t} = C_NULL
    dquery::Ptr{mfa_tensor_t} = C_NULL
    dkey::Ptr{mfa_tensor_t} = C_NULL
    dvalue::Ptr{mfa_tensor_t} = C_NULL
    dbias::Ptr{mfa_tensor_t} = C_NULL
    dsinks::Ptr{mfa_tensor_t} = C_NULL
    delta::Ptr{mfa_tensor_t} = C_NULL
    dlogsumexp::Ptr{mfa_tensor_t} = C_NULL
end

get_version(major, minor, patch) =
    @ccall libmfa.mfa_get_version(major::Ptr{Cint}, minor::Ptr{Cint}, patch::Ptr{Cint})::Cvoid

last_error_message() = @ccall libmfa.mfa_last_error_message(C_NULL::Ptr{Cvoid})::Cstring

error_string(status) = @ccall libmfa.mfa_error_string(status::Int32)::Cstring

create_context(options, context) = @ccall libmfa.mfa_create_context_with_options(
    options::Ptr{mfa_context_options_t},
    context::Ptr{Ptr{Cvoid}},
)::Int32

destroy_context(context) = @ccall libmfa.mfa_destroy_context(context::Ptr{Cvoid})::Cvoid

attention_forward(context, desc) =
    @ccall libmfa.mfa_attention_forward_desc(context::Ptr{Cvoid}, desc::Ptr{mfa_attention_desc_t})::Int32

attention_backward(context, desc) =
    @ccall libmfa.mfa_attention_backward_desc(context::Ptr{Cvoid}, desc::Ptr{mfa_attention_backward_desc_t})::Int32
