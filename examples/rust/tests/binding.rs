//! What the binding promises beyond the numbers that the program checks. Uses of what is gone do not compile: src/lib.rs.
use std::thread;

use mfa::{
    Alignment, Attention, Backend, Blocks, Context, ErrorKind, Gradients, Operand, Options, Quantized, Tensor,
    TensorMut,
};

const SHAPE: mfa::Shape = [1, 2, 3, 8];

fn ramp(count: usize) -> Vec<f32> {
    (0..count).map(|index| (index % 13) as f32 / 6.0 - 1.0).collect()
}

/// Attention of a tensor to itself.
fn to_itself(query: Tensor) -> Attention {
    Attention::new(query, query, query)
}

#[test]
fn a_slice_that_does_not_fit_its_shape_is_refused() {
    let mut memory = ramp(48);
    let error = Tensor::new(&memory, [1, 2, 3, 9]).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert_eq!(
        error.to_string(),
        "a slice has 48 elements, expected 54 for the shape [1, 2, 3, 9]"
    );
    assert!(TensorMut::new(&mut memory[1..], SHAPE).is_err());
    let overflowing = [1 << 32, 1 << 32, 1, 1];
    let error = Tensor::new(&[0f32; 0], overflowing).err().unwrap();
    assert!(error.to_string().contains("expected more than fit 64 bits"), "{error}");
    assert!(Tensor::new(&[0f32; 0], [usize::MAX, 1, 1, 1]).is_err());
    assert!(Tensor::new(&[0f32; 0], [1, 2, 0, 8]).is_ok());
}

#[test]
fn codes_and_scales_that_do_not_fit_are_refused() {
    let error = Quantized::new(vec![0; 47], vec![1.0; 2], SHAPE).unwrap_err();
    assert!(
        error.to_string().starts_with("a slice has 47 elements, expected 48"),
        "{error}"
    );
    let error = Quantized::new(vec![0; 48], vec![1.0; 3], SHAPE).unwrap_err();
    assert!(
        error.to_string().starts_with("a slice has 3 elements, expected 2"),
        "{error}"
    );
}

#[test]
fn a_refused_call_says_what_libmfa_says() {
    let memory = ramp(48);
    let query = Tensor::new(&memory, SHAPE).unwrap();
    let mut out = [0f32; 40];
    let mut narrow = TensorMut::new(&mut out, [1, 1, 5, 8]).unwrap();
    let context = Context::new().unwrap();
    let error = context.forward(&to_itself(query), &mut narrow, None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("out"), "{error}");

    let mut out = [0f32; 48];
    let mut out = TensorMut::new(&mut out, SHAPE).unwrap();
    let unaligned = Attention {
        causal: true,
        ..to_itself(query)
    };
    let error = context.forward(&unaligned, &mut out, None).unwrap_err();
    assert!(error.to_string().contains("alignment"), "{error}");

    let negative = Quantized::new(vec![1; 48], vec![0.5, -1.0], SHAPE).unwrap();
    let error = context
        .forward(&Attention::new(query, &negative, query), &mut out, None)
        .unwrap_err();
    assert!(error.to_string().contains("scales"), "{error}");

    let mut codes = [0i8; 48];
    let mut codes = TensorMut::new(&mut codes, SHAPE).unwrap();
    let error = context.forward(&to_itself(query), &mut codes, None).unwrap_err();
    assert!(error.to_string().contains("INT8"), "{error}");
}

#[test]
fn a_device_that_is_absent_is_refused() {
    if cfg!(target_os = "macos") {
        return;
    }
    let options = Options {
        backend: Backend::Metal,
        ..Options::default()
    };
    let error = Context::with_options(options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceNotSupported);
    assert!(!error.to_string().is_empty());
}

#[test]
fn nothing_to_compute_is_no_error() {
    let context = Context::new().unwrap();
    let nothing = Tensor::new::<f32>(&[], [1, 2, 0, 8]).unwrap();
    let mut out: [f32; 0] = [];
    let mut out = TensorMut::new(&mut out, [1, 2, 0, 8]).unwrap();
    context.forward(&to_itself(nothing), &mut out, None).unwrap();
}

