# Everything a developer does, by the name that comes to mind. `make` or `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# uv does not look into pyenv's folders by itself, and pyenv's shims refuse: name the interpreters outright.
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)
empty :=
PYTHONS := $(subst $(empty) $(empty),:,$(strip $(wildcard $(PYENV)/versions/3.13*/bin) $(wildcard $(PYENV)/versions/3.12*/bin)))
export PATH := $(if $(PYTHONS),$(PYTHONS):)$(PATH)
UV := $(or $(shell command -v uv 2>/dev/null),.cache/uv/bin/uv)
BIN := .venv/bin
BIN312 := .venv312/bin
FRAMEWORKS := .venv-frameworks/bin
SCAN := .venv-scan/bin
INFRA := .venv-infra/bin
BIND ?= 0.0.0.0
SOURCES := core aws azure onprem infra examples tests

# The lock holds names, versions and hashes and no addresses: any mirror serves it.
LOCK := requirements.lock
FRAMEWORKS_LOCK := requirements-frameworks.lock
SCAN_LOCK := requirements-scan.lock
HELM_VERSION := 3.22.0
KUBECTL_VALIDATE_VERSION := 0.0.4
OPA_VERSION := 1.22.0
HELM := .cache/tools/helm-$(HELM_VERSION)/helm
KUBECTL_VALIDATE := .cache/tools/kubectl-validate-$(KUBECTL_VALIDATE_VERSION)/kubectl-validate
OPA := .cache/tools/opa-$(OPA_VERSION)/opa
INFRA_LOCK := requirements-infra.lock
BUNDLE_LOCKS := infra/bundle/locks
BUNDLE_LOCK = $(UV) pip compile -q --universal --python-version 3.13 --generate-hashes --no-header --no-annotate --constraints $(LOCK)

# A checkout's own settings, not the caller's, decide what is imported.
unexport PYTHONPATH VIRTUAL_ENV PYTHONDONTWRITEBYTECODE
export PYTHONSAFEPATH := 1

# A registry that is slow, or fails once, fails nobody's run: what is fetched is asked for again, by whoever fetches and here.
export UV_HTTP_RETRIES ?= 6
export UV_HTTP_TIMEOUT ?= 120
export npm_config_fetch_retries ?= 5
export PIP_RETRIES ?= 8
fetched = for pause in 3 15 45 none; do \
		{ $(1); } && break; \
		test $$pause != none || exit 1; \
		echo "trying again in $$pause s" >&2; sleep $$pause; \
	done

define no-python
{ echo "Buspass needs Python $(1), and there is none on this machine that uv can find or fetch." >&2; \
  echo "Install it (pyenv install $(1), uv python install $(1), or your system's packages), then run make again." >&2; \
  exit 1; }
endef

.PHONY: help
help:  ## list what can be made
	@awk -F ':.*##' '/^[a-z0-9_.-]+:.*##/ {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: .venv  ## set everything up and run the return exceptions on three hosts (ARGS="--rogue", ARGS="--ask '…'")
	$(BIN)/buspass demo returns $(ARGS)

.PHONY: test
test: .venv  ## lint, then every test that is not marked verify, with core's lines covered to 95 % or more
	@$(MAKE) -s -j 2 --output-sync=target lint .venv/compiled
	@rm -rf .cache/coverage && mkdir -p .cache/coverage
	COVERAGE_FILE=$(CURDIR)/.cache/coverage/data $(BIN)/coverage run -m pytest -n 3 --dist loadfile -m "not verify"
	@COVERAGE_FILE=$(CURDIR)/.cache/coverage/data $(BIN)/coverage combine -q
	@COVERAGE_FILE=$(CURDIR)/.cache/coverage/data $(BIN)/coverage report \
		--include='core/buspass/*' --omit='core/buspass/testing/*' --fail-under=95

.PHONY: verify
verify: .venv .venv312 .venv-frameworks services  ## the slow and heavy rest: marked tests, Python 3.12, the wheel in a clean environment, the whole demo
	@mkdir -p .cache && { $(MAKE) -s tools >.cache/tools.log 2>&1 & }  # minutes of compiling: the test that needs them waits
	UV=$(abspath $(UV)) $(BIN)/python -m pytest -n 2 --dist loadfile -m verify
	$(BIN312)/python -m compileall -q $(SOURCES)
	$(BIN312)/mypy --cache-dir .mypy_cache/312
	$(BIN312)/python -m pytest -n 2 --dist loadfile -m "not verify" tests/core tests/contract tests/hosts
	$(BIN)/buspass demo returns --rogue

