"""Which versions on which machine: written into every run, and shown by `bellmark doctor`."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

from bellmark._version import __version__

PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "numba", "equinox", "optax", "gymnasium", "safetensors")


def installed(package: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions of Bellmark, Python and what numbers depend on; packages that are missing are left out."""
    found = {package: installed(package) for package in PACKAGES}
    present = {package: version for package, version in found.items() if version}
    return {"bellmark": __version__, "python": platform.python_version(), **present}


def machine() -> dict[str, Any]:
    """Processor, usable cores, memory, platform; and JAX's devices, if JAX is loaded already."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    jax = sys.modules.get("jax")
    if jax is not None:
        found["backend"] = jax.default_backend()
        found["devices"] = [str(device.device_kind) for device in jax.devices()]
    return found


def cores() -> int:
    """Cores that this process may run on, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Physical memory, or the container's limit where that is lower; None where the system does not say."""
    try:
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return physical
    return min(physical, limit)


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
