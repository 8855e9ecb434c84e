//! The context, which owns a handle of libmfa's, and the calls that it runs.
use std::ffi::CStr;
use std::os::raw::{c_char, c_int};
use std::ptr::{null, null_mut, NonNull};

use crate::attention::{Attention, Gradients};
use crate::error::{check, Error, ErrorKind, Result};
use crate::quantized::Quantized;
use crate::sys;
use crate::tensor::{Tensor, TensorMut};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// What the variable `MFA_BACKEND` says, else Metal where there is a device, else the CPU.
    #[default]
    Auto,
    Cpu,
    Metal,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub backend: Backend,
    /// Threads of the CPU that a call may use; 0: all that the process may run on, or `MFA_NUM_THREADS`.
    pub threads: u16,
}

/// What a context turned out to be.
#[derive(Clone, Debug)]
pub struct Info {
    pub backend: String,
    pub isa: String,
    pub device: String,
    pub threads: i32,
}

/// Runs calls on one backend, several at once if several threads ask for it. Dropping it releases it.
#[derive(Debug)]
pub struct Context {
    handle: NonNull<sys::mfa_context>,
}

// SAFETY: mfa.h allows calls from several threads at once. Only drop destroys the handle, when none is left.
unsafe impl Send for Context {}
unsafe impl Sync for Context {}

impl Context {
    /// A context with every option at its default.
    pub fn new() -> Result<Self> {
        Self::with_options(Options::default())
    }

    /// Fails if libmfa is older than this crate expects, or has not the backend that is asked for.
    pub fn with_options(options: Options) -> Result<Self> {
        check_version()?;
        let options = sys::mfa_context_options_t {
            backend: match options.backend {
                Backend::Auto => sys::MFA_BACKEND_AUTO,
                Backend::Cpu => sys::MFA_BACKEND_CPU,
                Backend::Metal => sys::MFA_BACKEND_METAL,
            },
            num_threads: options.threads.into(),
            ..sys::mfa_context_options_t::INIT
        };
        let mut handle = null_mut();
        // SAFETY: both live until the call returns.
        check(unsafe { sys::mfa_create_context_with_options(&options, &mut handle) })?;
        let handle = NonNull::new(handle).expect("libmfa created a context, but gave no handle");
        Ok(Context { handle })
    }

    pub fn info(&self) -> Result<Info> {
        let mut info = sys::mfa_context_info_t::INIT;
        // SAFETY: the handle lives as long as self.
        check(unsafe { sys::mfa_context_describe(self.handle.as_ptr(), &mut info) })?;
        Ok(Info {
            backend: text(&info.backend_name),
            isa: text(&info.isa_name),
            device: text(&info.device_name),
            threads: info.num_threads,
        })
    }

    /// Runs one call and waits for it.
    ///
    /// `out` is (B, H, Nq, Dv) in float32, float16 or bfloat16. `logsumexp` is (B, H, Nq, 1) in float32, and what a
    /// backward call needs.
    pub fn forward(
        &self,
        attention: &Attention<'_>,
        out: &mut TensorMut<'_>,
        logsumexp: Option<&mut TensorMut<'_>>,
    ) -> Result<()> {
        let logsumexp = logsumexp.map_or(null(), |tensor| tensor.raw() as *const _);
        // SAFETY: what the descriptor points to is borrowed until the call returns, results for writing.
        attention.described(out.raw(), logsumexp, |descriptor| {
            check(unsafe { sys::mfa_attention_forward_desc(self.handle.as_ptr(), descriptor) })
        })
    }

    /// Computes those gradients of a forward call that `gradients` has room for, and waits for them.
    ///
    /// `out` and `logsumexp` are what the forward call wrote, `dout` is the gradient of `out`.
    pub fn backward(
        &self,
        attention: &Attention<'_>,
        out: &Tensor<'_>,
        logsumexp: &Tensor<'_>,
        dout: &Tensor<'_>,
        gradients: Gradients<'_, '_>,
    ) -> Result<()> {
        let pointer = |gradient: Option<&mut TensorMut<'_>>| gradient.map_or(null(), |tensor| tensor.raw() as *const _);
        let (dquery, dkey, dvalue) = (
            pointer(gradients.query),
            pointer(gradients.key),
            pointer(gradients.value),
        );
        attention.described(out.raw(), logsumexp.raw(), |forward| {
            let descriptor = sys::mfa_attention_backward_desc_t {
                forward,
                dout: dout.raw(),
                dquery,
                dkey,
                dvalue,
                ..sys::mfa_attention_backward_desc_t::INIT
            };
            // SAFETY: as in a forward call; out and logsumexp are only read.
            check(unsafe { sys::mfa_attention_backward_desc(self.handle.as_ptr(), &descriptor) })
        })
    }

    /// Rounds a tensor to codes of 8 bits, with a scale for each batch and head.
    pub fn quantize(&self, input: &Tensor<'_>) -> Result<Quantized> {
        let mut quantized = Quantized::zeros(input.shape())?;
        quantized.written(|codes, quantization| {
            let descriptor = sys::mfa_quantize_desc_t {
                input: input.raw(),
                codes,
                quantization,
                ..sys::mfa_quantize_desc_t::INIT
            };
            // SAFETY: codes and scales are borrowed for writing until the call returns.
            check(unsafe { sys::mfa_quantize(self.handle.as_ptr(), &descriptor) })
        })?;
        Ok(quantized)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: created by libmfa, and nobody else has it.
        unsafe { sys::mfa_destroy_context(self.handle.as_ptr()) }
    }
}

fn text(characters: &[c_char]) -> String {
    // SAFETY: libmfa ends its strings in NUL within the array.
    unsafe { CStr::from_ptr(characters.as_ptr()) }
        .to_string_lossy()
        .into_owned()
}

/// A library that lacks what the declarations have would be found out by a crash, or not at all.
fn check_version() -> Result<()> {
    let expected = (sys::MFA_VERSION_MAJOR, sys::MFA_VERSION_MINOR, sys::MFA_VERSION_PATCH);
    let mut found: (c_int, c_int, c_int) = (0, 0, 0);
    // SAFETY: three places to write to.
    unsafe { sys::mfa_get_version(&mut found.0, &mut found.1, &mut found.2) };
    if found >= expected {
        return Ok(());
    }
    let named = |(major, minor, patch)| format!("{major}.{minor}.{patch}");
    Err(Error::new(
        ErrorKind::LibraryTooOld,
        format!(
            "libmfa is version {}, expected {} or newer, which this program was written against",
            named(found),
            named(expected)
        ),
    ))
}
