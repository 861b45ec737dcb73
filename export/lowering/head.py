"""The ONNX rendering of `calibration.CertificateHead`: from the surrogate's logits to label and certified radius.

Node by node it takes the float32 steps of `calibration.statistics.probit`, `calibration.promise.maps` and `.head`; from
the probit on, the two renderings agree bit for bit under ONNX Runtime. Only operators that TensorRT accepts are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Sequence

import numpy as np

from rrise.calibration.promise.head import CertificateHead
from rrise.calibration.promise.maps import RadiusMap
from rrise.calibration.statistics.probit import DENOMINATOR, LOGIT_LIMIT, MASKED_LOGIT, NUMERATOR
from rrise.export.errors import ExportError
from rrise.export.lowering.graph import NodeWriter, declare_output

if TYPE_CHECKING:
    import onnx

PREFIX = "head."
USABLE_LOGIT = -MASKED_LOGIT
"""A frame with a logit at or beyond this size, infinite or NaN gets probit NaN and radius 0."""


def attach_head(
    lowered: "onnx.ModelProto", head: CertificateHead, *, uncalibrated: bool = False
) -> "onnx.ModelProto":
    """A copy of `lowered` that ends in the certificate instead of the logits.

    Args:
        lowered: graph with float32 output `logits` [B, K] and, if `head.difficulty`, `difficulty` [B].
        head: what to render.
        uncalibrated: allow an infinite offset, which gives radius 0 for every frame; for scoring only.

    Raises:
        ExportError: an infinite offset, logits of another shape, or a difficulty that the network does not have.
    """
    import onnx

    batch, classes = _logits_shape(lowered)
    _check(lowered, head, classes, uncalibrated)
    model = onnx.ModelProto()
    model.CopyFrom(lowered)
    outputs = [output for output in model.graph.output if output.name != "logits"]
    del model.graph.output[:]

    write = NodeWriter(model, PREFIX)
    axis = write.constant("axis", [1], np.int64)
    top_index = write.node("ArgMax", "logits", name="top_index", axis=1, keepdims=1)
    label = write.node("Squeeze", top_index, axis, output="label")
    usable = _usable(write, axis)
    probit = _probit(write, top_index, axis, usable, classes)
    raw = _raw_radius(write, head, probit)
    _radius(write, head, raw, label, usable)
    write.node("Identity", PREFIX + "sigma", output="sigma")
    write.node("Identity", PREFIX + "offset", output="offset")

    for name, dtype, shape in (
        ("label", np.int64, [batch]),
        ("radius", np.float32, [batch]),
        ("probit", np.float32, [batch]),
    ):
        declare_output(model, name, dtype, shape)
    model.graph.output.extend(outputs)
    declare_output(model, "offset", np.float32, [len(head.offset)])
    declare_output(model, "sigma", np.float32, [1])
    return model


def _logits_shape(lowered: "onnx.ModelProto") -> Sequence[int]:
    shapes = {
        output.name: [size.dim_value for size in output.type.tensor_type.shape.dim]
        for output in lowered.graph.output
    }
    shape = shapes.get("logits", [])
    if len(shape) != 2 or min(shape) < 1 or shape[1] < 2:
        raise ExportError(
            f"network output: got {shapes}, expected `logits` of fixed shape [batch, classes >= 2]"
        )
    return shape


def _check(lowered: "onnx.ModelProto", head: CertificateHead, classes: int, uncalibrated: bool) -> None:
    if head.issues_nothing and not uncalibrated:
        raise ExportError(
            f"offset: got {head.offset}; an infinite offset issues no certificate and must not be embedded. "
            "Calibrate with more frames or a larger error level."
        )
    if len(head.offset) not in (1, classes):
        raise ExportError(
            f"offset: got {len(head.offset)} values, expected 1 or one for each of the {classes} classes"
        )
    if head.difficulty and "difficulty" not in {output.name for output in lowered.graph.output}:
        raise ExportError(
            "the head scales its offset by the difficulty, but the network has no output `difficulty`"
        )


def _usable(write: NodeWriter, axis: str) -> str:
    """bool [B]: every logit is a number of sane size.

    Written as a comparison that NaN fails, because Max, Clip and ReduceMax drop NaN in some runtimes.
    """
    size = write.node("Abs", "logits", name="logit_size")
    sane = write.node("Less", size, write.constant("logit_bound", USABLE_LOGIT), name="logit_sane")
    count = write.node(
        "ReduceMin",
        write.node("Cast", sane, name="logit_sane_float", to=1),
        axis,
        name="all_sane",
        keepdims=0,
    )
    return write.node("Greater", count, write.constant("half", 0.5), name="usable")


def _probit(write: NodeWriter, top_index: str, axis: str, usable: str, classes: int) -> str:
    """Phi^-1 of the top class's softmax probability, through the logit margin."""
    is_top = write.node(
        "Equal", top_index, write.constant("classes", np.arange(classes)[None], np.int64), name="is_top"
    )
    others = write.node(
        "Where", is_top, write.constant("masked_logit", MASKED_LOGIT), "logits", name="others"
    )
    top = write.node("ReduceMax", "logits", axis, name="top", keepdims=0)
    second_column = write.node("ReduceMax", others, axis, name="second_column", keepdims=1)
    second = write.node("Squeeze", second_column, axis, name="second")
    exponentials = write.node(
        "Exp", write.node("Sub", others, second_column, name="shifted"), name="exponentials"
    )
    rest = write.node(
        "Log", write.node("ReduceSum", exponentials, axis, name="rest_sum", keepdims=0), name="rest"
    )
    margin = write.node("Sub", write.node("Sub", top, second, name="lead"), rest, name="margin")

    limits = (write.constant("margin_low", -LOGIT_LIMIT), write.constant("margin_high", LOGIT_LIMIT))
    t = write.node("Clip", margin, *limits, name="t")
    size = write.node("Abs", t, name="t_size")
    numerator = _horner(write, "numerator", NUMERATOR, size)
    denominator = _horner(write, "denominator", DENOMINATOR, size)
    value = write.node(
        "Div", write.node("Mul", t, numerator, name="t_numerator"), denominator, name="probit_value"
    )
    return write.node("Where", usable, value, write.constant("nan", np.nan), output="probit")


