"""Nothing is ever lost: kill -9, full disks, read-only folders, memory, and several processes under torchrun."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from rrise.trainer.errors import TrainerError
from rrise.trainer.montecarlo import distributed
from rrise.trainer.montecarlo.distributed import Team

N = 2000
BLOCK = 100
LONGEST = 240  # seconds, many times what it takes

#: A run of its own process: the same network, frames and store as `expected`.
RUN = textwrap.dedent(
    """
    import os, sys
    import numpy as np, torch
    from torch import nn
    from rrise.calibration.storage.digests import frame_digests
    from rrise.trainer.errors import TrainerError
    from rrise.trainer.montecarlo import CountStore, sample_counts
    from rrise.trainer.data.preprocess import Preprocess

    def network():
        torch.manual_seed(3)
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)).eval()

    def frames():
        return np.random.default_rng(7).integers(0, 256, (200, 4, 4, 1), dtype=np.uint8)

    def open_store(path):
        return CountStore.open(path, stream="train", digests=frame_digests(frames()), num_classes=3, sigma=0.5,
                               seed=11, base_digest="b" * 64, sample_block=100)

    def run(path, n, **options):
        sample_counts(network(), Preprocess((4, 4, 1), "mono8"), frames(), open_store(path), n, **options)

    if __name__ == "__main__":
        torch.set_num_threads(1)
        def report(evaluations):
            print("stored", evaluations, flush=True)
        try:
            run(sys.argv[1], int(sys.argv[2]), progress=report)
        except TrainerError as error:
            print(error, file=sys.stderr)
            sys.exit(2)
    """
)


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "survivor.py"
    path.write_text(RUN)
    return path


@pytest.fixture(scope="module")
def survivor(script):
    sys.path.insert(0, str(script.parent))
    import survivor as module

    yield module
    sys.path.remove(str(script.parent))
    del sys.modules["survivor"]


@pytest.fixture(scope="module")
def expected(survivor, tmp_path_factory) -> np.ndarray:
    path = tmp_path_factory.mktemp("expected") / "t.zarr"
    survivor.run(path, N)
    return survivor.open_store(path).counts()


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def start(script: Path, path: Path, n: int = N, prefix: tuple[str, ...] = ()) -> subprocess.Popen:
    return subprocess.Popen(
        [*prefix, sys.executable, str(script), str(path), str(n)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip


def kill_and_check(script: Path, survivor, path: Path, kills: int, seed: int, expected: np.ndarray) -> None:
    """Kill a run at random moments, each time checking that what is stored is right and only grows."""
    rng = np.random.default_rng(seed)
    before = np.zeros_like(expected)
    for _ in range(kills):
        process = start(script, path)
        lines = 0
        # The first kills may come while the store is being made; the others after some stored blocks.
        for _ in range(int(rng.integers(0, 12))):
            lines += bool(process.stdout.readline())
        for _ in range(int(rng.integers(0, 20_000))):
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate()
        counts = survivor.open_store(path).counts()
        assert (counts >= before).all() and counts.sum() <= expected.sum()
        # At most the block in work is lost: everything that was reported stored is there.
        assert counts.sum() >= min(int(before.sum()) + 64 * BLOCK * max(lines - 4, 0), int(expected.sum()))
        before = counts
    survivor.run(path, N)
    np.testing.assert_array_equal(survivor.open_store(path).counts(), expected)


@pytest.mark.long
def test_killed_five_times(script, survivor, expected, tmp_path):
    kill_and_check(script, survivor, tmp_path / "t.zarr", 5, seed=0, expected=expected)


@pytest.mark.long
def test_killed_fifty_times(script, survivor, expected, tmp_path):
    for round_ in range(5):
        kill_and_check(script, survivor, tmp_path / f"{round_}.zarr", 10, seed=1 + round_, expected=expected)


def test_killed_while_the_store_is_being_made(survivor, tmp_path, monkeypatch):
    """Stop creation after every one of its file operations; the next open makes the store anew."""
    from zarr.storage import LocalStore

    class Stopped(BaseException):
        pass

    original = LocalStore.set
    for limit in range(1, 60):
        path, calls = tmp_path / f"{limit}.zarr", [0]

        async def set_or_stop(self, *arguments, calls=calls, limit=limit, **options):
            calls[0] += 1
            if calls[0] == limit:
                raise Stopped
            return await original(self, *arguments, **options)

        monkeypatch.setattr(LocalStore, "set", set_or_stop)
        try:
            survivor.open_store(path)
            finished = True
        except Stopped:
            finished = False
        monkeypatch.setattr(LocalStore, "set", original)
        assert survivor.open_store(path).samples().sum() == 0
        if finished:
            break
    assert finished and limit > 3


FULL_DISK = """
import os, shutil, sys
from rrise.trainer.errors import TrainerError
sys.path.insert(0, {folder!r})
import survivor
survivor.run({disk!r} + "/t.zarr", 500)
shutil.copytree({disk!r} + "/t.zarr", {out!r} + "/before.zarr")
try:
    with open({disk!r} + "/filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
except OSError:
    pass
try:
    survivor.run({disk!r} + "/t.zarr", {n})
except TrainerError as error:
    print(error)
shutil.copytree({disk!r} + "/t.zarr", {out!r} + "/after.zarr")
os.remove({disk!r} + "/filler")
survivor.run({disk!r} + "/t.zarr", {n})
shutil.copytree({disk!r} + "/t.zarr", {out!r} + "/end.zarr")
"""

READ_ONLY = """
import sys
from rrise.trainer.errors import TrainerError
sys.path.insert(0, {folder!r})
import survivor
print(survivor.open_store({disk!r} + "/t.zarr").samples().sum())
for name in ("/t.zarr", "/new.zarr"):
    try:
        survivor.run({disk!r} + name, 200)
    except TrainerError as error:
        print(error)
"""


def in_namespace(mounting: str, code: str) -> str:
    """Run Python code after shell commands that mount something, seen by this process only; returns its output."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare command here")
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{mounting} || exit 77; exec "$0" -c "$1"', sys.executable, code],
        capture_output=True, text=True, env=environment(),
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"this system lets no user mount a file system: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk(script, survivor, expected, tmp_path):
    """A real one of 200 KB, which another file fills up."""
    disk = tmp_path / "disk"
    disk.mkdir()
    code = FULL_DISK.format(folder=str(script.parent), disk=str(disk), out=str(tmp_path), n=N)
    message = in_namespace(f"mount -t tmpfs -o size=200k tmpfs {disk}", code)
    assert "No space left on device" in message and "Everything stored before is intact" in message
    before, after, end = (
        survivor.open_store(tmp_path / f"{name}.zarr").counts() for name in ("before", "after", "end")
    )
    np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(end, expected)


