"""``relax.Checkpoint``: states come back to the bit, on any number of ranks; what does not fit is said in words."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from contract import raised_everywhere
from dolfinx import fem, mesh
from mpi4py import MPI

import relax
from relax.base import checkpoint_files, parallel
from relax.base.checkpoint import seconds
from relax.base.fem import stored_fields
from relax.errors import BadInput, RelaxError, SolveFailed

torch = pytest.importorskip("torch")

COMM = MPI.COMM_WORLD
KEEPS_FIELDS = pytest.mark.skipif(not stored_fields.is_possible(), reason="no package that keeps fields is installed")


class Anything:
    """An object with a state of every kind that can be kept."""

    STATES = (
        None, True, 3, -2**70, 0.1, float("inf"), "ä\0", b"\x00\xff", 1 + 2j, (1, (2,)), [], {1: "a", (1, 2): [None]},
        np.float32(0.1), np.arange(6).reshape(2, 3), np.array("abc"), np.zeros((0, 3)), np.array([1 + 1j]),
    )  # fmt: skip

    def __init__(self, state: object) -> None:
        self.state = state

    def state_dict(self) -> dict[str, object]:
        return {"it": self.state}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.state = state["it"]


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray | np.generic):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    return type(a) is type(b) and a == b


def net_and_optimiser(seed: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5))
    return net, torch.optim.Adam(net.parameters(), lr=0.1)


def train(net: torch.nn.Module, optimiser: torch.optim.Optimizer, steps: int) -> list[float]:
    """With the chance of torch, NumPy and Python in each step."""
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        x = torch.randn(8, 3) * np.random.rand() + random.random()
        loss = net(x).square().sum()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.ranks(1, 2)
def test_training_goes_on_to_the_bit(shared_tmp: Path) -> None:
    random.seed(1), np.random.seed(2)
    net, optimiser = net_and_optimiser(0)
    rng = np.random.default_rng(4)
    objects = {"net": net, "optimiser": optimiser, "rng": rng, "chance": torch.Generator()}
    checkpoint = relax.Checkpoint(shared_tmp / "kept", every=0, **objects)
    assert checkpoint.restore() == 0
    train(net, optimiser, 2)
    assert checkpoint.save(2)
    wanted, draws = train(net, optimiser, 3), rng.random(3)

    random.seed(5), np.random.seed(6)
    net, optimiser = net_and_optimiser(7)
    rng = np.random.default_rng(8)
    objects = {"net": net, "optimiser": optimiser, "rng": rng, "chance": torch.Generator()}
    assert relax.Checkpoint(shared_tmp / "kept", **objects).restore() == 2
    assert train(net, optimiser, 3) == wanted and (rng.random(3) == draws).all()


@pytest.mark.parametrize("i", range(len(Anything.STATES)))
def test_a_state_of_any_kind_comes_back(shared_tmp: Path, i: int) -> None:
    relax.Checkpoint(shared_tmp, it=Anything(Anything.STATES[i])).save(1, now=True)
    back = Anything("nothing")
    assert relax.Checkpoint(shared_tmp, it=back).restore() == 1
    assert same(back.state, Anything.STATES[i])


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int64", "bool", "complex64"])
@pytest.mark.parametrize("shape", [(), (2, 3), (0, 2)])
def test_tensors_of_any_kind_come_back(shared_tmp: Path, dtype: str, shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape).to(getattr(torch, dtype))
    tensor = parallel.of_rank_0(COMM, tensor)
    relax.Checkpoint(shared_tmp, it=Anything(tensor)).save(1, now=True)
    back = Anything(None)
    relax.Checkpoint(shared_tmp, it=back).restore()
    assert back.state.dtype == tensor.dtype and back.state.shape == tensor.shape
    assert torch.equal(back.state.reshape(-1), tensor.reshape(-1))


@pytest.mark.ranks(1, 2)
@KEEPS_FIELDS
@pytest.mark.parametrize("element", [("Lagrange", 1), ("Lagrange", 3, (2,)), ("DG", 0), ("N1curl", 1)])
def test_fields_and_constants_come_back(shared_tmp: Path, element: tuple[object, ...]) -> None:
    domain = mesh.create_unit_square(COMM, 5, 4)
    u, c = fem.Function(fem.functionspace(domain, element)), fem.Constant(domain, np.array([1.0, 2.0]))
    u.x.array[:] = np.random.default_rng(COMM.rank).standard_normal(len(u.x.array))
    u.x.scatter_forward()
    before = u.x.array.copy()
    checkpoint = relax.Checkpoint(shared_tmp, u=u, c=c)
    checkpoint.save(3, now=True)
    u.x.array[:], c.value[:] = 0.0, 0.0
    assert checkpoint.restore() == 3
    assert (u.x.array == before).all() and (c.value == [1.0, 2.0]).all()
    other = fem.Function(fem.functionspace(domain, ("Lagrange", 2)))
    with pytest.raises(BadInput, match="the state of u|expected a field of"):
        relax.Checkpoint(shared_tmp, u=other, c=c).restore()


@pytest.mark.ranks(1, 2)
def test_without_a_package_a_field_is_refused_in_words(shared_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_fields, "_PACKAGES", ("no_such_package",))
    u = fem.Function(fem.functionspace(mesh.create_unit_square(COMM, 2, 2), ("Lagrange", 1)))
    words = str(raised_everywhere(BadInput, lambda: relax.Checkpoint(shared_tmp, u=u).save(1, now=True)))
    assert "fields are kept by adios4dolfinx or io4dolfinx, and neither is installed" in words


@KEEPS_FIELDS
@pytest.mark.ranks(2, 3)
def test_fields_of_some_ranks_are_read_by_one(shared_tmp: Path) -> None:
    def field(comm: MPI.Comm) -> fem.Function:
        u = fem.Function(fem.functionspace(mesh.create_unit_square(comm, 5, 4), ("Lagrange", 2)))
        return u

    u = field(COMM)
    u.interpolate(lambda x: np.sin(3 * x[0]) + x[1])
    relax.Checkpoint(shared_tmp, u=u).save(1, now=True)
    if COMM.rank == 0:
        back, wanted = field(MPI.COMM_SELF), field(MPI.COMM_SELF)
        wanted.interpolate(lambda x: np.sin(3 * x[0]) + x[1])
        relax.Checkpoint(shared_tmp, comm=MPI.COMM_SELF, u=back).restore()
        assert np.abs(back.x.array - wanted.x.array).max() < 1e-14


@pytest.mark.ranks(2, 3)
def test_what_differs_between_ranks_is_each_ones(shared_tmp: Path) -> None:
    mine = Anything({"rank": COMM.rank})
    relax.Checkpoint(shared_tmp, it=mine).save(1, now=True)
    back = Anything(None)
    assert relax.Checkpoint(shared_tmp, it=back).restore() == 1 and back.state == {"rank": COMM.rank}
    if COMM.rank == 0:
        with pytest.raises(BadInput, match=f"states of their own: expected {COMM.size} ranks"):
            relax.Checkpoint(shared_tmp, comm=MPI.COMM_SELF, it=back).restore()


@pytest.mark.ranks(1, 2)
def test_it_is_written_when_it_is_due_and_two_are_kept(shared_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("relax.base.checkpoint.time.monotonic", lambda: clock[0])
    checkpoint = relax.Checkpoint(shared_tmp, "1min", it=Anything(1))
    written = []
    for step in range(6):
        clock[0] += 31.0
        written.append(checkpoint.save(step))
    assert written == [False, True, False, True, False, True]
    assert parallel.on_rank_0(COMM, lambda: sorted(p.name for p in shared_tmp.iterdir())) == [
        "checkpoint-000002", "checkpoint-000003",
    ]  # fmt: skip
    parallel.on_rank_0(COMM, lambda: (shared_tmp / "checkpoint-000003" / "state.npz").write_bytes(b""))
    assert checkpoint.restore() == 3
    parallel.on_rank_0(COMM, lambda: shutil.rmtree(shared_tmp / "checkpoint-000002"))
    raised_everywhere(BadInput, checkpoint.restore)


def test_a_time_is_read_in_its_unit() -> None:
    given = {"30s": 30.0, "1.5 min": 90.0, "2h": 7200.0, "1d": 86400.0, 5: 5.0, 0.0: 0.0}
    assert [seconds(time, "every") for time in given] == list(given.values())
    for wrong in ("10", "ten minutes", "5m", "-1s", -1, float("nan"), float("inf"), None, True):
        with pytest.raises(BadInput, match='every: expected a time, as "30s"'):
            relax.Checkpoint("nowhere", wrong)


class Same:
    """Says that it is another one's state."""

    def state_dict(self) -> dict[str, object]:
        return {"a": [1, lambda: 0]}

    def load_state_dict(self, state: dict[str, object]) -> None:
        raise RuntimeError("size mismatch")


