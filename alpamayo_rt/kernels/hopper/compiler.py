# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's runtime compiler (NVRTC), bound with ctypes: CUDA C++ to machine code for one chip.

The library comes with every CUDA build of torch. Names are those of NVIDIA's `nvrtc.h`.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache

from alpamayo_rt.atomic import write_atomically
from alpamayo_rt.errors import InputError
from alpamayo_rt.kernels.products.library import load_library
from alpamayo_rt.user_cache import cache_folder

ARCHITECTURE = "sm_90a"
"""The only one that these kernels are for: their instructions exist nowhere else."""


class CompilerError(RuntimeError):
    """Source was not accepted; the message is the compiler's."""


@cache
def _compiler() -> ctypes.CDLL:
    library = load_library("nvrtc")
    if library is None:
        raise CompilerError("NVRTC: no libnvrtc beside torch or on this system, expected that of a CUDA build")
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def _check(status: int, what: str) -> None:
    if status != 0:
        raise CompilerError(f"{what}: {_compiler().nvrtcGetErrorString(status).decode()}")


def compile_source(source: str, headers: Mapping[str, str], definitions: Sequence[str] = ()) -> bytes:
    """Machine code (a cubin) of `source`, kept in the user's cache folder for the next process.

    Args:
        source: CUDA C++.
        headers: name → text of what it includes.
        definitions: `NAME=value` for the preprocessor.

    Raises:
        CompilerError: there is no compiler, or it says no.
    """
    compiler = _compiler()
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(compiler.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)), "nvrtcVersion")
    said = "\0".join([f"{major.value}.{minor.value}", ARCHITECTURE, source, *definitions, *headers.values()])
    kept = cache_folder() / "kernels" / f"{hashlib.sha256(said.encode()).hexdigest()[:32]}.cubin"
    try:
        return kept.read_bytes()
    except OSError:
        made = _compiled(compiler, source, headers, definitions)
        # A cache that cannot be written is done without.
        with contextlib.suppress(OSError, InputError):
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(kept, made)
        return made


def _compiled(
    compiler: ctypes.CDLL, source: str, headers: Mapping[str, str], definitions: Sequence[str]
) -> bytes:
    program = ctypes.c_void_p()
    names = (ctypes.c_char_p * len(headers))(*(name.encode() for name in headers))
    texts = (ctypes.c_char_p * len(headers))(*(text.encode() for text in headers.values()))
    status = compiler.nvrtcCreateProgram(
        ctypes.byref(program), source.encode(), b"kernel.cu", len(headers), texts, names
    )
    _check(status, "nvrtcCreateProgram")
    try:
        said = [f"-arch={ARCHITECTURE}", "-std=c++17", "-default-device", *(f"-D{d}" for d in definitions)]
        options = (ctypes.c_char_p * len(said))(*(option.encode() for option in said))
        if compiler.nvrtcCompileProgram(program, len(said), options) != 0:
            raise CompilerError(f"CUDA source: {_log(compiler, program)}")
        size = ctypes.c_size_t()
        _check(compiler.nvrtcGetCUBINSize(program, ctypes.byref(size)), "nvrtcGetCUBINSize")
        made = ctypes.create_string_buffer(size.value)
        _check(compiler.nvrtcGetCUBIN(program, made), "nvrtcGetCUBIN")
        return made.raw
    finally:
        compiler.nvrtcDestroyProgram(ctypes.byref(program))


def _log(compiler: ctypes.CDLL, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    compiler.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    compiler.nvrtcGetProgramLog(program, log)
    return re.sub(r"\s+", " ", log.value.decode(errors="replace")).strip()
