"""The hostile corpus against the host, in each process model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from httpd.corpus import CASES
from httpd.hosting import hosting
from httpd.raw_client import run

CONFIGURATION = """
LoadModule sapi_module sapi_adapters.adapters.mod_sapi
<Location />
    SetHandler sapi-script
    SapiApp httpd.echo:app
</Location>
"""


@pytest.mark.parametrize("mpm", ["prefork", "worker", "event"])
def test_every_request_of_the_corpus_is_answered_as_it_must_be(tmp_path: Path, mpm: str) -> None:
    tests = Path(__file__).parents[1]
    with hosting(tmp_path, CONFIGURATION, mpm, path=tests) as hosted:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda case: run(hosted.address, case), CASES))
        deviating = {case.id: said for case, said in zip(CASES, found, strict=True) if said}
        assert len(CASES) >= 600
        assert not deviating, (len(deviating), list(deviating.items())[:20])
