# make test: installs everything (Debian's web servers too, when root) and runs the whole suite.
# make demo: serves the example application so that a browser can see it.
# make check: the quick part, without the real web servers.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEBIAN = nginx apache2 libapache2-mod-fcgid lighttpd haproxy caddy spawn-fcgi libfcgi-bin systemd \
	php-fpm chromium libfaketime acl

.PHONY: test check lint unit coverage versions interop demo servers clean

test: servers lint coverage interop versions

check: lint unit

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

lint: $(BIN)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(BIN)/.installed
	$(BIN)/pytest -q --ignore=tests/interop --ignore=tests/contrib

# The same as unit, and fails when gateways or protocols are not covered.
coverage: $(BIN)/.installed
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -q --ignore=tests/interop --ignore=tests/contrib
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered --include='sapi_adapters/gateways/*,sapi_adapters/protocols/*' --fail-under=95

interop: $(BIN)/.installed
	$(BIN)/pytest -q tests/interop tests/contrib

# The unit tests on the oldest and the newest Python that this machine has.
versions:
	.ci/versions

servers:
	.ci/servers $(DEBIAN)

demo: $(BIN)/.installed
	$(BIN)/python examples/demo/demo.py

clean:
	rm -rf $(VENV) .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache build dist