def _horner(write: NodeWriter, name: str, coefficients: Sequence[float], x: str) -> str:
    value = write.constant(f"{name}_{len(coefficients) - 1}", coefficients[-1])
    for power in reversed(range(len(coefficients) - 1)):
        product = write.node("Mul", value, x, name=f"{name}_times_{power}")
        value = write.node(
            "Add", product, write.constant(f"{name}_{power}", coefficients[power]), name=f"{name}_sum_{power}"
        )
    return value


def _raw_radius(write: NodeWriter, head: CertificateHead, probit: str) -> str:
    plugin = write.node("Mul", write.constant("sigma", [head.sigma]), probit, name="plugin")
    return plugin if head.map.is_identity else _mapped(write, head.map, plugin)


def _mapped(write: NodeWriter, table: RadiusMap, plugin: str) -> str:
    """The piecewise-linear table: find the segment by counting knots, gather it, interpolate."""
    inside = write.node(
        "Clip",
        plugin,
        write.constant("map_low", table.x[0]),
        write.constant("map_high", table.x[-1]),
        name="inside",
    )
    rows = {"x": table.x[:-1], "y": table.y[:-1], "slope": table.slope}
    values = {name: write.constant(f"map_{name}", row) for name, row in rows.items()}
    if len(table.slope) > 1:
        segment = _segment(write, table, inside)
        values = {
            name: write.node("Gather", row, segment, name=f"segment_{name}", axis=0)
            for name, row in values.items()
        }
    step = write.node("Sub", inside, values["x"], name="step")
    return write.node("Add", values["y"], write.node("Mul", values["slope"], step, name="rise"), name="raw")


def _segment(write: NodeWriter, table: RadiusMap, inside: str) -> str:
    """int64 [B]: how many inner knots lie at or below the plug-in radius; 0 for NaN, so that it always is an index."""
    axis = write.constant("map_axis", [1], np.int64)
    column = write.node("Unsqueeze", inside, axis, name="inside_column")
    knots = write.constant("map_knots", [table.x[1:-1]])
    passed = write.node(
        "Cast", write.node("GreaterOrEqual", column, knots, name="passed"), name="passed_float", to=1
    )
    # Counted in float32, exact up to 2^24 knots: TensorRT sums float32 everywhere, integers not everywhere.
    count = write.node("ReduceSum", passed, axis, name="passed_count", keepdims=0)
    return write.node("Cast", count, name="segment", to=7)


def _radius(write: NodeWriter, head: CertificateHead, raw: str, label: str, usable: str) -> None:
    margin = write.constant("offset", list(head.offset))
    if len(head.offset) > 1:
        margin = write.node("Gather", margin, label, name="class_offset", axis=0)
    if head.difficulty:
        margin = write.node("Mul", margin, "difficulty", name="scaled_offset")
    radius, zero = write.node("Sub", raw, margin, name="shrunk"), write.constant("zero", 0.0)
    if head.map.radii:
        radius = _stairs(write, head.map, radius, zero)
    reached = write.node("Greater", radius, zero, name="positive")
    issued = write.node("And", usable, reached, name="issued")
    if head.difficulty:
        # A difficulty of 0 or less would switch the offset off or turn it round, an infinite one would turn a negative
        # offset into an infinite radius.
        positive = write.node("Greater", "difficulty", zero, name="difficulty_positive")
        largest = write.constant("difficulty_largest", float(np.finfo(np.float32).max))
        finite = write.node("LessOrEqual", "difficulty", largest, name="difficulty_finite")
        issued = write.node("And", issued, positive, name="with_positive_difficulty")
        issued = write.node("And", issued, finite, name="with_finite_difficulty")
    if head.threshold is not None:
        above = write.node(
            "Greater", raw, write.constant("threshold", head.threshold), name="above_threshold"
        )
        issued = write.node("And", issued, above, name="selected")
    write.node("Where", issued, radius, zero, output="radius")


def _stairs(write: NodeWriter, table: RadiusMap, reach: str, zero: str) -> str:
    """The largest radius whose threshold is reached, or 0: comparisons that NaN fails, and a maximum of constants."""
    axis = write.constant("stairs_axis", [1], np.int64)
    column = write.node("Unsqueeze", reach, axis, name="reach_column")
    thresholds = write.constant("stairs_thresholds", [table.thresholds])
    passed = write.node("GreaterOrEqual", column, thresholds, name="stairs_passed")
    radii = write.node(
        "Where", passed, write.constant("stairs_radii", [table.radii]), zero, name="stairs_reached"
    )
    return write.node("ReduceMax", radii, axis, name="stairs_radius", keepdims=0)
