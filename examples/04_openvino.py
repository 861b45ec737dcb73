"""Certify a frame with OpenVINO and the bundle's ONNX file, without the rrise SDK.

    python examples/04_openvino.py BUNDLE FRAME.npy

FRAME.npy holds one uint8 frame [H, W, C] as the manifest's "input" says. Prints label and certified radius as JSON.

The offset in the graph was calibrated on the execution that calibration/fp32.json names. Another runtime rounds
differently: replay the references on it (`rrise-edge verify` does that for the runtimes the SDK knows) before its
radii are relied on.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import openvino


def main(bundle: Path, frame_file: Path) -> None:
    """Run the bundle's ONNX file on one frame by OpenVINO and print its answer."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    artefact = manifest["artefacts"]["fp32"]
    model = bundle / artefact["file"]
    if hashlib.sha256(model.read_bytes()).hexdigest() != artefact["sha256"]:
        raise SystemExit(f"{model} was changed after its release")

    # OpenVINO may choose bfloat16 on its own; the certificate was made in float32.
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    frame = np.load(frame_file, allow_pickle=False)
    answer = compiled({"frame": frame[None]})

    label = int(answer["label"][0])
    radius = float(answer["radius"][0])
    print(json.dumps({"label": label, "class": manifest["class_names"][label], "radius": radius}))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
