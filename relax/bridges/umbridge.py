"""A map as a model of UM-Bridge (protocol 1.0), for its clients in Python, C++, Julia, R and Matlab."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
from petsc4py import PETSc

from relax.base import parallel
from relax.base.log import logger
from relax.base.types import Array
from relax.engine.linearization import Linearization
from relax.engine.operators import check_whole
from relax.engine.protocols import Map, check_has_controls, check_is_map
from relax.errors import BadInput, RelaxError

# What requests carry beside the control: derivatives in which output and input, then directions.
_ASKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Evaluate": ((), ()),
    "Gradient": (("outWrt", "inWrt"), ("sens",)),
    "ApplyJacobian": (("outWrt", "inWrt"), ("vec",)),
    "ApplyHessian": (("outWrt", "inWrt1", "inWrt2"), ("sens", "vec")),
}
# Seconds between two looks at who has been asked to end; for which a silent client is waited for.
_BEAT, _SILENCE = 0.25, 10.0
# What is computed: which of the requests, the control, directions.
_Task = tuple[str, Array, list[Array]]
_NOTHING: _Task = ("", np.empty(0), [])


def serve(G: Map, *, port: int = 4242, host: str = "localhost", name: str = "forward") -> None:
    """Serve G over HTTP until SIGINT or SIGTERM: values, gradients, Jacobian and Hessian actions.

    Collective: rank 0 answers one request after the other, and all ranks solve. A signal to any rank ends all of them,
    after the request that is under way. The model has one input, the control vector (size_in,), and one output,
    (size_out,), in the units of the map; a linearisation point is kept for requests at the same control. What a client
    asks for wrongly, and a solve that fails, is an error of the protocol in words, and the server goes on.

    Args:
        G: the map.
        port: of the server; 0 for a free one, which is printed.
        host: whom it listens to: "localhost" for this machine alone, "0.0.0.0" for everyone who reaches it.
        name: of the model.

    Raises:
        BadInput: on every rank, for what is no map, a map without controls or with ``layout="owned"`` on several
            ranks, and a port that is taken.
    """
    check_is_map(G, "G")
    check_has_controls(G, "G", "serve")
    check_whole(G, "umbridge.serve", "one client knows the whole vector")
    server = None
    with _signals() as asked:
        model = _ServedMap(G, name, asked)
        with parallel.together(G.comm):
            if G.comm.rank == 0:
                try:
                    server = _Server((host, port), model)
                except (OSError, OverflowError, TypeError) as error:
                    raise BadInput(f"port: cannot listen on {host}, port {port} ({error}); 0 is a free one") from error
                print(f"{name}: http://{host}:{server.server_port}; Ctrl-C ends it", flush=True)
        try:
            while not model.is_over:
                if server is not None:
                    server.handle_request()
                model.meet(None)
        finally:
            if server is not None:
                server.server_close()
        model.close()


@contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has come, within the block. Local. A thread gets none."""
    came: list[int] = []
    # PETSc ends a program that writes to a client who has gone; ignored, it is an error of that one answer.
    wanted: dict[int, Any] = dict.fromkeys((signal.SIGINT, signal.SIGTERM), lambda n, _: came.append(n))
    wanted[signal.SIGPIPE] = signal.SIG_IGN
    if threading.current_thread() is not threading.main_thread():
        wanted = {}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _ServedMap:
    """What all ranks do together. Collective to make and to close, as is ``meet``."""

    def __init__(self, G: Map, name: str, asked: Callable[[], bool]) -> None:
        self.G, self.name = G, name
        self.is_over = False
        self._asked = asked
        # Ranks wait for each other over one that nothing else is sent over.
        self._waiting = G.comm.Dup()
        self._point: tuple[Array, Linearization] | None = None

    def meet(self, task: _Task | None) -> tuple[int, Any]:
        """Do rank 0's task, where it has one, else see whether a rank has been asked to end. Status and reply."""
        mine = np.array([-(task is not None), -self._asked()], dtype=np.int32)
        has_task, is_asked = parallel.smallest_or(self._waiting, mine)
        if not has_task:
            self.is_over = bool(is_asked)
            return 200, None
        try:
            return 200, {"output": self._computed(*parallel.of_rank_0(self.G.comm, task or _NOTHING))}
        except RelaxError as error:
            return (
                (400, _error("InvalidInput", error))
                if isinstance(error, BadInput)
                else (500, _error("SolveFailed", error))
            )

    def _computed(self, what: str, m: Array, directions: list[Array]) -> Any:
        is_here = self._point is not None and np.array_equal(self._point[0], m)
        if what == "Evaluate" and not is_here:
            return [self.G(m).tolist()]
        if not is_here:
            self._leave()
            self._point = (m, self.G.linearize(m))
        assert self._point is not None
        lin = self._point[1]
        if what == "Evaluate":
            return [lin.value.tolist()]
        products: dict[str, Any] = {"Gradient": lin.vjp, "ApplyJacobian": lin.jvp, "ApplyHessian": lin.hvp}
        return products[what](*directions).tolist()

    def _leave(self) -> None:
        if self._point is not None:
            self._point[1].close()
            PETSc.garbage_cleanup(self.G.comm)
        self._point = None

    def close(self) -> None:
        self._leave()
        self._waiting.Free()


