//! Seven results of two heads of eight rows, compared with known values; with the argument `bench`, two times.
use std::env;
use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

use mfa::{Alignment, Attention, Blocks, Context, Gradients, Options, Quantized, Shape, Tensor, TensorMut};

type Outcome<T> = Result<T, Box<dyn Error>>;

const HEADS: usize = 2;
const ROWS: usize = 8;
const COLUMNS: usize = 8;
const SHAPE: Shape = [1, HEADS, ROWS, COLUMNS];
const ELEMENTS: usize = HEADS * ROWS * COLUMNS;

/// What is printed of each result: these columns of this row of the second head.
const PRINTED: usize = (ROWS + 5) * COLUMNS;

fn main() -> ExitCode {
    let done = match env::args().nth(1).as_deref() {
        None => known_values(),
        Some("bench") => bench(),
        Some(other) => Err(format!("the argument is {other:?}, expected bench or none").into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn known_values() -> Outcome<()> {
    let context = Context::new()?;
    let (query, key, value) = (elements(5, 0), elements(7, 3), elements(11, 5));
    let full = Attention::new(
        Tensor::new(&query, SHAPE)?,
        Tensor::new(&key, SHAPE)?,
        Tensor::new(&value, SHAPE)?,
    );
    check(
        "forward",
        &forward(&context, &full)?,
        [0.222707, -0.012910, -0.264847, 0.097707],
    )?;

    backward(
        &context,
        &Attention {
            causal: true,
            alignment: Some(Alignment::TopLeft),
            ..full
        },
    )?;

    let window = Attention {
        alignment: Some(Alignment::TopLeft),
        window_left: Some(2),
        window_right: Some(0),
        ..full
    };
    check(
        "window",
        &forward(&context, &window)?,
        [-0.101362, -0.108237, 0.523638, -0.226362],
    )?;

    let seen = [[true, true, false, false], [true, false, true, true]].concat();
    let mask = Tensor::new(&seen, [1, 1, 2, 4])?;
    let blocks = Attention {
        blocks: Some(Blocks { rows: 4, keys: 2, mask }),
        ..full
    };
    check(
        "blocks",
        &forward(&context, &blocks)?,
        [0.510920, -0.239080, -0.331950, 0.385920],
    )?;

    let scales = vec![0.125, 0.25];
    let key = Quantized::new(codes(7, 3), scales.clone(), SHAPE)?;
    let value = Quantized::new(codes(11, 5), scales, SHAPE)?;
    let quantised = Attention::new(full.query, &key, &value);
    check(
        "quantised",
        &forward(&context, &quantised)?,
        [0.509885, -0.074666, -0.655668, 0.259885],
    )
}

fn backward(context: &Context, attention: &Attention) -> Outcome<()> {
    let rows = [1, HEADS, ROWS, 1];
    let mut out = [0.0f32; ELEMENTS];
    let mut logsumexp = [0.0f32; HEADS * ROWS];
    context.forward(
        attention,
        &mut TensorMut::new(&mut out, SHAPE)?,
        Some(&mut TensorMut::new(&mut logsumexp, rows)?),
    )?;

    let dout = elements(3, 1);
    let mut gradients = [[0.0f32; ELEMENTS]; 3];
    let [dquery, dkey, dvalue] = &mut gradients;
    context.backward(
        attention,
        &Tensor::new(&out, SHAPE)?,
        &Tensor::new(&logsumexp, rows)?,
        &Tensor::new(&dout, SHAPE)?,
        Gradients {
            query: Some(&mut TensorMut::new(dquery, SHAPE)?),
            key: Some(&mut TensorMut::new(dkey, SHAPE)?),
            value: Some(&mut TensorMut::new(dvalue, SHAPE)?),
        },
    )?;
    check("dq", &gradients[0], [0.034121, -0.116048, 0.024352, -0.027352])?;
    check("dk", &gradients[1], [0.044962, 0.017408, -0.049931, 0.036372])?;
    check("dv", &gradients[2], [-0.047868, -0.027844, 0.124267, 0.276377])
}

fn forward(context: &Context, attention: &Attention) -> mfa::Result<[f32; ELEMENTS]> {
    let mut out = [0.0; ELEMENTS];
    context.forward(attention, &mut TensorMut::new(&mut out, SHAPE)?, None)?;
    Ok(out)
}

fn codes(step: usize, shift: usize) -> Vec<i8> {
    (0..ELEMENTS)
        .map(|index| ((step * index + shift) % 17) as i8 - 8)
        .collect()
}

fn elements(step: usize, shift: usize) -> Vec<f32> {
    codes(step, shift)
        .into_iter()
        .map(|code| f32::from(code) / 8.0)
        .collect()
}

fn check(name: &str, result: &[f32], expected: [f32; 4]) -> Outcome<()> {
    let found = &result[PRINTED..PRINTED + 4];
    println!("{name} {:.6} {:.6} {:.6} {:.6}", found[0], found[1], found[2], found[3]);
    let near = |(found, expected): (&f32, &f32)| (found - expected).abs() < 1e-5;
    if found.iter().zip(&expected).all(near) {
        return Ok(());
    }
    Err(format!("{name} is {found:?}, expected {expected:?}").into())
}

fn bench() -> Outcome<()> {
    let (heads, rows, columns) = (8, 1024, 64);
    let seconds = least_seconds(&Context::new()?, [1, heads, rows, columns], 20, 1)?;
    let instructions = ((2 * columns + 5) * heads * rows * rows) as f64;
    println!(
        "forward 1x{heads}x{rows}x{columns} float32: {:.2} ms, {:.1} GINSTRS/s",
        seconds * 1e3,
        instructions / seconds / 1e9
    );

    let one_thread = Context::with_options(Options {
        threads: 1,
        ..Options::default()
    })?;
    let seconds = least_seconds(&one_thread, [1, 1, 16, 64], 1, 5000)?;
    println!("call 1x1x16x64 float32: {:.2} us", seconds * 1e6);
    Ok(())
}

/// Seconds a call, the mean of so many, in the best of some runs. The attention is described once.
fn least_seconds(context: &Context, shape: Shape, runs: u32, calls: u32) -> Outcome<f64> {
    let count: usize = shape.iter().product();
    let operand = |step: f32| -> Vec<f32> { (0..count).map(|index| (step * index as f32).sin()).collect() };
    let (query, key, value) = (operand(0.7), operand(1.3), operand(0.3));
    let mut out = vec![0.0f32; count];
    let attention = Attention::new(
        Tensor::new(&query, shape)?,
        Tensor::new(&key, shape)?,
        Tensor::new(&value, shape)?,
    );
    let mut out = TensorMut::new(&mut out, shape)?;
    context.forward(&attention, &mut out, None)?; // the first call finds its workspace
    let mut least = f64::INFINITY;
    for _ in 0..runs {
        let start = Instant::now();
        for _ in 0..calls {
            context.forward(&attention, &mut out, None)?;
        }
        least = least.min(start.elapsed().as_secs_f64() / f64::from(calls));
    }
    Ok(least)
}
