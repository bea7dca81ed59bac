"""The arithmetic of a process: as fast as its CPU can, or with the same bits on every x86-64 CPU that has AVX2.

Libraries choose their instructions by the CPU when they are loaded, and sums in another order round otherwise. So one
seed gives other last bits on another make of CPU, and after some epochs figures that differ as those of two seeds do.
"""

import os
import sys
from collections.abc import Collection

from hrm_bench.errors import UsageError

KEY = "trainer.numerics"
PORTABLE = {  # the instructions that each library may use, read when it is loaded
    "ATEN_CPU_CAPABILITY": "avx2",  # PyTorch's own kernels
    "MKL_CBWR": "COMPATIBLE",  # products of matrices; on CPUs that are not Intel's, MKL ignores its other branches
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}


def are_portable() -> bool:
    """Return whether this process was begun with portable arithmetic."""
    return all(os.environ.get(name) == value for name, value in PORTABLE.items())


def capability() -> str:
    """Return the name of the instructions that PyTorch's kernels use in this process, such as AVX2 or AVX512."""
    import torch

    return torch.backends.cpu.get_cpu_capability()


def prepare(words: Collection[str]) -> None:
    """Set the environment of a process that has not loaded PyTorch yet, if these words ask for portable arithmetic."""
    if f"{KEY}=portable" in words:
        os.environ.update(PORTABLE)


def enter(values: Collection[str]) -> None:
    """Begin this command again with portable arithmetic, if its cells ask for it and this process has another.

    Raises UsageError if the cells ask for both, or if this machine cannot.

    Args:
        values: the cells' values of ``trainer.numerics``.
    """
    if "portable" not in values:
        return
    if len(set(values)) > 1:
        raise UsageError(f"{KEY}={','.join(sorted(set(values)))}: one command computes in one way; give one for each")
    if not are_portable():
        os.environ.update(PORTABLE)
        sys.stdout.flush()
        os.execv(sys.executable, sys.orig_argv)
    check()


def check() -> None:
    """Raise UsageError unless this process computes with portable arithmetic."""
    if not are_portable():
        variables = " ".join(f"{name}={value}" for name, value in PORTABLE.items())
        raise UsageError(f"{KEY}=portable: is decided when a process begins; begin this one with {variables}")
    if capability() != "AVX2":
        raise UsageError(
            f"{KEY}=portable: needs an x86-64 CPU with AVX2, and this one has {capability()}; try {KEY}=fast"
        )
