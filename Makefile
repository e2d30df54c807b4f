# RLHF in stages. `make help` lists what there is; every stage is also `python -m pipeline STAGE RECIPE [key=value ...]`.

RECIPE ?= recipes/film_reviews.yaml
RUN    ?= $(basename $(notdir $(RECIPE)))
SET    ?=
NPROC  ?= 1
PYTHON ?= $(shell command -v python3.11 || command -v python3)
DATA   ?=

BIN    := .venv/bin
CALL    = $(BIN)/python -m pipeline
ARGS    = $(RECIPE) $(if $(DATA),data.source='$(DATA)') $(SET) --run $(RUN) --nproc $(NPROC)

.DEFAULT_GOAL := help
.PHONY: help demo data sft reward ppo compare all smoke test check bench bench-scale clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-11s %s\n", $$1, $$2}'
	@echo
	@echo "  RECIPE=recipes/x.yaml  RUN=name  DATA=my_preferences.jsonl  SET=\"ppo.kl_coef=0.1 seed=1\"  NPROC=2"

.venv/ready: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the environment into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev]'
	@touch $@

demo: RUN = demo
demo: .venv/ready ## embedded model and film reviews: all stages, then the report (runs/demo)
	@$(CALL) all $(ARGS)

data: .venv/ready ## read, check, clean and split demonstrations, rankings, prompts
	@$(CALL) data $(ARGS)

sft: .venv/ready ## supervised fine-tuning on demonstrations
	@$(CALL) sft $(ARGS)

reward: .venv/ready ## train a reward model from rankings
	@$(CALL) reward $(ARGS)

ppo: .venv/ready ## align the sft model with PPO against the reward model
	@$(CALL) ppo $(ARGS)

compare: .venv/ready ## compare base, few-shot, sft and ppo on held-out prompts; writes report.html
	@$(CALL) compare $(ARGS)

all: .venv/ready ## every stage in order; those up to date are passed over
	@$(CALL) all $(ARGS)

smoke: .venv/ready ## the whole walk with a tiny random model, about a minute
	@rm -rf runs/smoke
	@$(CALL) all recipes/smoke.yaml $(SET) --run smoke --nproc $(NPROC)

test: .venv/ready ## the tests (SLOW=1: the long ones too)
	@$(BIN)/python -m pytest $(if $(SLOW),-m 'slow or not slow')

check: .venv/ready ## lint, types, layout
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_layout.py

bench: .venv/ready ## one PPO iteration beside TRL 1.12.0, in turns (QUICK=1: two rows)
	@$(BIN)/python -m pipeline.bench $(if $(QUICK),--quick) $(BENCH)

bench-scale: .venv/ready ## time and memory over batch, response length, epochs, model size
	@$(BIN)/python -m pipeline.bench_scale $(if $(QUICK),--quick) $(BENCH)

clean: ## remove runs and caches, not the environment
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
