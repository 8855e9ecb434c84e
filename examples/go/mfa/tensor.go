package mfa

// #include "calls.h"
import "C"

import (
	"math/bits"
	"unsafe"
)

// A Shape is the number of batches, heads, rows and columns.
type Shape [4]int

// Half is the bits of an IEEE 754 number of 16 bits, which Go has no type for.
type Half uint16

// BFloat16 is the upper half of the bits of a float32.
type BFloat16 uint16

// An Element is what a tensor may consist of: numbers, codes of 8 bits, or bool for masks.
type Element interface {
	float32 | Half | BFloat16 | int8 | bool
}

// A Tensor is a view of a slice, packed, which it keeps alive. The zero value is none.
type Tensor struct {
	described C.mfago_tensor
	data      *C.mfago_bytes
}

// NewTensor makes a view of a slice, whose memory it shares. There must be as many elements as shape has.
func NewTensor[T Element](elements []T, shape Shape) (Tensor, error) {
	count, ok := shape.elements()
	if !ok {
		return Tensor{}, invalid("a tensor's shape is %v, expected sizes that are not negative and a product of "+
			"at most 63 bits", shape)
	}
	if count != len(elements) {
		return Tensor{}, invalid("a slice has %d elements, expected %d for the shape %v", len(elements), count, shape)
	}
	tensor := Tensor{described: C.mfago_tensor{precision: precisionOf[T](), given: 1}}
	for axis, size := range shape {
		tensor.described.shape[axis] = C.int64_t(size)
	}
	if count > 0 {
		tensor.data = (*C.mfago_bytes)(unsafe.Pointer(&elements[0]))
	}
	return tensor, nil
}

func precisionOf[T Element]() C.int32_t {
	var element T
	switch any(element).(type) {
	case Half:
		return C.MFA_PRECISION_FP16
	case BFloat16:
		return C.MFA_PRECISION_BF16
	case int8:
		return C.MFA_PRECISION_INT8
	case bool:
		return C.MFA_PRECISION_BOOL
	}
	return C.MFA_PRECISION_FP32
}

// Shape is the number of batches, heads, rows and columns.
func (t Tensor) Shape() Shape {
	var shape Shape
	for axis, size := range t.described.shape {
		shape[axis] = int(size)
	}
	return shape
}

// elements is the product of the sizes, and whether that and the strides of a packed tensor fit.
func (s Shape) elements() (int, bool) {
	product := uint64(1)
	for axis := 3; axis >= 0; axis-- {
		if s[axis] < 0 {
			return 0, false
		}
		high, low := bits.Mul64(product, uint64(s[axis]))
		if high != 0 || low > 1<<63-1 {
			return 0, false
		}
		product = low
	}
	return int(product), true
}
