"""Published tables: settings, rows that share a base classifier, and numbers that follow from what is kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from scipy.stats import beta as beta_law
from scipy.stats import binom, norm
from statsmodels.stats.proportion import proportion_confint

from examples.reproduce.__main__ import main
from examples.reproduce.methods import Method, check_comparable, keep, load_methods
from examples.reproduce.rivals import load_rivals
from examples.reproduce.table import ERRORS, Row, make_rows, published_prior
from examples.reproduce.variant import SHARED
from rrise import trainer
from rrise.calibration.storage.files import read_json
from rrise.calibration.tables.scores import Scores
from rrise.trainer.cli import main as train
from rrise.trainer.errors import TrainerError
from rrise.trainer.settings.config import Config, load_config

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SETTINGS = sorted((EXAMPLES / "reproduce" / "settings").glob("*.toml"))
RESULTS = EXAMPLES / "reproduce" / "results"
PUBLISHED = sorted(path.parent for path in RESULTS.glob("*/net.json"))
EARLIER = RESULTS / "release-0.1"
LEVELS = ("--errors", "0.1,0.05")


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def saved(path: Path, workspace: Path, **changes: Any) -> Path:
    """Settings of a workspace with another [surrogate], as a file."""
    config = load_config(workspace / "rrise.toml")
    path.write_text(replace(config, surrogate=replace(config.surrogate, **changes)).to_toml())
    return path


@pytest.fixture(scope="module")
def rows(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three workspaces on one base classifier: the shared one, one trained as the prior is, and one unchanged."""
    folder = tmp_path_factory.mktemp("rows")
    scratch = {"method": "stored", "start": "scratch"}
    (folder / "ours").symlink_to(workspace)
    asked = {
        "prior": {**scratch, "loss": "js", "optimiser": "adamw"},
        "clean": {"method": "unchanged"},
    }
    for name, changes in asked.items():
        settings = saved(folder / f"{name}.toml", workspace, **changes)
        done = invoke("variant", workspace, folder / name, "--settings", settings)
        assert done.exit_code == 0, done.output
        opened = trainer.Workspace.open(folder / name)
        assert trainer.build_targets(opened).drawn == 0
        trainer.train_surrogate(opened)
        trainer.calibrate_surrogate(opened)
    return folder


