"""Recalibration on stored reference radii: numpy alone, logged, and only for references that fit the record."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rrise.calibration import CalibrationError, Guarantee, Scores, calibrate, clopper_pearson_map
from rrise.calibration.promise.offsets import label_reference
from rrise.calibration.recalibrate import recalibrate
from rrise.calibration.storage.attempts import AttemptLog
from tests.calibration.helpers import EXECUTION, SIGMA, draw_scores

MAP = clopper_pearson_map(SIGMA, 500, 0.1)


def _stored(scores: Scores, beta: float = 0.1) -> Scores:
    return replace(scores, reference=label_reference(scores, beta), beta=beta)


def test_new_frames_give_the_record_that_the_server_would_make(tmp_path: Path) -> None:
    current = calibrate(draw_scores(0, difficulty=True), Guarantee.of(), MAP)
    site = draw_scores(1, 300, start=10_000, noise=0.6, difficulty=True)
    site = replace(site, execution=replace(EXECUTION, architecture="aarch64"))
    record = recalibrate(_stored(site), current, AttemptLog(tmp_path / "log"))
    assert record == calibrate(site, Guarantee.of(), MAP)
    assert record.head.offset[0] > current.head.offset[0]
    assert record.execution.architecture == "aarch64" and record.attempt == 1


def test_every_attempt_is_logged_and_numbered(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path / "log")
    current = calibrate(draw_scores(0), Guarantee.of(), MAP)
    site = _stored(draw_scores(1, 300))
    assert recalibrate(site, current, log).attempt == 1
    assert recalibrate(site, current, log).attempt == 1
    other = replace(site, execution=replace(EXECUTION, version="2"))
    assert recalibrate(other, current, log).attempt == 2
    poor = site.take(np.arange(20))
    assert not recalibrate(poor, current, log)
    assert len(log.lines()) == 4


def test_other_counts_on_the_same_frames_are_another_attempt(tmp_path: Path) -> None:
    """Whoever draws the references again, or scores again with fresh guard noise, looks a second time."""
    log = AttemptLog(tmp_path / "log")
    current = calibrate(draw_scores(0), Guarantee.of(), MAP)
    site = _stored(draw_scores(1, 300))
    assert recalibrate(site, current, log).attempt == 1
    counts = np.roll(site.counts, 1, axis=0)
    again = _stored(replace(site, counts=counts, reference=None, beta=None))
    assert recalibrate(again, current, log).attempt == 2
    rescored = replace(site, probit=np.nextafter(site.probit, np.float32(0)))
    assert recalibrate(rescored, current, log).attempt == 3
    shuffled = site.take(np.random.default_rng(0).permutation(300))
    assert recalibrate(shuffled, current, log).attempt == 1


def test_an_attempt_that_fails_is_logged_too(tmp_path: Path) -> None:
    log = AttemptLog(tmp_path / "log")
    current = calibrate(draw_scores(0), Guarantee.of(), MAP)
    site = _stored(draw_scores(1, 300))
    with pytest.raises(CalibrationError, match="used in training"):
        recalibrate(site, current, log, training_digests=[site.digest[0]])
    assert len(log.lines()) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: replace(s, reference=None, beta=None), "reference radii for beta None"),
        (lambda s: _stored(s, 0.05), "reference radii for beta 0.05"),
        (lambda s: replace(s, base_digest="c" * 64), "drawn from base classifier cccccccccccc"),
        (lambda s: replace(s, sigma=0.5), "references at sigma 0.5"),
        (lambda s: replace(s, split="verification"), "expected 'calibration'"),
    ],
)
def test_references_that_do_not_fit_are_refused(tmp_path: Path, change: object, message: str) -> None:
    current = calibrate(draw_scores(0), Guarantee.of(), MAP)
    with pytest.raises(CalibrationError, match=message):
        recalibrate(change(_stored(draw_scores(1, 300))), current, AttemptLog(tmp_path / "log"))  # type: ignore[operator]


def test_stored_radii_that_the_counts_do_not_prove_are_refused(tmp_path: Path) -> None:
    current = calibrate(draw_scores(0), Guarantee.of(), MAP)
    site = _stored(draw_scores(1, 300))
    raised = np.array(site.reference)
    raised[7] += np.float32(0.01)
    with pytest.raises(
        CalibrationError, match=r"1 stored reference radii are larger than their counts prove .* frame 7"
    ):
        recalibrate(replace(site, reference=raised), current, AttemptLog(tmp_path / "log"))


def test_a_selective_record_keeps_its_threshold(tmp_path: Path) -> None:
    current = calibrate(draw_scores(0, 800), Guarantee.of("selective"), MAP, threshold=0.3)
    record = recalibrate(_stored(draw_scores(1, 900)), current, AttemptLog(tmp_path / "log"))
    assert record.head.threshold == current.head.threshold and record


def test_it_needs_neither_scipy_nor_matplotlib(tmp_path: Path) -> None:
    current = calibrate(draw_scores(0), Guarantee.of(), MAP)
    current.save(tmp_path / "record.json")
    _stored(draw_scores(1, 300)).save(tmp_path / "scores.npz")
    script = (
        "import sys\n"
        "for name in ('scipy', 'matplotlib', 'torch', 'onnx', 'click'): sys.modules[name] = None\n"
        "from rrise.calibration.storage.attempts import AttemptLog\n"
        "from rrise.calibration.recalibrate import recalibrate\n"
        "from calibration import Calibration, Scores\n"
        f"folder = {str(tmp_path)!r}\n"
        "record = recalibrate(Scores.load(folder + '/scores.npz'), Calibration.load(folder + '/record.json'),\n"
        "                     AttemptLog(folder + '/log'))\n"
        "print(record.head.offset[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == calibrate(draw_scores(1, 300), Guarantee.of(), MAP).head.offset[0]
