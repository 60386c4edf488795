"""Looks up what C++ needs to give TensorRT nodes an inference that loses no memory (cpp/inference.cc).

The names are those that GCC 4.8 makes of MXNet's C++ functions, in the ABI before C++11. It built the x86-64 wheels of
MXNet 1.9.1, for CPUs and for every version of CUDA. A libmxnet that lacks one of them was built by another compiler,
where the objects behind may look different; it keeps its own inference, as does any other version of MXNet.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple, Optional

from mxnet_trt_property.logs import log

MXNET_VERSION = 10901
OPERATOR = b"_TensorRT"
EXAMPLE = b"FullyConnected"  # its three functions are plain ones, in every build of MXNet


class _Names(NamedTuple):
    """The fields of MxtrtInference, in their order."""

    map: str
    find: str
    set: str
    copy: str
    manager: str
    invoker: str
    helper: str


_SHAPE = _Names(
    map="_ZN4nnvm2Op7GetAttrISt8functionIFbRKNS_9NodeAttrsEPSt6vectorIN5mxnet6TShapeESaIS8_EESB_EEEERKNS_5OpMapIT_EERKSs",
    find="_ZNK4nnvm5OpMapISt8functionIFbRKNS_9NodeAttrsEPSt6vectorIN5mxnet6TShapeESaIS7_EESA_EEEixEPKNS_2OpE",
    set="_ZN4nnvm2Op8set_attrISt8functionIFbRKNS_9NodeAttrsEPSt6vectorIN5mxnet6TShapeESaIS8_EESB_EEEERS0_RKSsRKT_i",
    copy="_ZNSt8functionIFbRKN4nnvm9NodeAttrsEPSt6vectorIN5mxnet6TShapeESaIS6_EES9_EEC1ERKSB_",
    manager="_ZNSt14_Function_base13_Base_managerIPFbRKN4nnvm9NodeAttrsEPSt6vectorIN5mxnet6TShapeESaIS7_EESA_EE"
    "10_M_managerERSt9_Any_dataRKSE_St18_Manager_operation",
    invoker="_ZNSt17_Function_handlerIFbRKN4nnvm9NodeAttrsEPSt6vectorIN5mxnet6TShapeESaIS6_EES9_EPSA_E"
    "9_M_invokeERKSt9_Any_dataS3_S9_S9_",
    helper="_ZN5mxnet2op28DefaultSubgraphOpShapeHelperERKN4nnvm6SymbolEPSt6vectorINS_6TShapeESaIS6_EES9_",
)
_TYPE = _Names(
    map="_ZN4nnvm2Op7GetAttrISt8functionIFbRKNS_9NodeAttrsEPSt6vectorIiSaIiEES9_EEEERKNS_5OpMapIT_EERKSs",
    find="_ZNK4nnvm5OpMapISt8functionIFbRKNS_9NodeAttrsEPSt6vectorIiSaIiEES8_EEEixEPKNS_2OpE",
    set="_ZN4nnvm2Op8set_attrISt8functionIFbRKNS_9NodeAttrsEPSt6vectorIiSaIiEES9_EEEERS0_RKSsRKT_i",
    copy="_ZNSt8functionIFbRKN4nnvm9NodeAttrsEPSt6vectorIiSaIiEES7_EEC1ERKS9_",
    manager="_ZNSt14_Function_base13_Base_managerIPFbRKN4nnvm9NodeAttrsEPSt6vectorIiSaIiEES8_EE"
    "10_M_managerERSt9_Any_dataRKSC_St18_Manager_operation",
    invoker="_ZNSt17_Function_handlerIFbRKN4nnvm9NodeAttrsEPSt6vectorIiSaIiEES7_EPS8_E"
    "9_M_invokeERKSt9_Any_dataS3_S7_S7_",
    helper="_ZN5mxnet2op27DefaultSubgraphOpTypeHelperERKN4nnvm6SymbolEPSt6vectorIiSaIiEES8_",
)
_STORAGE_TYPE = _Names(
    map="_ZN4nnvm2Op7GetAttrISt8functionIFbRKNS_9NodeAttrsEiPN5mxnet12DispatchModeEPSt6vectorIiSaIiEESC_EEEE"
    "RKNS_5OpMapIT_EERKSs",
    find="_ZNK4nnvm5OpMapISt8functionIFbRKNS_9NodeAttrsEiPN5mxnet12DispatchModeEPSt6vectorIiSaIiEESB_EEEixEPKNS_2OpE",
    set="_ZN4nnvm2Op8set_attrISt8functionIFbRKNS_9NodeAttrsEiPN5mxnet12DispatchModeEPSt6vectorIiSaIiEESC_EEEE"
    "RS0_RKSsRKT_i",
    copy="_ZNSt8functionIFbRKN4nnvm9NodeAttrsEiPN5mxnet12DispatchModeEPSt6vectorIiSaIiEESA_EEC1ERKSC_",
    manager="_ZNSt14_Function_base13_Base_managerIPFbRKN4nnvm9NodeAttrsEiPN5mxnet12DispatchModeEPSt6vectorIiSaIiEESB_EE"
    "10_M_managerERSt9_Any_dataRKSF_St18_Manager_operation",
    invoker="_ZNSt17_Function_handlerIFbRKN4nnvm9NodeAttrsEiPN5mxnet12DispatchModeEPSt6vectorIiSaIiEESA_EPSB_E"
    "9_M_invokeERKSt9_Any_dataS3_iS6_SA_SA_",
    helper="_ZN5mxnet2op34DefaultSubgraphOpStorageTypeHelperERKN4nnvm6SymbolEiPNS_12DispatchModeEPSt6vectorIiSaIiEESA_",
)
_STRING_NEW = "_ZNSsC1EPKcRKSaIcE"
_STRING_DESTROY = "_ZNSsD1Ev"


class CInference(ctypes.Structure):
    """MxtrtInference."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in _Names._fields)


