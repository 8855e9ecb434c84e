using MFA
using Test

"Softmax attention of one head, (head_dim, rows), as the formula says; `seen` is (keys, rows)."
function formula(query, key, value, seen = trues(size(key, 2), size(query, 2)))
    scores = key' * query ./ sqrt(size(query, 1))
    weights = exp.(scores) .* seen
    return value * (weights ./ sum(weights; dims = 1))
end

sample(sizes...) = Float32.(sin.(1:prod(sizes)) |> numbers -> reshape(numbers, sizes))

@testset "mfa" begin
    context = Context(threads = 1)
    query, key, value = sample(8, 5, 2, 1), sample(8, 7, 1, 1) .+ 1, sample(6, 7, 1, 1)
    out = fill(NaN32, 6, 5, 2, 1)

    @testset "grouped heads, sizes that differ" begin
        forward!(context, out, query, key, value)
        for head = 1:2
            @test out[:, :, head, 1] ≈ formula(query[:, :, head, 1], key[:, :, 1, 1], value[:, :, 1, 1]) rtol = 1e-5
        end
    end

    @testset "causal from the bottom right" begin
        forward!(context, out, query, key, value; causal = true, alignment = :bottom_right)
        seen = [j <= i + 2 for j = 1:7, i = 1:5]
        @test out[:, :, 2, 1] ≈ formula(query[:, :, 2, 1], key[:, :, 1, 1], value[:, :, 1, 1], seen) rtol = 1e-5
    end

    @testset "views are read and written where they lie" begin
        large = fill(NaN32, 12, 5, 4, 1)
        view_of_out, view_of_query = view(large, 3:8, :, 1:2:3, :), view(repeat(query, 2, 1, 1, 1), 1:8, 5:-1:1, :, :)
        forward!(context, view_of_out, view_of_query, key, value)
        forward!(context, out, query, key, value)
        @test view_of_out == reverse(out; dims = 2)
        @test count(isnan, large) == length(large) - length(out)
    end

    @testset "Float16" begin
        half = Float16.(out)
        forward!(context, half, Float16.(query), Float16.(key), Float16.(value))
        forward!(context, out, query, key, value)
        @test half ≈ out rtol = 1e-2
    end

    @testset "scale" begin
        forward!(context, out, query, key, value; scale = 0)
        @test out[:, 1, 1, 1] ≈ vec(sum(value; dims = 2)) ./ 7 rtol = 1e-5
    end

    @testset "refusals" begin
        @test_throws DimensionMismatch forward!(context, out, query, key, value[:, 1:6, :, :])
        @test_throws DimensionMismatch forward!(context, out[:, 1:4, :, :], query, key, value)
        @test_throws ArgumentError forward!(context, out, query, key, value; alignment = :left)
        @test_throws ArgumentError Context(backend = :gpu)
        refusal = try
            forward!(context, out, query, repeat(key, 1, 1, 3, 1), repeat(value, 1, 1, 3, 1))
        catch error
            error
        end
        @test refusal isa MFAError && refusal.status == 1 && occursin("3", refusal.message)
        @test occursin(refusal.message, sprint(showerror, refusal))
        @test_throws MFAError Context(threads = -1)
    end

    @testset "a closed context" begin
        closed = Context()
        close(closed)
        close(closed)
        @test_throws ArgumentError forward!(closed, out, query, key, value)
    end

    @testset "arrays live as long as the call" begin
        call = Attention(out, copy(query), copy(key), copy(value))
        expected = forward!(context, similar(out), query, key, value)
        GC.gc()
        run!(call, context)
        @test out == expected
    end
end
