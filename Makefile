# fourfold: `make book` and `make test` are all that is needed; `make help` lists the rest.
ifeq ($(OS),Windows_NT)
$(error fourfold runs on Linux and macOS, and on Windows within WSL, the Windows Subsystem for Linux)
endif
# The first of these that fourfold supports and that can make an environment; PYTHON=... names another.
PYTHONS = python3.13 python3.12 python3.11 python3
SUPPORTED = import ensurepip, sys, venv; sys.exit(not (3, 11, 2) <= sys.version_info < (3, 14))
PROFILE ?= workflow/profiles/local
PORT ?= 8000
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# A kernel that does not announce its transport at every start.
export JUPYTER_PATH := $(CURDIR)/workflow/jupyter
BUILD = python -m fourfold.book.snakemake --quiet rules --profile $(PROFILE)
READY = .venv/.ready
# One thread a process: tests and chapters run beside one another, and threads would change numbers.
PYTEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(if $(KERNELS),python tests/processors.py $(KERNELS)) \
	pytest --numprocesses auto --dist loadscope --no-loadscope-reorder --nbval --nbval-current-env
# Chapters of seconds, which `make test` runs once more as readers do.
CHEAP = notebooks/frequency/gaunt_tensor_product.ipynb notebooks/optics/holobeam.ipynb
# One lock for every Python from the oldest on and for every platform; what only some need says so behind a semicolon.
RESOLVE = uv pip compile --quiet --python .venv/bin/python --universal --python-version 3.11.2 --no-header --no-annotate

.PHONY: help book test chapter record replicate double full mutate sweep bench faults sync new serve lock audit clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 24

$(READY): requirements.lock requirements-cpu.lock pyproject.toml postBuild
	@# An environment that is there stays with its Python; over one of another Python nothing would fit.
	@for python in $(or $(PYTHON),.venv/bin/python $(PYTHONS)); do \
		"$$python" -c "$(SUPPORTED)" 2>/dev/null && break; \
	done || { echo "No Python from 3.11.2 to 3.13 with its venv module (on Debian and Ubuntu the package python3-venv)" \
		"among $(or $(PYTHON),$(PYTHONS)); PYTHON=/where/it/is names one that is elsewhere." >&2; exit 1; }; \
	test "$$python" = .venv/bin/python && clear= || clear=--clear; \
	"$$python" -m venv $$clear .venv
	./postBuild
	@touch $@

book: $(READY) ## run the chapters that are not up to date and build the HTML
	$(BUILD) html
	@python -m fourfold.book check
	@echo "The book: file://$(CURDIR)/_build/html/index.html"

test: $(READY) ## unit, oracle, property, record, notebook and site tests, style and types
	ruff check . && ruff format --check . && mypy
	$(BUILD) chapters
	$(PYTEST) -m "not faults" tests $(CHEAP)

.PHONY: pdf
pdf: book ## bind the whole book as one PDF; needs Chromium on the machine
	@python -m fourfold.book.pdf

.PHONY: format
format: $(READY) ## lint and format all code, that of the notebooks too
	ruff check --fix . && ruff format .
	python -m fourfold.book format

.PHONY: nbval
nbval: $(READY) ## run every chapter anew and compare, as readers do; KERNELS=old: as an old processor would
	$(PYTEST) notebooks --junitxml=logs/nbval.xml

chapter: need-name ## run one chapter: NAME=convsharevit
	$(BUILD) $$(python -m fourfold.book chapter $(NAME))
	@python -m fourfold.book check

record: need-name ## run one chapter at twenty seeds and keep the evidence for its claims: NAME=convsharevit
	$(BUILD) --force _build/recorded/$(NAME).ipynb
	python -m fourfold.book keep $(NAME) recorded _build/recorded/$(NAME).ipynb

replicate: need-name ## repeat its experiment at seeds of your own, to send as a pull request: NAME=snn SEEDS=5
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 python -m fourfold.book replicate $(NAME) --seeds $(or $(SEEDS),5) \
		$(if $(SEED),--seed $(SEED))

