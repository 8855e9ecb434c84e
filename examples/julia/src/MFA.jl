"""
Attention through libmfa.

An array of Julia's with sizes (head_dim, rows, heads, batch) lies as the library wants it; views work too, as strides
are passed on. Nothing is copied.
"""
module MFA

# Where the library is is asked anew at each start, so nothing of it may be kept from an earlier one.
__precompile__(false)

using Libdl

export Attention, Blocks, Context, MFAError, Quantized, backward!, forward!, run!

"The library that pkg-config knows, else what the loader finds by its name."
function library()
    name = "libmfa.$(Libdl.dlext)"
    Sys.which("pkg-config") === nothing && return name
    known = success(`pkg-config --exists mfa`)
    return known ? joinpath(readchomp(`pkg-config --variable=libdir mfa`), name) : name
end

const libmfa = library()

include("c.jl")
include("context.jl")
include("attention.jl")

__init__() = check_version()

end
