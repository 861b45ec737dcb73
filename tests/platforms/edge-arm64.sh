#!/usr/bin/env bash
# Runs the edge tests on emulated aarch64: tests/platforms/edge-arm64.sh [pytest arguments]. Needs Debian's apt, dpkg and
# qemu-user-static, and no root: packages are unpacked into build/arm64, nothing is installed. It shows that wheels resolve,
# that imports work and that the numbers agree; it says nothing about speed or about GPUs.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=$root/build/arm64
system=$work/root
site=$work/site
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64) || {
    echo "$0: qemu-aarch64 is missing; install qemu-user-static" >&2
    exit 2
}
apt() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State="$work/apt/state" \
        -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/apt/cache" -o Debug::NoLocking=true \
        -o APT::Install-Recommends=false -o APT::Sandbox::User= -o Acquire::Languages=none "$@"
}
if ! [ -f "$work/installed" ]; then
    rm -rf "$work"
    mkdir -p "$work"/apt/state/lists/partial "$work"/apt/cache/archives/partial "$system" "$site"
    : > "$work/apt/status"
    apt update
    apt install --download-only -y python3.11 libstdc++6 libgomp1
    for package in "$work"/apt/cache/archives/*.deb; do dpkg -x "$package" "$system"; done
    # onnxruntime reads the processor's description when it is imported and crashes on the host's.
    mkdir -p "$system/proc" "$system/sys/devices/system/cpu"
    printf 'processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: 0xd42\nCPU revision\t: 0\n' > "$system/proc/cpuinfo"
    echo 0 | tee "$system/sys/devices/system/cpu/possible" > "$system/sys/devices/system/cpu/present"
    python3 -m pip install --quiet --disable-pip-version-check --target "$site" --python-version 3.11 --implementation cp \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
        --only-binary=:all: -c "$root/constraints.txt" \
        numpy click onnxruntime onnx scipy scikit-learn pillow pytest hypothesis
    touch "$work/installed"
fi
cd "$root"
arguments=("$@")
if [ ${#arguments[@]} -eq 0 ]; then
    arguments=(tests/edge_sdk/test_{contract,manifest,bundle,certifier,inputs,encodings,scoring,verify,device_calibration,binomial}.py)
    # It starts Python a second time, which only works where the host's kernel runs aarch64 programs by itself.
    arguments+=(--deselect tests/edge_sdk/test_device_calibration.py::test_recalibration_needs_no_scipy)
fi
OMP_NUM_THREADS=1 PYTHONPATH="$root/src:$root:$site" PYTHONDONTWRITEBYTECODE=1 exec "$qemu" -cpu max -L "$system" \
    -E LD_LIBRARY_PATH="$system/usr/lib/aarch64-linux-gnu:$system/lib/aarch64-linux-gnu" \
    "$system/usr/bin/python3.11" -m pytest -p no:cacheprovider "${arguments[@]}"