@pytest.fixture(scope="module")
def written(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of these three, written."""
    out = tmp_path_factory.mktemp("table")
    done = invoke(
        "table",
        *(rows / name for name in ("ours", "prior", "clean")),
        "--out",
        out,
        "--radii",
        "0.1,0.2",
        *LEVELS,
    )
    assert done.exit_code == 0, done.output
    return out


def test_the_table_has_every_method_at_every_level(written: Path) -> None:
    page, rows = (written / "table.md").read_text(), read_json(written / "net.json", "net")["rows"]
    found = [(row["method"], row["error"], len(row["worth"])) for row in rows]
    levels = [(error, size) for error in ("0.1", "0.05") for size in (2, 1, 1)]
    for name in ("ours", "prior", "clean"):
        assert [
            (error, size) for method, error, size in found if method.split(",")[0] == name and error
        ] == levels
    assert ("prior, as published", "", 2) in found and ("CERTIFY, N = 200", "", 2) in found
    assert page.count("| ours, each radius alone | pac, eps 0.05 |") == 3  # net, wrong among issued, behind
    assert page.count("| ours, each radius alone r = ") == 4
    assert "| oracle |" in page and (written / "net.svg").read_text().startswith("<svg")
    for row in rows:
        for worth in row["worth"]:
            assert worth["net"]["hits"] <= worth["gross"]["hits"]
            if row["behind"]:
                assert worth["proved"]["hits"] <= worth["net"]["hits"] <= worth["not_refuted"]["hits"]
                assert worth["net"]["hits"] <= worth["oracle"]["hits"]


def test_the_difference_to_certify_is_paired(written: Path) -> None:
    rows = read_json(written / "net.json", "net")["rows"]
    best = next(row for row in rows if row["method"] == "CERTIFY, N = 200")
    assert best["behind"] == [] and best["passes"] == 300
    for row in rows:
        for worth, gap in zip(row["worth"], row["behind"]):
            theirs = next(w for w in best["worth"] if w["radius"] == worth["radius"])["net"]
            assert gap["value"] == pytest.approx(theirs["value"] - worth["net"]["value"])
            assert gap["lower"] < gap["value"] < gap["upper"]


def test_a_written_table_is_made_again_from_what_it_keeps(written: Path, tmp_path: Path) -> None:
    done = invoke("table", written, "--out", tmp_path / "again", *LEVELS)
    assert done.exit_code == 0, done.output
    again, first = ({row["method"] + row["error"]: row for row in read_json(folder / "net.json", "net")["rows"]}
                    for folder in (tmp_path / "again", written))  # fmt: skip
    assert again == first
    assert str(Path.home()) not in (written / "rows" / "ours" / "rrise.toml").read_text()
    assert (written / "rows" / "ours" / "rrise.toml").read_text().count('source = "digits.npz"') == 1


def test_a_published_table_stands_beside_a_workspace(written: Path, rows: Path) -> None:
    """Published digests are cut, a workspace's are whole: the frames are the same all the same."""
    kept, fresh = load_methods([written])[0], load_methods([rows / "clean"])[0]
    assert (kept.test.digest.dtype.str, fresh.test.digest.dtype.str) == ("|S16", "|S64")
    check_comparable(kept, fresh)
    other = replace(fresh, test=replace(fresh.test, digest=fresh.test.digest[::-1].copy()))
    with pytest.raises(TrainerError, match="test frames: got"):
        check_comparable(kept, other)


def test_offline_passes_leave_out_what_the_row_did_not_need(rows: Path, workspace: Path) -> None:
    ours, clean = load_methods([rows / "ours", rows / "clean"])
    references = 200 * (40 + 100)
    assert clean.offline_passes == references and clean.config.surrogate.method == "unchanged"
    stages = {entry.stage for entry in ours.cost.entries}
    assert {"targets-train", "surrogate-stored", "surrogate-fresh"} <= stages
    trained = sum(entry.total for entry in ours.cost.entries if entry.stage.startswith("surrogate"))
    frames = len(trainer.Workspace.open(workspace).splits.train)
    assert ours.offline_passes == references + 100 * frames + trained


def test_copies_are_passes_of_a_query_also_from_what_is_kept(workspace: Path, tmp_path: Path) -> None:
    settings = saved(tmp_path / "s.toml", workspace, copies=2)
    assert invoke("variant", workspace, tmp_path / "two", "--settings", settings).exit_code == 0
    opened = trainer.Workspace.open(tmp_path / "two")
    shutil.copy(workspace / "surrogate.safetensors", opened.path)  # only the pool is fitted
    trainer.train_surrogate(opened)
    trainer.calibrate_surrogate(opened)
    (method,) = load_methods([opened.path])
    assert method.passes == 3 and method.recipe.endswith(", 2 copies")
    keep(tmp_path / "kept", [method])
    assert load_methods([tmp_path / "kept"])[0].passes == 3


def test_a_workspace_without_certify_is_told_what_draws_it(workspace: Path, tmp_path: Path) -> None:
    shutil.copytree(workspace, tmp_path / "w")
    (tmp_path / "w" / "certify.npz").unlink()
    assert "--compare" in invoke("table", tmp_path / "w").output


def test_an_unchanged_surrogate_is_the_base_classifier(rows: Path) -> None:
    opened = trainer.Workspace.open(rows / "clean")
    mine, base = opened.surrogate().module.state_dict(), opened.base().module.state_dict()
    assert mine.keys() == base.keys() and all((mine[name] == base[name]).all() for name in base)


def test_an_unchanged_surrogate_needs_the_base_classifiers_weights(rows: Path, tmp_path: Path) -> None:
    settings = saved(tmp_path / "s.toml", rows / "clean", start="scratch")
    assert invoke("variant", rows / "clean", tmp_path / "w", "--settings", settings).exit_code == 0
    done = CliRunner().invoke(train, ["surrogate", str(tmp_path / "w")])
    assert done.exit_code == 2 and "does not start at the base classifier's weights" in done.output


def test_another_attempt_on_the_same_counts_is_counted(rows: Path) -> None:
    """The variants' log goes on from that of the workspace that they were made from."""
    record = next((rows / "prior" / "scores").glob("pytorch-*/calibration.json"))
    assert read_json(record, "record")["attempt"] == 2


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("smoothing", "sigma", 0.5), ("base", "epochs", 3), ("guarantee", "beta", "0.2")],
)
def test_a_variant_of_other_grounds_is_refused(
    workspace: Path, tmp_path: Path, section: str, key: str, value: object
) -> None:
    config = load_config(workspace / "rrise.toml")
    changed = replace(config, **{section: replace(getattr(config, section), **{key: value})})
    (tmp_path / "s.toml").write_text(changed.to_toml())
    done = invoke("variant", workspace, tmp_path / "w", "--settings", tmp_path / "s.toml")
    assert done.exit_code == 2 and f"[{section}] {key}" in done.output and not (tmp_path / "w").exists()


