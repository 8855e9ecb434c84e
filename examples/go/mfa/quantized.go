package mfa

// #include "calls.h"
import "C"

import "runtime"

// A Quantized is a tensor as codes of 8 bits: each stands for its scale times itself, and each batch and head has a
// scale.
type Quantized struct {
	codes  Tensor
	scales Tensor
}

// NewQuantized makes a quantised tensor of codes, as many as shape has, and scales, as many as its batches times its
// heads, and shares their memory. That scales are positive is checked by the call that uses them.
func NewQuantized(codes []int8, scales []float32, shape Shape) (*Quantized, error) {
	codesTensor, err := NewTensor(codes, shape)
	if err != nil {
		return nil, err
	}
	scalesTensor, err := NewTensor(scales, Shape{shape[0], shape[1], 1, 1})
	if err != nil {
		return nil, err
	}
	return &Quantized{codesTensor, scalesTensor}, nil
}

// Quantize rounds a tensor to codes, as many as it has elements, and writes them and their scales, one for each batch
// and head.
func (c *Context) Quantize(input Tensor, codes []int8, scales []float32) (*Quantized, error) {
	quantized, err := NewQuantized(codes, scales, input.Shape())
	if err != nil {
		return nil, err
	}
	err = c.run(func(handle C.mfa_context_t) C.mfa_status_t {
		return C.mfago_quantize(handle, &input.described, input.data, &quantized.codes.described, quantized.codes.data,
			&quantized.scales.described, quantized.scales.data)
	})
	runtime.KeepAlive(quantized)
	if err != nil {
		return nil, err
	}
	return quantized, nil
}
