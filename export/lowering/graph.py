"""A small writer of ONNX nodes: names, constants and nodes appended behind an existing graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List, Optional

import numpy as np

if TYPE_CHECKING:
    import onnx


class NodeWriter:
    """Appends nodes to `model` under a common name prefix.

    Every constant becomes an initializer and every node is named after its output, so that the same calls give
    the same bytes.
    """

    def __init__(self, model: "onnx.ModelProto", prefix: str) -> None:
        self.graph = model.graph
        self.prefix = prefix
        self._taken = {name for node in model.graph.node for name in node.output}
        self._taken |= {tensor.name for tensor in model.graph.initializer} | {
            value.name for value in model.graph.input
        }

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Add an initializer and return its name."""
        from onnx import numpy_helper

        full = self._claim(f"{self.prefix}{name}")
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), full))
        return full

    def node(
        self,
        operator: str,
        *inputs: str,
        name: Optional[str] = None,
        output: Optional[str] = None,
        **attributes: Any,
    ) -> str:
        """Add a node with one output and return that output's name.

        Args:
            name: readable name, prefixed; the operator's name and a number where it is absent.
            output: exact name of the output, without prefix (for the tensors of the contract).
        """
        from onnx import helper

        full = self._claim(output or f"{self.prefix}{name or self._numbered(operator)}")
        self.graph.node.append(
            helper.make_node(operator, list(inputs), [full], name=f"node.{full}", **attributes)
        )
        return full

    def _numbered(self, operator: str) -> str:
        number = sum(
            1
            for node in self.graph.node
            if node.op_type == operator and node.output[0].startswith(self.prefix)
        )
        return f"{operator.lower()}_{number}"

    def _claim(self, name: str) -> str:
        if name in self._taken:
            raise ValueError(f"the graph already has a tensor called {name!r}")
        self._taken.add(name)
        return name


def declare_output(model: "onnx.ModelProto", name: str, dtype: Any, shape: List[int]) -> None:
    """Declare tensor `name` as a graph output."""
    from onnx import helper

    model.graph.output.append(
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
    )