def test_a_variant_needs_a_base_classifier_and_a_new_folder(workspace: Path, tmp_path: Path) -> None:
    settings = saved(tmp_path / "s.toml", workspace, method="unchanged")
    (tmp_path / "bare").mkdir()
    shutil.copy(workspace / "rrise.toml", tmp_path / "bare")
    done = invoke("variant", tmp_path / "bare", tmp_path / "w", "--settings", settings)
    assert done.exit_code == 2 and "no base classifier" in done.output
    done = invoke("variant", workspace, tmp_path / "bare", "--settings", settings)
    assert done.exit_code == 2 and "exists" in done.output


def test_rows_that_cannot_be_compared_are_refused(rows: Path, tmp_path: Path) -> None:
    second = load_methods([rows / "clean"])[0]
    shutil.copytree(rows / "clean", tmp_path / "other")
    counts = second.certify.counts.copy()
    counts[0, 0] = np.roll(counts[0, 0], 1)
    replace(second.certify, counts=counts).save(tmp_path / "other" / "certify.npz")
    with pytest.raises(TrainerError, match="counts of CERTIFY"):
        load_methods([rows / "ours", tmp_path / "other"])
    with pytest.raises(TrainerError, match="a name each"):
        load_methods([rows / "ours", rows / "ours"])
    (tmp_path / "other" / "surrogate.safetensors").write_bytes(b"another")
    with pytest.raises(TrainerError, match="no scores of the surrogate"):
        load_methods([tmp_path / "other"])
    done = invoke("table", rows / "ours", "--radii", "0,1")
    assert done.exit_code == 2 and "--radii" in done.output


def test_the_published_prior_is_clopper_pearson_on_pretended_counts(rows: Path) -> None:
    test = load_methods([rows / "prior"])[0].test
    radius = published_prior(test, 1000)
    for row in range(0, 40, 7):
        count = int(np.floor(1000 * norm.cdf(float(test.probit[row]))))
        lower = proportion_confint(count, 1000, 0.002, method="beta")[0]
        assert radius[row] == pytest.approx(max(0.25 * norm.ppf(lower), 0.0), abs=1e-6)


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
def test_the_rows_of_a_data_set_share_what_they_are_compared_on(dataset: str) -> None:
    found = [load_config(path) for path in SETTINGS if path.name.startswith(dataset)]
    if dataset == "cifar10":
        found.append(load_config(EXAMPLES / "settings" / "cifar10_small.toml"))
    assert len(found) == 4

    def grounds(config: Config) -> list[object]:
        return [*(getattr(config, name) for name in SHARED), config.guarantee.beta, config.guarantee.radius]

    assert all(grounds(config) == grounds(found[0]) for config in found)
    assert len({config.surrogate for config in found}) == 4


