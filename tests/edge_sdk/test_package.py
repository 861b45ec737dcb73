"""Importing the package is cheap and pulls in nothing heavy; names resolve when used."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rrise import edge_sdk

HEAVY = ("torch", "scipy", "onnx", "matplotlib", "onnxruntime", "PIL", "click", "zarr", "cv2")


def _modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_import_loads_nothing_heavy():
    assert not _modules_after("import edge_sdk") & {*HEAVY, "numpy"}
    assert not _modules_after("from edge_sdk import Certifier, Certificate, Bundle") & set(HEAVY)


def test_every_public_name_resolves():
    assert all(getattr(edge_sdk, name) is not None for name in edge_sdk.__all__)
    assert set(edge_sdk.__all__) == set(dir(edge_sdk))
    with pytest.raises(AttributeError, match="Certifer"):
        edge_sdk.Certifer  # noqa: B018


def test_loading_a_bundle_writes_nothing_into_the_home_folder(hand_bundle, tmp_path):
    """ONNX Runtime 1.31 makes a data base there for its vendor, unless a variable was set before it is imported."""
    pytest.importorskip("onnxruntime")
    script = f"from edge_sdk import Certifier\nCertifier.load({str(hand_bundle)!r}).close()"
    clean = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", script], env={**clean, **home}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
