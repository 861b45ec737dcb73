"""The gate compares with the references that were calibrated with, also where beta was split over stages or looks."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rrise.calibration import Guarantee, calibrate
from rrise.calibration.tables.references import References
from rrise.export.gating.compare import Answers
from rrise.export.gating.gate import _check_coverage, _check_replay, _scores
from tests.calibration.helpers import EXECUTION, draw_scores

SHARE = 0.01
"""Of beta .1: what bounds after a first stage have."""
RUNTIME: Any = SimpleNamespace(execution=EXECUTION)
TABLE = draw_scores(0, 400, 200, noise=0.05)


def pack(level: float) -> References:
    """References of the frames of TABLE with bounds at this level of beta .1."""
    shape = (len(TABLE), 2, 2, 1)
    frames = np.arange(np.prod(shape)).astype("<u2").view(np.uint8)[: np.prod(shape)].reshape(shape)
    frames[:, 0, :, 0] = np.stack([np.arange(len(TABLE)) // 256, np.arange(len(TABLE)) % 256], axis=1)
    return References.from_counts(
        frames, TABLE.clip, TABLE.target, TABLE.counts, TABLE.num_samples, split="calibration", sigma=TABLE.sigma,
        class_names=TABLE.class_names, base_digest=TABLE.base_digest, beta=0.1,
        level=np.full(len(TABLE), level),
    )  # fmt: skip


@pytest.mark.parametrize(("share", "stopped"), [(SHARE, True), (0.1, False)])
def test_an_offset_for_all_of_beta_is_stopped_where_beta_was_split(share: float, stopped: bool) -> None:
    references, guarantee = pack(share), Guarantee.of("pac", "0.1", "0.9", "0.1")
    table = references.scores(TABLE.label, TABLE.probit, None, EXECUTION)
    # Calibrated as if the counts had been looked at once: the offset is too small where they were not.
    record = calibrate(replace(table, reference=None, beta=None), guarantee)
    radius = record.head.radius(table.probit, table.label)
    mine = Answers(table.label, radius, table.probit)
    (check,) = _check_replay(record, mine, references, RUNTIME, None)
    assert check.name == "rank of the offset" and check.passed is not stopped, check
    found = _check_coverage(record, mine, replace(references, split="verification"), RUNTIME)
    assert found.passed is not stopped, found


def test_stored_radii_above_what_the_counts_prove_are_not_believed() -> None:
    references = pack(0.1)
    bold = replace(references, radius=references.radius + np.float32(0.1))
    found = _scores(bold, Answers(TABLE.label, TABLE.probit, TABLE.probit), RUNTIME)
    assert (found.reference == references.radius[np.arange(len(TABLE)), TABLE.label]).all()
