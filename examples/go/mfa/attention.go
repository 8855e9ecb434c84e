package mfa

// #include "calls.h"
import "C"

// An Alignment says where row i stands among the keys. Causal masks and windows count from there.
type Alignment int32

const (
	// NoAlignment is for calls without a causal mask or a window.
	NoAlignment Alignment = C.MFA_ALIGN_NONE
	// TopLeft is at key i.
	TopLeft Alignment = C.MFA_ALIGN_TOP_LEFT
	// BottomRight is at key i + Nkv - Nq.
	BottomRight Alignment = C.MFA_ALIGN_BOTTOM_RIGHT
)

// An Operand is keys or values: a Tensor or a *Quantized.
type Operand interface {
	// stored is the elements, or the codes and their scales.
	stored() (elements, scales Tensor)
}

func (t Tensor) stored() (elements, scales Tensor) { return t, Tensor{} }

func (q *Quantized) stored() (elements, scales Tensor) { return q.codes, q.scales }

// A Window is how many keys a row sees on either side of the one where it stands.
type Window struct {
	Left, Right uint32
}

// Blocks are blocks of the scores that count; all others are hidden and never visited.
type Blocks struct {
	Rows, Keys uint32 // of a block
	Mask       Tensor // (B or 1, H or 1, rows of blocks, columns of blocks) of bool
}

// An Attention is what a call computes but for its results, with B batches, H query heads, Hkv key/value heads (H is a
// multiple), Nq queries and Nkv keys.
type Attention struct {
	Query     Tensor   // (B, H, Nq, D)
	Key       Operand  // (B, Hkv, Nkv, D)
	Value     Operand  // (B, Hkv, Nkv, Dv)
	Scale     *float32 // nil: 1/sqrt(D)
	Causal    bool     // row i sees no key after the one where it stands
	Alignment Alignment
	Window    *Window // nil: not bounded
	Blocks    *Blocks // nil: all count
}

// Gradients are where gradients go; those that are the zero value are not computed.
type Gradients struct {
	Query, Key, Value Tensor
}

// A call is an Attention as C takes it: numbers, and apart from these the addresses.
type call struct {
	described                         C.mfago_attention
	query, key, value, out, logSumExp Tensor
	blockMask, keyScales, valueScales Tensor
}

func (a *Attention) call(out, logSumExp Tensor) (*call, error) {
	if a.Key == nil || a.Value == nil {
		return nil, invalid("an attention's Key and Value are %v and %v, expected Tensors or *Quantized ones", a.Key,
			a.Value)
	}
	call := &call{query: a.Query, out: out, logSumExp: logSumExp}
	call.key, call.keyScales = a.Key.stored()
	call.value, call.valueScales = a.Value.stored()
	to := &call.described
	to.alignment = C.int32_t(a.Alignment)
	to.window_left, to.window_right = -1, -1
	if a.Causal {
		to.flags |= C.MFA_ATTENTION_CAUSAL
	}
	if a.Scale != nil {
		to.flags |= C.MFA_ATTENTION_LITERAL_SCALE
		to.scale = C.float(*a.Scale)
	}
	if a.Window != nil {
		to.window_left, to.window_right = C.int64_t(a.Window.Left), C.int64_t(a.Window.Right)
	}
	if a.Blocks != nil {
		to.block_rows, to.block_keys = C.int64_t(a.Blocks.Rows), C.int64_t(a.Blocks.Keys)
		call.blockMask = a.Blocks.Mask
		if call.blockMask.described.given == 0 {
			return nil, invalid("Blocks.Mask is none, expected a Tensor of bool")
		}
	}
	to.query, to.key, to.value = call.query.described, call.key.described, call.value.described
	to.out, to.logsumexp = call.out.described, call.logSumExp.described
	to.block_mask = call.blockMask.described
	to.key_scales, to.value_scales = call.keyScales.described, call.valueScales.described
	return call, nil
}

// Forward runs one call and waits for it. out is (B, H, Nq, Dv) of float32, Half or BFloat16; logSumExp, which a
// backward call needs, is (B, H, Nq, 1) of float32, or the zero value.
func (c *Context) Forward(attention *Attention, out, logSumExp Tensor) error {
	a, err := attention.call(out, logSumExp)
	if err != nil {
		return err
	}
	return c.run(func(handle C.mfa_context_t) C.mfa_status_t {
		return C.mfago_forward(handle, &a.described, a.query.data, a.key.data, a.value.data, a.out.data,
			a.logSumExp.data, a.blockMask.data, a.keyScales.data, a.valueScales.data)
	})
}

// Backward computes the gradients of a forward call that there is room for, and waits for them. out and logSumExp are
// what the forward call wrote, dout is the gradient of out.
func (c *Context) Backward(attention *Attention, out, logSumExp, dout Tensor, gradients Gradients) error {
	a, err := attention.call(out, logSumExp)
	if err != nil {
		return err
	}
	described := C.mfago_gradients{dout.described, gradients.Query.described, gradients.Key.described,
		gradients.Value.described}
	return c.run(func(handle C.mfa_context_t) C.mfa_status_t {
		return C.mfago_backward(handle, &a.described, a.query.data, a.key.data, a.value.data, a.out.data,
			a.logSumExp.data, a.blockMask.data, a.keyScales.data, a.valueScales.data, &described, dout.data,
			gradients.Query.data, gradients.Key.data, gradients.Value.data)
	})
}
