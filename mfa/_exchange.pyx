"""torch tensors by DLPack's C exchange API, which costs a tenth of what a capsule does; it knows plain ones only.

All that is odd about a tensor, or wrong with it, is the business of `mfa._tensors`, which says what it is.
"""

import sys

from cpython.exc cimport PyErr_Clear
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t

from mfa._dlpack cimport (
    DLPACK_MAJOR_VERSION,
    DLPackExchangeAPI,
    DLPackExchangeAPIHeader,
    DLTensor,
    kDLComplex,
    kDLCPU,
)
from mfa.c_mfa cimport MFA_PRECISION_BF16, MFA_PRECISION_FP16, MFA_PRECISION_FP32

from mfa._messages import because, shown

cdef enum:
    MOST_AXES = 4  # of results

ctypedef int (*Describe)(void *array, DLTensor *out) noexcept

# What this module uses of torch, once somebody has imported it.
cdef Describe describe = NULL
cdef object Tensor, Parameter
cdef object is_grad_enabled, is_neg, forward_ad
cdef object tracing_state, is_key_included, PRE_DISPATCH, count_modes, has_transforms, is_autocast_enabled
cdef object empty_strided
cdef dict DTYPES


cdef bint find_torch() except -1:
    """Whether torch is there with all of it. Asked in vain, it may come later."""
    global describe, Tensor, Parameter, is_grad_enabled, is_neg, forward_ad
    global tracing_state, is_key_included, PRE_DISPATCH, count_modes, has_transforms, is_autocast_enabled
    global empty_strided, DTYPES
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    try:
        Tensor, Parameter = torch.Tensor, torch.nn.Parameter
        is_grad_enabled, is_neg, forward_ad = torch.is_grad_enabled, Tensor.is_neg, torch.autograd.forward_ad
        tracing_state = torch._C._get_tracing_state
        is_key_included, PRE_DISPATCH = torch._C._dispatch_tls_is_dispatch_key_included, torch._C.DispatchKey.PreDispatch
        count_modes, has_transforms = torch._C._len_torch_dispatch_stack, torch._C._are_functorch_transforms_active
        is_autocast_enabled = torch._C._is_any_autocast_enabled
        # As compiled programs allocate, which takes a third of torch.empty's time.
        empty_strided = torch._C._dynamo.guards._empty_strided_cpu
        DTYPES = {
            MFA_PRECISION_FP32: torch.float32,
            MFA_PRECISION_FP16: torch.float16,
            MFA_PRECISION_BF16: torch.bfloat16,
        }
        describe = describer(Tensor.__dlpack_c_exchange_api__)
    except AttributeError:  # it is not there, or not yet whole, or of a version that lacks some of it
        return False
    return describe != NULL


cdef Describe describer(object capsule) except? NULL:
    """The function that describes a tensor; NULL where it is of no version that is known here."""
    cdef DLPackExchangeAPIHeader *header = <DLPackExchangeAPIHeader *> PyCapsule_GetPointer(
        capsule, "dlpack_exchange_api")
    while header != NULL and header.version.major != DLPACK_MAJOR_VERSION:
        header = header.prev_api
    return NULL if header == NULL else (<DLPackExchangeAPI *> header).dltensor_from_py_object_no_sync


cdef bint is_plain_type(object kind) except -1:
    """Whether its tensors are torch's own: a subclass may make anything of what is asked of it."""
    return (describe != NULL or find_torch()) and (kind is Tensor or kind is Parameter)


cdef bint read_tensor(object array, TorchState *state, DLTensor *out) except -1:
    """Whether `array` is a tensor of which there is no more to say than `out` then does.

    `out` borrows shape and strides, for as long as nobody changes the tensor. `state` is asked for once, and so
    to be of one call.
    """
    if not is_plain_type(type(array)):
        return False
    if not state.asked:
        ask(state)
    if not state.plain or state.records and array.requires_grad or is_neg(array):
        return False
    if describe(<PyObject *> array, out) != 0:
        PyErr_Clear()  # the other way finds out what is wrong
        return False
    # What torch transforms or keeps elsewhere has NULL here, if it has anything.
    return out.data != NULL and out.device.device_type == kDLCPU and out.dtype.code != kDLComplex


cdef int ask(TorchState *state) except -1:
    state.plain = (
        forward_ad._current_level < 0 and tracing_state() is None and count_modes() == 0
        and not is_key_included(PRE_DISPATCH) and not has_transforms())
    state.records = is_grad_enabled()
    state.casts = is_autocast_enabled()
    state.asked = True
    return 0


cdef object new_tensor(object like, tuple shape, int precision, bint heads_inside):
    """What `mfa._tensors.new_array` makes; None where that has to be asked itself."""
    cdef int64_t[MOST_AXES] strides = [1, 1, 1, 1]
    cdef int64_t stride = 1
    cdef int place, axis, ndim = len(shape)
    cdef tuple result_strides
    if ndim > MOST_AXES or not is_plain_type(type(like)):
        return None
    for place in range(1, ndim + 1):  # from the innermost axis
        axis = ndim - place
        if heads_inside and ndim > 2 and place in (2, 3):
            axis = ndim - 5 + place
        strides[axis] = stride
        stride *= max(<int64_t> shape[axis], 1)
    if ndim == 4:
        result_strides = (strides[0], strides[1], strides[2], strides[3])
    elif ndim == 3:
        result_strides = (strides[0], strides[1], strides[2])
    else:
        result_strides = (strides[0], strides[1])[:ndim]
    try:
        return empty_strided(shape, result_strides, DTYPES[precision])
    except RuntimeError as error:
        raise MemoryError(f"a result of shape {shown(shape)}: {because(error)}") from error


cdef int describe_new(object tensor, DLTensor *out) except -1:
    """As read_tensor(), of what new_tensor() made."""
    return -1 if describe(<PyObject *> tensor, out) != 0 else 0