@pytest.mark.parametrize(
    "folder", [RESULTS / "digits", RESULTS / "cifar10-sigma0.25"], ids=lambda path: path.name
)
def test_our_published_rows_follow_from_the_scores_that_are_kept(folder: Path) -> None:
    methods = [method for method in load_methods([folder]) if method.name == "ours"]
    check_published(folder, methods, ("0.05",))


@pytest.mark.long
@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda path: path.name)
def test_every_published_row_follows_from_the_scores_that_are_kept(folder: Path) -> None:
    rows = check_published(folder, load_methods([folder]), ERRORS)
    assert len(rows) == len(read_json(folder / "net.json", "net")["rows"])


def check_published(folder: Path, methods: list[Method], errors: tuple[str, ...]) -> list[Row]:
    """Every row made again is one of the published ones, number by number."""
    published = read_json(folder / "net.json", "net")
    rows = make_rows(methods, errors, published["radii"], load_rivals([], [folder]))
    for row in rows:
        plain = json.loads(json.dumps(asdict(row)))
        del plain["curve"]
        assert plain in published["rows"], row.method
    return rows


def test_results_are_small_and_there_are_two_tables() -> None:
    assert {"digits", "cifar10-sigma0.25"} <= {folder.name for folder in PUBLISHED}
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 3 << 20
    assert not [path for path in files if path.suffix == ".safetensors"]


def test_net_of_one_published_row_by_hand() -> None:
    """CIFAR-10, sigma 0.25, a step at r = 0.25 at eps 0.05: from the arrays, with numpy and scipy and nothing of ours.

    Expected counts: table of release 0.1's reproduction (gross 54.3 %, net 52.0 % of 1,000 frames).
    """

    def read(part: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        table = np.load(EARLIER / "cifar10" / f"{part}.npz")
        hits = table["counts"][np.arange(len(table["label"])), table["label"]].astype(float)
        right = table["label"] == table["target"]
        return np.float32(0.25) * table["probit"], hits, table["num_samples"].astype(float), right

    raw, hits, draws, _ = read("calibration")
    lower = beta_law.ppf(0.05, hits, draws - hits + 1)
    alpha, frames = 0.05 * (1 - 0.05), len(raw)
    rank = int(binom.ppf(0.95, frames, 1 - alpha)) + 1  # the smallest k with BinomCDF(k - 1) >= 1 - delta
    # A frame whose reference reaches r costs nothing at any offset; the others until they are no longer issued.
    costs = np.sort(np.where(0.25 * norm.ppf(lower) >= 0.25, -np.inf, raw))
    raw, hits, draws, right = read("test")
    issued = raw > costs[rank - 1]
    holds = 0.25 * norm.ppf(hits / draws) >= 0.25
    assert (right & issued).sum() == 543 and (right & issued & holds).sum() == 520


def test_the_same_row_by_the_library() -> None:
    from rrise.calibration import Guarantee, calibrate
    from rrise.calibration.promise.maps import step_map
    from rrise.calibration.tables.evaluation import judge

    tables = {part: Scores.load(EARLIER / "cifar10" / f"{part}.npz") for part in ("calibration", "test")}
    record = calibrate(
        tables["calibration"], Guarantee.of("pac", "0.05", "0.95", "0.05"), step_map(0.25), difficulty=False
    )
    test = tables["test"]
    worth = judge(test, record.head.radius(test.probit, test.label)).worth([0.25])[0]
    assert (worth.gross.hits, worth.net.hits) == (543, 520)
