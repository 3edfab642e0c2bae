# Everything runs through environment/enter, which uses the DOLFINx of this machine, or gets one once: from PyPI or Debian.
# RELAX_SUITE=native|wheel|trixie|sid chooses; `make test PYTEST="-k poisson -x"` passes options on.

ENTER := environment/enter
PYTEST ?=
RANKS ?= 2 3
WORKERS ?= auto
JOB ?= mpi_jobs/poisson_inverse.toml
MUTANTS ?=
KILLS ?=
SEEDS ?= 0:200
FAULTS ?=

.DEFAULT_GOAL := help
.PHONY: help demo quick test check bench mutants kills random-problems soak faults clean

help:
	@echo "make demo    solve the main inverse problem on 2 ranks ($(JOB))"
	@echo "make quick   the tests on one rank, without the slow ones: before each commit"
	@echo "make test    the tests on 1, 2 and 3 ranks"
	@echo "make check   lint, format and types"
	@echo "make bench   every script of benchmarks/, one thread per rank"
	@echo "make faults  bad inputs, each in a process of its own on 2 ranks: does each end in words?"
	@echo "make mutants faults put into a copy, one at a time: which of them does no test notice?"
	@echo "make kills   runs killed, stopped, or without a disk, at random moments, and gone on with"
	@echo "make random-problems  maps of 200 random PDEs: right derivatives, the same numbers on 1, 2 and 3 ranks (half an hour)"
	@echo "make soak    does memory grow? 10 000 calls, 500 maps, 2 000 steps of training, on 2 ranks"
	@echo "make clean   build products, caches and results of this checkout"

demo:
	$(ENTER) mpirun -n 2 relax run $(JOB) --overwrite

quick:
	$(ENTER) python3 -m pytest tests -n $(WORKERS) --dist loadscope -m "not slow" $(PYTEST)

# On one rank a worker for each core takes the tests of one class or file after the other: they share what they compile
# and solve. Several ranks go without pytest's cache, which is one folder, and have to be told about colours: Open MPI gives each
# of them a terminal.
test:
	$(ENTER) python3 -m pytest tests -n $(WORKERS) --dist loadscope $(PYTEST)
	@set -e; if [ -t 1 ]; then colour=yes; else colour=no; fi; \
	for n in $(RANKS); do \
	    set -- mpirun -n $$n python3 -m pytest tests -p no:cacheprovider --color=$$colour $(PYTEST); \
	    echo "$(ENTER) $$*"; \
	    $(ENTER) "$$@"; \
	done

# All three report, then the status says whether one of them complained.
check:
	@$(ENTER) sh -c 'status=0; for tool in "ruff check" "ruff format --check" "mypy"; do \
	    echo "$$tool"; $$tool || status=1; done; exit $$status'

bench:
	@set -e; for script in benchmarks/*.py; do \
	    [ -e "$$script" ] || continue; \
	    echo "$$script"; \
	    OMP_NUM_THREADS=1 $(ENTER) python3 "$$script"; \
	done

faults:
	$(ENTER) python3 tests/mistakes.py $(FAULTS)

mutants:
	$(ENTER) python3 tests/mutants.py $(MUTANTS)

kills:
	$(ENTER) python3 tests/kills.py $(KILLS)

# What one rank finds is what the others are compared with.
random-problems:
	@status=0; for n in 1 $(RANKS); do \
	    set -- mpirun -n $$n python3 tests/random_problems.py --seeds $(SEEDS) --numbers results/random_problems.npz; \
	    echo "$(ENTER) $$*"; \
	    $(ENTER) "$$@" || status=1; \
	done; exit $$status

soak:
	$(ENTER) mpirun -n 2 python3 tests/soak.py

# The private environments stay: they are under the user's cache folder, and in a clone that .ci/run has used under .cache.
clean:
	rm -rf build dist results *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name .git -prune -o -path ./.cache -prune -o -name __pycache__ -type d -exec rm -rf {} +
