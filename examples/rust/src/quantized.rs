//! Keys or values in 8 bits.
use crate::error::{Error, ErrorKind, Result};
use crate::sys;
use crate::tensor::{Shape, Tensor, TensorMut};

/// A tensor as codes of 8 bits: each stands for its scale times itself, and each batch and head has a scale.
#[derive(Clone, Debug)]
pub struct Quantized {
    codes: Vec<i8>,
    scales: Vec<f32>,
    shape: Shape,
}

impl Quantized {
    /// Fails unless codes are as many as `shape` has, and scales as many as its batches times its heads. That scales are
    /// positive the call checks that uses them.
    pub fn new(codes: Vec<i8>, scales: Vec<f32>, shape: Shape) -> Result<Self> {
        Tensor::new(&codes, shape)?;
        Tensor::new(&scales, scales_shape(shape))?;
        Ok(Quantized { codes, scales, shape })
    }

    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    pub fn scales(&self) -> &[f32] {
        &self.scales
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Room for the codes of a tensor.
    pub(crate) fn zeros(shape: Shape) -> Result<Self> {
        let [batches, heads, rows, columns] = shape;
        // Only a tensor without elements has a shape that overflows.
        let scales = batches.checked_mul(heads).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                format!("the shape {shape:?} has more batches and heads than fit in memory"),
            )
        })?;
        Ok(Quantized {
            codes: vec![0; scales * rows * columns],
            scales: vec![0.0; scales],
            shape,
        })
    }

    /// Codes, and then their scales.
    pub(crate) fn tensors(&self) -> (Tensor<'_>, Tensor<'_>) {
        let of_shape = "the sizes were checked when it was made";
        (
            Tensor::new(&self.codes, self.shape).expect(of_shape),
            Tensor::new(&self.scales, scales_shape(self.shape)).expect(of_shape),
        )
    }

    /// Has `call` write codes and scales.
    pub(crate) fn written(
        &mut self,
        call: impl FnOnce(*const sys::mfa_tensor_t, *const sys::mfa_quantization_t) -> Result<()>,
    ) -> Result<()> {
        let mut codes = TensorMut::new(&mut self.codes, self.shape)?;
        let mut scales = TensorMut::new(&mut self.scales, scales_shape(self.shape))?;
        let quantization = sys::mfa_quantization_t {
            scales: scales.raw(),
            ..sys::mfa_quantization_t::INIT
        };
        call(codes.raw(), &quantization)
    }
}

fn scales_shape([batches, heads, ..]: Shape) -> Shape {
    [batches, heads, 1, 1]
}