class CInferenceApi(ctypes.Structure):
    """MxtrtInferenceApi."""

    _fields_ = (
        ("op", ctypes.c_void_p),
        ("example", ctypes.c_void_p),
        ("string_new", ctypes.c_void_p),
        ("string_destroy", ctypes.c_void_p),
        ("shape", CInference),
        ("type", CInference),
        ("storage_type", CInference),
    )


class _NotAsExpectedError(Exception):
    """Why MXNet keeps its own inference."""


_problem: Optional[str] = "the native library is not loaded into MXNet yet"


def problem() -> Optional[str]:
    """Returns why TensorRT nodes of this process have MXNet's own inference, or None where they have ours."""
    return _problem


def replace(native_library: Any) -> None:
    """Gives TensorRT nodes our inference where everything is as expected, and says so at DEBUG.

    Args:
        native_library: The native library, loaded into MXNet.
    """
    global _problem
    try:
        api = _lookup()
    except _NotAsExpectedError as error:
        _problem = str(error)
    else:
        replaced = native_library.mxtrt_replace_inference(ctypes.byref(api))
        _problem = None if replaced else native_library.mxtrt_error().decode("utf-8", "replace")
    if _problem is None:
        log.debug("TensorRT nodes infer their shapes without the memory that MXNet's inference loses")
    else:
        log.debug("MXNet's inference loses some memory at each bind: %s", _problem)


def _lookup() -> CInferenceApi:
    from mxnet.base import _LIB

    version = ctypes.c_int()
    if _LIB.MXGetVersion(ctypes.byref(version)) != 0 or version.value != MXNET_VERSION:
        raise _NotAsExpectedError(f"MXNet's version number is {version.value}, not {MXNET_VERSION}")
    kinds = [CInference(*(_address(_LIB, name) for name in names)) for names in (_SHAPE, _TYPE, _STORAGE_TYPE)]
    strings = (_address(_LIB, _STRING_NEW), _address(_LIB, _STRING_DESTROY))
    return CInferenceApi(_operator(_LIB, OPERATOR), _operator(_LIB, EXAMPLE), *strings, *kinds)


def _address(mxnet: Any, name: str) -> int:
    try:
        function = getattr(mxnet, name)
    except AttributeError:
        raise _NotAsExpectedError(f"libmxnet was built by another compiler than expected; it has no {name}") from None
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _operator(mxnet: Any, name: bytes) -> ctypes.c_void_p:
    handle = ctypes.c_void_p()
    if mxnet.NNGetOpHandle(name, ctypes.byref(handle)) != 0:
        raise _NotAsExpectedError(f"MXNet has no operator {name.decode()}")
    return handle