class _Server(HTTPServer):
    """Rank 0's ears."""

    request_queue_size = 128
    timeout = _BEAT

    def __init__(self, address: tuple[str, int], model: _ServedMap) -> None:
        super().__init__(address, _Handler)
        self.model = model

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is its own affair; what else is raised here is raised by ``serve``."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            raise
        logger.info("a client has gone before its answer")


class _Handler(BaseHTTPRequestHandler):
    """One request."""

    timeout = _SILENCE
    server: _Server

    def do_GET(self) -> None:
        self._reply(*self._of_server())

    def do_POST(self) -> None:
        try:
            status, reply = self._of_model(self.rfile.read(self._length()))
        except TimeoutError:
            return
        except BadInput as error:
            status, reply = 400, _error("InvalidInput", error)
        self._reply(status, reply)

    def _length(self) -> int:
        """Of what is sent, in bytes."""
        given = self.headers.get("Content-Length", "0")
        if not (given.isascii() and given.isdecimal()) or len(given) > 15:
            raise BadInput(f"Content-Length: expected a number of bytes, got {given!r:.80}")
        return int(given)

    def log_message(self, format: str, *words: Any) -> None:
        logger.debug(format, *words)

    def _of_server(self) -> tuple[int, Any]:
        if self.path == "/Info":
            return 200, {"protocolVersion": 1.0, "models": [self.server.model.name]}
        known = ", ".join(f"/{name}" for name in ("Info", "ModelInfo", "InputSizes", "OutputSizes", *_ASKS))
        return 404, _error("UnsupportedFeature", f"{self.path}: expected one of {known}")

    def _of_model(self, text: bytes) -> tuple[int, Any]:
        model, what = self.server.model, self.path.removeprefix("/")
        G = model.G
        replies = {
            "ModelInfo": {"support": dict.fromkeys(_ASKS, True)},
            "InputSizes": {"inputSizes": [G.size_in]},
            "OutputSizes": {"outputSizes": [G.size_out]},
        }
        if what not in replies and what not in _ASKS:
            return self._of_server()
        try:
            asked = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"expected a request in JSON ({error})") from error
        if not isinstance(asked, dict) or asked.get("name") != model.name:
            name = asked.get("name") if isinstance(asked, dict) else None
            return 400, _error("ModelNotFound", f"name: expected {model.name!r}, got {name!r:.80}")
        if what in replies:
            return 200, replies[what]
        given = asked.get("input")
        if not isinstance(given, list) or len(given) != 1:
            raise BadInput(f"input: expected a list of one list of {G.size_in} numbers, got {given!r:.80}")
        places, directions = _ASKS[what]
        for place in places:
            if asked.get(place) != 0:
                raise BadInput(f"{place}: expected 0, the model's one output and input, got {asked.get(place)!r:.80}")
        lengths = {"sens": G.size_out, "vec": G.size_in}
        m = _vector(given[0], "input", G.size_in)
        return model.meet((what, m, [_vector(asked.get(key), key, lengths[key]) for key in directions]))

    def _reply(self, status: int, reply: Any) -> None:
        text = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def _error(kind: str, words: object) -> dict[str, Any]:
    return {"error": {"type": kind, "message": str(words)}}


def _vector(given: Any, what: str, length: int) -> Array:
    is_list = isinstance(given, list) and all(isinstance(x, int | float) for x in given)
    if not is_list or len(given) != length:
        found = f"{len(given)} numbers" if is_list else f"{given!r:.80}"
        raise BadInput(f"{what}: expected a list of {length} numbers, got {found}")
    return np.array([float(x) if abs(x) < 1e308 else np.inf for x in given])
