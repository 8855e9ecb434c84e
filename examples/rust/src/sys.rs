//! `mfa.h` as Rust declares it: contexts, the descriptor tier and quantisation, by their names in C.
//!
//! Checked in, so that a build needs no libclang; `tests/examples/test_rust.py` has a C compiler hold each function,
//! struct and constant here to the header. What a call promises is said there.
#![allow(non_camel_case_types)]

use std::mem::{size_of, transmute};
use std::os::raw::{c_char, c_int, c_void};

/// The version of the header that these declarations were written against.
pub const MFA_VERSION_MAJOR: c_int = 0;
pub const MFA_VERSION_MINOR: c_int = 1;
pub const MFA_VERSION_PATCH: c_int = 0;

pub type mfa_status_t = i32;

pub const MFA_SUCCESS: mfa_status_t = 0;
pub const MFA_ERROR_INVALID_ARGS: mfa_status_t = 1;
pub const MFA_ERROR_MEMORY_ALLOCATION: mfa_status_t = 2;
pub const MFA_ERROR_DEVICE_NOT_SUPPORTED: mfa_status_t = 3;
pub const MFA_ERROR_KERNEL_COMPILATION: mfa_status_t = 4;
pub const MFA_ERROR_EXECUTION_FAILED: mfa_status_t = 5;
pub const MFA_ERROR_UNSUPPORTED: mfa_status_t = 6;

pub type mfa_precision_t = i32;

pub const MFA_PRECISION_DEFAULT: mfa_precision_t = -1;
pub const MFA_PRECISION_FP16: mfa_precision_t = 0;
pub const MFA_PRECISION_BF16: mfa_precision_t = 1;
pub const MFA_PRECISION_FP32: mfa_precision_t = 2;
pub const MFA_PRECISION_INT8: mfa_precision_t = 3;
pub const MFA_PRECISION_INT4: mfa_precision_t = 4;
pub const MFA_PRECISION_BOOL: mfa_precision_t = 5;
pub const MFA_PRECISION_INT32: mfa_precision_t = 6;
pub const MFA_PRECISION_UINT8: mfa_precision_t = 7;
pub const MFA_PRECISION_UINT4: mfa_precision_t = 8;

#[repr(C)]
pub struct mfa_context {
    _opaque: [u8; 0],
}
pub type mfa_context_t = *mut mfa_context;

#[repr(C)]
pub struct mfa_buffer {
    _opaque: [u8; 0],
}
pub type mfa_buffer_t = *mut mfa_buffer;

pub const MFA_BACKEND_AUTO: i32 = 0;
pub const MFA_BACKEND_CPU: i32 = 1;
pub const MFA_BACKEND_METAL: i32 = 2;

pub const MFA_CPU_ISA_AUTO: i32 = 0;
pub const MFA_CPU_ISA_SCALAR: i32 = 1;
pub const MFA_CPU_ISA_AVX2: i32 = 2;
pub const MFA_CPU_ISA_AVX512: i32 = 3;
pub const MFA_CPU_ISA_NEON: i32 = 4;

