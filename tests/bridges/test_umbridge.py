"""A map served to UM-Bridge: the published protocol by a client of a few lines, and by UM-Bridge's where it is there.

Rank 0's client is a thread beside the server; it ends the server by a signal to the last rank.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from contract import COMM, raised_everywhere

import relax
from relax import PointValues, ReducedMap, meshes, pdes
from relax.errors import BadInput

pytestmark = pytest.mark.ranks(1, 2)
NAME = "conductivity"


def make(layout="replicated"):
    problem = pdes.poisson.diffusion(meshes.unit_square(3))
    return ReducedMap(problem, PointValues(problem.state.function_space, [[0.3, 0.4], [0.6, 0.7]]), layout=layout)


def ask(url, path, body=None):
    """Status and reply."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(f"{url}/{path}", data), timeout=20.0) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def served(G, client, number=signal.SIGTERM):
    """What ``client(url)`` returns on rank 0, beside a server that a signal to the last rank ends."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    last = COMM.allgather(os.getpid())[-1]
    outcome = []

    def run():
        try:
            for _ in range(200):
                try:
                    ask(f"http://localhost:{port}", "Info")
                    break
                except OSError:
                    time.sleep(0.05)
            outcome.append(client(f"http://localhost:{port}"))
        except BaseException as error:
            outcome.append(error)
        finally:
            os.kill(last, number)

    thread = threading.Thread(target=run)
    if COMM.rank == 0:
        thread.start()
    relax.umbridge.serve(G, port=port, name=NAME)
    if COMM.rank == 0:
        thread.join()
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]
    return None


def test_the_protocol():
    """Endpoints, statuses and numbers, those of the map bit for bit."""
    G = make()
    rng = np.random.default_rng(0)
    m, dm = 0.3 * rng.standard_normal((2, G.size_in))
    dy = np.array([1.0, -2.0])
    with G.linearize(m) as lin:
        expected = [[lin.value.tolist()], *(a.tolist() for a in (lin.vjp(dy), lin.jvp(dm), lin.hvp(dy, dm)))]
    base = {"name": NAME, "input": [m.tolist()], "config": {}}
    where = {"outWrt": 0, "inWrt": 0, "inWrt1": 0, "inWrt2": 0}
    more = {"sens": dy.tolist(), "vec": dm.tolist()}

    def client(url):
        before = dict(G.counts)
        replies = [
            ask(url, what, base | where | more) for what in ("Evaluate", "Gradient", "ApplyJacobian", "ApplyHessian")
        ]
        again = ask(url, "Evaluate", base)
        # The value alone, then one linearisation point for all that follows.
        assert G.counts["forward"] - before["forward"] == 2 and again == replies[0]
        infos = [
            ask(url, "Info"),
            *(ask(url, what, {"name": NAME}) for what in ("ModelInfo", "InputSizes", "OutputSizes")),
        ]
        return replies, infos

    got = served(G, client)
    if COMM.rank == 0:
        replies, infos = got
        assert [status for status, _ in replies] == [200] * 4
        for (_, reply), numbers in zip(replies, expected, strict=True):
            assert list(reply) == ["output"]
            np.testing.assert_allclose(reply["output"], numbers, rtol=1e-12, atol=1e-15)
        assert infos == [
            (200, {"protocolVersion": 1.0, "models": [NAME]}),
            (200, {"support": {"Evaluate": True, "Gradient": True, "ApplyJacobian": True, "ApplyHessian": True}}),
            (200, {"inputSizes": [16]}),
            (200, {"outputSizes": [2]}),
        ]


def test_errors_of_the_protocol():
    """In words, and the server goes on."""
    G = make()
    zeros, base = [0.0] * 16, {"name": NAME, "outWrt": 0, "inWrt": 0}

    def client(url):
        asked = (
            ("Evaluate", {"name": "wrong"}, 400, "ModelNotFound", "expected 'conductivity', got 'wrong'"),
            ("Evaluate", {"name": NAME, "input": [zeros + [0.0]]}, 400, "InvalidInput", "list of 16 numbers, got 17"),
            ("Evaluate", {"name": NAME, "input": zeros}, 400, "InvalidInput", "a list of one list of 16 numbers"),
            ("Evaluate", {"name": NAME}, 400, "InvalidInput", "got None"),
            ("Evaluate", {"name": NAME, "input": [["a"] * 16]}, 400, "InvalidInput", "got ['a', 'a'"),
            ("Evaluate", {"name": NAME, "input": [[float("nan")] * 16]}, 400, "InvalidInput", "NaN or infinite"),
            ("Evaluate", {"name": NAME, "input": [[800.0] * 16]}, 500, "SolveFailed", ""),
            ("Gradient", base | {"input": [zeros], "sens": [1.0]}, 400, "InvalidInput", "sens: expected a list of 2"),
            ("Gradient", base | {"input": [zeros], "inWrt": 1}, 400, "InvalidInput", "inWrt: expected 0"),
            (
                "ApplyJacobian",
                base | {"input": [zeros], "vec": zeros[1:]},
                400,
                "InvalidInput",
                "vec: expected a list of 16",
            ),
            ("Evaluate", b"{", 400, "InvalidInput", "in JSON"),
            ("Evaluate", b"[" * 200_000, 400, "InvalidInput", "in JSON"),
            ("EvaluateShMem", {"name": NAME}, 404, "UnsupportedFeature", "expected one of /Info, /ModelInfo"),
        )
        for path, body, status, kind, words in asked:
            got, reply = ask(url, path, body)
            assert list(reply) == ["error"] and set(reply["error"]) == {"type", "message"}
            assert (got, reply["error"]["type"]) == (status, kind), reply
            assert words in reply["error"]["message"], reply
        for length in ("abc", "-5", "1" + "0" * 30):
            request = urllib.request.Request(f"{url}/Evaluate", b"{}", {"Content-Length": length})
            with pytest.raises(urllib.error.HTTPError, match="400") as refused:
                urllib.request.urlopen(request, timeout=20.0)
            assert f"Content-Length: expected a number of bytes, got '{length}'" in refused.value.read().decode()
        with socket.create_connection(("localhost", int(url.rpartition(":")[2]))) as gone:
            gone.sendall(b"POST /Evaluate HTTP/1.0\r\nContent-Length: 5\r\n\r\n12345"[:30])
        return ask(url, "Evaluate", {"name": NAME, "input": [zeros]})[0]

    assert served(G, client, signal.SIGINT) == (200 if COMM.rank == 0 else None)


def test_the_client_of_um_bridge():
    umbridge = pytest.importorskip("umbridge")
    G = make()
    m = 0.1 * np.arange(16.0)
    with G.linearize(m) as lin:
        value, gradient = lin.value, lin.vjp([1.0, 1.0])

    def client(url):
        model = umbridge.HTTPModel(url, NAME)
        assert (model.get_input_sizes(), model.get_output_sizes()) == ([16], [2])
        with pytest.raises(Exception, match="InvalidInput: input: expected a list of 16 numbers, got 2 numbers"):
            model([[1.0, 2.0]])
        return model([m.tolist()]), model.gradient(0, 0, [m.tolist()], [1.0, 1.0])

    got = served(G, client)
    if COMM.rank == 0:
        np.testing.assert_allclose(got[0], [value], rtol=1e-12)
        np.testing.assert_allclose(got[1], gradient, rtol=1e-12)


def test_what_is_refused():
    serve = relax.umbridge.serve
    assert "expected a map" in str(raised_everywhere(BadInput, lambda: serve("G")))
    if COMM.size > 1:
        assert "layout='replicated'" in str(raised_everywhere(BadInput, lambda: serve(make("owned"))))
    with socket.create_server(("localhost", 0)) as taken:
        port = COMM.bcast(taken.getsockname()[1])
        assert "0 is a free one" in str(raised_everywhere(BadInput, lambda: serve(make(), port=port)))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
