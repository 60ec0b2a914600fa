"""A function that is linear in a direction, taken apart: what does not depend on the direction comes first.

A product with a Hessian is such a function. Its forward and backward pass at (θ, x, y) are the same for every
vector, and make a quarter of its multiplications for a convolution. They are computed once per point; what is
left over for every vector is the differentiation of the two passes.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

# The direction's part computes these anew, because to keep what they return costs memory and saves no time.
# Max-pooling is among them because oneDNN's kernel of its gradient, several times as fast as TensorFlow's
# own, is only chosen where the pooling itself is in the same graph.
ANEW = {"Const", "Fill", "Identity", "MaxPool", "OnesLike", "ReadVariableOp", "Reshape", "ZerosLike"}


class LinearPart:
    """f(point, direction) as ``self(kept, direction)`` with ``kept = self.at(point)``, in two graphs.

    The graph of f is traced once, when it is first needed, and cut: `kept` holds every tensor that does not
    depend on the direction and is an input of an operation that does. So both together make the operations of
    f, each once, and the result is that of f to rounding (operations are fused within a graph).

    Args:
        function: ``function(*point, *directions) -> list of tensors``, without side effects.
        point: specifications of the arguments that stay.
        directions: specifications of those that change.
    """

    def __init__(
        self, function: Callable, point: Sequence[tf.TensorSpec], directions: Sequence[tf.TensorSpec]
    ):
        self._function, self._point, self._directions = function, tuple(point), tuple(directions)
        self._parts = None

    def at(self, *point: tf.Tensor) -> list[tf.Tensor]:
        """Returns the tensors at `point` that every direction needs."""
        return self._cut()[0](*point)

    def __call__(self, kept: Sequence[tf.Tensor], *directions: tf.Tensor) -> list[tf.Tensor]:
        """Returns f at the point that `kept` belongs to, in these directions."""
        return self._cut()[1](*kept, *directions)

    def variables(self) -> tuple[tf.Variable, ...] | None:
        """Returns the variables that f reads, None where they cannot be told from what it has captured."""
        return self._cut()[2]

    def _cut(self):
        if self._parts is None:
            self._parts = self._traced()
        return self._parts

    def _traced(self):
        signature = [*self._point, *self._directions]
        traced = tf.function(self._function, input_signature=signature, autograph=False)
        graph = traced.get_concrete_function().graph
        inputs, outputs = graph.inputs[: len(signature)], list(graph.outputs)
        point, directions = inputs[: len(self._point)], inputs[len(self._point) :]
        captures = {inner.name: outer for outer, inner in graph.captures}
        kept = _border(outputs, directions, set(captures))
        definition = _simplified(graph.as_graph_def())

        def imported(given, values, wanted):
            fed = {tensor.name: value for tensor, value in zip(given, values, strict=True)}
            return _computed(definition, wanted, fed, captures)

        at = tf.function(
            lambda *values: imported(point, values, kept), input_signature=self._point, autograph=False
        )
        held = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in kept]
        along = tf.function(
            lambda *values: imported([*kept, *directions], values, outputs),
            input_signature=[*held, *self._directions],
            autograph=False,
        )
        resources = sum(outer.dtype == tf.resource for outer in captures.values())
        known = len(graph.variables) == resources
        return at, along, tuple(graph.variables) if known else None


def _border(outputs, directions, captured):
    """Returns what does not depend on the directions and is needed with them, and is worth keeping."""
    dependent, front = set(), list(directions)
    while front:
        for operation in front.pop().consumers():
            if operation not in dependent:
                dependent.add(operation)
                front += operation.outputs
    kept, seen, needed = [], captured | {tensor.name for tensor in directions}, list(outputs)
    while needed:
        tensor = needed.pop()
        if tensor.name in seen:
            continue
        seen.add(tensor.name)
        if tensor.op in dependent or tensor.op.type in ANEW:
            needed += tensor.op.inputs
        else:
            kept.append(tensor)
    return sorted(kept, key=lambda tensor: tensor.name)


def _simplified(definition):
    """Takes away orders of side effects, which there are none of, and zeros from sums.

    The first would make a part wait for all of the other. The second derivative of max-pooling adds two
    tensors of zeros of its input's size, which TensorFlow does not see through.
    """
    zeros = {node.name for node in definition.node if node.op == "ZerosLike"}
    for node in definition.node:
        wanted = [name for name in node.input if not name.startswith("^")]
        if node.op == "AddN":
            wanted = [name for name in wanted if name not in zeros] or wanted[:1]
            node.attr["N"].i = len(wanted)
        del node.input[:]
        node.input.extend(wanted)
    return definition


def _computed(definition, wanted, fed, captures):
    """Returns the tensors `wanted` of a graph, computed in the default graph from the values that are fed."""
    operations, used, needed = set(), set(), list(wanted)
    while needed:
        tensor = needed.pop()
        if tensor.name in fed or tensor.name in captures:
            used.add(tensor.name)
        elif tensor.op.name not in operations:
            operations.add(tensor.op.name)
            needed += tensor.op.inputs
    # Operations that are not needed must not be there: TensorFlow would run those it takes to have effects.
    part = tf.compat.v1.GraphDef(library=definition.library, versions=definition.versions)
    part.node.extend(node for node in definition.node if node.name in operations)
    capture = tf.compat.v1.get_default_graph().capture
    values = {name: fed[name] if name in fed else capture(captures[name]) for name in used}
    names = [tensor.name for tensor in wanted if tensor.name not in values]
    found = tf.graph_util.import_graph_def(
        part, {name: values[name] for name in _inputs(part) & used}, return_elements=names, name="part"
    )
    values |= dict(zip(names, found, strict=True))
    return [values[tensor.name] for tensor in wanted]


def _inputs(definition):
    """Returns the names of all tensors that the operations of a graph take."""
    names = {name for node in definition.node for name in node.input}
    return {name if ":" in name else f"{name}:0" for name in names}
