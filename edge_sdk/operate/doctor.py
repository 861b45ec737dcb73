"""What this machine offers a certifier and what stands in its way. Reads only; changes nothing."""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Callable, List, Optional, Tuple

from rrise.calibration.requirements import install
from rrise.edge_sdk.errors import EdgeError
from rrise.edge_sdk.runtime.base import usable_cores

HOT = 85.0
"""Degrees Celsius from which processors of robots begin to slow down."""


class Severity(str, Enum):
    """How a finding is meant."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, how it is meant, and what to do about it (may be empty)."""

    name: str
    text: str
    level: Severity = Severity.OK
    advice: str = ""


def examine(root: Path = Path("/")) -> List[Finding]:
    """Everything that can be said without changing or loading anything heavy. `root` is the file system to look at."""
    checks: Tuple[Callable[[Path], List[Finding]], ...] = (
        _machine, _memory, _onnxruntime, _readers, _tensorrt, _cuda, _jetson, _clocks, _temperatures,
    )  # fmt: skip
    return [finding for check in checks for finding in check(root)]


def _machine(root: Path) -> List[Finding]:
    cores = usable_cores()
    text = (
        f"{platform.machine()}, {cores} of {os.cpu_count()} cores, {platform.system()} {platform.release()}"
    )
    return [
        Finding("machine", text),
        Finding("python", f"{platform.python_version()}, numpy {_version('numpy')}"),
    ]


def _memory(root: Path) -> List[Finding]:
    found: List[Finding] = []
    info = _read(root / "proc/meminfo") or ""
    sizes = {name: int(size) / 2**20 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", info, re.MULTILINE)}
    if "MemTotal" in sizes:
        free = sizes.get("MemAvailable", 0.0)
        level = Severity.WARNING if free < 0.5 else Severity.OK
        advice = "" if level is Severity.OK else "free memory, or expect the process to be killed"
        found.append(Finding("memory", f"{free:.1f} of {sizes['MemTotal']:.1f} GiB available", level, advice))
    for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        ceiling = _read(root / path)
        if ceiling and ceiling.isdigit() and int(ceiling) < 2**60:
            found.append(Finding("memory ceiling", f"{int(ceiling) / 2**30:.1f} GiB for this container"))
            break
    return found


def _onnxruntime(root: Path) -> List[Finding]:
    try:
        module = importlib.import_module("onnxruntime")
    except ImportError:
        return [
            Finding(
                "onnxruntime",
                "not installed",
                Severity.PROBLEM,
                f"{install('onnxruntime')}; on a Jetson the wheel for its JetPack",
            )
        ]
    names = [name.replace("ExecutionProvider", "") for name in module.get_available_providers()]
    # A list of what was compiled in, which proves nothing: the certifier checks after loading.
    return [Finding("onnxruntime", f"{module.__version__}, built with {', '.join(names)}"), _telemetry()]


def _readers(root: Path) -> List[Finding]:
    """What reads pictures and cameras; a program that brings arrays of its own needs neither."""
    found = []
    for name, module, package in (
        ("picture files", "PIL", "pillow"),
        ("cameras, videos", "cv2", "opencv-python-headless"),
    ):
        if importlib.util.find_spec(module) is not None:
            found.append(Finding(name, f"{package.split('-')[0]} {_version(package)}".strip()))
        else:
            advice = (
                f"{install(package)}{' (on a Jetson: the system has its own)' if module == 'cv2' else ''}"
            )
            found.append(Finding(name, "not readable", Severity.NOTE, advice))
    return found


def _telemetry() -> Finding:
    told = os.environ.get("ORT_DISABLE_TELEMETRY", "")
    if told == "1":
        return Finding(
            "ONNX Runtime telemetry", "off; to keep it off in your programs import rrise before onnxruntime"
        )
    return Finding(
        "ONNX Runtime telemetry",
        f"not switched off (ORT_DISABLE_TELEMETRY={told!r}): it may write to the home folder and call its vendor",
        Severity.WARNING,
        "set ORT_DISABLE_TELEMETRY=1 before the program starts",
    )


def _tensorrt(root: Path) -> List[Finding]:
    for name in ("tensorrt", "tensorrt_rtx"):
        version = _version(name)
        if version:
            return [Finding("TensorRT", f"{name} {version}")]
    return [
        Finding(
            "TensorRT", "not installed", Severity.NOTE, "comes with JetPack; ONNX Runtime works without it"
        )
    ]


def _cuda(root: Path) -> List[Finding]:
    from rrise.edge_sdk.runtime.cuda import Driver

    try:
        device = Driver.open().device
    except EdgeError as error:
        return [Finding("CUDA", "no device", Severity.NOTE, str(error))]
    return [Finding("CUDA", f"{device.architecture}, driver for CUDA {device.driver}")]


def _jetson(root: Path) -> List[Finding]:
    release = _read(root / "etc/nv_tegra_release")
    if release is None:
        return []
    found = [Finding("Jetson Linux", release.splitlines()[0].lstrip("# ") if release else "unknown release")]
    mode = _read(root / "var/lib/nvpmodel/status")
    if mode is None:
        found.append(Finding("power mode", "unknown", Severity.NOTE, "`nvpmodel -q` says it"))
    else:
        number = re.search(r"(\d+)", mode)
        full = number is not None and number.group(1).lstrip("0") == ""
        advice = (
            ""
            if full
            else "`nvpmodel -m 0` is the mode with the most power on most boards; latencies were measured there"
        )
        found.append(Finding("power mode", mode, Severity.OK if full else Severity.NOTE, advice))
    return found


def _clocks(root: Path) -> List[Finding]:
    found: List[Finding] = []
    folders = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    governors = {text for text in (_read(folder / "scaling_governor") for folder in folders) if text}
    if governors:
        slow = governors - {"performance", "schedutil"}
        advice = "idle clocks make the first frames slow: set the governor to performance" if slow else ""
        found.append(
            Finding(
                "clock governor",
                ", ".join(sorted(governors)),
                Severity.WARNING if slow else Severity.OK,
                advice,
            )
        )
    throttled = 0
    for counter in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/core_throttle_count"):
        text = _read(counter) or ""
        throttled += int(text) if text.isdigit() else 0
    if throttled:
        found.append(
            Finding(
                "throttling",
                f"{throttled} times since the start",
                Severity.WARNING,
                "cool the processor better",
            )
        )
    return found


def _temperatures(root: Path) -> List[Finding]:
    zones = [
        (_read(zone / "type") or zone.name, _read(zone / "temp"))
        for zone in (root / "sys/class/thermal").glob("thermal_zone*")
    ]
    degrees = {name: int(text) / 1000 for name, text in zones if text and text.lstrip("-").isdigit()}
    if not degrees:
        return []
    name, hottest = max(degrees.items(), key=lambda pair: pair[1])
    level = Severity.WARNING if hottest >= HOT else Severity.OK
    advice = (
        "the processor slows down from here on: cool it, or expect a longer tail"
        if level is Severity.WARNING
        else ""
    )
    return [Finding("temperature", f"{hottest:.0f} C at {name}", level, advice)]


def _version(module: str) -> str:
    from importlib import metadata

    for name in (module, module.replace("_", "-"), f"{module}-cu13", f"{module.replace('_', '-')}-cu13"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return ""


def _read(path: Path) -> Optional[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\x00 \n")
    except OSError:
        return None
