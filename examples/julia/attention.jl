# Every result of one small problem of 2 heads, 8 rows and 8 columns, compared with numbers known beforehand; or, with
# the argument bench, times.

using MFA
using Printf

const SIZES = (8, 8, 2, 1)

codes(step, shift) = reshape(Int8[(step * i + shift) % 17 - 8 for i = 0:prod(SIZES)-1], SIZES)
numbers(step, shift) = codes(step, shift) ./ 8.0f0

"Prints head 1, row 5, columns 0 to 3, counted from 0, and compares them."
function expect(name, result, expected)
    found = result[1:4, 6, 2, 1]
    println(name, map(number -> @sprintf(" %.6f", number), found)...)
    all(abs.(found .- expected) .<= 1e-5) || error("$name: $found, expected $expected")
end

function check_known_values()
    context = Context()
    query, key, value, dout = numbers(5, 0), numbers(7, 3), numbers(11, 5), numbers(3, 1)
    out = similar(query)
    expect("forward", forward!(context, out, query, key, value), [0.222707, -0.012910, -0.264847, 0.097707])

    logsumexp = Array{Float32}(undef, 1, 8, 2, 1)
    dq, dk, dv = similar(query), similar(key), similar(value)
    forward!(context, out, query, key, value; causal = true, logsumexp = logsumexp)
    backward!(context, dq, dk, dv, dout, out, query, key, value; causal = true, logsumexp = logsumexp)
    expect("dq", dq, [0.034121, -0.116048, 0.024352, -0.027352])
    expect("dk", dk, [0.044962, 0.017408, -0.049931, 0.036372])
    expect("dv", dv, [-0.047868, -0.027844, 0.124267, 0.276377])

    forward!(context, out, query, key, value; window = (2, 0))
    expect("window", out, [-0.101362, -0.108237, 0.523638, -0.226362])

    # A column for each block of 4 rows, a row for each block of 2 keys.
    seen = reshape([true true; true false; false true; false true], 4, 2, 1, 1)
    forward!(context, out, query, key, value; blocks = Blocks(seen, 4, 2))
    expect("blocks", out, [0.510920, -0.239080, -0.331950, 0.385920])

    scales = reshape([0.125f0, 0.25f0], 1, 1, 2, 1)
    forward!(context, out, query, Quantized(codes(7, 3), scales), Quantized(codes(11, 5), scales))
    expect("quantised", out, [0.509885, -0.074666, -0.655668, 0.259885])
end

function bench()
    operands(sizes) = Attention(Array{Float32}(undef, sizes), (rand(Float32, sizes) for _ = 1:3)...)
    large, context = operands((64, 1024, 8, 1)), Context()
    run!(large, context)
    seconds = minimum(@elapsed(run!(large, context)) for _ = 1:20)
    instructions = (2 * 64 + 5) * 8 * 1024 * 1024
    @printf("forward 1x8x1024x64 float32: %.2f ms, %.1f GINSTRS/s\n", 1e3 * seconds, instructions / seconds / 1e9)

    small, single, count = operands((64, 16, 1, 1)), Context(threads = 1), 5000
    run!(small, single)
    seconds = @elapsed for _ = 1:count
        run!(small, single)
    end
    @printf("call 1x1x16x64 float32: %.2f us\n", 1e6 * seconds / count)
end

"bench" in ARGS ? bench() : check_known_values()