double: need-name ## repeat the recorded run at twice the budget, where the record says what that is: NAME=convsharevit
	$(BUILD) --force _build/doubled/$(NAME).ipynb
	python -m fourfold.book keep $(NAME) doubled _build/doubled/$(NAME).ipynb

full: need-name ## run one chapter at its full parameters and record it: NAME=convsharevit
	$(BUILD) --force _build/full/$(NAME).ipynb
	python -m fourfold.book keep $(NAME) full _build/full/$(NAME).ipynb

mutate: $(READY) ## take out each mechanism's heart and see which verdicts turn; NAME=convsharevit: of one chapter
	python -m fourfold.recorded.mutation $(NAME)

sweep: $(READY) ## run one chapter over a grid of parameters and record the table: FILE=sweeps/convsharevit.yml
	@test -n "$(FILE)" || { echo "say which sweep: make sweep FILE=sweeps/convsharevit.yml" >&2; exit 2; }
	@python -m fourfold.recorded.sweep_run "$(FILE)" --profile "$(PROFILE)"

bench: $(READY) ## time ours against the peers, side by side in one run; print ratios and record them
	for bench in benchmarks/*.py; do OMP_NUM_THREADS=1 python $$bench; done

faults: $(READY) ## interrupt, starve and deceive a small book's build; record what was lost in data/faults.json
	mkdir -p logs
	status=0; OMP_NUM_THREADS=1 pytest tests/robust --junitxml=logs/faults.xml || status=$$?; \
		python -m fourfold.recorded.faults keep logs/faults.xml && exit $$status

sync: $(READY) ## after an edit of notebooks/*.md: run what changed and refresh the paired .ipynb
	$(BUILD) chapters
	@python -m fourfold.book check
	python -m fourfold.book sync

new: need-name ## scaffold a chapter from its record: NAME=svt
	python -m fourfold.book new $(NAME)

serve: book ## read the book at http://localhost:8000 (PORT=8000)
	python -m http.server --directory _build/html --bind localhost $(PORT)

lock: $(READY) ## resolve pyproject.toml anew into requirements.lock, with the hash of every published file
	pip install --quiet --disable-pip-version-check uv
	@# Pins stay where they can, and each is one version that fits every Python: other versions, other numbers.
	sed -i -E -e '/^ /d' -e 's/ \\$$//' requirements.lock
	$(RESOLVE) --extra test --fork-strategy fewest --output-file requirements.lock pyproject.toml
	@# What PyPI's build of torch for Linux brings along belongs to no other build.
	sed -i -E '/^(nvidia|cuda|triton)/d' requirements.lock
	@# A peer that benchmarks and tests run against; its metadata asks for torchvision, which it never imports.
	echo optnn==0.1 >> requirements.lock
	$(RESOLVE) --no-deps --generate-hashes --output-file requirements.lock requirements.lock
	@# Of a benchmark's own environments only what they have beyond the book's: its packages stand behind them.
	for pins in benchmarks/environments/*.in; do \
		$(RESOLVE) --constraint requirements.lock --generate-hashes --output-file $${pins%.in}.lock \
			$$(sed -nE 's/^([A-Za-z0-9_.-]+)==.*/--no-emit-package \1/p' requirements.lock) $$pins; \
	done

audit: $(READY) ## look up known vulnerabilities of the pins
	@# In an environment of its own: what audits the pins is none of them.
	@test -x .venv/audit/bin/pip-audit || { python -m venv .venv/audit \
		&& .venv/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	@python -m fourfold.book.audit .venv/audit/bin/pip-audit

clean: ## remove everything generated but the environment
	rm -rf _build logs book/chapters book/papers.bib .snakemake .pytest_cache .mypy_cache .ruff_cache

.PHONY: need-name
need-name: $(READY)
	@test -n "$(NAME)" || { echo "say which chapter: make $(MAKECMDGOALS) NAME=convsharevit" >&2; exit 2; }
	@python -m fourfold.book chapter $(NAME) >/dev/null
