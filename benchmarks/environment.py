"""What the numbers were measured on."""

import importlib.metadata
import os
import pathlib
import platform

import jax

PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy")


def prepare() -> None:
    """Compile afresh, even where the user keeps compiled programs on disk."""
    jax.config.update("jax_enable_compilation_cache", False)


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    found += [f"{package} {version(package)}" for package in PACKAGES if version(package)]
    return ", ".join(found)


def machine() -> str:
    device = jax.devices()[0]
    processor = f"{_processor()}, {len(_usable_cores())} cores, {platform.system()}"
    if device.platform == "cpu":
        return f"Backend cpu: {processor}"
    return f"Backend {device.platform}: {len(jax.devices())} x {device.device_kind}; host {processor}"


def _processor() -> str:
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> set[int] | range:
    # A container may be given fewer cores than the machine has.
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
