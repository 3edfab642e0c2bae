"""Run the demos on 1, 2 and 3 ranks and write what came out into README.md. Run: python3 examples/fenicsx/table.py"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).resolve().parent
RANKS = (1, 2, 3)
HEADS = ("demo", "value", "gradient", "Taylor orders", "adjoint gap", "vjp / forward", "ranks", "lines")
BEGIN, END = "<!-- by table.py -->\n", "<!-- end -->\n"


def demos():
    """Scripts that compare a map with plain DOLFINx."""
    return [path for path in sorted(FOLDER.glob("*.py")) if path.stem not in ("plain", "table")]


def rows(out):
    """What a demo has said of its comparison: by name, from the lines that it printed."""
    return [json.loads(line) for line in out.splitlines() if line.startswith('{"demo"')]


def apart(numbers, others):
    """How far numbers on other ranks are from those on one, beside the largest of them."""
    return float(np.abs(np.array(numbers) - others).max() / np.abs(numbers).max())


def row_of(path):
    """A row of the table."""
    found = []
    for ranks in RANKS:
        start = ["mpirun", "-n", str(ranks)] if ranks > 1 else []
        run = subprocess.run([*start, sys.executable, str(path)], capture_output=True, text=True)
        if run.returncode:
            raise SystemExit(run.stdout + run.stderr)
        found += rows(run.stdout)
    row, *others = found
    worst = {key: max(one[key] for one in found) for key in ("value", "gradient", "adjoint gap")}
    between = max(apart(row["numbers"], other["numbers"]) for other in others)
    orders = ", ".join(f"{order:.2f}" if np.isfinite(order) else "exact" for order in row["orders"])
    cells = [f"[{path.stem}]({path.name})", *(f"{worst[key]:.0e}" for key in ("value", "gradient")), orders]
    cells += [f"{worst['adjoint gap']:.0e}", f"{row['vjp / forward']:.2g}", f"{between:.0e}"]
    return [*cells, str(len(path.read_text().splitlines()))]


if __name__ == "__main__":
    lines = [HEADS, ["---"] * len(HEADS), *map(row_of, demos())]
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    readme = FOLDER / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(before + BEGIN + text + END + rest.partition(END)[2])
    print(text, end="")
