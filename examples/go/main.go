// The flat calls from Go. Memory that C keeps hold of lives in mfa's buffers, as cgo's pointer rules ask for.
//
// Runs causal attention over two heads, compares it with the formula written out, and fails if they differ.
package main

// #cgo pkg-config: mfa
// #include <mfa.h>
import "C"

import (
	"fmt"
	"log"
	"math"
	"unsafe"
)

const (
	sequence = 5
	heads    = 2
	headDim  = 8
	elements = sequence * heads * headDim
)

func check(context C.mfa_context_t, status C.mfa_status_t) {
	if status != C.MFA_SUCCESS {
		log.Fatalf("status %d: %s", status, C.GoString(C.mfa_last_error_message(context)))
	}
}

// newBuffer makes a buffer of float32 and a slice over its memory.
func newBuffer(context C.mfa_context_t) (C.mfa_buffer_t, []float32) {
	var buffer C.mfa_buffer_t
	check(context, C.mfa_create_buffer(context, elements*4, &buffer))
	return buffer, unsafe.Slice((*float32)(C.mfa_buffer_contents(buffer)), elements)
}

// row is one row of one head of a packed [sequence, heads, head_dim] operand.
func row(operand []float32, index, head int) []float32 {
	start := (index*heads + head) * headDim
	return operand[start : start+headDim]
}

func expectedRow(q, k, v []float32, index, head int) [headDim]float64 {
	weights := make([]float64, index+1)
	total := 0.0
	for j := range weights {
		dot := 0.0
		for d, x := range row(q, index, head) {
			dot += float64(x) * float64(row(k, j, head)[d])
		}
		weights[j] = math.Exp(dot / math.Sqrt(headDim))
		total += weights[j]
	}
	var sum [headDim]float64
	for j, weight := range weights {
		for d, x := range row(v, j, head) {
			sum[d] += weight / total * float64(x)
		}
	}
	return sum
}

func main() {
	var context C.mfa_context_t
	check(nil, C.mfa_create_context(&context))
	defer C.mfa_destroy_context(context)
	qBuffer, q := newBuffer(context)
	defer C.mfa_destroy_buffer(qBuffer)
	kBuffer, k := newBuffer(context)
	defer C.mfa_destroy_buffer(kBuffer)
	vBuffer, v := newBuffer(context)
	defer C.mfa_destroy_buffer(vBuffer)
	outBuffer, out := newBuffer(context)
	defer C.mfa_destroy_buffer(outBuffer)

	for i := range q {
		q[i] = float32(math.Sin(0.7 * float64(i)))
		k[i] = float32(math.Cos(1.3 * float64(i)))
		v[i] = float32(math.Sin(0.3*float64(i) + 1))
	}
	check(context, C.mfa_attention_forward(context, qBuffer, kBuffer, vBuffer, outBuffer,
		1, sequence, sequence, heads, headDim, C.float(1/math.Sqrt(headDim)), true,
		C.MFA_PRECISION_FP32, C.MFA_PRECISION_FP32, C.MFA_PRECISION_FP32, false, false, false, false))

	largest := 0.0
	for index := 0; index < sequence; index++ {
		for head := 0; head < heads; head++ {
			for d, want := range expectedRow(q, k, v, index, head) {
				difference := math.Abs(float64(row(out, index, head)[d]) - want)
				if !(difference < 1e-6) {
					log.Fatalf("row %d, head %d: got %g, expected %g", index, head, row(out, index, head)[d], want)
				}
				largest = math.Max(largest, difference)
			}
		}
	}
	fmt.Printf("largest difference from the formula: %.1e\n", largest)
}
