"""environment/enter as a command, in its native mode, and the lists of packages behind every route.

No test here imports MPI: a subprocess with MPI inside a rank of mpirun would take itself for one of its ranks.
"""

import os
import re
import signal
import subprocess
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
ENVIRONMENT = TOP / "environment"
ENTER = str(ENVIRONMENT / "enter")


def names(list_file: str) -> list[str]:
    lines = (line.split("#")[0].strip() for line in (ENVIRONMENT / list_file).read_text().splitlines())
    return [line for line in lines if line]


def enter(*command: str, suite: str | None = "native", **options) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "RELAX_SUITE"}
    if suite is not None:
        environment["RELAX_SUITE"] = suite
    environment.update(options.pop("env", {}))
    return subprocess.run([ENTER, *command], env=environment, capture_output=True, text=True, timeout=60, **options)


@pytest.mark.parametrize("script", ["enter", "build-root", "build-venv", "run-in-root", "../.ci/run"])
def test_scripts_are_executable_bash(script):
    path = ENVIRONMENT / script
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/bin/bash\n")
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("route", ["build-root", "Containerfile", "apptainer.def"])
def test_one_list_of_packages(route):
    text = (ENVIRONMENT / route).read_text()
    assert "packages.txt" in text and "pypi.txt" in text
    own = [name for name in names("packages.txt") if name.startswith(("python3-", "lib", "openmpi"))]
    assert not [name for name in own if name in text], "a Debian package is named outside packages.txt"


def test_lists_are_well_formed():
    packages = names("packages.txt")
    assert len(packages) == len(set(packages)) > 10
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in packages)
    assert set(names("pypi.txt")) == {"checkpoint-schedules", "ruff"}


def test_every_dependency_is_in_every_list():
    """What pyproject.toml asks for is there after each route, under the name that the route has for it."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    asked = list(project["dependencies"])
    for extra, requirements in project["optional-dependencies"].items():
        # DOLFINx itself comes under another name on each route; JAX, which Debian has not, is for who has it already.
        asked += requirements if extra not in ("dolfinx", "jax") else []
    debian, pypi = set(names("packages.txt")), set(names("pypi.txt"))
    conda = (ENVIRONMENT / "conda.yml").read_text()
    comes_with_scipy = {"numpy"}
    for requirement in asked:
        name = re.split(r"[<>=\[ ]", requirement)[0]
        assert {name, f"python3-{name}"} & debian or name in pypi | comes_with_scipy, name
        conda_name = {"torch": "pytorch", "gmsh": "python-gmsh", "matplotlib": "matplotlib-base"}.get(name, name)
        assert re.search(rf"^ +- {re.escape(conda_name)}\b", conda, re.MULTILINE), conda_name


def test_no_command_is_a_usage_error():
    result = enter()
    assert result.returncode == 2
    assert "usage: environment/enter CMD" in result.stderr and "RELAX_SUITE" in result.stderr


def test_help_is_not_an_error():
    result = enter("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: environment/enter CMD")


def test_unknown_suite_is_refused():
    result = enter("true", suite="bookworm")
    assert result.returncode == 2
    assert "bookworm" in result.stderr and "native, wheel, trixie or sid" in result.stderr


@pytest.mark.parametrize("status", [0, 1, 3, 77, 255])
def test_exit_status_passes_through(status):
    assert enter("sh", "-c", f"exit {status}").returncode == status


def test_missing_command():
    assert enter("no-such-command-of-relax").returncode == 127


def test_streams_pass_through():
    result = enter("sh", "-c", "cat; echo problem >&2", input="one\ntwo\n")
    assert (result.stdout, result.stderr) == ("one\ntwo\n", "problem\n")


def test_arguments_and_folder_pass_through(tmp_path):
    arguments = ["a b", "", "*", "$HOME", "it's", "-x"]
    result = enter("python3", "-c", "import os, sys; print([os.getcwd(), *sys.argv[1:]])", *arguments, cwd=tmp_path)
    assert result.stdout.strip() == repr([str(tmp_path), *arguments])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "USR2"])
def test_signals_reach_the_command_once(name):
    command = f"trap 'echo {name}' {name}; echo ready; for i in 1 2 3 4 5; do sleep 0.1; done; exit 9"
    process = subprocess.Popen(
        [ENTER, "bash", "-c", command],
        env=dict(os.environ, RELAX_SUITE="native"),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A session that was started in the background ignores SIGINT, and shells cannot trap what they inherit ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(getattr(signal, f"SIG{name}"))
    output, _ = process.communicate(timeout=60)
    assert (output.split(), process.returncode) == ([name], 9)


def test_this_checkout_is_what_is_imported(tmp_path):
    find = "from importlib.util import find_spec; print(find_spec('relax').origin)"
    result = enter("python3", "-c", find, cwd=tmp_path)
    assert Path(result.stdout.strip()).resolve() == TOP / "relax" / "__init__.py"


def test_a_file_of_the_current_folder_is_no_module_of_pythons(tmp_path):
    """`random.py` is a likely name for a script of one's own; numpy imports Python's."""
    (tmp_path / "random.py").write_text("raise RuntimeError('mine')")
    done = enter("relax", "--version", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("relax "), done


def test_relax_is_on_the_path(tmp_path):
    result = enter("sh", "-c", "command -v relax", cwd=tmp_path)
    assert Path(result.stdout.strip()).resolve() == ENVIRONMENT / "bin" / "relax"
    assert os.access(ENVIRONMENT / "bin" / "relax", os.X_OK)


def test_users_own_settings_win():
    result = enter(
        "sh", "-c", 'echo "$OMP_NUM_THREADS ${PYTHONPATH#*:}"', env={"OMP_NUM_THREADS": "3", "PYTHONPATH": "/mine"}
    )
    assert result.stdout == "3 /mine\n"


def test_without_dolfinx_a_missing_tool_is_named(tmp_path):
    """A machine with bash and little else: one message that names what to install, and status 1."""
    for tool in ["bash", "dirname", "sed", "cat", "id", "cut", "sha256sum", "env"]:
        (tmp_path / tool).symlink_to(next(p for d in ("/usr/bin", "/bin") if (p := Path(d, tool)).exists()))
    # enter adds the sbin folders itself, so the tool that is missed has to be one of bin.
    result = enter(
        "true", suite=None, env={"PATH": str(tmp_path), "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    )
    assert result.returncode == 1
    assert "needs the command" in result.stderr and len(result.stderr.splitlines()) == 1
