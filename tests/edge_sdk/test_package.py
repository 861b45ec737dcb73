"""Importing the package is cheap and pulls in nothing heavy; names resolve when used."""

from __future__ import annotations

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
