//! Views of slices as libmfa takes them.
use std::marker::PhantomData;

use crate::error::{Error, ErrorKind, Result};
use crate::sys;

/// Batch, heads, rows and columns.
pub type Shape = [usize; 4];

/// The bits of an IEEE 754 number of 16 bits, which Rust has no type for.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Half(pub u16);

/// The upper half of the bits of an `f32`.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bfloat16(pub u16);

/// Types that a tensor can have: f32, [`Half`], [`Bfloat16`], `i8` for codes and `bool` for masks.
pub trait Element: sealed::Precision {}

impl<T: sealed::Precision> Element for T {}

mod sealed {
    use crate::sys;

    pub trait Precision: Copy {
        const PRECISION: sys::mfa_precision_t;
    }

    impl Precision for f32 {
        const PRECISION: sys::mfa_precision_t = sys::MFA_PRECISION_FP32;
    }

    impl Precision for super::Half {
        const PRECISION: sys::mfa_precision_t = sys::MFA_PRECISION_FP16;
    }

    impl Precision for super::Bfloat16 {
        const PRECISION: sys::mfa_precision_t = sys::MFA_PRECISION_BF16;
    }

    impl Precision for i8 {
        const PRECISION: sys::mfa_precision_t = sys::MFA_PRECISION_INT8;
    }

    impl Precision for bool {
        const PRECISION: sys::mfa_precision_t = sys::MFA_PRECISION_BOOL;
    }
}

/// A slice, seen as a packed tensor.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    raw: sys::mfa_tensor_t,
    memory: PhantomData<&'a [u8]>,
}

/// A slice that a call writes to, seen as a packed tensor.
pub struct TensorMut<'a> {
    raw: sys::mfa_tensor_t,
    memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: they stand for a &[T] and a &mut [T] of plain numbers.
unsafe impl Send for Tensor<'_> {}
unsafe impl Sync for Tensor<'_> {}
unsafe impl Send for TensorMut<'_> {}
unsafe impl Sync for TensorMut<'_> {}

impl<'a> Tensor<'a> {
    /// Fails unless `elements` are as many as `shape` has.
    pub fn new<T: Element>(elements: &'a [T], shape: Shape) -> Result<Self> {
        // What is only an input is never written to.
        let raw = packed::<T>(elements.as_ptr() as *mut T, elements.len(), shape)?;
        Ok(Tensor {
            raw,
            memory: PhantomData,
        })
    }

    pub fn shape(&self) -> Shape {
        self.raw.shape.map(|size| size as usize)
    }

    pub(crate) fn raw(&self) -> &sys::mfa_tensor_t {
        &self.raw
    }
}

impl<'a> TensorMut<'a> {
    /// Fails unless `elements` are as many as `shape` has.
    pub fn new<T: Element>(elements: &'a mut [T], shape: Shape) -> Result<Self> {
        let raw = packed::<T>(elements.as_mut_ptr(), elements.len(), shape)?;
        Ok(TensorMut {
            raw,
            memory: PhantomData,
        })
    }

    pub(crate) fn raw(&mut self) -> &sys::mfa_tensor_t {
        &self.raw
    }
}

fn packed<T: Element>(elements: *mut T, count: usize, shape: Shape) -> Result<sys::mfa_tensor_t> {
    let mut raw = sys::mfa_tensor_t {
        precision: T::PRECISION,
        data: elements.cast(),
        ..sys::mfa_tensor_t::INIT
    };
    let mut stride = Some(1i64);
    for axis in (0..4).rev() {
        let size = i64::try_from(shape[axis]).ok();
        raw.shape[axis] = size.unwrap_or(0);
        raw.stride[axis] = stride.unwrap_or(0);
        stride = stride.and_then(|stride| stride.checked_mul(size?));
    }
    if stride == i64::try_from(count).ok() && stride.is_some() {
        return Ok(raw);
    }
    let wanted = stride.map_or("more than fit 64 bits".into(), |elements| elements.to_string());
    Err(Error::new(
        ErrorKind::InvalidArgument,
        format!("a slice has {count} elements, expected {wanted} for the shape {shape:?}"),
    ))
}
