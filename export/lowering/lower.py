"""Lowers a PyTorch module (preprocessing and network in one) to a clean ONNX graph from `frame` to `logits`.

In the guarded tier the graph has a second input, `noise`.
"""

from __future__ import annotations

import ast
import io
import logging
import re
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Iterator, List, Optional, Sequence, Tuple, Union

from rrise.calibration.storage.onnx_limits import MAX_IR_VERSION, OPSET
from rrise.edge_sdk.formats.contract import FRAME, NOISE
from rrise.export.errors import ExportError

if TYPE_CHECKING:
    import onnx
    import torch

CONTROL_FLOW = "data-dependent control flow"
Example = Union["torch.Tensor", Tuple["torch.Tensor", "torch.Tensor"]]


def lower(
    module: "torch.nn.Module", example: Example, outputs: Sequence[str] = ("logits",)
) -> "onnx.ModelProto":
    """Export `module` with fixed shapes, opset 18 and IR version at most 10.

    Args:
        module: maps the frame tensor to float32 logits [B, K] (or to a tuple, one tensor per name in `outputs`).
        example: a frame batch of the exact shape and dtype that the graph is to accept; in the guarded tier
            (frame batch, noise batch).
        outputs: names of the graph outputs.

    Returns:
        A checked model without doc strings, file paths or other traces of the machine it was made on.

    Raises:
        ExportError: NaN or infinite weights, control flow on data, or an operator without ONNX counterpart; names
            the layer and what to write instead.
    """
    import torch

    _check_weights(module)
    module = module.eval()
    with torch.no_grad(), _quiet():
        examples = example if isinstance(example, tuple) else (example,)
        program = _trace(module, examples)
        converted = _convert(program, [FRAME, NOISE][: len(examples)], outputs)
    model = clean_model(_name_after_layers(converted))
    check_model(model)
    return model


def check_model(model: "onnx.ModelProto") -> None:
    """Full checker with strict shape inference, and the limits of the contract: opset 18, IR version <= 10, standard operators.

    Raises:
        ExportError: what is wrong with the graph.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception as error:  # the checker's exceptions share no base class
        raise ExportError(f"the exported graph is not valid ONNX: {error}") from error
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    if (
        opsets.get("", 0) != OPSET
        or set(opsets) - {""}
        or model.ir_version > MAX_IR_VERSION
        or model.functions
    ):
        raise ExportError(
            f"the exported graph has operator sets {opsets} and IR version {model.ir_version}; "
            f"expected the standard operators at version {OPSET} and IR version <= {MAX_IR_VERSION}"
        )


def _check_weights(module: "torch.nn.Module") -> None:
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ExportError(
                f"weights: {name} holds NaN or infinity, expected finite numbers; train or load the network again"
            )


def _trace(module: "torch.nn.Module", examples: "Tuple[torch.Tensor, ...]") -> "torch.export.ExportedProgram":
    import torch

    with _current_layer(module) as layers:
        try:
            return torch.export.export(module, examples, strict=False)
        except Exception as error:
            where = f"layer {layers[-1]!r}" if layers else "the network"
            if "data-dependent" in str(error) or "DynamicControlFlow" in type(error).__name__:
                raise ExportError(
                    f"{where} branches on the values of its input ({CONTROL_FLOW}), which a fixed graph cannot do; "
                    f"write it with torch.where.{_source_line(str(error))}"
                ) from error
            raise ExportError(
                f"{where} cannot be traced on a frame batch of shape {tuple(examples[0].shape)}: {_first_line(error)}"
            ) from error


def _convert(
    program: "torch.export.ExportedProgram", inputs: Sequence[str], outputs: Sequence[str]
) -> "onnx.ModelProto":
    import torch

    try:
        converted = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            verbose=False,
        )
    except Exception as error:
        operator, layer = _failed_operator(error, program)
        raise ExportError(
            f"operator {operator} in layer {layer} has no ONNX counterpart; "
            f"write the layer with operators that ONNX opset {OPSET} has"
        ) from error
    assert converted is not None  # only the exporter's dry run returns nothing
    return converted.model_proto


def _failed_operator(error: BaseException, program: "torch.export.ExportedProgram") -> "tuple[str, str]":
    """The operator and layer that the exporter's chain of exceptions talks about."""
    text = ""
    cause: Optional[BaseException] = error
    while cause is not None:
        text += f"{cause}\n"
        cause = cause.__cause__ or cause.__context__
    operator = re.search(r"op='([^']+)'|target=torch\.ops\.([\w.]+)\]", text)
    node = re.search(r"node %(\w+)", text)
    name = (operator.group(1) or operator.group(2)) if operator else _first_line(error)
    return name, repr(_layer_of(node.group(1), program)) if node else "(unknown)"


def _layer_of(node_name: str, program: "torch.export.ExportedProgram") -> str:
    # The exporter names nodes after its own decompositions: erf_inv_1 was erfinv_1 in the traced program.
    wanted = node_name.replace("_", "")
    for node in program.graph.nodes:
        if node.name.replace("_", "") == wanted and node.meta.get("nn_module_stack"):
            path, kind = list(node.meta["nn_module_stack"].values())[-1]
            return f"{path or '(top)'} ({getattr(kind, '__name__', str(kind).rsplit('.', 1)[-1])})"
    return f"(unknown, node {node_name})"


@contextmanager
def _current_layer(module: "torch.nn.Module") -> Iterator[List[str]]:
    """The stack of layers that are running; after an exception its last entry is the one that raised."""
    stack: List[str] = []
    handles = []
    for name, layer in module.named_modules():
        label = f"{name or '(top)'} ({type(layer).__name__})"
        handles.append(
            layer.register_forward_pre_hook(lambda _layer, _inputs, label=label: stack.append(label))
        )
        handles.append(layer.register_forward_hook(lambda _layer, _inputs, _output: stack.pop() and None))
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its own progress and dumps whole graphs on failure; our errors say it in one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def clean_model(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Drop doc strings, source paths and the tools' notes; what is left depends on the network alone."""
    from onnx import inliner

    clean = inliner.inline_local_functions(model) if model.functions else model
    del clean.metadata_props[:]
    del clean.graph.metadata_props[:]
    del clean.graph.value_info[:]
    clean.doc_string = clean.graph.doc_string = clean.domain = ""
    clean.producer_name, clean.producer_version, clean.model_version = "rrise", "", 0
    clean.graph.name = "surrogate"
    for item in [*clean.graph.node, *clean.graph.initializer, *clean.graph.input, *clean.graph.output]:
        item.doc_string = ""
        del item.metadata_props[:]
    kept = [opset for opset in clean.opset_import if opset.domain == ""]
    del clean.opset_import[:]
    clean.opset_import.extend(kept)
    clean.ir_version = min(clean.ir_version, MAX_IR_VERSION)
    return clean


def _name_after_layers(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Name every node after the layer it came from, as in "network/body.0.conv1/Conv_3"."""
    for number, node in enumerate(model.graph.node):
        notes = {note.key: note.value for note in node.metadata_props}
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))
        layer = scopes[-2] if len(scopes) > 1 else ""
        node.name = f"{layer.replace('.', '/', 1) or 'top'}/{node.op_type}_{number}"
    return model


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _source_line(text: str) -> str:
    found = re.search(r'File "[^"]*?([^/"]+)", line (\d+)[^\n]*\n\s*([^\n]+)', text)
    return f" It is {found.group(1)} line {found.group(2)}: {found.group(3).strip()}" if found else ""