@pytest.mark.ranks(1, 2)
def test_mistakes_are_said_in_words(shared_tmp: Path) -> None:
    with pytest.raises(BadInput, match="net: expected an object with state_dict .* got int"):
        relax.Checkpoint(shared_tmp, net=3)
    with pytest.raises(BadInput, match="net: expected an object with state_dict, got the class Linear; make one"):
        relax.Checkpoint(shared_tmp, net=torch.nn.Linear)
    with pytest.raises(BadInput, match="the name of another object"):
        relax.Checkpoint(shared_tmp, net=Anything(1)).add(net=Anything(1))
    words = raised_everywhere(BadInput, lambda: relax.Checkpoint(shared_tmp, net=Same()).save(1, now=True))
    assert r"the state['net']['a'][1]: expected numbers" in str(words) and "got function" in str(words)
    for tensor in (torch.zeros(2, device="meta"), torch.eye(2).to_sparse()):
        with pytest.raises(BadInput, match="expected a dense tensor"):
            relax.Checkpoint(shared_tmp, net=Anything(tensor)).save(1, now=True)
    raised_everywhere(BadInput, lambda: relax.Checkpoint(shared_tmp, net=Anything(1)).save(-1, now=True))

    relax.Checkpoint(shared_tmp, net=Anything(1)).save(1, now=True)
    with pytest.raises(BadInput, match="the state of 'nett' is not kept there; did you mean 'net'"):
        relax.Checkpoint(shared_tmp, nett=Anything(1)).restore()
    with pytest.raises(BadInput, match="the state of net is not one for the present object: size mismatch"):
        relax.Checkpoint(shared_tmp, net=Same()).restore()
    parallel.on_rank_0(COMM, lambda: (shared_tmp / "file").write_text("mine"))
    raised_everywhere(BadInput, relax.Checkpoint(shared_tmp / "file", net=Anything(1)).restore)
    raised_everywhere(SolveFailed, lambda: relax.Checkpoint(shared_tmp / "file", a=Anything(1)).save(1, now=True))


