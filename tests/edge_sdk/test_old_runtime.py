"""A runtime that is too old for the graph is called that: exporting the bundle again would not help."""

from __future__ import annotations

import pytest

from rrise.edge_sdk.errors import BundleError, RuntimeUnavailable
from rrise.edge_sdk.runtime import onnxruntime as module


@pytest.mark.parametrize(
    ("version", "kind", "words"),
    [
        (
            "1.16.3",
            RuntimeUnavailable,
            "expected version 1.18 or newer: `python -m pip install 'onnxruntime>=1.18'`",
        ),
        ("1.18.0", BundleError, "restore the bundle or export it again"),
        ("nightly", BundleError, "restore the bundle or export it again"),
    ],
)
def test_the_remedy_fits_the_cause(
    monkeypatch: pytest.MonkeyPatch, version: str, kind: type[Exception], words: str
) -> None:
    def too_new(*arguments: object) -> None:
        raise RuntimeError("Unsupported model IR version: 10, max supported IR version: 9")

    monkeypatch.setattr(module, "refuse_external", lambda data, name: None)
    monkeypatch.setattr(module, "_session", too_new)
    monkeypatch.setattr(module.import_onnxruntime(), "__version__", version)
    with pytest.raises(kind) as caught:
        module.open_session(b"graph", "cpu", 1, {})
    assert words in str(caught.value)
