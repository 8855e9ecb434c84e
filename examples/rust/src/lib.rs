//! Flash attention through libmfa: `softmax(scale * query key^T) value` without the matrix in the middle.
//!
//! A [`Context`] runs calls on one backend. What a call is about is an [`Attention`], whose [`Tensor`]s are views of
//! slices that stay the caller's, so that nothing is copied; results go to slices that a [`TensorMut`] borrows for
//! writing. What a slice and its shape disagree about, this crate says; the rest libmfa does, in [`Error`]'s message.
//!
//! ```no_run
//! use mfa::{Alignment, Attention, Context, Tensor, TensorMut};
//!
//! let shape = [1, 8, 128, 64]; // batch, heads, rows, columns
//! let query = vec![0.5f32; shape.iter().product()];
//! let (key, value) = (query.clone(), query.clone());
//! let mut out = vec![0f32; query.len()];
//!
//! let attention = Attention {
//!     causal: true,
//!     alignment: Some(Alignment::TopLeft),
//!     ..Attention::new(
//!         Tensor::new(&query, shape)?,
//!         Tensor::new(&key, shape)?,
//!         Tensor::new(&value, shape)?,
//!     )
//! };
//! Context::new()?.forward(&attention, &mut TensorMut::new(&mut out, shape)?, None)?;
//! # Ok::<(), mfa::Error>(())
//! ```
//!
//! Handles are released when their owner goes, so that neither a second release nor a use after it compiles:
//!
//! ```compile_fail,E0382
//! let context = mfa::Context::new()?;
//! drop(context);
//! context.info()?;
//! # Ok::<(), mfa::Error>(())
//! ```
//!
//! and no result can overlap an operand, nor can memory go while a view of it is in use:
//!
//! ```compile_fail,E0502
//! let mut memory = vec![0f32; 8];
//! let query = mfa::Tensor::new(&memory, [1, 1, 1, 8])?;
//! let out = mfa::TensorMut::new(&mut memory, [1, 1, 1, 8])?;
//! let attention = mfa::Attention::new(query, query, query);
//! # Ok::<(), mfa::Error>(())
//! ```
mod attention;
mod context;
mod error;
mod quantized;
pub mod sys;
mod tensor;

pub use attention::{Alignment, Attention, Blocks, Gradients, Operand};
pub use context::{Backend, Context, Info, Options};
pub use error::{Error, ErrorKind, Result};
pub use quantized::Quantized;
pub use tensor::{Bfloat16, Element, Half, Shape, Tensor, TensorMut};
