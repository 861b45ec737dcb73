"""The doctor on made-up machines: what is found, how it is meant, and that nothing is written."""

from __future__ import annotations

import sys

import pytest

from rrise.edge_sdk.operate.doctor import Severity, examine


def _files(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _found(root):
    return {finding.name: finding for finding in examine(root)}


JETSON = {
    "proc/meminfo": "MemTotal:        8000000 kB\nMemAvailable:     300000 kB\n",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.0, GCID: 1, BOARD: generic\n",
    "var/lib/nvpmodel/status": "pmode:0002",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "91500\n",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "45000\n",
    "sys/fs/cgroup/memory.max": "2147483648\n",
}


def test_a_hot_throttled_jetson(tmp_path):
    _files(tmp_path, JETSON)
    found = _found(tmp_path)
    assert "R36" in found["Jetson Linux"].text
    assert found["power mode"].level is Severity.NOTE and "nvpmodel -m 0" in found["power mode"].advice
    assert found["clock governor"].level is Severity.WARNING and "powersave" in found["clock governor"].text
    assert found["throttling"].text.startswith("3 times")
    assert (
        found["temperature"].level is Severity.WARNING and "92 C at cpu-thermal" in found["temperature"].text
    )
    assert found["memory"].level is Severity.WARNING and found["memory ceiling"].text.startswith("2.0 GiB")


def test_a_cool_jetson_at_full_power(tmp_path):
    cool = {
        **JETSON,
        "var/lib/nvpmodel/status": "pmode:0000",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "0\n",
        "sys/class/thermal/thermal_zone0/temp": "45000\n",
        "proc/meminfo": "MemTotal:        8000000 kB\nMemAvailable:     4000000 kB\n",
        "sys/fs/cgroup/memory.max": "max\n",
    }
    _files(tmp_path, cool)
    found = _found(tmp_path)
    assert "throttling" not in found and "memory ceiling" not in found
    for name in ("power mode", "clock governor", "temperature", "memory"):
        assert found[name].level is Severity.OK and not found[name].advice


def test_an_empty_or_garbled_machine_is_no_crash(tmp_path):
    assert {"machine", "python", "onnxruntime", "TensorRT", "CUDA"} <= set(_found(tmp_path))
    _files(tmp_path, dict.fromkeys(JETSON, "\x00garbage \xff 12"))
    assert examine(tmp_path)


def test_nothing_is_written(tmp_path):
    _files(tmp_path, JETSON)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    examine(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_missing_runtime_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    finding = _found(tmp_path)["onnxruntime"]
    assert finding.level is Severity.PROBLEM and "pip install" in finding.advice


@pytest.mark.parametrize("without", [True, False])
def test_exit_status(monkeypatch, without):
    from click.testing import CliRunner

    from rrise.edge_sdk.cli import main

    if without:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == int(without) and '"findings"' in result.output


@pytest.mark.parametrize(
    ("value", "level"), [("1", Severity.OK), ("0", Severity.WARNING), (None, Severity.WARNING)]
)
def test_telemetry_that_is_on_is_named(tmp_path, monkeypatch, value, level):
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    if value is not None:
        monkeypatch.setenv("ORT_DISABLE_TELEMETRY", value)
    assert _found(tmp_path)["ONNX Runtime telemetry"].level is level


def test_what_reads_pictures_and_cameras_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("rrise.edge_sdk.operate.doctor.importlib.util.find_spec", lambda name: None)
    found = _found(tmp_path)
    for name, package in (("picture files", "pillow"), ("cameras, videos", "opencv-python-headless")):
        assert found[name].level is Severity.NOTE and f"'{package}>=" in found[name].advice
    monkeypatch.setattr("rrise.edge_sdk.operate.doctor.importlib.util.find_spec", lambda name: object())
    assert all(_found(tmp_path)[name].level is Severity.OK for name in ("picture files", "cameras, videos"))
