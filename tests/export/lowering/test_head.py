"""The ONNX head against `calibration.CertificateHead`, and against float64 formulas of scipy."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from scipy.special import expit, logsumexp, ndtri, ndtri_exp

from rrise.calibration.promise.head import CertificateHead
from rrise.calibration.promise.maps import RadiusMap, clopper_pearson_map, staircase_map, step_map
from rrise.calibration.statistics.probit import LOGIT_LIMIT, probit_from_logits
from rrise.export.errors import ExportError
from rrise.export.lowering.head import attach_head
from rrise.export.lowering.lower import check_model

BATCH, CLASSES = 512, 7
STEPS = RadiusMap("steps", (-0.2, 0.0, 0.1, 0.11, 0.9), (-0.3, -0.1, 0.05, 0.05, 0.7))
TWO_KNOTS = RadiusMap("line", (-0.5, 1.0), (-0.75, 0.6))
PER_CLASS = tuple(0.05 * index - 0.1 for index in range(CLASSES))
HEADS = {
    "identity": CertificateHead(0.25, offset=(0.1,)),
    "clopper-pearson": CertificateHead(0.25, clopper_pearson_map(0.25, 2000, 0.1), (0.031,)),
    "steps": CertificateHead(0.12, STEPS, (0.07,)),
    "two knots": CertificateHead(0.5, TWO_KNOTS, (-0.02,)),
    "per class": CertificateHead(1.0, STEPS, PER_CLASS),
    "threshold": CertificateHead(0.25, offset=(0.05,), threshold=0.2),
    "step": CertificateHead(0.25, step_map(0.3), (0.05,)),
    "step of each class": CertificateHead(
        0.12, replace(STEPS, radii=(0.2,), thresholds=(0.2,)), PER_CLASS, difficulty=True
    ),
    "staircase": CertificateHead(0.25, staircase_map((0.1, 0.3, 0.5), (0.12, 0.3, 0.61)), (0.02,)),
    "staircase of each class": CertificateHead(
        0.12, replace(STEPS, radii=(0.02, 0.2), thresholds=(-0.05, 0.1)), PER_CLASS, difficulty=True
    ),
    "difficulty": CertificateHead(0.25, STEPS, PER_CLASS, difficulty=True, threshold=0.01),
}


def logits_graph(batch: int = BATCH, classes: int = CLASSES, difficulty: bool = True) -> onnx.ModelProto:
    """A graph without network: `frame` [batch, classes] is passed on as `logits`."""
    nodes = [helper.make_node("Identity", ["frame"], ["logits"])]
    inputs = [helper.make_tensor_value_info("frame", TensorProto.FLOAT, [batch, classes])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])]
    if difficulty:
        nodes.append(helper.make_node("Identity", ["hardness"], ["difficulty"]))
        inputs.append(helper.make_tensor_value_info("hardness", TensorProto.FLOAT, [batch]))
        outputs.append(helper.make_tensor_value_info("difficulty", TensorProto.FLOAT, [batch]))
    graph = helper.make_graph(nodes, "logits", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run_head(
    head: CertificateHead,
    logits: np.ndarray,
    hardness: "np.ndarray | None" = None,
    level: str = "ORT_ENABLE_ALL",
    **options: bool,
) -> "dict[str, np.ndarray]":
    model = attach_head(logits_graph(*logits.shape, difficulty=head.difficulty), head, **options)  # type: ignore[misc]
    check_model(model)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    feed = {"frame": logits} | ({"hardness": hardness} if head.difficulty else {})
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, feed), strict=True))


def random_logits(scale: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, scale, (BATCH, CLASSES)).astype(np.float32)


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("name", HEADS)
def test_from_the_probit_on_both_renderings_agree_bit_for_bit(name: str, level: str) -> None:
    head = HEADS[name]
    issued = 0
    for scale in (0.3, 3.0, 30.0, 300.0):
        logits = random_logits(scale)
        hardness = np.random.default_rng(1).uniform(0.1, 3, BATCH).astype(np.float32)
        got = run_head(head, logits, hardness, level)
        wanted = head.radius(got["probit"], got["label"], hardness)
        assert got["radius"].tobytes() == wanted.tobytes()
        issued += int((got["radius"] > 0).sum())
    assert 0 < issued < 4 * BATCH


@pytest.mark.parametrize("seed", range(12))
def test_any_staircase_agrees_bit_for_bit_also_at_its_thresholds(seed: int) -> None:
    """Random stairs; half of the thresholds are what some frame reaches exactly, the others a float32 above or below."""
    random = np.random.default_rng(seed)
    count, logits = int(random.integers(1, 9)), random_logits(3.0, seed)
    hardness = random.uniform(0.1, 3, BATCH).astype(np.float32)
    plain = CertificateHead(0.25, offset=(float(random.normal(0, 0.1)),), difficulty=bool(seed % 2))
    probit = run_head(plain, logits, hardness)["probit"]
    reach = plain.reach(probit, np.zeros(BATCH, np.int64), hardness)
    thresholds = random.choice(reach, count)
    for beyond in (-np.inf, np.inf):
        moved = random.random(count) < 0.25
        thresholds[moved] = np.nextafter(thresholds[moved], np.float32(beyond))
    stairs = staircase_map(np.cumsum(random.uniform(0.01, 0.3, count)).tolist(), np.sort(thresholds).tolist())
    head = replace(plain, map=stairs)
    got = run_head(head, logits, hardness)
    wanted = head.radius(got["probit"], got["label"], hardness)
    assert got["radius"].tobytes() == wanted.tobytes()
    assert set(got["radius"].tolist()) <= {0.0, *stairs.radii} and (wanted > 0).any()


def test_a_difficulty_that_is_no_positive_number_abstains_in_both_renderings() -> None:
    head, logits = CertificateHead(0.25, offset=(-0.1,), difficulty=True), random_logits(30.0)
    hardness = np.resize(np.array([1.0, 0.0, -1.0, np.nan, 1e-3, np.inf, 3e38], np.float32), BATCH)
    got = run_head(head, logits, hardness)
    wanted = head.radius(got["probit"], got["label"], hardness)
    assert got["radius"].tobytes() == wanted.tobytes()
    unusable = ~(hardness > 0) | np.isinf(hardness)
    assert (got["radius"][unusable] == 0).all() and np.isfinite(got["radius"]).all()
    assert (got["radius"][hardness == 1] > 0).all()


def test_label_and_probit_agree_with_the_numpy_rendering() -> None:
    for scale in (0.3, 3.0, 30.0, 300.0):
        logits = random_logits(scale, seed=2)
        got, wanted = run_head(HEADS["identity"], logits), probit_from_logits(logits)
        np.testing.assert_array_equal(got["label"], wanted.label)
        # exp, log and the order of the sum differ in the last bit, which the cancellation in the margin carries along.
        margin_unit = np.spacing(np.maximum(np.abs(logits).max(axis=1), 1))
        assert (np.abs(got["probit"] - wanted.probit) <= 4 * margin_unit).all()


def test_probit_is_the_inverse_normal_of_the_softmax() -> None:
    logits = np.concatenate(
        [random_logits(1.0, 3), random_logits(8.0, 4)[: BATCH // 2], random_logits(0.01, 5)[: BATCH // 2]]
    )[:BATCH]
    got = run_head(HEADS["identity"], logits)["probit"]
    exact = logits.astype(np.float64)
    top = exact.argmax(axis=1)
    others = np.where(np.arange(CLASSES) == top[:, None], -np.inf, exact)
    margin = exact.max(axis=1) - logsumexp(others, axis=1)
    # Through the smaller tail, in logarithms: accurate for every margin.
    wanted = -np.sign(margin) * ndtri_exp(-np.log1p(np.exp(np.abs(margin))))
    inside = np.abs(margin) < LOGIT_LIMIT
    assert inside.sum() > BATCH // 2
    np.testing.assert_allclose(got[inside], wanted[inside], rtol=2e-6, atol=2e-6)


BAD_VALUES = [math.nan, math.inf, -math.inf, 1e30, -1e30, 3.4e38, -3.4e38]


@pytest.mark.parametrize(
    "name", ["identity", "clopper-pearson", "two knots", "per class", "step", "staircase"]
)
def test_logits_that_are_no_numbers_never_give_a_certificate(name: str) -> None:
    logits = np.full((BATCH, CLASSES), -5.0, np.float32)
    logits[:, 2] = 20.0
    rows = [(value, column) for value in BAD_VALUES for column in range(CLASSES)]
    for row, (value, column) in enumerate(rows):
        logits[row, column] = value
    logits[len(rows)] = math.nan
    head = HEADS[name].with_offset((-0.5,) * len(HEADS[name].offset))
    got = run_head(head, logits)
    broken = slice(0, len(rows) + 1)
    assert (got["radius"][broken] == 0).all()
    assert np.isnan(got["probit"][broken]).all()
    assert (got["radius"][len(rows) + 1 :] > 0).all()
    assert ((got["label"] >= 0) & (got["label"] < CLASSES)).all()


def test_saturated_margins_stay_finite_and_bounded() -> None:
    logits = np.zeros((BATCH, CLASSES), np.float32)
    logits[:, 0] = np.linspace(0, 1e29, BATCH, dtype=np.float32)
    got = run_head(HEADS["identity"].with_offset((0.0,)), logits)
    assert got["radius"].max() <= 0.25 * 10.72 and np.isfinite(got["radius"]).all()


def test_ties_go_to_the_first_class_and_two_classes_work() -> None:
    logits = np.array([[1.0, 1.0], [0.0, 2.0], [-3.0, -3.0]], np.float32)
    got = run_head(CertificateHead(0.5, offset=(0.0,)), logits)
    assert got["label"].tolist() == [0, 1, 0]
    assert got["probit"][0] == 0 and got["radius"][0] == 0
    assert got["radius"][1] == pytest.approx(0.5 * ndtri(expit(2.0)), abs=1e-6)


def test_constants_are_outputs() -> None:
    got = run_head(HEADS["per class"], random_logits(1.0))
    assert got["sigma"].tolist() == [1.0]
    assert got["offset"].tobytes() == np.array(PER_CLASS, np.float32).tobytes()


def test_an_uncalibrated_graph_abstains_on_everything() -> None:
    got = run_head(CertificateHead(0.25), random_logits(30.0), uncalibrated=True)
    assert (got["radius"] == 0).all() and np.isfinite(got["probit"]).all()


@pytest.mark.parametrize(
    ("head", "difficulty", "message"),
    [
        (CertificateHead(0.25), False, "infinite offset issues no certificate"),
        (
            CertificateHead(0.25, offset=(0.1, 0.2)),
            False,
            "got 2 values, expected 1 or one for each of the 7",
        ),
        (CertificateHead(0.25, offset=(0.1,), difficulty=True), False, "no output `difficulty`"),
    ],
)
def test_heads_that_do_not_fit_are_refused(head: CertificateHead, difficulty: bool, message: str) -> None:
    with pytest.raises(ExportError, match=message):
        attach_head(logits_graph(difficulty=difficulty), head)


def test_logits_of_open_shape_are_refused() -> None:
    model = logits_graph(difficulty=False)
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(ExportError, match="fixed shape"):
        attach_head(model, HEADS["identity"])
