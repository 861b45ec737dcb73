#!/usr/bin/env bash
# Runs the edge tests as a robot's Python would: tests/platforms/edge-tests.sh jetpack6 [python3.10], or jetpack7 [python3.12].
# Makes .venv-<name> beside .venv on the first run. No torch, zarr or matplotlib is installed: the edge needs none.
set -euo pipefail
name=${1:?"usage: $0 jetpack6|jetpack7 [python]"}
case $name in
    jetpack6) default=python3.10 ;;
    jetpack7) default=python3.12 ;;
    *) echo "$0: got $name, expected jetpack6 or jetpack7" >&2; exit 2 ;;
esac
python=${2:-$default}
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=$root/.venv-$name
constraints=$root/tests/platforms/constraints-$name.txt
if ! [ -f "$venv/installed" ] || [ "$constraints" -nt "$venv/installed" ]; then
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -c "$constraints" \
        numpy click onnxruntime onnx scipy scikit-learn pillow mcap rosbags pytest hypothesis
    touch "$venv/installed"
fi
cd "$root"
# Two files take the bundle that the trainer makes, which needs torch; the rest builds its own by hand.
PYTHONPATH="$root/src" OMP_NUM_THREADS=1 exec "$venv/bin/python" -m pytest -p no:cacheprovider \
    tests/edge_sdk tests/calibration/statistics/test_drift.py --ignore=tests/edge_sdk/test_tensorrt_runtime.py --ignore=tests/edge_sdk/test_exported_bundle.py
