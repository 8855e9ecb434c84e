import FlashAttention

if CommandLine.arguments.dropFirst().first == "bench" {
    let forward = try Benchmark(Context(), heads: 8, rows: 1024, head: 64)
    let time = try forward.best(of: 20)
    let rate = forward.instructions / time / 1e9
    print("forward 1x8x1024x64 float32: \(fixed(time * 1e3, 2)) ms, \(fixed(rate, 1)) GINSTRS/s")
    let call = try Benchmark(Context(threads: 1), heads: 1, rows: 16, head: 64)
    print("call 1x1x16x64 float32: \(fixed(try call.mean(of: 5000) * 1e6, 2)) us")
} else {
    try KnownValues(Context()).check()
}
