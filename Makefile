# make test: installs everything (Debian's web servers too, when root) and runs the whole suite.
# make demo: serves the example application so that a browser can see it.
# make check: the quick part, without the real web servers.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DEBIAN = nginx apache2 libapache2-mod-fcgid lighttpd haproxy caddy spawn-fcgi libfcgi-bin systemd \
	php-fpm chromium libfaketime acl apache2-utils

# What coverage is asked of, and runs one by one; what tries real process trees to their limits.
CODECS = tests/protocols
COVERED = tests/gateways tests/core tests/conformance
REST = tests/servers tests/manager tests/httpd tests/shape tests/examples tests/flup
PYTEST = $(BIN)/pytest -q

.PHONY: test check lint unit coverage rest slow versions interop demo servers clean

test: servers lint coverage rest slow interop versions

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
	$(PYTEST) -n 4 -m 'not slow and not long' $(CODECS) $(COVERED) $(REST)

rest: $(BIN)/.installed
	$(PYTEST) -n 4 -m 'not slow and not long' $(REST)

slow: $(BIN)/.installed
	$(PYTEST) -n 2 --dist loadfile -m 'slow and not long' $(REST) tests/chaos

# Fails when gateways or protocols are not covered.
coverage: $(BIN)/.installed
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -q $(CODECS) & codecs=$$!; \
	$(BIN)/coverage run -m pytest -q $(COVERED); others=$$?; wait $$codecs && exit $$others
	$(BIN)/coverage combine -q
	$(BIN)/coverage report --skip-covered --include='sapi_adapters/gateways/*,sapi_adapters/protocols/*' --fail-under=95

interop: $(BIN)/.installed
	$(PYTEST) -n 2 --dist loadfile tests/interop tests/contrib

# The unit tests on the other Pythons that this machine has.
versions:
	.ci/versions

servers:
	.ci/servers $(DEBIAN)

demo: $(BIN)/.installed
	@echo "  http://127.0.0.1:8000/   Ctrl-C ends it"
	$(BIN)/serve -f examples/demo/httpd.conf

clean:
	rm -rf $(VENV) .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache build dist