APT := -qq -o Acquire::Retries=5 -o DPkg::Lock::Timeout=300

.PHONY: services
services:  ## what make verify starts by itself, from the system's packages: redis-server
	@command -v redis-server >/dev/null \
		|| ( $(call fetched,apt-get $(APT) update && apt-get $(APT) install -y --no-install-recommends redis-server >/dev/null) ) \
		|| { echo "make verify needs redis-server: install it from your system's packages" >&2; exit 1; }

.PHONY: bundle-lambda bundle-azure bundle-onprem
bundle-lambda:  ## what is deployed to a host, in build/bundles (CONFIG=buspass.yaml, ARGS="--machine arm64"); bundle-azure, bundle-onprem
bundle-lambda bundle-azure bundle-onprem: bundle-%: .venv
	PYTHONPATH=infra/bundle UV=$(abspath $(UV)) $(BIN)/python -m buspass_bundle $* --config $(or $(CONFIG),infra/$(subst lambda,aws,$*)/buspass.yaml) --bind $(BIND) $(ARGS)

.PHONY: tools
tools: .venv-scan $(HELM) $(KUBECTL_VALIDATE) $(OPA)  ## what judges infra/ (checkov, pycep, hadolint, and, compiled here with Go, helm and kubectl-validate), and OPA

# Two makes at once compile once: the second waits, and finds it done.
compiled = mkdir -p $(@D) && GOBIN=$(CURDIR)/$(@D) flock .cache/tools/lock go install $(1)

$(HELM):
	@$(call fetched,$(call compiled,helm.sh/helm/v3/cmd/helm@v$(HELM_VERSION)))

$(KUBECTL_VALIDATE):
	@$(call fetched,$(call compiled,sigs.k8s.io/kubectl-validate@v$(KUBECTL_VALIDATE_VERSION)))

$(OPA):
	@$(call fetched,$(call compiled,github.com/open-policy-agent/opa@v$(OPA_VERSION)))

.PHONY: docs
docs: .venv  ## write the reference's tables from the code, and build the site of docs/ into build/site
	$(BIN)/python docs/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: bench
bench: .venv  ## everything side by side with its peers: bench/results.json, docs/benchmarks.md (ARGS="--quick")
	env -u PYTHONSAFEPATH UV=$(abspath $(UV)) $(BIN)/python bench/run.py $(ARGS)

.PHONY: test-cloud
test-cloud: .venv  ## the stores' suites on accounts of your own (BUSPASS_TEST_STATE, BUSPASS_TEST_BLOBS: URLs; docs/stores.md)
	@test -n "$(BUSPASS_TEST_STATE)$(BUSPASS_TEST_BLOBS)" || \
		{ echo "Name a store: BUSPASS_TEST_STATE='dynamodb://…' or BUSPASS_TEST_BLOBS='s3://…' make test-cloud" >&2; exit 1; }
	$(BIN)/python -m pytest -v $(if $(BUSPASS_TEST_STATE),tests/cloud/state.py) $(if $(BUSPASS_TEST_BLOBS),tests/cloud/blobs.py)

.PHONY: lint
lint: .venv  ## ruff, its formatter, mypy --strict of the code and of bench/, and which way imports run
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Bytecode of all that tests import, once, beside mypy's one core: each worker of a fresh clone would make it for itself.
.venv/compiled: .venv/ready
	@$(BIN)/python -m pytest -q --collect-only -m "not verify" >/dev/null 2>&1 || true
	@touch $@

