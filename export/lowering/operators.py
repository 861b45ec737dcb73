"""Operators that NVIDIA's ONNX parser takes on every TensorRT from JetPack 6.2 (10.3) on, for graphs like ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, List

if TYPE_CHECKING:
    import onnx

_NAMES = """
    Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv
    ConvTranspose Cos CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand Flatten Floor Gather
    GatherElements GatherND Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual HardSigmoid Identity
    InstanceNormalization LeakyRelu Less LessOrEqual Log LogSoftmax MatMul Max MaxPool Mean Min Mul Neg Not Or PRelu Pad Pow
    QuantizeLinear ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize Round Selu Shape Sigmoid Sign Sin Slice Softmax Softplus Softsign SpaceToDepth
    Split Sqrt Squeeze Sub Sum Tan Tanh Tile TopK Transpose Unsqueeze Where Xor
"""
TENSORRT_OPERATORS = frozenset(_NAMES.split())
"""From the support matrix of onnx-tensorrt; all of it is older than TensorRT 10.3, so that JetPack 6.2 has it."""


def foreign_operators(model: "onnx.ModelProto") -> Dict[str, List[str]]:
    """Operators outside the list, with the layers that use them; TensorRT may still take them, but not everywhere."""
    found: Dict[str, List[str]] = {}
    for node in model.graph.node:
        if node.op_type not in TENSORRT_OPERATORS:
            found.setdefault(node.op_type, []).append(node.name)
    return found
