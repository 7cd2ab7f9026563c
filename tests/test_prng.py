"""A PRNG key either draws numbers or makes other keys, in training and in serving; no two uses share one."""

import jax
import numpy as np
import take_steps
import tiny
from flax import nnx
from jax.extend.core import Literal

import segblocks_jax as sb
from segblocks_jax.nn import Conv, Dropout, max_pool
from segblocks_jax.systems.segblocks import policies
from segblocks_jax.systems.segblocks.programs import ModelPrograms
from segblocks_jax.systems.segblocks.settings import Program
from segblocks_jax.training.state import create_state


class Uses:
    """The keys of a traced program, by how they were made: which draw, and which make others."""

    def __init__(self):
        self.draws, self.parents = set(), set()

    def follow(self, jaxpr, names):
        """Follows keys, and the numbers that they are folded with, through a jaxpr with these inputs."""
        known = dict(zip(jaxpr.invars, names, strict=True))

        def name(atom):
            if isinstance(atom, Literal):
                return np.asarray(atom.val).flat[0].item() if np.size(atom.val) == 1 else "many"
            return known.get(atom, "many")

        for equation in jaxpr.eqns:
            kind, inputs = equation.primitive.name, [name(atom) for atom in equation.invars]
            outputs = [inputs[0] if inputs else "many"] * len(equation.outvars)
            if kind == "random_seed":
                outputs = ["seed"]
            elif kind == "random_fold_in":
                self.parents.add(inputs[0])
                outputs = [tuple(inputs)]
            elif kind == "random_bits":
                self.draws.add(inputs[0])
            elif kind in ("add", "mul", "iota", "axis_index"):
                outputs = ["many"]
            for inner in jax.tree.leaves(
                list(equation.params.values()),
                is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr"),
            ):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    outputs = self.follow(inner, inputs[len(inputs) - len(inner.invars) :])
            known |= dict(zip(equation.outvars, outputs, strict=False))
        return [name(atom) for atom in jaxpr.outvars]

    def check(self, draws):
        assert not self.parents & self.draws
        assert len(self.draws) == draws


class Net(nnx.Module):
    """Two layers that drop channels, and as little else as makes a network."""

    output_stride = 4
    num_classes = tiny.CLASSES
    semantics = sb.BlockOptions()

    def __init__(self, rngs):
        self.dropouts = nnx.List([Dropout(0.5), Dropout(0.5)])
        self.logits = Conv(3, tiny.CLASSES, 1, rngs=rngs)

    def __call__(self, x):
        for dropout in self.dropouts:
            x = max_pool(dropout(x), window=2, stride=2, padding=0)
        return self.logits(x)


def test_a_training_step(monkeypatch):
    monkeypatch.setattr(take_steps, "SmallNet", Net)
    settings = tiny.config(
        "reinforce",
        policy={"reward": "gain"},
        semantics={"filling": "random"},
        optim={"batch_size": 4},
    )
    step, state = take_steps.trainer(settings, None)
    state, batch, decision = step.arguments(state)
    uses = Uses()
    names = ["state key" if leaf is state.key else "many" for leaf in jax.tree.leaves(state)]
    for program, arguments in (
        (step.decide, (state, batch)),
        (lambda *given: step.programs.function(*given, num_high=4), (state, batch, decision)),
    ):
        jaxpr = jax.make_jaxpr(program)(*arguments).jaxpr
        uses.follow(jaxpr, names + ["many"] * (len(jaxpr.invars) - len(names)))
    uses.check(draws=6)  # Actions, the filling, and two layers in two runs.


def test_a_served_program_that_decides_and_fills():
    spec = sb.ModelSpec(
        "swiftnet_rn18",
        tiny.CLASSES,
        semantics=sb.BlockOptions(filling="random"),
        policy=sb.PolicySpec("random", block_size=32),
        mean=(0.3, 0.3, 0.3),
        std=(0.2, 0.2, 0.2),
    )
    policy = policies.create("random", block_size=32, target=0.5)
    programs = ModelPrograms(Net(nnx.Rngs(0)), policy, spec, "float32", "xla")
    program = Program("fixed", (2, 64, 64), num_high=2)
    with programs.tracing():
        function, arguments = programs.function(program), programs.arguments(program)
        jaxpr = jax.make_jaxpr(function)(programs.weights, *arguments).jaxpr
    uses = Uses()
    uses.follow(jaxpr, ["many"] * len(jaxpr.invars))
    uses.check(draws=2)


def test_weights_and_steps_have_no_key_in_common():
    _, state = create_state(nnx.Dict(), take_steps.create_optimizer(tiny.config().optim, {}), 3)
    rngs = nnx.Rngs(3)
    weights = {jax.random.key_data(rngs.params()).tobytes() for _ in range(200)}
    steps = {jax.random.key_data(jax.random.fold_in(state.key, i)).tobytes() for i in range(200)}
    assert not weights & steps
