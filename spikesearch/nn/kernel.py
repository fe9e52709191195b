"""The compiled helper of the LIF: built once per machine with the system's C compiler, absent where there is none."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

logger = logging.getLogger(__name__)

# No contraction and no fast-math: spikes have to equal those of the separate tensor operations. GCC's dominator pass
# would turn the selects of the backward loop into branches, which keeps it from being vectorised (10 times slower).
_FLAGS = (
    "-O3",
    "-march=native",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fno-tree-dominator-opts",
    "-shared",
    "-fPIC",
    "-pthread",
)


class LIFKernel:
    """The functions of ``lif_cpu.c``; pointers are plain addresses of float32 memory, or of bfloat16 where named so."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, long, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
        self.forward = library.lif_forward
        self.forward_bf16 = library.lif_forward_bf16
        for function in (self.forward, self.forward_bf16):
            function.argtypes = [pointer, pointer, long, long, long, real, real, ctypes.c_int]
            function.restype = None
        self.backward = library.lif_backward
        self.backward.argtypes = [pointer, pointer, pointer, long, long, long, real, real, real, ctypes.c_int]
        self.backward.restype = None


@lru_cache(maxsize=1)
def lif_kernel() -> LIFKernel | None:
    """Return the compiled helper, building it on first use, or ``None`` where that is impossible.

    The library is kept in the user's cache folder (``$XDG_CACHE_HOME/spikesearch``, else ``~/.cache/spikesearch``)
    under a name that depends on the source, the compiler's flags and the processor. Set ``SPIKESEARCH_LIF=eager`` to
    do without it.
    """
    if os.environ.get("SPIKESEARCH_LIF", "").lower() == "eager":
        return None
    try:
        return LIFKernel(ctypes.CDLL(str(_build())))
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        logger.info("No compiled LIF (%s): the slower PyTorch version is used; a C compiler helps.", error)
        return None


def _build() -> Path:
    source = Path(__file__).with_name("lif_cpu.c")
    identity = hashlib.sha256(b"\0".join([source.read_bytes(), " ".join(_FLAGS).encode(), _processor().encode()]))
    name = f"lif-{identity.hexdigest()[:16]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spikesearch"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        private = status.st_uid == os.getuid() and not status.st_mode & 0o022 and os.access(folder, os.W_OK)
    except OSError:
        private = False
    if not private:  # never load code from a folder that others may write to
        folder = Path(tempfile.mkdtemp(prefix="spikesearch-"))
    target = folder / name
    if target.exists():
        return target
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise FileNotFoundError("no C compiler was found")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        built = Path(scratch) / name
        subprocess.run([compiler, *_FLAGS, str(source), "-o", str(built)], check=True, capture_output=True, timeout=120)
        os.replace(built, target)
    return target


def _processor() -> str:
    """Name what ``-march=native`` depends on, so that a home folder shared by different machines is safe."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))}))
    except OSError:
        return platform.machine() + platform.processor()
