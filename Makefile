PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)
empty :=
PYTHONS := $(subst $(empty) $(empty),:,$(strip $(wildcard $(PYENV)/versions/3.13*/bin) $(wildcard $(PYENV)/versions/3.12*/bin)))
export PATH := $(if $(PYTHONS),$(PYTHONS):)$(PATH)
UV := $(or $(shell command -v uv 2>/dev/null),.cache/uv/bin/uv)

# The lock holds names, versions and hashes and no addresses: any mirror serves it.
LOCK := requirements.lock

.venv: $(UV) pyproject.toml $(LOCK)
	$(UV) venv -q --python 3.13 --clear .venv
	VIRTUAL_ENV=.venv $(UV) pip install -q --require-hashes -r $(LOCK)
	VIRTUAL_ENV=.venv $(UV) pip install -q --no-deps -e .
	touch .venv

.PHONY: lock
lock: $(UV)  ## resolve the dependencies anew
	$(UV) pip compile -q --universal --python-version 3.12 --generate-hashes --no-header --no-annotate \
		--all-extras --group dev pyproject.toml -o $(LOCK)

.cache/uv/bin/uv:
	python3 -m venv .cache/uv || { rm -rf .cache/uv; python3 -m pip install -q --target .cache/uv uv; }
	test -x $@ || .cache/uv/bin/pip install -q uv