def test_a_read_only_folder(script, survivor, tmp_path):
    """Reading goes on; writing and beginning are refused. A read-only mount binds the superuser too."""
    folder = tmp_path / "folder"
    folder.mkdir()
    survivor.run(folder / "t.zarr", 100)
    code = READ_ONLY.format(folder=str(script.parent), disk=str(folder))
    output = in_namespace(f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}", code)
    assert output.startswith("20000\n")
    assert output.count("cannot write here (Read-only file system)") == 2
    assert (survivor.open_store(folder / "t.zarr").samples() == 100).all()


def test_a_write_that_fails_half_way(survivor, expected, tmp_path):
    """The file size limit of this process stops every write after 100 bytes, as a full disk does."""
    path = tmp_path / "t.zarr"
    survivor.run(path, 500)
    before = survivor.open_store(path).counts()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        with pytest.raises(TrainerError, match=r"cannot write .* it continues"):
            survivor.run(path, N)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    np.testing.assert_array_equal(survivor.open_store(path).counts(), before)
    survivor.run(path, N)
    np.testing.assert_array_equal(survivor.open_store(path).counts(), expected)


def test_a_second_run_is_refused_while_the_first_goes_on(script, survivor, expected, tmp_path):
    path = tmp_path / "t.zarr"
    first = start(script, path)
    assert first.stdout.readline().startswith("stored")
    os.kill(first.pid, signal.SIGSTOP)  # so that it is surely still running
    try:
        with pytest.raises(TrainerError, match=rf"process id {first.pid}\) is writing this store"):
            survivor.run(path, N)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    first.communicate()
    assert first.returncode == 0
    np.testing.assert_array_equal(survivor.open_store(path).counts(), expected)


MEMORY = """
import resource, sys
sys.path.insert(0, {folder!r})
import torch
from rrise.calibration.storage.digests import frame_digests
from survivor import CountStore, Preprocess, frames, network, sample_counts
torch.set_num_threads(1)

def peak(name, n, count):
    part = frames()[:count]
    store = CountStore.open({path!r} + name, stream="train", digests=frame_digests(part), num_classes=3, sigma=0.5,
                            seed=11, base_digest="b" * 64)
    sample_counts(network(), Preprocess((4, 4, 1), "mono8"), part, store, n, batch_size=64)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

print(peak("warm", 200, 8), peak("few", 100, 8), peak("samples", {n}, 8), peak("frames", 100, 200))
"""


