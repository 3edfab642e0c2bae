"""Print the times of runs on different numbers of ranks.

Usage: python3 mpi_jobs/scaling_table.py FOLDER, where FOLDER holds output folders named by their number of ranks.
"""

import json
import sys
from pathlib import Path

summaries = [json.loads(path.read_text()) for path in Path(sys.argv[1]).glob("[0-9]*/summary.json")]
summaries.sort(key=lambda s: s["versions"]["ranks"])
if not summaries:
    sys.exit(f"{sys.argv[1]}: no finished run in it; expected folders named by their number of ranks")

print(f"{'ranks':>6} {'build s':>9} {'invert s':>9} {'write s':>9} {'steps':>6} {'speed-up':>9} {'efficiency':>11}")
base = summaries[0]
for s in summaries:
    ranks, seconds = s["versions"]["ranks"], s["seconds"]
    speed = base["seconds"]["invert"] / seconds["invert"]
    efficiency = speed * base["versions"]["ranks"] / ranks
    print(
        f"{ranks:>6} {seconds['build']:>9.2f} {seconds['invert']:>9.2f} {seconds['write']:>9.2f} {s['steps']:>6}"
        f" {speed:>9.2f} {efficiency:>11.2f}"
    )