.PHONY: format
format: .venv  ## format, and mend what ruff can mend safely
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: lock
lock: $(UV)  ## resolve the dependencies anew
	$(UV) pip compile -q --universal --python-version 3.12 --generate-hashes --no-header --no-annotate \
		--all-extras --group dev pyproject.toml -o $(LOCK)
	$(UV) pip compile -q --universal --python-version 3.12 --generate-hashes --no-header --no-annotate \
		tests/contract/ministack.in -o tests/contract/ministack.lock
	$(UV) pip compile -q --universal --python-version 3.13 --generate-hashes --no-header --no-annotate \
		--constraints $(LOCK) --group frameworks -o $(FRAMEWORKS_LOCK)
	$(UV) pip compile -q --universal --python-version 3.13 --generate-hashes --no-header --no-annotate \
		--group scan -o $(SCAN_LOCK)
	$(UV) pip compile -q --universal --python-version 3.13 --generate-hashes --no-header --no-annotate \
		--group infra -o $(INFRA_LOCK)
	@# What each host's bundle carries, and what stores add to it: parts of the lock above.
	for host in lambda azure onprem; do \
		$(BUNDLE_LOCK) pyproject.toml $(BUNDLE_LOCKS)/$$host.in -o $(BUNDLE_LOCKS)/$$host.lock \
			$$([ $$host = onprem ] || echo --override $(BUNDLE_LOCKS)/compiled.without); done
	for store in redis azure-stores aws-keys; do \
		$(BUNDLE_LOCK) $(BUNDLE_LOCKS)/$$store.in -o $(BUNDLE_LOCKS)/$$store.lock; done

.PHONY: clean
clean:  ## remove everything that was made
	rm -rf .venv .venv312 .venv-frameworks .venv-infra .venv-scan .cache .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache \
		.coverage .coverage.* dist build
	find $(SOURCES) bench -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment that is there is brought up to date, not built anew: somebody may be working in it.
.PHONY: .venv .venv312 .venv-frameworks .venv-infra .venv-scan
.venv: .venv/ready
.venv-frameworks: .venv-frameworks/ready
.venv-infra: .venv-infra/ready
.venv312: .venv312/ready
.venv-scan: .venv-scan/ready

.venv/ready: pyproject.toml $(LOCK) | $(UV)
	@test -x $(BIN)/python || $(UV) venv -q --python 3.13 .venv || $(call no-python,3.13)
	@$(call fetched,$(UV) pip install -q --python $(BIN)/python --require-hashes -r $(LOCK))
	@$(call fetched,$(UV) pip install -q --python $(BIN)/python --no-deps -e .)
	@$(BIN)/python -c 'import buspass, buspass_aws, buspass_azure, buspass_onprem'
	@touch $@

.venv312/ready: pyproject.toml $(LOCK) | $(UV)
	@test -x $(BIN312)/python || $(UV) venv -q --python 3.12 .venv312 || $(call no-python,3.12)
	@$(call fetched,$(UV) pip install -q --python $(BIN312)/python --require-hashes -r $(LOCK))
	@$(call fetched,$(UV) pip install -q --python $(BIN312)/python --no-deps -e .)
	@$(BIN312)/python -c 'import buspass, buspass_aws, buspass_azure, buspass_onprem'
	@touch $@

.venv-frameworks/ready: $(FRAMEWORKS_LOCK) | $(UV)
	@test -x $(FRAMEWORKS)/python || $(UV) venv -q --python 3.13 .venv-frameworks || $(call no-python,3.13)
	@$(call fetched,$(UV) pip install -q --python $(FRAMEWORKS)/python --require-hashes -r $(FRAMEWORKS_LOCK))
	@touch $@

.venv-infra/ready: $(INFRA_LOCK) | $(UV)
	@test -x $(INFRA)/python || $(UV) venv -q --python 3.13 .venv-infra || $(call no-python,3.13)
	@$(call fetched,$(UV) pip install -q --python $(INFRA)/python --require-hashes -r $(INFRA_LOCK))
	@touch $@

.venv-scan/ready: $(SCAN_LOCK) | $(UV)
	@mkdir -p .cache/tools
	@test -x $(SCAN)/python || flock .cache/tools/lock $(UV) venv -q --allow-existing --python 3.13 .venv-scan || $(call no-python,3.13)
	@$(call fetched,flock .cache/tools/lock $(UV) pip install -q --python $(SCAN)/python --require-hashes -r $(SCAN_LOCK))
	@touch $@

.cache/uv/bin/uv:
	@command -v python3 >/dev/null || $(call no-python,3.13)
	@mkdir -p .cache
	@python3 -m venv .cache/uv 2>/dev/null || { rm -rf .cache/uv; $(call fetched,python3 -m pip install -q --target .cache/uv uv); }
	@test -x $@ || { $(call fetched,.cache/uv/bin/pip install -q uv); }
