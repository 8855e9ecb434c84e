// Seven results of two heads of eight rows, compared with known values; with the argument bench, two times.
package main

import (
	"fmt"
	"math"
	"os"
	"time"

	"example.org/mfa-example/mfa"
)

const (
	heads    = 2
	rows     = 8
	columns  = 8
	elements = heads * rows * columns
	// What is printed of each result: four columns of this row of the second head.
	printed = (rows + 5) * columns
)

var shape = mfa.Shape{1, heads, rows, columns}

func main() {
	err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	switch {
	case len(arguments) == 0:
		return knownValues()
	case arguments[0] == "bench":
		return bench()
	}
	return fmt.Errorf("the argument is %q, expected bench or none", arguments[0])
}

func knownValues() error {
	context, err := mfa.NewContext(mfa.Options{})
	if err != nil {
		return err
	}
	defer context.Close()
	var tensors [3]mfa.Tensor
	for i, of := range [3][2]int{{5, 0}, {7, 3}, {11, 5}} {
		if tensors[i], err = mfa.NewTensor(numbers(of[0], of[1]), shape); err != nil {
			return err
		}
	}
	full := mfa.Attention{Query: tensors[0], Key: tensors[1], Value: tensors[2]}
	if err := forward(context, "forward", full, [4]float32{0.222707, -0.012910, -0.264847, 0.097707}); err != nil {
		return err
	}

	causal := full
	causal.Causal, causal.Alignment = true, mfa.TopLeft
	if err := backward(context, causal); err != nil {
		return err
	}

	window := full
	window.Window, window.Alignment = &mfa.Window{Left: 2, Right: 0}, mfa.TopLeft
	if err := forward(context, "window", window, [4]float32{-0.101362, -0.108237, 0.523638, -0.226362}); err != nil {
		return err
	}

	seen := []bool{true, true, false, false, true, false, true, true}
	mask, err := mfa.NewTensor(seen, mfa.Shape{1, 1, 2, 4})
	if err != nil {
		return err
	}
	blocks := full
	blocks.Blocks = &mfa.Blocks{Rows: 4, Keys: 2, Mask: mask}
	if err := forward(context, "blocks", blocks, [4]float32{0.510920, -0.239080, -0.331950, 0.385920}); err != nil {
		return err
	}

	scales := []float32{0.125, 0.25}
	key, err := mfa.NewQuantized(codes(7, 3), scales, shape)
	if err != nil {
		return err
	}
	value, err := mfa.NewQuantized(codes(11, 5), scales, shape)
	if err != nil {
		return err
	}
	quantised := mfa.Attention{Query: full.Query, Key: key, Value: value}
	return forward(context, "quantised", quantised, [4]float32{0.509885, -0.074666, -0.655668, 0.259885})
}

func forward(context *mfa.Context, name string, attention mfa.Attention, expected [4]float32) error {
	result := make([]float32, elements)
	out, err := mfa.NewTensor(result, shape)
	if err != nil {
		return err
	}
	if err := context.Forward(&attention, out, mfa.Tensor{}); err != nil {
		return err
	}
	return check(name, result, expected)
}

func backward(context *mfa.Context, attention mfa.Attention) error {
	// out, dout, and the gradients of query, key and value.
	var slices [5][]float32
	var tensors [5]mfa.Tensor
	for i := range slices {
		slices[i] = make([]float32, elements)
		if i == 1 {
			slices[i] = numbers(3, 1)
		}
		var err error
		if tensors[i], err = mfa.NewTensor(slices[i], shape); err != nil {
			return err
		}
	}
	out, dout := tensors[0], tensors[1]
	logSumExp, err := mfa.NewTensor(make([]float32, heads*rows), mfa.Shape{1, heads, rows, 1})
	if err != nil {
		return err
	}
	if err := context.Forward(&attention, out, logSumExp); err != nil {
		return err
	}
	gradients := mfa.Gradients{Query: tensors[2], Key: tensors[3], Value: tensors[4]}
	if err := context.Backward(&attention, out, logSumExp, dout, gradients); err != nil {
		return err
	}
	if err := check("dq", slices[2], [4]float32{0.034121, -0.116048, 0.024352, -0.027352}); err != nil {
		return err
	}
	if err := check("dk", slices[3], [4]float32{0.044962, 0.017408, -0.049931, 0.036372}); err != nil {
		return err
	}
	return check("dv", slices[4], [4]float32{-0.047868, -0.027844, 0.124267, 0.276377})
}

func codes(step, shift int) []int8 {
	result := make([]int8, elements)
	for i := range result {
		result[i] = int8((step*i+shift)%17 - 8)
	}
	return result
}

func numbers(step, shift int) []float32 {
	result := make([]float32, elements)
	for i, code := range codes(step, shift) {
		result[i] = float32(code) / 8
	}
	return result
}

func check(name string, result []float32, expected [4]float32) error {
	found := result[printed : printed+4]
	fmt.Printf("%s %.6f %.6f %.6f %.6f\n", name, found[0], found[1], found[2], found[3])
	for i := range expected {
		if !(math.Abs(float64(found[i]-expected[i])) < 1e-5) {
			return fmt.Errorf("%s is %v, expected %v", name, found, expected)
		}
	}
	return nil
}

func bench() error {
	const heads, rows, columns = 8, 1024, 64
	seconds, err := leastSeconds(mfa.Options{}, mfa.Shape{1, heads, rows, columns}, 20, 1)
	if err != nil {
		return err
	}
	instructions := float64((2*columns + 5) * heads * rows * rows)
	fmt.Printf("forward 1x%dx%dx%d float32: %.2f ms, %.1f GINSTRS/s\n", heads, rows, columns, seconds*1e3,
		instructions/seconds/1e9)

	if seconds, err = leastSeconds(mfa.Options{Threads: 1}, mfa.Shape{1, 1, 16, 64}, 1, 5000); err != nil {
		return err
	}
	fmt.Printf("call 1x1x16x64 float32: %.2f us\n", seconds*1e6)
	return nil
}

// leastSeconds is how long a call takes, the mean of so many, in the best of some runs. The Attention is made once.
func leastSeconds(options mfa.Options, shape mfa.Shape, runs, calls int) (float64, error) {
	context, err := mfa.NewContext(options)
	if err != nil {
		return 0, err
	}
	defer context.Close()
	// Query, key, value and out.
	var tensors [4]mfa.Tensor
	for i := range tensors {
		slice := make([]float32, shape[0]*shape[1]*shape[2]*shape[3])
		for j := range slice {
			slice[j] = float32(math.Sin(float64((2*i + 1) * j)))
		}
		if tensors[i], err = mfa.NewTensor(slice, shape); err != nil {
			return 0, err
		}
	}
	attention := &mfa.Attention{Query: tensors[0], Key: tensors[1], Value: tensors[2]}
	// The first call finds its workspace.
	if err := context.Forward(attention, tensors[3], mfa.Tensor{}); err != nil {
		return 0, err
	}
	least := math.Inf(1)
	for i := 0; i < runs; i++ {
		start := time.Now()
		for j := 0; j < calls; j++ {
			if err := context.Forward(attention, tensors[3], mfa.Tensor{}); err != nil {
				return 0, err
			}
		}
		least = math.Min(least, time.Since(start).Seconds()/float64(calls))
	}
	return least, nil
}