@pytest.mark.parametrize("n", [20_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_memory_grows_neither_with_n_nor_with_frames(script, tmp_path, n):
    """Peak memory of one process in KiB, against what would be kept: noisy copies of 8 frames, 64 bytes each."""
    code = MEMORY.format(folder=str(script.parent), path=str(tmp_path / "t-"), n=n)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    warm, few, samples, many = (int(value) for value in done.stdout.split())
    kept = n * 8 * 64 / 1024
    assert max(few - warm, samples - few, many - samples) < kept / 2


def torchrun(script: Path, path: Path, processes: int, *options: str) -> list[str]:
    return [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
        *options, str(script), str(path), str(N),
    ]  # fmt: skip


def finish(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run processes that work together; they end in any case, and where they hang the test says so."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, errors = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"hangs: not done after {LONGEST} s: {process.communicate()[1]}")
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


TRAINING = """

    whole = run

    def run(path, n, **options):
        for size in range(100, n + 1, 100):  # back at once for more: the lock is free again
            whole(path, size, **options)

    from rrise.trainer.montecarlo.distributed import team
    from rrise.trainer.learning import Schedule, open_training_session, train_network

    def trained():
        net = network()
        x = torch.from_numpy(frames()).permute(0, 3, 1, 2) / 255.0
        labels = (x.mean((1, 2, 3)) > 0.5).long()
        def objective(forward, batch):
            return nn.functional.cross_entropy(forward(batch.frames), labels[batch.index])
        train_network(net, Schedule(3, 20, 0.05), x, objective, open_training_session(device="cpu"))
        return torch.cat([value.flatten() for value in net.state_dict().values()]).detach().numpy()

    if __name__ == "__main__":
        np.save(sys.argv[1] + f".{team().rank}.npy", trained())
"""


def test_two_processes_give_the_counts_and_the_training_of_one(
    script, survivor, expected, tmp_path, monkeypatch
):
    path = tmp_path / "t.zarr"
    single = script.with_name("training.py")
    single.write_text(RUN + textwrap.dedent(TRAINING))
    script = single
    done = finish(torchrun(script, path, 2))
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(survivor.open_store(path).counts(), expected)
    # Averaged gradients of half batches are the gradients of whole ones: the same weights up to rounding.
    monkeypatch.syspath_prepend(script.parent)
    import training

    first, second = (np.load(f"{path}.{rank}.npy") for rank in (0, 1))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, training.trained(), rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_one_of_two_processes_is_killed_and_the_run_still_finishes(script, survivor, expected, tmp_path):
    """torchrun starts both again; they continue from the store."""
    path = tmp_path / "t.zarr"
    mark = tmp_path / "killed"
    suicidal = script.with_name("suicidal.py")
    suicidal.write_text(
        RUN.replace(
            'print("stored", evaluations, flush=True)',
            f"""
        if os.environ["RANK"] == "1" and not os.path.exists({str(mark)!r}):
            open({str(mark)!r}, "w").close()
            os.kill(os.getpid(), 9)
""",
        )
    )
    done = finish(torchrun(suicidal, path, 2, "--max-restarts=1"))
    assert done.returncode == 0, done.stderr
    assert mark.exists() and "failed (exitcode" in done.stderr
    np.testing.assert_array_equal(survivor.open_store(path).counts(), expected)


@pytest.mark.long
def test_a_second_distributed_run_is_refused_in_every_process(script, survivor, tmp_path):
    path = tmp_path / "t.zarr"
    survivor.run(path, 100)
    with survivor.open_store(path).writer():
        done = finish(torchrun(script, path, 2))
    assert done.returncode != 0 and "is writing this store" in done.stderr
    assert (survivor.open_store(path).samples() == 100).all()


def test_started_is_recorded_once(survivor, tmp_path):
    path = tmp_path / "t.zarr"
    for n in (100, 200):
        survivor.run(path, n)
    runs: Any = zarr.open_group(path, mode="r")["train"].attrs["runs"]
    assert len(runs) == 1 and runs[0]["device"].startswith("cpu") and runs[0]["torch"]


def test_a_batch_smaller_than_the_team_is_refused() -> None:
    assert torch.cat(
        [Team(rank, 3).share(torch.arange(8)) for rank in range(3)]
    ).sort().values.tolist() == list(range(8))
    with pytest.raises(TrainerError, match="3 frames for 4 processes"):
        Team(0, 4).share(torch.arange(3))


def test_processes_that_do_not_find_each_other_end_instead_of_hanging(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    values = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "JOINING", timedelta(seconds=1))
    with pytest.raises(TrainerError, match="2 processes did not find each other within 0:00:01"):
        distributed.team()
    assert not torch.distributed.is_initialized()


RESTARTS = """
import os, sys, time
from datetime import timedelta
import torch
import torch.distributed as dist
from rrise.trainer.montecarlo import distributed

torch.set_num_threads(1)
distributed.JOINING = timedelta(seconds=20)
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

def member(rank, late):
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port))
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"
    time.sleep(late)
    distributed.team().wait()

def start(delays):
    members = []
    for rank, late in enumerate(delays):
        members.append(os.fork())
        if members[-1] == 0:
            try:
                member(rank, late)
            except BaseException as error:
                print(error, file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
    return [os.waitpid(member, 0)[1] for member in members]

print([start(delays) for delays in {delays}])
"""


@pytest.mark.parametrize(
    "delays",
    [
        [(0, 0), (0, 0.3), (0.3, 0)],
        pytest.param([(0.1 * (n % 3), 0.1 * (n % 2)) for n in range(30)], marks=pytest.mark.long),
    ],
    ids=["3", "30"],
)
def test_processes_started_again_find_each_other(delays) -> None:
    """torchrun keeps one store over restarts, with the addresses of the processes before.

    Whoever comes first must not take them for those of the late ones, wait and end.
    """
    done = finish([sys.executable, "-c", RESTARTS.replace("{delays}", str(delays))])
    assert done.stdout == f"{[[0, 0] for _ in delays]}\n", done.stderr
