"""The reproduction on scikit-learn's digits: every stage, interrupted and continued, checked against other sources."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.spatial.distance import jensenshannon
from scipy.stats import beta as beta_law
from scipy.stats import binom, norm
from statsmodels.stats.proportion import proportion_confint

from examples.reproduce.__main__ import main, parse_changes
from examples.reproduce.clock import Clock, OutOfTime
from examples.reproduce.data import Images, load_source
from examples.reproduce.learn import Schedule, fit
from examples.reproduce.rows import Choice, Cost, Tables, calibrated_row, published_prior
from examples.reproduce.run import SPLITS, Run, split
from examples.reproduce.settings import preset
from examples.reproduce.surrogates import Surrogates
from examples.reproduce.table import make_table
from rrise.calibration.cli import main as calibrate_main
from rrise.calibration.errors import CalibrationError
from rrise.calibration.promise.guarantee import Guarantee
from rrise.calibration.promise.record import Calibration
from rrise.calibration.statistics.shares import Difference, Share
from rrise.calibration.storage.files import read_json
from rrise.calibration.tables.scores import Scores
from rrise.trainer.data.augment import augment
from rrise.trainer.errors import TrainerError
from rrise.trainer.learning.losses import jensen_shannon, probit_of_class
from rrise.trainer.networks import load_network

CPU = torch.device("cpu")
RESULTS = Path(__file__).resolve().parents[2] / "examples" / "reproduce" / "results"
TINY = preset(
    "digits", "small", 0.25, tuning=60, calibration=200, test=80, base_epochs=6, epochs=2, train_samples=100,
    reference_samples=200, selection=100, certify=(100, 200), audit=400, verified=10, train=400,
    difficulty=100, errors=("0.1",), betas=("0.1",), radii=(0.0, 0.1), map_radii=(0.25,), ablations=True,
)  # fmt: skip


class Stops(Clock):
    """Runs out at every `every`-th question, which is how a run of ten minutes looks from inside."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.asked, self.every = 0, every

    def out_of_time(self, needed: float = 0.0) -> bool:
        self.asked += 1
        return self.asked % self.every == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was interrupted again and again until it was finished."""
    folder, source, clock = tmp_path_factory.mktemp("run") / "digits", load_source("digits", None), Stops(40)
    for _ in range(200):
        try:
            make_table(Run(folder, TINY, source, CPU, clock))
            break
        except OutOfTime:
            continue
    assert clock.asked > 40
    return folder


def rows_of(folder: Path, table: str = "Methods") -> dict[str, dict[str, object]]:
    rows = json.loads((folder / "results.json").read_text())["tables"][table]
    return {row["method"]: row for row in rows}


def test_every_method_is_in_the_table_with_its_guarantee(finished: Path) -> None:
    rows = rows_of(finished)
    expected = {
        "CERTIFY, N = 100": "per input",
        "CERTIFY, N = 200": "per input",
        "RRISE, ours": "PAC over inputs, eps 0.1",
        "RRISE, as in the paper": "PAC over inputs",
        "Accelerated Smoothing, calibrated by us": "PAC over inputs",
        "Accelerated Smoothing, as published": "none",
        "clean softmax of the base classifier": "PAC over inputs",
        "RRISE, guarded tier": "attacker up to 0.05",
        "RRISE, verified tier (first 10 test frames)": "per input",
    }
    for name in (
        "RRISE, ours",
        "Accelerated Smoothing, calibrated by us",
        "clean softmax of the base classifier",
    ):
        expected[f"{name}, for r = 0.25"] = "PAC over inputs, eps 0.1"
    assert all(row["radii"] == [0.0, 0.1, 0.25] for row in rows.values())
    assert set(rows) == set(expected)
    assert all(promise in str(rows[name]["guarantee"]) for name, promise in expected.items())
    page = (finished / "table.md").read_text()
    assert all(f"| {name} |" in page for name in expected)
    assert (finished / "accuracy.svg").read_text().startswith("<svg") and "0.84" in (
        finished / "gap.svg"
    ).read_text()


def test_an_interrupted_run_gives_the_numbers_of_an_uninterrupted_one(finished: Path, tmp_path: Path) -> None:
    source = load_source("digits", None)
    whole = Run(tmp_path / "whole", TINY, source, CPU, Clock())
    ours = whole.settings.recipes()[0]
    table = whole.tables("ours", Surrogates(whole).with_difficulty(ours))
    assert whole.base.digest in (finished / "results.json").read_text()
    before = Scores.load(finished / "scores" / "ours" / "test.npz")
    assert (before.probit == table.test.probit).all() and (before.counts == table.test.counts).all()
    assert (before.difficulty == table.test.difficulty).all() and before.difficulty.std() > 0.01


def test_our_row_follows_from_the_scores(finished: Path) -> None:
    row = rows_of(finished)["RRISE, ours"]
    test = Scores.load(finished / "scores" / "ours" / "test.npz")
    right = float(np.mean(test.label == test.target))
    assert row["agreement"] == pytest.approx(np.mean(test.label == test.counts.argmax(1)))
    assert 0 < row["accuracy"][0]["value"] <= right
    assert row["accuracy"][0]["value"] <= row["issued"]["value"]
    hits, frames = row["accuracy"][0]["hits"], row["accuracy"][0]["frames"]
    expected = proportion_confint(hits, frames, 0.05, method="beta")
    assert (row["accuracy"][0]["lower"], row["accuracy"][0]["upper"]) == pytest.approx(expected)
    # eps 0.1 at 80 frames: more than 20 wrong have a probability below 1e-4 even where PAC holds with equality.
    assert row["wrong"]["hits"] <= 20


def test_the_kept_scores_can_be_calibrated_by_the_command_line(finished: Path, tmp_path: Path) -> None:
    scores = finished / "scores" / "ours"
    command = [
        "fit",
        str(scores / "calibration.npz"),
        "--tuning",
        str(scores / "tuning.npz"),
        "--radius",
        "0.25",
    ]
    out = tmp_path / "record.json"
    done = CliRunner().invoke(
        calibrate_main, [*command, "--error", "0.1", "--choose-beta", "--out", str(out)]
    )
    assert done.exit_code == 0 and Calibration.load(out).head.map.radii == (0.25,), done.output


def test_the_gap_is_a_difference_on_the_same_frames(finished: Path) -> None:
    rows = rows_of(finished)
    best, ours = rows["CERTIFY, N = 200"], rows["RRISE, ours"]
    assert best["gap"] == [] and len(ours["gap"]) == 3
    for gap, theirs, mine in zip(ours["gap"], best["accuracy"], ours["accuracy"]):
        assert gap["value"] == pytest.approx(theirs["value"] - mine["value"])
        assert gap["lower"] < gap["value"] < gap["upper"]


def test_intervals_of_paired_differences_cover_as_they_say() -> None:
    """Source: simulation, 4,000 tables; nominal coverage .95, false alarm below 1e-5."""
    random = np.random.default_rng(0)
    cells, covered = np.array([0.5, 0.08, 0.03, 0.39]), 0
    for counts in random.multinomial(300, cells, 4000):
        theirs = np.repeat([True, True, False, False], counts)
        mine = np.repeat([True, False, True, False], counts)
        found = Difference.of(theirs, mine)
        covered += found.lower <= 0.05 <= found.upper
    assert 0.935 < covered / 4000 < 0.97


def test_offline_passes_are_the_sum_of_what_was_drawn_and_trained(finished: Path) -> None:
    rows = rows_of(finished)
    references = 200 * (60 + 200)
    examples = TINY.epochs * (400 // 64) * 64
    assert rows["clean softmax of the base classifier"]["offline_passes"] == references
    assert rows["RRISE, ours"]["offline_passes"] == references + 100 * 100 + examples * (
        3 + TINY.samples_per_view
    )
    stored = TINY.epochs_of(TINY.recipes()[1]) * (400 // 64) * 64
    assert rows["RRISE, as in the paper"]["offline_passes"] == references + 400 * 100 + 3 * stored
    assert rows["RRISE, ours"]["against"] == 300 and rows["RRISE, ours"]["passes"] == 1
    assert rows["RRISE, verified tier (first 10 test frames)"]["passes"] > 1


def test_ablations_change_one_thing_and_pay_for_what_they_use(finished: Path) -> None:
    rows = rows_of(finished, "Surrogates, one change at a time")
    ours, paper = rows["ours"], rows["paper"]
    views = TINY.epochs * (400 // 64) * 64
    assert rows["one evaluation per view"]["offline_passes"] == 200 * 260 + views * (3 + 1)
    # A tenth of 100 draws on 400 frames less than the paper's recipe spends, everything else alike.
    assert paper["offline_passes"] - rows["stored, a tenth of the draws"]["offline_passes"] == 400 * 90
    assert {
        "stored, base weights",
        "fresh, from scratch",
        "fresh, from scratch, a quarter of the width",
    } < set(rows)
    assert len({row["milliseconds"] for row in rows.values()}) == len(rows), "each network is timed by itself"
    assert len({row["rmse"] for row in rows.values()}) == len(rows), "each network is another one"
    assert all(row["guarantee"] == ours["guarantee"] for row in rows.values())
    narrow = load_network(finished / "surrogates" / "fresh--from-scratch--a-quarter-of-the-width.safetensors")
    assert narrow.spec["widths"] == [4, 4, 8]
    changes = rows_of(finished, "Calibration of our surrogate, one change at a time")
    assert {
        "identity map",
        "50 calibration frames",
        "100 calibration frames",
        "50 draws per reference",
    } < set(changes)


def test_a_folder_of_other_settings_is_refused(finished: Path) -> None:
    with pytest.raises(TrainerError, match="begun with other settings"):
        Run(finished, replace(TINY, sigma=0.5), load_source("digits", None), CPU, Clock())


def test_a_run_may_begin_with_the_work_of_another(finished: Path, tmp_path: Path) -> None:
    source, ours = load_source("digits", None), TINY.recipes()[0]
    shutil.copy(finished / "base.safetensors", tmp_path)
    for name in ("counts.zarr", "surrogates"):
        shutil.copytree(finished / name, tmp_path / name)
    # A clock that is out of time from the start: nothing is drawn or trained again.
    other, first = Run(tmp_path, TINY, source, CPU, Stops(1)), Run(finished, TINY, source, CPU, Clock())
    drawn = [run.counts("tuning", "tuning", TINY.reference_samples) for run in (other, first)]
    assert np.array_equal(*drawn)
    assert Surrogates(other).with_difficulty(ours).digest == Surrogates(first).with_difficulty(ours).digest
    spent = first.cost()
    assert {name: spent[name] for name in other.cost()} == other.cost() and "surrogate-ours" in other.cost()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"base_epochs": 7}, "trained with other settings"),
        ({"epochs": 3}, "made from another base classifier or in another way"),
        ({"surrogate_rate": 0.01}, "made from another base classifier or in another way"),
        ({"dtype": "bfloat16"}, "made from another base classifier or in another way"),
    ],
)
def test_the_work_of_a_run_with_other_settings_is_refused(
    finished: Path, tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    shutil.copy(finished / "base.safetensors", tmp_path)
    shutil.copytree(finished / "surrogates", tmp_path / "surrogates")
    settings = replace(TINY, **changes)
    run = Run(tmp_path, settings, load_source("digits", None), CPU, Clock())
    with pytest.raises(TrainerError, match=why):
        Surrogates(run).plain(settings.recipes()[0])


def test_fresh_targets_are_labels_of_the_classifier_that_is_certified(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shutil.copy(finished / "base.safetensors", tmp_path)
    run = Run(tmp_path, replace(TINY, dtype="bfloat16"), load_source("digits", None), CPU, Clock())
    asked = []

    def labeller(module: torch.nn.Module, num_classes: int, dtype: str, device: torch.device) -> object:
        asked.append((module, dtype))
        return lambda x: torch.arange(len(x)) // 5

    monkeypatch.setattr("examples.reproduce.run.make_labeller", labeller)
    # Two draws per view: class 0 for all views first, then class 1. Any logits that favour both alike lose ln 2.
    logits = torch.full((5, 10), -1e9)
    logits[:, :2] = 0.0
    loss_of = Surrogates(run)._fresh_loss(replace(TINY.recipes()[0], samples_per_view=2), lambda x: logits)
    loss = loss_of(torch.arange(5), torch.Generator().manual_seed(0))
    assert asked == [(run.base.module, "bfloat16")]
    assert float(loss) == pytest.approx(np.log(2.0))


def test_radii_with_a_map_of_their_own_are_columns_too() -> None:
    assert preset("cifar10", "small", 0.25).columns == (0.0, 0.25, 0.5, 0.75, 1.0, 1.5)
    assert preset("cifar10", "small", 1.0).columns == (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
    asked = preset("cifar10", "small", 1.0, map_radii=(0.5, 1.25))
    assert asked.chosen_radii == (0.5, 1.25) and asked.columns == (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
    with pytest.raises(TrainerError, match="map_radii"):
        replace(asked, map_radii=(0.0,))


def test_draws_that_cannot_be_stored_are_refused_before_the_work() -> None:
    for wrong in ({"train_samples": 40}, {"certify": (100, 0)}):
        with pytest.raises(TrainerError, match="multiple of 100"):
            replace(TINY, **wrong)


def test_splits_are_disjoint_by_content() -> None:
    source = load_source("digits", None)
    repeated = replace(source, held_out=source.held_out.take(np.r_[0:200, 0:200]))
    leaked = replace(repeated, train=source.held_out.take(np.arange(20)))
    parts = split(leaked, replace(TINY, tuning=50, calibration=60, test=60, train=0))
    digests = np.concatenate([part.digests for part in parts.values()])
    assert len(np.unique(digests)) == len(digests) == 20 + 170
    with pytest.raises(TrainerError, match="held out"):
        split(leaked, replace(TINY, tuning=50, calibration=80, test=80))


def test_training_refuses_a_checkpoint_of_other_settings(tmp_path: Path) -> None:
    def loss_of(index: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        seen.append(len(index))
        return network(torch.randn(len(index), 2, generator=generator)).square().mean()

    seen: list[int] = []
    network = torch.nn.Linear(2, 1)
    schedule = Schedule("tiny", 3, 4, 0.1, 0.0, "adam")
    with pytest.raises(OutOfTime, match="epoch 1 of 3"):
        fit(network, schedule, 8, loss_of, tmp_path / "c.safetensors", Clock(0.0), CPU)
    with pytest.raises(TrainerError, match="other settings"):
        fit(network, replace(schedule, rate=0.2), 8, loss_of, tmp_path / "c.safetensors", Clock(), CPU)
    fit(network, schedule, 8, loss_of, tmp_path / "c.safetensors", Clock(), CPU)
    assert seen == [4] * 6 and schedule.examples(8) == sum(seen) and schedule.examples(3) == 9


def test_losses_agree_with_scipy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 6, generator=generator)
    shares = torch.rand(50, 6, generator=generator).softmax(1)
    expected = np.mean(jensenshannon(logits.softmax(1).numpy(), shares.numpy(), axis=1) ** 2)
    assert float(jensen_shannon(logits, shares)) == pytest.approx(expected, rel=1e-4)
    label = torch.arange(50) % 6
    chosen = logits.double().softmax(1).gather(1, label[:, None])[:, 0]
    assert probit_of_class(logits, label).numpy() == pytest.approx(norm.ppf(chosen.numpy()), abs=1e-4)


def test_views_are_shifts_and_mirror_images() -> None:
    x = torch.arange(2 * 16, dtype=torch.float32).view(2, 1, 4, 4)
    seen = [augment(x, 1, True, torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert any(torch.equal(view[0], x[0]) for view in seen)  # one view in eighteen
    assert len({tuple(view.flatten().tolist()) for view in seen}) > 10
    assert all(set(view[0].flatten().tolist()) <= set(x[0].flatten().tolist()) for view in seen)


def test_the_published_prior_is_clopper_pearson_on_pretended_counts(finished: Path) -> None:
    test = Scores.load(finished / "scores" / "prior" / "test.npz")
    radius = published_prior(test, 1000)
    for row in range(0, 80, 9):
        count = int(np.floor(1000 * norm.cdf(float(test.probit[row]))))
        lower = proportion_confint(count, 1000, 0.002, method="beta")[0]
        assert radius[row] == pytest.approx(max(0.25 * norm.ppf(lower), 0.0), abs=1e-6)


def test_a_share_of_nothing_is_unknown() -> None:
    assert (Share.of(0, 0).lower, Share.of(0, 0).upper) == (0.0, 1.0)


def save_images(path: Path, images: Images) -> None:
    np.savez(path, images=images.frames, labels=images.labels, class_names=np.array(images.class_names))


def colour(count: int, seed: int) -> Images:
    random = np.random.default_rng(seed)
    frames = random.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return Images(frames, random.integers(0, 10, count), tuple("abcdefghij"))


def test_images_are_read_from_every_layout(tmp_path: Path) -> None:
    train, test = colour(5, 0), colour(3, 1)
    plain, packed, binary = (tmp_path / name for name in ("plain", "packed", "binary"))
    plain.mkdir()
    binary.mkdir()
    save_images(plain / "cifar10_train.npz", train)
    save_images(plain / "cifar10_test.npz", test)
    done = CliRunner().invoke(main, ["pack", "--data", str(plain), "--out", str(packed), "--parts", "2"])
    assert done.exit_code == 0 and len(list(packed.iterdir())) == 3
    for name, images in (("data_batch_1.bin", train), ("test_batch.bin", test)):
        records = [
            bytes([label]) + frame.transpose(2, 0, 1).tobytes()
            for label, frame in zip(images.labels, images.frames)
        ]
        (binary / name).write_bytes(b"".join(records))
    for folder in (plain, packed, binary):
        found = load_source("cifar10", folder)
        assert (found.train.frames == train.frames).all() and (found.train.labels == train.labels).all()
        assert (
            found.held_out.describe()["digest"] == Images(test.frames, test.labels, ()).describe()["digest"]
        )


def test_a_mosaic_pack_is_read_losslessly(tmp_path: Path) -> None:
    import io

    from PIL import Image

    images = colour(5, 2)
    grid = np.zeros((6, 32, 32, 3), np.uint8)
    grid[:5] = images.frames
    picture = grid.reshape(2, 3, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(64, 96, 3)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    blob = np.frombuffer(stream.getvalue(), np.uint8)
    for split_name in ("train", "test"):
        np.savez(
            tmp_path / f"{split_name}.npz", kind="mosaic", blob=blob, off=np.array([0, len(blob)]), per=6, cols=3,
            step=1, shape=np.array([5, 32, 32, 3]), labels=images.labels,
        )  # fmt: skip
    found = load_source("cifar10", tmp_path)
    assert (found.train.frames == images.frames).all() and found.held_out.class_names[3] == "3"


def test_tiny_imagenet_is_read_in_its_own_layout(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "val" / "images").mkdir(parents=True)
    lines = []
    for number, name in enumerate(("n01", "n02")):
        folder = tmp_path / "train" / name / "images"
        folder.mkdir(parents=True)
        picture = Image.fromarray(np.full((64, 64, 3), 100 * number, np.uint8))
        picture.save(folder / f"{name}_0.JPEG")
        picture.save(tmp_path / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{name}\t0\t0\t62\t62")
    (tmp_path / "val" / "val_annotations.txt").write_text("\n".join(lines[::-1]))
    found = load_source("tiny-imagenet", tmp_path)
    assert found.train.labels.tolist() == [0, 1] and found.held_out.labels.tolist() == [1, 0]
    assert found.train.frames.shape == (2, 64, 64, 3) and found.held_out.frames[0].mean() == pytest.approx(
        100, abs=2
    )


def test_pickled_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="--data"):
        load_source("cifar10", None)
    with pytest.raises(TrainerError, match="no train images"):
        load_source("cifar10", tmp_path)
    np.savez(tmp_path / "test.npz", images=np.zeros((2, 32, 32, 3), np.uint8), labels=np.zeros(2, int))
    np.savez(tmp_path / "train.npz", images=np.array([{"a": 1}], object), labels=np.zeros(1, int))
    with pytest.raises(TrainerError, match="pickle"):
        load_source("cifar10", tmp_path)


def test_the_command_line_stops_and_explains(tmp_path: Path) -> None:
    command = ["run", "--dataset", "digits", "--out", str(tmp_path / "run"), "--minutes", "0"]
    done = CliRunner().invoke(main, [*command, "--set", "base_epochs=2"])
    assert done.exit_code == 0 and "To be continued" in done.output and "epoch 1 of 2" in done.output
    wrong = CliRunner().invoke(main, [*command, "--set", "epocks=2"])
    assert wrong.exit_code == 2 and "epochs" in wrong.output
    assert parse_changes(TINY, ["certify=10,20", "flip=true"]) == {"certify": (10, 20), "flip": True}


def test_the_guarded_row_needs_frames_that_are_not_there(finished: Path) -> None:
    """eps 0.1 tightened for an attacker leaves about 5 %: 200 frames allow it, 30 do not."""
    from examples.reproduce.rows import PAPER, calibrated
    from rrise.calibration.promise.guarded import Guard

    parts = {
        name: Scores.load(finished / "scores" / "guarded" / f"{name}.npz")
        for name in ("tuning", "calibration", "test")
    }
    promise = Guarantee.of("pac", "0.1", guard=Guard(0.05, 0.12))
    record, _ = calibrated(Tables(**parts), promise, PAPER)
    assert not record.head.issues_nothing and 0.03 < float(promise.alpha) < 0.06
    parts["calibration"] = parts["calibration"].take(np.arange(30))
    record, choice = calibrated(Tables(**parts), promise, PAPER)
    assert record.head.issues_nothing and "no certificate" in choice
    with pytest.raises(CalibrationError):
        calibrated(Tables(parts["tuning"], parts["tuning"], parts["test"]), promise, PAPER)


@pytest.mark.parametrize("name", ["cifar10", "cifar10-sigma0.5", "cifar10-sigma1.0", "cifar100"])
def test_a_published_row_follows_from_the_scores_that_are_kept(name: str) -> None:
    folder = RESULTS / name
    parts = {part: Scores.load(folder / "scores" / "ours" / f"{part}.npz") for part in SPLITS}
    published = next(
        row
        for row in read_json(folder / "results.json", "results")["tables"]["Methods"]
        if row["method"] == "RRISE, ours, for r = 0.5" and "eps 0.05" in row["guarantee"]
    )
    betas = ("0.02", "0.05", "0.1", "0.2")
    cost = Cost(1, published["offline_passes"], published["against"])
    promise = Guarantee.of("pac", "0.05")
    row = calibrated_row(
        "ours", Tables(**parts), promise, Choice(radius=0.5), betas, published["radii"], cost
    )
    assert [share.hits for share in row.accuracy] == [share["hits"] for share in published["accuracy"]]
    assert row.choice == published["choice"] and row.wrong is not None
    assert row.wrong.hits == published["wrong"]["hits"] <= 0.05 * len(parts["test"])
    shown = net_row(name, "0.05", 0.5)
    place = published["radii"].index(0.5)
    assert row.net[place].hits == shown["net"]["hits"] < shown["gross"]["hits"] == row.accuracy[place].hits
    assert row.wrong_at[place].hits == shown["wrong"]["hits"]
    assert row.oracle[place].hits == shown["oracle"]["hits"] >= row.net[place].hits


def net_row(name: str, error: str, radius: float) -> dict[str, object]:
    """The row of our step at one level and radius, as published net of wrong certificates."""
    rows = read_json(RESULTS / name / "net.json", "net")["rows"]
    return next(
        row
        for row in rows
        if row["method"] == "RRISE, ours, a step" and (row["error"], row["radius"]) == (error, radius)
    )


def test_net_of_one_published_row_by_hand() -> None:
    """CIFAR-10, sigma 0.25, r = 0.25 at eps 0.05: from the arrays, with numpy and scipy and nothing of ours."""
    shown = net_row("cifar10", "0.05", 0.25)
    assert shown["choice"].startswith("map step 0.25, beta 0.05") and "difficulty" not in shown["choice"]
    arrays = {
        part: np.load(RESULTS / "cifar10" / "scores" / "ours" / f"{part}.npz")
        for part in ("calibration", "test")
    }

    def read(part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        table = arrays[part]
        hits = table["counts"][np.arange(len(table["label"])), table["label"]].astype(float)
        return np.float32(0.25) * table["probit"], hits, table["num_samples"].astype(float)

    raw, hits, draws = read("calibration")
    lower = beta_law.ppf(0.05, hits, draws - hits + 1)
    alpha, frames = 0.05 * (1 - 0.05), len(raw)
    rank = int(binom.ppf(0.95, frames, 1 - alpha)) + 1  # the smallest k with BinomCDF(k - 1) >= 1 - delta
    # A frame whose reference reaches r costs nothing at any offset; the others until they are no longer issued.
    costs = np.sort(np.where(0.25 * norm.ppf(lower) >= 0.25, -np.inf, raw))
    raw, hits, draws = read("test")
    issued = raw > costs[rank - 1]
    right = issued & (arrays["test"]["label"] == arrays["test"]["target"])
    holds = 0.25 * norm.ppf(hits / draws) >= 0.25
    assert right.sum() == shown["gross"]["hits"] == 543
    assert (right & holds).sum() == shown["net"]["hits"] == 520
    assert (issued & ~holds).sum() == shown["wrong"]["hits"] and issued.sum() == shown["wrong"]["frames"]


def test_without_certifys_counts_the_interval_is_the_widest_that_the_audit_allows() -> None:
    """The value is the exact difference of the published share; kept counts give the paired interval instead."""
    shown = net_row("cifar10", "0.05", 0.25)
    behind, certify = shown["behind"]["CERTIFY, N = 10,000"], shown["certify"]["CERTIFY, N = 10,000"]
    assert behind["value"] == pytest.approx(certify["value"] - shown["net"]["value"]) and not shown["paired"]
    test = np.load(RESULTS / "cifar10" / "scores" / "ours" / "test.npz")
    hits, draws = test["counts"][np.arange(1000), test["target"]], test["num_samples"]
    reachable = 0.25 * norm.ppf(beta_law.ppf(0.999, hits + 1, np.maximum(draws - hits, 1e-9))) >= 0.25
    assert behind["lost"] == reachable.sum() - shown["net"]["hits"]
    assert behind["won"] == reachable.sum() - certify["hits"]


def test_a_finished_run_keeps_certifys_counts_and_is_read_net(finished: Path) -> None:
    done = CliRunner().invoke(main, ["net", str(finished), "--errors", "0.1"])
    assert done.exit_code == 0, done.output
    rows = read_json(finished / "net.json", "net")["rows"]
    step = next(row for row in rows if row["method"] == "RRISE, ours, a step")
    assert step["paired"] and "CERTIFY, N = 200" in step["behind"]
    published = rows_of(finished)["RRISE, ours, for r = 0.25"]
    assert step["net"]["hits"] == published["net"][2]["hits"] <= step["gross"]["hits"]
    assert step["behind"]["CERTIFY, N = 200"]["value"] == pytest.approx(published["net_gap"][2]["value"])
    assert "oracle" in (finished / "net.md").read_text()
    enclosed = next(row for row in rows if row["method"] == "RRISE, as in the paper")
    assert enclosed["net"] is None and enclosed["least"] <= enclosed["most"]
