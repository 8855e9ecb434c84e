package mfa

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

var shape = Shape{1, 2, 3, 8}

func ramp() []float32 {
	slice := make([]float32, 48)
	for i := range slice {
		slice[i] = float32(i%13)/6 - 1
	}
	return slice
}

func tensor[T Element](t *testing.T, elements []T, shape Shape) Tensor {
	t.Helper()
	made, err := NewTensor(elements, shape)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func context(t *testing.T) *Context {
	t.Helper()
	made, err := NewContext(Options{Backend: CPU, Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// toItself is the attention of a tensor to itself.
func toItself(query Tensor) Attention { return Attention{Query: query, Key: query, Value: query} }

// refused fails unless err is one of this status, whose message has these words.
func refused(t *testing.T, err error, status Status, words string) {
	t.Helper()
	var of *Error
	if !errors.As(err, &of) || of.Status != status || !strings.Contains(of.Message, words) {
		t.Errorf("the error is %v, expected one of status %d with %q", err, status, words)
	}
}

func TestSliceThatDoesNotFitItsShapeIsRefused(t *testing.T) {
	_, err := NewTensor(ramp(), Shape{1, 2, 3, 9})
	refused(t, err, InvalidArgument, "a slice has 48 elements, expected 54 for the shape [1 2 3 9]")
	for _, bad := range []Shape{{1, -2, -3, 8}, {1 << 32, 1 << 32, 1, 1}, {1 << 62, 2, 1, 1}, {1 << 40, 1 << 40, 0, 8}} {
		_, err = NewTensor([]float32{}, bad)
		if bad[2] == 0 {
			if err != nil {
				t.Errorf("%v: %v", bad, err)
			}
			continue
		}
		refused(t, err, InvalidArgument, "a tensor's shape is")
	}
	_, err = NewQuantized(make([]int8, 47), make([]float32, 2), shape)
	refused(t, err, InvalidArgument, "a slice has 47 elements, expected 48")
	_, err = NewQuantized(make([]int8, 48), make([]float32, 3), shape)
	refused(t, err, InvalidArgument, "a slice has 3 elements, expected 2")
}

func TestRefusedCallSaysWhatLibmfaSays(t *testing.T) {
	c := context(t)
	defer c.Close()
	query := tensor(t, ramp(), shape)
	out := tensor(t, make([]float32, 48), shape)

	attention := toItself(query)
	refused(t, c.Forward(&attention, tensor(t, make([]float32, 40), Shape{1, 1, 5, 8}), Tensor{}), InvalidArgument, "out")
	refused(t, c.Forward(&attention, query, Tensor{}), InvalidArgument, "overlap")
	refused(t, c.Forward(&attention, tensor(t, make([]int8, 48), shape), Tensor{}), InvalidArgument, "INT8")
	refused(t, c.Forward(&attention, Tensor{}, Tensor{}), InvalidArgument, "out")

	attention.Causal = true
	refused(t, c.Forward(&attention, out, Tensor{}), InvalidArgument, "alignment")

	attention = toItself(query)
	attention.Blocks = &Blocks{Rows: 2, Keys: 3, Mask: tensor(t, []bool{true}, Shape{1, 1, 1, 1})}
	refused(t, c.Forward(&attention, out, Tensor{}), InvalidArgument, "block_mask")
	attention.Blocks.Mask = Tensor{}
	refused(t, c.Forward(&attention, out, Tensor{}), InvalidArgument, "Blocks.Mask")

	negative, err := NewQuantized(make([]int8, 48), []float32{0.5, -1}, shape)
	if err != nil {
		t.Fatal(err)
	}
	attention = Attention{Query: query, Key: negative, Value: query}
	refused(t, c.Forward(&attention, out, Tensor{}), InvalidArgument, "scales")
	refused(t, c.Forward(&Attention{Query: query}, out, Tensor{}), InvalidArgument, "Key and Value")
}

func TestDeviceThatIsAbsentIsRefused(t *testing.T) {
	if runtime.GOOS == "darwin" {
		t.Skip("for a machine without Metal")
	}
	_, err := NewContext(Options{Backend: Metal})
	refused(t, err, DeviceNotSupported, "")
}

func TestClosedContextIsRefused(t *testing.T) {
	c := context(t)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	attention := toItself(tensor(t, ramp(), shape))
	out := tensor(t, make([]float32, 48), shape)
	_, quantizing := c.Quantize(attention.Query, make([]int8, 48), make([]float32, 2))
	for _, err := range []error{
		c.Close(),
		c.Forward(&attention, out, Tensor{}),
		c.Backward(&attention, out, Tensor{}, out, Gradients{}),
		quantizing,
	} {
		if err != ErrClosed {
			t.Errorf("the error is %v, expected %v", err, ErrClosed)
		}
	}
}

func TestNothingToComputeIsNoError(t *testing.T) {
	c := context(t)
	defer c.Close()
	nothing := Shape{1, 2, 0, 8}
	attention := toItself(tensor(t, []float32{}, nothing))
	if err := c.Forward(&attention, tensor(t, []float32(nil), nothing), Tensor{}); err != nil {
		t.Error(err)
	}
}

// Run with -race, which watches what they share.
func TestContextServesSeveralGoroutinesUntilItIsClosed(t *testing.T) {
	c := context(t)
	attention := toItself(tensor(t, ramp(), shape))
	attention.Causal, attention.Alignment = true, BottomRight
	var calls, all sync.WaitGroup
	for i := 0; i < 8; i++ {
		calls.Add(1)
		all.Add(1)
		out := make([]float32, 48)
		outTensor := tensor(t, out, shape)
		go func() {
			defer all.Done()
			err := c.Forward(&attention, outTensor, Tensor{})
			calls.Done()
			// The first row of a head sees itself alone.
			for i, element := range ramp()[:8] {
				if out[i] != element {
					t.Errorf("out[%d] is %v, expected %v", i, out[i], element)
				}
			}
			// Close waits for calls that run, and those after it are refused.
			for err == nil {
				err = c.Forward(&attention, outTensor, Tensor{})
			}
			if err != ErrClosed {
				t.Error(err)
			}
		}()
	}
	calls.Wait()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	all.Wait()
}

// libmfa keeps messages by thread, and the collector, which stops goroutines, has them go on on other ones.
func TestMessageIsThatOfTheCall(t *testing.T) {
	c := context(t)
	defer c.Close()
	attention := toItself(tensor(t, ramp(), shape))
	const lasting = 100 * time.Millisecond
	start := time.Now()
	var group sync.WaitGroup
	for rows := 10; rows < 18; rows++ {
		group.Add(1)
		out := tensor(t, make([]float32, rows), Shape{1, 1, rows, 1})
		said := fmt.Sprintf("(1, 1, %d, 1)", rows)
		go func() {
			defer group.Done()
			for !t.Failed() && time.Since(start) < lasting {
				refused(t, c.Forward(&attention, out, Tensor{}), InvalidArgument, said)
			}
		}()
	}
	for time.Since(start) < lasting {
		runtime.GC()
	}
	group.Wait()
}

func TestGradientsAreComputedWhereThereIsRoom(t *testing.T) {
	c := context(t)
	defer c.Close()
	slice, dvalue := ramp(), make([]float32, 48)
	logSumExp := make([]float32, 6)
	// A literal scale of 0 gives each key the same weight, a third of dout's sum over rows.
	attention := toItself(tensor(t, slice, shape))
	attention.Scale = new(float32)
	out, saved := tensor(t, make([]float32, 48), shape), tensor(t, logSumExp, Shape{1, 2, 3, 1})
	if err := c.Forward(&attention, out, saved); err != nil {
		t.Fatal(err)
	}
	if math.Abs(float64(logSumExp[0])-math.Log(3)) > 1e-6 {
		t.Errorf("logSumExp is %v, expected ln 3", logSumExp[0])
	}
	gradients := Gradients{Value: tensor(t, dvalue, shape)}
	if err := c.Backward(&attention, out, saved, attention.Query, gradients); err != nil {
		t.Fatal(err)
	}
	if mean := (slice[0] + slice[8] + slice[16]) / 3; math.Abs(float64(dvalue[0]-mean)) > 1e-6 {
		t.Errorf("dvalue is %v, expected %v", dvalue[0], mean)
	}
}

func TestCodesStandForWhatWasQuantised(t *testing.T) {
	c := context(t)
	defer c.Close()
	slice, codes, scales := ramp(), make([]int8, 48), make([]float32, 2)
	if _, err := c.Quantize(tensor(t, slice, shape), codes, scales); err != nil {
		t.Fatal(err)
	}
	for i, code := range codes {
		scale := scales[i/24]
		if math.Abs(float64(scale*float32(code)-slice[i])) > float64(scale/2)+1e-6 {
			t.Errorf("codes[%d] stands for %v, expected %v", i, scale*float32(code), slice[i])
		}
	}
	slice[5] = float32(math.NaN())
	_, err := c.Quantize(tensor(t, slice, shape), codes, scales)
	refused(t, err, InvalidArgument, "")
}

func TestVersionsAreCompared(t *testing.T) {
	for _, of := range []struct {
		found version
		older bool
	}{{version{1, 2, 3}, false}, {version{1, 2, 2}, true}, {version{1, 1, 9}, true}, {version{0, 9, 9}, true},
		{version{1, 3, 0}, false}, {version{2, 0, 0}, false}} {
		if of.found.olderThan(version{1, 2, 3}) != of.older {
			t.Errorf("%v older than 1.2.3: expected %v", of.found, of.older)
		}
	}
}
