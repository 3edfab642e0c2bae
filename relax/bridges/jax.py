"""A map as a function of JAX."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from relax.base.types import Array
from relax.engine.linearization import Linearization
from relax.engine.protocols import Map, check_has_controls, check_is_map
from relax.errors import BadInput


def function(G: Map) -> Callable[[Any], Any]:
    """G as a function of JAX arrays, (size_in,) -> (size_out,), with ``jax.grad``, ``jax.vjp`` and ``jax.jacrev``.

    Also of second order in reverse mode, ``jax.jacrev(jax.grad(loss))``, by Hessian actions of the map; forward mode
    (``jvp``, ``jacfwd``, ``hessian``) is refused by JAX. It works under ``jax.jit``, and under ``jax.vmap`` sample by
    sample. Computed in float64; what comes back has the precision of the argument: with JAX's default of float32, or of
    ``jax.config.update("jax_enable_x64", True)``. One linearisation point is kept, for products at one control.

    JAX makes calls that do not depend on each other in an order of its own, which may differ between ranks: the mesh is
    on one rank, ``MPI.COMM_SELF`` where there are several.

    Args:
        G: the map.

    Raises:
        BadInput: for what is no map, one without controls or on several ranks; by a call, for another shape or numbers
            that are not floating point. What is noticed in a solve, such as ``SolveFailed``, is told by JAX's
            ``JaxRuntimeError``.
        ImportError: where JAX is not installed.
    """
    try:
        import jax
        import jax.numpy as jnp
    except ModuleNotFoundError as error:
        raise ImportError("relax.jax.function needs jax, which is not installed: try `pip install jax`") from error
    check_is_map(G, "G")
    check_has_controls(G, "G", "differentiate in")
    if G.comm.size > 1:
        raise BadInput(
            f"jax.function: expected a map on one rank, got one on {G.comm.size}: JAX makes calls in an order of its "
            "own, which may differ between ranks; make the mesh on MPI.COMM_SELF"
        )
    host = _Host(G)

    def call(what: str, size: int, *given: Any) -> Any:
        shape = jax.ShapeDtypeStruct((size,), given[0].dtype)
        return jax.pure_callback(lambda *arrays: host.call(what, *arrays), shape, *given, vmap_method="sequential")

    @jax.custom_vjp
    def adjoint(m: Any, dy: Any) -> Any:
        return call("vjp", G.size_in, m, dy)

    adjoint.defvjp(
        lambda m, dy: (adjoint(m, dy), (m, dy)),
        lambda at, dm: (call("hvp", G.size_in, *at, dm), call("jvp", G.size_out, at[0], dm)),
    )

    @jax.custom_vjp
    def value(m: Any) -> Any:
        return call("value", G.size_out, m)

    value.defvjp(lambda m: (value(m), m), lambda m, dy: (adjoint(m, dy),))

    def of_array(m: Any) -> Any:
        m = jnp.asarray(m)
        if m.shape != (G.size_in,) or not jnp.issubdtype(m.dtype, jnp.floating):
            raise BadInput(
                f"m: expected an array of floating point numbers of shape ({G.size_in},), got {m.dtype} of shape "
                f"{m.shape}; jax.vmap is for several of them"
            )
        return value(m)

    return of_array


class _Host:
    """What JAX calls, from threads of its own: one call at a time."""

    def __init__(self, G: Map) -> None:
        self._G = G
        self._turn = threading.Lock()
        self._point: tuple[Array, Linearization] | None = None

    def call(self, what: str, m: Any, *directions: Any) -> Array:
        """A value or a product at m, in the precision of m."""
        with self._turn:
            precise = [np.asarray(a, dtype=np.float64) for a in (m, *directions)]
            lin = self._at(self._G.layout.checked(precise[0], "m").copy())
            result = lin.value if what == "value" else getattr(lin, what)(*precise[1:])
            return np.asarray(result, dtype=np.asarray(m).dtype)

    def _at(self, m: Array) -> Linearization:
        if self._point is None or not np.array_equal(self._point[0], m):
            if self._point is not None:
                self._point[1].close()
            self._point = None
            self._point = (m, self._G.linearize(m))
        return self._point[1]
