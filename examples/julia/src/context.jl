"Why the library refused a call or failed, with its message."
struct MFAError <: Exception
    status::Int32
    message::String
end

Base.showerror(io::IO, error::MFAError) =
    print(io, "MFAError: ", unsafe_string(error_string(error.status)), ": ", error.message)

function check(status::Int32)
    status == MFA_SUCCESS || throw(MFAError(status, unsafe_string(last_error_message())))
    return nothing
end

function check_version()
    parts = zeros(Cint, 3)
    GC.@preserve parts get_version(pointer(parts, 1), pointer(parts, 2), pointer(parts, 3))
    found = Tuple(parts)
    found >= HEADER_VERSION ||
        error("$libmfa is mfa $(join(found, '.')), expected at least $(join(HEADER_VERSION, '.')), for which this is written")
    return nothing
end

"""
    Context(; backend = :auto, threads = 0)

A device, `:cpu`, `:metal` or `:auto`, and the most threads that a call may use on the CPU, 0 for all. Any number of tasks
may use one at once. It is freed with its last reference, or by `close`, after which it is refused.
"""
mutable struct Context
    handle::Ptr{Cvoid}

    function Context(; backend::Symbol = :auto, threads::Integer = 0)
        backends = (auto = MFA_BACKEND_AUTO, cpu = MFA_BACKEND_CPU, metal = MFA_BACKEND_METAL)
        haskey(backends, backend) || throw(ArgumentError("backend: $backend, expected one of $(keys(backends))"))
        options = Ref(mfa_context_options_t(backend = backends[backend], num_threads = threads))
        handle = Ref{Ptr{Cvoid}}(C_NULL)
        GC.@preserve options handle check(
            create_context(
                Base.unsafe_convert(Ptr{mfa_context_options_t}, options),
                Base.unsafe_convert(Ptr{Ptr{Cvoid}}, handle),
            ),
        )
        return finalizer(close, new(handle[]))
    end
end

"Frees the context. No task may be in a call of it. A second time does nothing."
function Base.close(context::Context)
    handle, context.handle = context.handle, C_NULL
    destroy_context(handle)
    return nothing
end

function open_handle(context::Context)
    context.handle == C_NULL && throw(ArgumentError("context: closed, expected an open one"))
    return context.handle
end
