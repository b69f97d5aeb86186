# fourfold: `make book` and `make test` are all that is needed; `make help` lists the rest.
PYTHON ?= python3.11
PROFILE ?= workflow/profiles/local
PORT ?= 8000
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# A kernel that does not announce its transport at every start.
export JUPYTER_PATH := $(CURDIR)/workflow/jupyter
SNAKEMAKE = snakemake --quiet rules --profile $(PROFILE)
READY = .venv/.ready

.PHONY: help book test chapter full sweep bench sync new serve lock clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 24

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	pip install --quiet --disable-pip-version-check -r requirements.lock
	@# A peer that benchmarks and tests run against; its metadata asks for torchvision, which it never imports.
	pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation optnn==0.1
	pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

book: $(READY) ## run the chapters that are not up to date and build the HTML
	$(SNAKEMAKE) html
	@echo "The book: file://$(CURDIR)/_build/html/index.html"

test: $(READY) ## unit, oracle, property, record, notebook and site tests, style and types
	ruff check . && ruff format --check . && mypy
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 pytest --numprocesses auto --dist loadscope --nbval --nbval-current-env

chapter: need-name ## run one chapter: NAME=convsharevit
	$(SNAKEMAKE) $$(python -m fourfold.book chapter $(NAME))

full: need-name ## run one chapter at its full parameters and record it: NAME=convsharevit
	$(SNAKEMAKE) --force logs/full/$(NAME).ipynb
	python -m fourfold.book keep-full $(NAME) logs/full/$(NAME).ipynb

sweep: $(READY) ## run one chapter over a grid of parameters and record the table: FILE=sweeps/convsharevit.yml
	@test -n "$(FILE)" || { echo "say which sweep: make sweep FILE=sweeps/convsharevit.yml" >&2; exit 2; }
	@python -m fourfold.sweep "$(FILE)" --profile "$(PROFILE)"

bench: $(READY) ## time ours against the peers, side by side in one run; print ratios and record them
	for bench in benchmarks/*.py; do OMP_NUM_THREADS=1 python $$bench; done

sync: $(READY) ## after an edit of notebooks/*.md: run what changed and refresh the paired .ipynb
	$(SNAKEMAKE) chapters
	python -m fourfold.book sync

new: need-name ## scaffold a chapter from its record: NAME=svt
	python -m fourfold.book new $(NAME)

serve: book ## read the book at http://localhost:8000 (PORT=8000)
	python -m http.server --directory _build/html --bind localhost $(PORT)

lock: $(READY) ## resolve pyproject.toml anew into requirements.lock
	pip install --quiet --disable-pip-version-check pip-tools
	pip-compile --quiet --strip-extras --allow-unsafe --extra test --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --output-file requirements.lock pyproject.toml
	sed -i -e 's/+cpu$$//' -e '/^#/d' -e '/^$$/d' requirements.lock  # +cpu is pip's choice of build, not a pin

clean: ## remove everything generated but the environment
	rm -rf _build logs book/chapters book/papers.bib .snakemake .pytest_cache .mypy_cache .ruff_cache

.PHONY: need-name
need-name: $(READY)
	@test -n "$(NAME)" || { echo "say which chapter: make $(MAKECMDGOALS) NAME=convsharevit" >&2; exit 2; }
	@python -m fourfold.book chapter $(NAME) >/dev/null