class Together:
    """A state that the ranks give, and take, together."""

    def state_dict(self) -> dict[str, object]:
        return {"sum": COMM.allreduce(1)}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.state_dict()


class FailsOnOne:
    """Without a word to the others."""

    def state_dict(self) -> dict[str, object]:
        if COMM.rank == 1:
            raise RuntimeError("here alone")
        return {}

    def load_state_dict(self, state: dict[str, object]) -> None:
        self.state_dict()


@pytest.mark.ranks(2)
def test_what_fails_on_one_rank_is_an_error_on_all(shared_tmp: Path) -> None:
    """Before another object's state is begun, for which the others would wait."""
    with pytest.raises((RuntimeError, RelaxError), match="here alone"):
        relax.Checkpoint(shared_tmp, a=FailsOnOne(), b=Together()).save(1, now=True)
    relax.Checkpoint(shared_tmp, a=Anything(1), b=Together()).save(1, now=True)
    words = str(raised_everywhere(BadInput, relax.Checkpoint(shared_tmp, a=FailsOnOne(), b=Together()).restore))
    assert "the state of a is not one for the present object: here alone" in words


@pytest.mark.ranks(2, 3)
def test_a_field_on_other_ranks_is_refused(shared_tmp: Path) -> None:
    u = fem.Function(fem.functionspace(mesh.create_unit_square(MPI.COMM_SELF, 2, 2), ("Lagrange", 1)))
    words = raised_everywhere(BadInput, lambda: relax.Checkpoint(shared_tmp, u=u).save(1, now=True))
    assert "lives on other ranks than its checkpoint" in str(words)


@pytest.mark.ranks(2)
def test_random_states_of_other_ranks_are_left_alone(shared_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint_files.write(shared_tmp, COMM, 1, {}, {"python": random.getstate()})
    if COMM.rank == 0:
        before = random.getstate()
        assert relax.Checkpoint(shared_tmp, comm=MPI.COMM_SELF).restore() == 1
        assert random.getstate() == before and "another number of ranks" in caplog.text
