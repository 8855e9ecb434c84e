//! What one call is about.
use std::ptr::null;

use crate::quantized::Quantized;
use crate::sys;
use crate::tensor::{Tensor, TensorMut};

/// Where row i stands among the keys. Causal masks and windows count from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alignment {
    /// At key i.
    TopLeft,
    /// At key i + Nkv - Nq.
    BottomRight,
}

/// Blocks of the scores that count, all others are hidden and never visited.
#[derive(Clone, Copy)]
pub struct Blocks<'a> {
    /// Queries of a block.
    pub rows: u32,
    /// Keys of a block.
    pub keys: u32,
    /// (B or 1, H or 1, rows of blocks, columns of blocks) of bool.
    pub mask: Tensor<'a>,
}

/// Keys or values: a [`Tensor`], or a [`Quantized`] one.
#[derive(Clone, Copy)]
pub struct Operand<'a> {
    stored: Tensor<'a>,
    scales: Option<Tensor<'a>>,
}

impl<'a> From<Tensor<'a>> for Operand<'a> {
    fn from(stored: Tensor<'a>) -> Self {
        Operand { stored, scales: None }
    }
}

impl<'a> From<&'a Quantized> for Operand<'a> {
    fn from(quantized: &'a Quantized) -> Self {
        let (stored, scales) = quantized.tensors();
        Operand {
            stored,
            scales: Some(scales),
        }
    }
}

/// One attention call but for its results: B batches, H query heads, Hkv key/value heads (H is a multiple), Nq queries
/// and Nkv keys. Options that it has no field for are in [`sys::mfa_attention_desc_t`].
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// (B, H, Nq, D)
    pub query: Tensor<'a>,
    /// (B, Hkv, Nkv, D)
    pub key: Operand<'a>,
    /// (B, Hkv, Nkv, Dv)
    pub value: Operand<'a>,
    /// None: 1/sqrt(D).
    pub scale: Option<f32>,
    /// Row i sees no key after the one where it stands.
    pub causal: bool,
    /// Needed by causal calls and windows.
    pub alignment: Option<Alignment>,
    /// So many keys before the one where a row stands are seen; None: all.
    pub window_left: Option<u32>,
    /// And so many after it.
    pub window_right: Option<u32>,
    pub blocks: Option<Blocks<'a>>,
}

/// Room for gradients; those that are None are not computed. None may be of codes' own type, as they are with respect to
/// what codes stand for.
#[derive(Default)]
pub struct Gradients<'a, 'm> {
    pub query: Option<&'a mut TensorMut<'m>>,
    pub key: Option<&'a mut TensorMut<'m>>,
    pub value: Option<&'a mut TensorMut<'m>>,
}

impl<'a> Attention<'a> {
    /// Every query sees every key.
    pub fn new(query: Tensor<'a>, key: impl Into<Operand<'a>>, value: impl Into<Operand<'a>>) -> Self {
        Attention {
            query,
            key: key.into(),
            value: value.into(),
            scale: None,
            causal: false,
            alignment: None,
            window_left: None,
            window_right: None,
            blocks: None,
        }
    }

    /// Hands `call` the descriptor, whose pointers are good until it returns.
    pub(crate) fn described<R>(
        &self,
        out: *const sys::mfa_tensor_t,
        logsumexp: *const sys::mfa_tensor_t,
        call: impl FnOnce(&sys::mfa_attention_desc_t) -> R,
    ) -> R {
        let blocks = self.blocks.as_ref().map(|blocks| sys::mfa_blocks_t {
            block_rows: blocks.rows.into(),
            block_keys: blocks.keys.into(),
            block_mask: blocks.mask.raw(),
            ..sys::mfa_blocks_t::INIT
        });
        let [key_quantization, value_quantization] = [&self.key, &self.value].map(|operand| {
            operand.scales.as_ref().map(|scales| sys::mfa_quantization_t {
                scales: scales.raw(),
                ..sys::mfa_quantization_t::INIT
            })
        });
        let window = |keys: Option<u32>| keys.map_or(-1, i64::from);
        let mut flags = 0;
        if self.causal {
            flags |= sys::MFA_ATTENTION_CAUSAL;
        }
        if self.scale.is_some() {
            flags |= sys::MFA_ATTENTION_LITERAL_SCALE;
        }
        call(&sys::mfa_attention_desc_t {
            flags,
            query: self.query.raw(),
            key: self.key.stored.raw(),
            value: self.value.stored.raw(),
            out,
            logsumexp,
            softmax_scale: self.scale.unwrap_or(0.0),
            alignment: match self.alignment {
                None => sys::MFA_ALIGN_NONE,
                Some(Alignment::TopLeft) => sys::MFA_ALIGN_TOP_LEFT,
                Some(Alignment::BottomRight) => sys::MFA_ALIGN_BOTTOM_RIGHT,
            },
            window_left: window(self.window_left),
            window_right: window(self.window_right),
            blocks: pointer(blocks.as_ref()),
            key_quantization: pointer(key_quantization.as_ref()),
            value_quantization: pointer(value_quantization.as_ref()),
            ..sys::mfa_attention_desc_t::INIT
        })
    }
}

fn pointer<T>(given: Option<&T>) -> *const T {
    given.map_or(null(), |value| value)
}