pub const MFA_CONTEXT_ALLOW_CPU_FALLBACK: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mfa_context_options_t {
    pub struct_size: u32,
    pub backend: i32,
    pub device: i32,
    pub num_threads: i32,
    pub cpu_isa: i32,
    pub flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mfa_context_info_t {
    pub struct_size: u32,
    pub backend: i32,
    pub num_threads: i32,
    pub cpu_isa: i32,
    pub flags: u32,
    pub backend_name: [c_char; 16],
    pub isa_name: [c_char; 16],
    pub device_name: [c_char; 96],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mfa_tensor_t {
    pub struct_size: u32,
    pub precision: i32,
    pub data: *mut c_void,
    pub buffer: mfa_buffer_t,
    pub byte_offset: u64,
    pub shape: [i64; 4],
    pub stride: [i64; 4],
}

pub const MFA_ALIGN_NONE: i32 = 0;
pub const MFA_ALIGN_TOP_LEFT: i32 = 1;
pub const MFA_ALIGN_BOTTOM_RIGHT: i32 = 2;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mfa_sequences_t {
    pub struct_size: u32,
    pub reserved: u32,
    pub query_starts: *const mfa_tensor_t,
    pub key_starts: *const mfa_tensor_t,
    pub query_lengths: *const mfa_tensor_t,
    pub key_lengths: *const mfa_tensor_t,
    pub left_padding: *const mfa_tensor_t,
    pub key_batches: *const mfa_tensor_t,
    pub most_queries: i64,
    pub most_keys: i64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mfa_pages_t {
    pub struct_size: u32,
    pub reserved: u32,
    pub page_table: *const mfa_tensor_t,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mfa_blocks_t {
    pub struct_size: u32,
    pub reserved: u32,
    pub block_rows: i64,
    pub block_keys: i64,
    pub kv_num_blocks: *const mfa_tensor_t,
    pub kv_indices: *const mfa_tensor_t,
    pub full_kv_num_blocks: *const mfa_tensor_t,
    pub full_kv_indices: *const mfa_tensor_t,
    pub block_mask: *const mfa_tensor_t,
    pub masks: *const mfa_tensor_t,
    pub mask_indices: *const mfa_tensor_t,
}

pub const MFA_APPEND_INTERLEAVED: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mfa_append_t {
    pub struct_size: u32,
    pub flags: u32,
    pub key: *const mfa_tensor_t,
    pub value: *const mfa_tensor_t,
    pub starts: *const mfa_tensor_t,
    pub rotary_cos: *const mfa_tensor_t,
    pub rotary_sin: *const mfa_tensor_t,
    pub rotary_positions: *const mfa_tensor_t,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mfa_scales_t {
    pub struct_size: u32,
    pub reserved: u32,
    pub query: *const mfa_tensor_t,
    pub key: *const mfa_tensor_t,
    pub value: *const mfa_tensor_t,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mfa_quantization_t {
    pub struct_size: u32,
    pub reserved: u32,
    pub rows: i64,
    pub columns: i64,
    pub scales: *const mfa_tensor_t,
    pub zero_points: *const mfa_tensor_t,
    pub mean: *const mfa_tensor_t,
}

pub const MFA_COMPUTE_EXACT: i32 = 0;
pub const MFA_COMPUTE_INT8: i32 = 1;

pub const MFA_ATTENTION_CAUSAL: u32 = 1;
pub const MFA_ATTENTION_LITERAL_SCALE: u32 = 2;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mfa_attention_desc_t {
    pub struct_size: u32,
    pub flags: u32,
    pub query: *const mfa_tensor_t,
    pub key: *const mfa_tensor_t,
    pub value: *const mfa_tensor_t,
    pub out: *const mfa_tensor_t,
    pub logsumexp: *const mfa_tensor_t,
    pub bool_mask: *const mfa_tensor_t,
    pub additive_mask: *const mfa_tensor_t,
    pub alibi_slopes: *const mfa_tensor_t,
    pub sinks: *const mfa_tensor_t,
    pub softmax_scale: f32,
    pub softcap: f32,
    pub alignment: i32,
    pub intermediate_precision: i32,
    pub window_left: i64,
    pub window_right: i64,
    pub dropout_p: f32,
    pub reserved: u32,
    pub dropout_seed: u64,
    pub dropout_offset: u64,
    pub query_value: *const mfa_tensor_t,
    pub chunk: i64,
    pub sequences: *const mfa_sequences_t,
    pub pages: *const mfa_pages_t,
    pub blocks: *const mfa_blocks_t,
    pub append: *const mfa_append_t,
    pub scales: *const mfa_scales_t,
    pub key_quantization: *const mfa_quantization_t,
    pub value_quantization: *const mfa_quantization_t,
    pub compute_mode: i32,
    pub reserved2: u32,
}

pub const MFA_BACKWARD_ZERO_CLIPPED: u32 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mfa_attention_backward_desc_t {
    pub struct_size: u32,
    pub flags: u32,
    pub forward: *const mfa_attention_desc_t,
    pub dout: *const mfa_tensor_t,
    pub dquery: *const mfa_tensor_t,
    pub dkey: *const mfa_tensor_t,
    pub dvalue: *const mfa_tensor_t,
    pub dbias: *const mfa_tensor_t,
    pub dsinks: *const mfa_tensor_t,
    pub delta: *const mfa_tensor_t,
    pub dlogsumexp: *const mfa_tensor_t,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mfa_plan_t {
    pub struct_size: u32,
    pub status: i32,
    pub backend: i32,
    pub fallback: i32,
    pub tile_queries: i32,
    pub tile_keys: i32,
    pub key_splits: i32,
    pub num_threads: i32,
    pub workspace_bytes: u64,
    pub kernel: [c_char; 64],
    pub isa: [c_char; 16],
    pub reason: [c_char; 256],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct mfa_quantize_desc_t {
    pub struct_size: u32,
    pub flags: u32,
    pub input: *const mfa_tensor_t,
    pub codes: *const mfa_tensor_t,
    pub quantization: *const mfa_quantization_t,
}

pub const MFA_QUANTIZE_STATIC: u32 = 1;
pub const MFA_QUANTIZE_SATURATE: u32 = 2;

extern "C" {
    pub fn mfa_create_context_with_options(
        options: *const mfa_context_options_t,
        context: *mut mfa_context_t,
    ) -> mfa_status_t;
    pub fn mfa_destroy_context(context: mfa_context_t);
    pub fn mfa_context_describe(context: mfa_context_t, info: *mut mfa_context_info_t) -> mfa_status_t;
    pub fn mfa_context_trim(context: mfa_context_t) -> mfa_status_t;

    pub fn mfa_create_buffer(context: mfa_context_t, size_bytes: usize, buffer: *mut mfa_buffer_t) -> mfa_status_t;
    pub fn mfa_buffer_from_ptr(
        context: mfa_context_t,
        data: *mut c_void,
        size_bytes: usize,
        buffer: *mut mfa_buffer_t,
    ) -> mfa_status_t;
    pub fn mfa_buffer_contents(buffer: mfa_buffer_t) -> *mut c_void;
    pub fn mfa_buffer_size(buffer: mfa_buffer_t) -> usize;
    pub fn mfa_buffer_is_zero_copy(buffer: mfa_buffer_t) -> bool;
    pub fn mfa_destroy_buffer(buffer: mfa_buffer_t);

    pub fn mfa_attention_forward_desc(context: mfa_context_t, desc: *const mfa_attention_desc_t) -> mfa_status_t;
    pub fn mfa_attention_forward_plan(
        context: mfa_context_t,
        desc: *const mfa_attention_desc_t,
        plan: *mut mfa_plan_t,
    ) -> mfa_status_t;
    pub fn mfa_attention_backward_desc(
        context: mfa_context_t,
        desc: *const mfa_attention_backward_desc_t,
    ) -> mfa_status_t;
    pub fn mfa_attention_backward_plan(
        context: mfa_context_t,
        desc: *const mfa_attention_backward_desc_t,
        plan: *mut mfa_plan_t,
    ) -> mfa_status_t;
    pub fn mfa_quantize(context: mfa_context_t, desc: *const mfa_quantize_desc_t) -> mfa_status_t;

    pub fn mfa_error_string(status: mfa_status_t) -> *const c_char;
    pub fn mfa_last_error_message(context: mfa_context_t) -> *const c_char;
    pub fn mfa_get_version(major: *mut c_int, minor: *mut c_int, patch: *mut c_int);
    pub fn mfa_get_gpu_latency(context: mfa_context_t) -> f64;
}

/// A struct as the header's `MFA_..._INIT` has it: its size, and zero but for what is named.
macro_rules! initial {
    ($type:ident { $($field:ident: $value:expr),* }) => {
        impl $type {
            pub const INIT: Self = Self {
                struct_size: size_of::<Self>() as u32,
                $($field: $value,)*
                // SAFETY: numbers and pointers may be zero.
                ..unsafe { transmute::<[u8; size_of::<Self>()], Self>([0; size_of::<Self>()]) }
            };
        }
    };
}

initial!(mfa_context_options_t {});
initial!(mfa_context_info_t {});
initial!(mfa_tensor_t {
    precision: MFA_PRECISION_FP32
});
initial!(mfa_sequences_t {});
initial!(mfa_pages_t {});
initial!(mfa_blocks_t {});
initial!(mfa_append_t {});
initial!(mfa_scales_t {});
initial!(mfa_quantization_t {});
initial!(mfa_attention_desc_t {
    intermediate_precision: MFA_PRECISION_DEFAULT,
    window_left: -1,
    window_right: -1
});
initial!(mfa_attention_backward_desc_t {});
initial!(mfa_plan_t {});
initial!(mfa_quantize_desc_t {});