#[test]
fn a_context_serves_several_threads() {
    let context = Context::with_options(Options {
        backend: Backend::Cpu,
        threads: 1,
    })
    .unwrap();
    assert_eq!(context.info().unwrap().threads, 1);
    let memory = ramp(48);
    let attention = Attention {
        causal: true,
        alignment: Some(Alignment::BottomRight),
        ..to_itself(Tensor::new(&memory, SHAPE).unwrap())
    };
    let forward = || {
        let mut out = vec![0f32; 48];
        context
            .forward(&attention, &mut TensorMut::new(&mut out, SHAPE).unwrap(), None)
            .unwrap();
        out
    };
    let expected = forward();
    assert_eq!(expected[..8], memory[..8]); // the first row sees itself alone
    thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(forward)).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
}

#[test]
fn gradients_are_computed_where_there_is_room() {
    let context = Context::new().unwrap();
    let memory = ramp(48);
    let tensor = Tensor::new(&memory, SHAPE).unwrap();
    let (mut out, mut logsumexp, mut dvalue) = ([0f32; 48], [0f32; 6], [0f32; 48]);
    // A literal scale of 0 gives each key the same weight, a third of dout's sum over rows.
    let attention = Attention {
        scale: Some(0.0),
        ..to_itself(tensor)
    };
    let rows = [1, 2, 3, 1];
    context
        .forward(
            &attention,
            &mut TensorMut::new(&mut out, SHAPE).unwrap(),
            Some(&mut TensorMut::new(&mut logsumexp, rows).unwrap()),
        )
        .unwrap();
    assert!((logsumexp[0] - 3f32.ln()).abs() < 1e-6);
    context
        .backward(
            &attention,
            &Tensor::new(&out, SHAPE).unwrap(),
            &Tensor::new(&logsumexp, rows).unwrap(),
            &tensor,
            Gradients {
                value: Some(&mut TensorMut::new(&mut dvalue, SHAPE).unwrap()),
                ..Gradients::default()
            },
        )
        .unwrap();
    let mean = (memory[0] + memory[8] + memory[16]) / 3.0;
    assert!((dvalue[0] - mean).abs() < 1e-6);
}

#[test]
fn codes_stand_for_what_was_quantised() {
    let context = Context::new().unwrap();
    let memory = ramp(48);
    let tensor = Tensor::new(&memory, SHAPE).unwrap();
    let quantized = context.quantize(&tensor).unwrap();
    for (index, (&code, &element)) in quantized.codes().iter().zip(&memory).enumerate() {
        let scale = quantized.scales()[index / 24];
        assert!((scale * f32::from(code) - element).abs() <= scale / 2.0 + 1e-6);
    }
    let unrepresentable = vec![f32::NAN; 48];
    let error = context
        .quantize(&Tensor::new(&unrepresentable, SHAPE).unwrap())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn a_mask_of_blocks_has_the_size_that_they_ask_for() {
    let context = Context::new().unwrap();
    let memory = ramp(48);
    let tensor = Tensor::new(&memory, SHAPE).unwrap();
    let mask = Tensor::new(&[true], [1, 1, 1, 1]).unwrap();
    let attention = Attention {
        blocks: Some(Blocks { rows: 2, keys: 3, mask }),
        ..to_itself(tensor)
    };
    let mut out = [0f32; 48];
    let error = context
        .forward(&attention, &mut TensorMut::new(&mut out, SHAPE).unwrap(), None)
        .unwrap_err();
    assert!(error.to_string().contains("block_mask"), "{error}");
}

#[test]
fn types_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Context>();
    crosses::<Tensor>();
    crosses::<TensorMut>();
    crosses::<Operand>();
    crosses::<Attention>();
    crosses::<Quantized>();
    crosses::<mfa::Error>();
}
