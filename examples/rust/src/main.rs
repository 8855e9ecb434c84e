//! The flat calls from Rust, declared by hand so that no crate is needed.
//!
//! Runs causal attention over two heads, compares it with the formula written out, and fails if they differ.
use std::ffi::{c_char, c_void, CStr};
use std::ptr::null_mut;

type Context = *mut c_void;
type Buffer = *mut c_void;

const FP32: i32 = 2;

#[link(name = "mfa")]
extern "C" {
    fn mfa_create_context(context: *mut Context) -> i32;
    fn mfa_destroy_context(context: Context);
    fn mfa_buffer_from_ptr(
        context: Context,
        data: *mut c_void,
        bytes: usize,
        buffer: *mut Buffer,
    ) -> i32;
    fn mfa_destroy_buffer(buffer: Buffer);
    fn mfa_last_error_message(context: Context) -> *const c_char;
    fn mfa_attention_forward(
        context: Context,
        q: Buffer,
        k: Buffer,
        v: Buffer,
        out: Buffer,
        batch_size: u32,
        seq_len_q: u32,
        seq_len_kv: u32,
        num_heads: u32,
        head_dim: u16,
        softmax_scale: f32,
        causal: bool,
        input_precision: i32,
        intermediate_precision: i32,
        output_precision: i32,
        transpose_q: bool,
        transpose_k: bool,
        transpose_v: bool,
        transpose_o: bool,
    ) -> i32;
}

const SEQUENCE: usize = 5;
const HEADS: usize = 2;
const HEAD_DIM: usize = 8;

fn check(status: i32) -> Result<(), String> {
    if status == 0 {
        return Ok(());
    }
    let message = unsafe { CStr::from_ptr(mfa_last_error_message(null_mut())) };
    Err(format!("status {status}: {}", message.to_string_lossy()))
}

/// Frees its handles on every way out. A buffer borrows the slice that it wraps.
struct Session {
    context: Context,
    buffers: Vec<Buffer>,
}

impl Session {
    fn new() -> Result<Self, String> {
        let mut context = null_mut();
        check(unsafe { mfa_create_context(&mut context) })?;
        Ok(Session {
            context,
            buffers: Vec::new(),
        })
    }

    fn wrap(&mut self, data: &mut [f32]) -> Result<Buffer, String> {
        let mut buffer = null_mut();
        check(unsafe {
            mfa_buffer_from_ptr(
                self.context,
                data.as_mut_ptr().cast(),
                std::mem::size_of_val(data),
                &mut buffer,
            )
        })?;
        self.buffers.push(buffer);
        Ok(buffer)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        unsafe {
            self.buffers
                .iter()
                .for_each(|&buffer| mfa_destroy_buffer(buffer));
            mfa_destroy_context(self.context);
        }
    }
}

fn attention(q: &mut [f32], k: &mut [f32], v: &mut [f32], out: &mut [f32]) -> Result<(), String> {
    let mut session = Session::new()?;
    let (q, k, v, out) = (
        session.wrap(q)?,
        session.wrap(k)?,
        session.wrap(v)?,
        session.wrap(out)?,
    );
    check(unsafe {
        mfa_attention_forward(
            session.context,
            q,
            k,
            v,
            out,
            1,
            SEQUENCE as u32,
            SEQUENCE as u32,
            HEADS as u32,
            HEAD_DIM as u16,
            1.0 / (HEAD_DIM as f32).sqrt(),
            true,
            FP32,
            FP32,
            FP32,
            false,
            false,
            false,
            false,
        )
    })
}

/// One row of one head of a packed [sequence, heads, head_dim] operand.
fn row(operand: &[f32], index: usize, head: usize) -> &[f32] {
    let start = (index * HEADS + head) * HEAD_DIM;
    &operand[start..start + HEAD_DIM]
}

fn expected_row(q: &[f32], k: &[f32], v: &[f32], index: usize, head: usize) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter()
            .zip(b)
            .map(|(&x, &y)| f64::from(x) * f64::from(y))
            .sum::<f64>()
    };
    let scale = (HEAD_DIM as f64).sqrt();
    let weights: Vec<f64> = (0..=index)
        .map(|j| (dot(row(q, index, head), row(k, j, head)) / scale).exp())
        .collect();
    let total: f64 = weights.iter().sum();
    (0..HEAD_DIM)
        .map(|d| {
            weights
                .iter()
                .enumerate()
                .map(|(j, w)| w / total * f64::from(row(v, j, head)[d]))
                .sum()
        })
        .collect()
}

fn main() -> Result<(), String> {
    let operand = |step: f32, shift: f32| -> Vec<f32> {
        (0..SEQUENCE * HEADS * HEAD_DIM)
            .map(|i| (step * i as f32 + shift).sin())
            .collect()
    };
    let (mut q, mut k, mut v) = (operand(0.7, 0.0), operand(1.3, 2.0), operand(0.3, 1.0));
    let mut out = vec![0.0; q.len()];
    attention(&mut q, &mut k, &mut v, &mut out)?;

    let mut largest = 0.0f64;
    for index in 0..SEQUENCE {
        for head in 0..HEADS {
            for (&got, want) in row(&out, index, head)
                .iter()
                .zip(expected_row(&q, &k, &v, index, head))
            {
                let difference = (f64::from(got) - want).abs();
                if difference.is_nan() || difference > 1e-6 {
                    return Err(format!(
                        "row {index}, head {head}: got {got}, expected {want}"
                    ));
                }
                largest = largest.max(difference);
            }
        }
    }
    println!("largest difference from the formula: {largest:.1e}");
    Ok(())
}
