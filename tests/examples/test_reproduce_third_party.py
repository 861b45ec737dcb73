"""The path without a base classifier: surrogates of one that is known by its class counts alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from examples.reproduce.clock import Clock
from examples.reproduce.data import Images, Source, load_source
from examples.reproduce.rows import Row
from examples.reproduce.third_party import ThirdParty
from examples.reproduce.third_party_counts import Counts, load_counts
from examples.reproduce.third_party_table import run_third_party
from rrise.trainer.errors import TrainerError

CPU = torch.device("cpu")
ASKED = ThirdParty(
    widths=(8, 16), blocks=(0, 1), epochs=4, batch_size=64, loss="both", mix=0.25, shift=1, flip=False, members=2,
    tuning=60, calibration=300, test=200, errors=("0.1",),
)  # fmt: skip


def third_party_counts(source: Source) -> Counts:
    """Draws of a classifier that is right with a probability that depends on the frame."""
    random = np.random.default_rng(5)

    def draw(images: Images, num_samples: int, sure: np.ndarray) -> np.ndarray:
        shares = np.full((len(images.labels), 10), 1.0) * ((1 - sure) / 9)[:, None]
        shares[np.arange(len(sure)), images.labels] = sure
        return np.stack([random.multinomial(num_samples, row) for row in shares]).astype(np.uint32)

    train = 0.55 + 0.4 * (source.train.frames.mean((1, 2, 3)) / 255)
    test = 0.55 + 0.4 * (source.held_out.frames.mean((1, 2, 3)) / 255)
    drawn = [draw(source.held_out, size, test) for size in (5000, 10_000, 80_000)]
    return Counts(draw(source.train, 100_000, train), *drawn, digest="ab" * 32)


@pytest.fixture(scope="module")
def source() -> Source:
    return load_source("digits", None)


@pytest.fixture(scope="module")
def finished(source: Source, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Row]]:
    """A finished folder of two members, and its rows."""
    folder = tmp_path_factory.mktemp("third-party")
    rows = run_third_party(folder, ASKED, source, third_party_counts(source), CPU, Clock())
    return folder, {row.method: row for row in rows}


def test_the_third_party_path_makes_the_same_table(
    source: Source, finished: tuple[Path, dict[str, Row]]
) -> None:
    folder, found = finished
    assert found["surrogate (both), our calibration"].passes == 2
    assert found["surrogate (both), our calibration"].agreement > 0.6
    assert found["CERTIFY, N = 10,000"].wrong.hits == 0 and found["CERTIFY, N = 80,000"].wrong is None
    assert found["CERTIFY, N = 10,000"].accuracy[0].value > 0.95
    assert (folder / "table.md").exists() and not list(folder.glob("checkpoints/*"))
    with pytest.raises(TrainerError, match="begun with other"):
        run_third_party(folder, replace(ASKED, loss="ce"), source, third_party_counts(source), CPU, Clock())


@pytest.mark.long
def test_a_student_learns_from_its_teacher_what_the_counts_do_not_say(
    source: Source, finished: tuple[Path, dict[str, Row]], tmp_path: Path
) -> None:
    """Its own counts are the same for every frame: whatever it knows about frames, the teacher told it."""
    folder, taught = finished
    known = third_party_counts(source)
    blank = replace(known, train=np.full_like(known.train, 10_000))
    asked = replace(ASKED, members=1, teacher_share=1.0)
    rows = run_third_party(tmp_path / "student", asked, source, blank, CPU, Clock(), folder)
    student = {row.method: row for row in rows}["surrogate (both), our calibration"]
    teacher = taught["surrogate (both), our calibration"]
    assert student.passes == 1 and student.agreement > 0.6
    frames = len(source.train.labels)
    views = 4 * (frames // 64) * 64
    drawn = 100_000 * frames + 10_000 * (60 + 300)
    assert teacher.offline_passes == drawn + 2 * 3 * views
    assert student.offline_passes == teacher.offline_passes + (3 + 2) * views


def test_a_teacher_of_other_counts_or_without_all_members_is_refused(
    source: Source, finished: tuple[Path, dict[str, Row]], tmp_path: Path
) -> None:
    counts = third_party_counts(source)
    with pytest.raises(TrainerError, match="no such file"):
        run_third_party(tmp_path / "student", ASKED, source, counts, CPU, Clock(), tmp_path)
    other = replace(counts, digest="cd" * 32)
    with pytest.raises(TrainerError, match="with the class counts of this one"):
        run_third_party(tmp_path / "student", ASKED, source, other, CPU, Clock(), finished[0])
    shutil.copytree(finished[0] / "surrogates", tmp_path / "half" / "surrogates")
    (tmp_path / "half" / "surrogates" / "ours-1.safetensors").unlink()
    with pytest.raises(TrainerError, match=r"ours-1\.safetensors: no such file"):
        run_third_party(tmp_path / "student", ASKED, source, counts, CPU, Clock(), tmp_path / "half")
    assert not (tmp_path / "student").exists()
    with pytest.raises(TrainerError, match="teacher_share"):
        replace(ASKED, teacher_share=0.0)


def test_published_counts_are_taken_apart_or_refused(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    sizes = (5000, 10_000, 25_000, 50_000, 5000)
    parts = [random.multinomial(size, np.full(10, 0.1), 4) for size in sizes]
    total = sum(parts) + parts[0]
    arrays = {
        f"test_sigma0.25_N{n}": counts
        for n, counts in zip((5000, 10_000, 25_000, 50_000, 100_000), [*parts[:4], total])
    }
    np.savez(tmp_path / "good.npz", train_sigma0_25=0, **{"train_sigma0.25_N100000": total}, **arrays)
    counts = load_counts(tmp_path / "good.npz", 0.25)
    assert (counts.audit == parts[2] + parts[3] + parts[4]).all() and (counts.audit.sum(1) == 80_000).all()
    assert (counts.references == parts[1]).all() and (counts.selection == parts[0]).all()
    arrays["test_sigma0.25_N100000"] = sum(parts[1:4]) * 100 // 85
    np.savez(tmp_path / "bad.npz", **{"train_sigma0.25_N100000": total}, **arrays)
    with pytest.raises(TrainerError, match="do not add up"):
        load_counts(tmp_path / "bad.npz", 0.25)
