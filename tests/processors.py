"""Another processor's kernels on this one: ``python tests/processors.py old COMMAND...``.

PyTorch, oneDNN, MKL, OpenBLAS and NumPy choose their code by what the processor can do, and sums in another
order differ in their last digits. These variables make them choose as on a processor that can do less, so
that one machine shows whether a chapter prints the same on others.
"""

import os
import sys
from collections.abc import Mapping

KERNELS: Mapping[str, Mapping[str, str]] = {
    # Without AVX-512: most desktops, and the machines of most hosted runners.
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
    },
    # MKL has code of its own for each maker's processors; this is what it does on a maker it does not know.
    "compatible": {"MKL_CBWR": "COMPATIBLE"},
    # Without AVX: the furthest from any of today's.
    "old": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL AVX512_SPR",
    },
}
"""Kind -> environment. To NumPy it is no mistake to disable what the machine lacks."""


def main() -> None:
    """Become COMMAND, in the environment of one kind."""
    if len(sys.argv) < 3 or sys.argv[1] not in KERNELS:
        sys.exit(f"usage: python {sys.argv[0]} {'|'.join(KERNELS)} COMMAND...")
    os.execvpe(sys.argv[2], sys.argv[2:], os.environ | KERNELS[sys.argv[1]])


if __name__ == "__main__":
    main()
