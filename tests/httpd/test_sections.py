"""Which sections hold for a request, in which order, and which paths reach what.

Every section adds its name to a field of the response. One configuration is for the host and for
Apache: the tables say what both do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from httpd.apache_beside import apache
from httpd.hosting import Hosted, hosting

MODULES = ("authz_core", "headers", "alias", "dir", "env", "setenvif")
FILES = {
    "index.html": "root",
    "a.txt": "a",
    "b.html": "b",
    "A.TXT": "A",
    "one/a.txt": "one",
    "one/index.html": "one",
    "one/two/a.txt": "two",
    "one/two/three/a.txt": "three",
    "one/two/three/.htaccess": "Header always append X ht-three\n",
    "over/a.txt": "over",
    "over/.htaccess": "Header always append X ht-over\n"
    "<Files a.txt>\nHeader always append X ht-over-files\n</Files>\n"
    '<FilesMatch "^a">\nHeader always append X ht-over-match\n</FilesMatch>\n',
    "over/deep/a.txt": "deep",
    "over/deep/.htaccess": "Header always append X ht-deep\n",
    "over/deep/er/a.txt": "deeper",
    "over/none/a.txt": "none",
    "over/none/.htaccess": "Nonsense\n",
    "wild/x/in/a.txt": "wild",
    "wild/y/in/a.txt": "wild",
    "wild/y/in/deep/a.txt": "wild",
    "wild/y/other/a.txt": "wild",
    "match/a1/f.txt": "match",
    "match/b2/f.txt": "match",
    "files/a.txt": "files",
    "files/b.txt": "files",
    "files/c.tar.gz": "files",
    "files/sub/a.txt": "files",
    "target/a.txt": "target",
    "sp ace/a.txt": "space",
    "percent%41/a.txt": "percent",
    "é/a.txt": "accent",
    "hidden/a.txt": "hidden",
    "../outside/a.txt": "outside",
    "../outside/sub/a.txt": "outside",
}
LINKS = {"link": "target", "filelink.txt": "target/a.txt", "away": "../outside"}

CONFIGURATION = (
    "".join(f"LoadModule {name}_module modules/mod_{name}.so\n" for name in MODULES)
    + """
DocumentRoot {site}
Options FollowSymLinks
DirectoryIndex index.html
Header always append X main
Alias /aliased {root}/outside
Alias /aliased-file {site}/one/a.txt
<Location /both>
    Header always append X loc-both-1
</Location>
<FilesMatch "^a">
    Header always append X files-match-a
</FilesMatch>
<Files a.txt>
    Header always append X files-a
</Files>
<DirectoryMatch "^{site}/one">
    Header always append X match-one
</DirectoryMatch>
<DirectoryMatch "/one/two$">
    Header always append X match-two-end
</DirectoryMatch>
<Directory ~ "/three">
    Header always append X tilde-three
</Directory>
<Directory {site}/one/two>
    Header always append X dir-two
</Directory>
<Directory {site}/one/>
    Header always append X dir-one
</Directory>
<Directory {site}>
    Header always append X dir-site
</Directory>
<Directory />
    Header always append X dir-root
</Directory>
<Directory {site}/one>
    Header always append X dir-one-again
    <Files a.txt>
        Header always append X dir-one-files
    </Files>
    <FilesMatch "\\.txt$">
        Header always append X dir-one-match
    </FilesMatch>
</Directory>
<Directory {site}/one/two/three>
    AllowOverride FileInfo
</Directory>
<Directory {site}/over>
    AllowOverride All
    Header always append X dir-over
</Directory>
<Directory {site}/over/deep>
    Header always append X dir-deep
</Directory>
<Directory {site}/over/none>
    AllowOverride None
</Directory>
<Directory {site}/wild/*/in>
    Header always append X wild-in
</Directory>
<Directory {site}/wild/?>
    Header always append X wild-one
</Directory>
<Directory {site}/wild/[x]/*>
    Header always append X wild-set
</Directory>
<DirectoryMatch "^{site}/match/(a|c)[0-9]/">
    Header always append X match-ac
</DirectoryMatch>
<Directory {site}/files>
    <Files "*.txt">
        Header always append X star-txt
    </Files>
    <Files "?.tar.gz">
        Header always append X tar
    </Files>
    <Files "[ab].txt">
        Header always append X set-ab
    </Files>
    <Files ~ "^c">
        Header always append X tilde-c
    </Files>
</Directory>
<Directory {site}/target>
    Header always append X dir-target
</Directory>
<Directory {site}/link>
    Header always append X dir-link
</Directory>
<Directory {root}/outside>
    Header always append X dir-outside
</Directory>
<Directory "{site}/sp ace">
    Header always append X dir-space
</Directory>
<Directory {site}/percent%41>
    Header always append X dir-percent
</Directory>
<Directory {site}/hidden>
    Require all denied
</Directory>
<Location /one>
    Header always append X loc-one
</Location>
<LocationMatch "^/one/.*a">
    Header always append X loc-match-one
</LocationMatch>
<Location /one/two>
    Header always append X loc-two
</Location>
<Location />
    Header always append X loc-root
</Location>
<Location /one/>
    Header always append X loc-one-slash
</Location>
<Location /wild/*/in>
    Header always append X loc-wild
</Location>
<Location ~ "txt$">
    Header always append X loc-tilde-txt
</Location>
<Location /aliased>
    Header always append X loc-aliased
</Location>
<Location "/sp ace">
    Header always append X loc-space
</Location>
<Location /both>
    Header always append X loc-both-2
</Location>
<VirtualHost *:*>
    ServerName localhost
</VirtualHost>
<VirtualHost *:*>
    ServerName other
    Header always append X vhost
    <Location /one>
        Header always append X v-loc-one
    </Location>
    <Files a.txt>
        Header always append X v-files-a
    </Files>
    <DirectoryMatch "/one$">
        Header always append X v-match-one
    </DirectoryMatch>
    <Directory {site}/one>
        Header always append X v-dir-one
    </Directory>
    <Directory />
        Header always append X v-dir-root
    </Directory>
</VirtualHost>
"""
)


def make_site(folder: Path) -> dict[str, str]:
    """Make the files below *folder*; return what configurations call them."""
    site = folder / "site"
    for name, text in FILES.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, target in LINKS.items():
        (site / name).symlink_to(target)
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    return {"site": str(site.resolve()), "root": str(folder.resolve())}


Run = Any


@pytest.fixture(scope="module", params=["apache", "prefork", "event"])
def run(request: pytest.FixtureRequest) -> Run:
    """Return how a server is run: each test is for the host and for Apache."""

    def start(folder: Path, text: str) -> AbstractContextManager[Hosted]:
        if request.param == "apache":
            return apache(folder / "apache", text)
        (folder / request.param).mkdir(parents=True)
        return hosting(folder / request.param, text, request.param)

    start.name = request.param
    return start


# -- which sections -------------------------------------------------------------------------------

MERGED = """
localhost / 200 main dir-root dir-site loc-root
localhost /a.txt 200 main dir-root dir-site files-match-a files-a loc-root loc-tilde-txt
localhost /b.html 200 main dir-root dir-site loc-root
localhost /A.TXT 200 main dir-root dir-site loc-root
localhost /none.txt 404 main dir-root dir-site loc-root loc-tilde-txt
localhost /index.html 200 main dir-root dir-site loc-root
localhost /one 301 main dir-root dir-site dir-one dir-one-again match-one loc-one loc-root
localhost /one/ 200 main dir-root dir-site dir-one dir-one-again match-one loc-one loc-root
    loc-one-slash
localhost /one/a.txt 200 main dir-root dir-site dir-one dir-one-again match-one files-match-a
    files-a dir-one-files dir-one-match loc-one loc-match-one loc-root loc-one-slash
    loc-tilde-txt
localhost /one/index.html 200 main dir-root dir-site dir-one dir-one-again match-one loc-one
    loc-root loc-one-slash
localhost /one/none 404 main dir-root dir-site dir-one dir-one-again match-one loc-one loc-root
    loc-one-slash
localhost /onex 404 main dir-root dir-site match-one loc-root
localhost /one/two/a.txt 200 main dir-root dir-site dir-one dir-one-again dir-two match-one
    files-match-a files-a dir-one-files dir-one-match loc-one loc-match-one loc-two loc-root
    loc-one-slash loc-tilde-txt
localhost /one/two/ 403 main dir-root dir-site dir-one dir-one-again dir-two match-one loc-one
    loc-two loc-root loc-one-slash
localhost /one/two/three/a.txt 200 main dir-root dir-site dir-one dir-one-again dir-two ht-three
    match-one tilde-three files-match-a files-a dir-one-files dir-one-match loc-one
    loc-match-one loc-two loc-root loc-one-slash loc-tilde-txt
localhost /over/a.txt 200 main dir-root dir-site dir-over ht-over files-match-a files-a
    ht-over-files ht-over-match loc-root loc-tilde-txt
localhost /over/ 403 main dir-root dir-site dir-over ht-over loc-root
localhost /over/deep/a.txt 200 main dir-root dir-site dir-over ht-over dir-deep ht-deep
    files-match-a files-a ht-over-files ht-over-match loc-root loc-tilde-txt
localhost /over/deep/er/a.txt 200 main dir-root dir-site dir-over ht-over dir-deep ht-deep
    files-match-a files-a ht-over-files ht-over-match loc-root loc-tilde-txt
localhost /over/none/a.txt 200 main dir-root dir-site dir-over ht-over files-match-a files-a
    ht-over-files ht-over-match loc-root loc-tilde-txt
localhost /over/x 404 main dir-root dir-site dir-over ht-over loc-root
localhost /wild/x/in/a.txt 200 main dir-root dir-site wild-one wild-in wild-set files-match-a
    files-a loc-root loc-tilde-txt
localhost /wild/y/in/a.txt 200 main dir-root dir-site wild-one wild-in files-match-a files-a
    loc-root loc-tilde-txt
localhost /wild/y/in/deep/a.txt 200 main dir-root dir-site wild-one wild-in files-match-a
    files-a loc-root loc-tilde-txt
localhost /wild/y/other/a.txt 200 main dir-root dir-site wild-one files-match-a files-a loc-root
    loc-tilde-txt
localhost /match/a1/f.txt 200 main dir-root dir-site match-ac loc-root loc-tilde-txt
localhost /match/b2/f.txt 200 main dir-root dir-site loc-root loc-tilde-txt
localhost /files/a.txt 200 main dir-root dir-site files-match-a files-a star-txt set-ab loc-root
    loc-tilde-txt
localhost /files/b.txt 200 main dir-root dir-site star-txt set-ab loc-root loc-tilde-txt
localhost /files/c.tar.gz 200 main dir-root dir-site tar tilde-c loc-root
localhost /files/sub/a.txt 200 main dir-root dir-site files-match-a files-a star-txt set-ab
    loc-root loc-tilde-txt
localhost /target/a.txt 200 main dir-root dir-site dir-target files-match-a files-a loc-root
    loc-tilde-txt
localhost /link/a.txt 200 main dir-root dir-site dir-link files-match-a files-a loc-root
    loc-tilde-txt
localhost /filelink.txt 200 main dir-root dir-site loc-root loc-tilde-txt
localhost /away/a.txt 200 main dir-root dir-site files-match-a files-a loc-root loc-tilde-txt
localhost /aliased/a.txt 200 main dir-root dir-outside files-match-a files-a loc-root
    loc-tilde-txt loc-aliased
localhost /aliased 301 main dir-root dir-outside loc-root loc-aliased
localhost /aliased/sub/a.txt 200 main dir-root dir-outside files-match-a files-a loc-root
    loc-tilde-txt loc-aliased
localhost /aliasedx 404 main dir-root dir-site files-match-a loc-root
localhost /aliased-file 200 main dir-root dir-site dir-one dir-one-again match-one files-match-a
    files-a dir-one-files dir-one-match loc-root
localhost /aliased/ 403 main dir-root dir-outside loc-root loc-aliased
localhost /sp%20ace/a.txt 200 main dir-root dir-site dir-space files-match-a files-a loc-root
    loc-tilde-txt loc-space
localhost /percent%2541/a.txt 200 main dir-root dir-site dir-percent files-match-a files-a
    loc-root loc-tilde-txt
localhost /%C3%A9/a.txt 200 main dir-root dir-site files-match-a files-a loc-root loc-tilde-txt
localhost /both 404 main dir-root dir-site loc-both-1 loc-root loc-both-2
localhost /both/x 404 main dir-root dir-site loc-both-1 loc-root loc-both-2
localhost /hidden/a.txt 403 main dir-root dir-site files-match-a files-a loc-root loc-tilde-txt
localhost /hidden/ 403 main dir-root dir-site loc-root
localhost /hidden 403 main dir-root dir-site loc-root
localhost //one//a.txt 200 main dir-root dir-site dir-one dir-one-again match-one files-match-a
    files-a dir-one-files dir-one-match loc-one loc-match-one loc-root loc-one-slash
    loc-tilde-txt
localhost /one/./a.txt 200 main dir-root dir-site dir-one dir-one-again match-one files-match-a
    files-a dir-one-files dir-one-match loc-one loc-match-one loc-root loc-one-slash
    loc-tilde-txt
localhost /one/../a.txt 200 main dir-root dir-site files-match-a files-a loc-root loc-tilde-txt
localhost /one/../hidden/a.txt 403 main dir-root dir-site files-match-a files-a loc-root
    loc-tilde-txt
localhost /x/../one/a.txt 200 main dir-root dir-site dir-one dir-one-again match-one
    files-match-a files-a dir-one-files dir-one-match loc-one loc-match-one loc-root
    loc-one-slash loc-tilde-txt
localhost /../a.txt 400 main
localhost /one/../../a.txt 400 main
localhost /%2e%2e/a.txt 400 main
localhost /one/%2e%2e/hidden/a.txt 403 main dir-root dir-site files-match-a files-a loc-root
    loc-tilde-txt
localhost /one/.%2e/a.txt 200 main dir-root dir-site files-match-a files-a loc-root
    loc-tilde-txt
localhost /%6fne/a.txt 200 main dir-root dir-site dir-one dir-one-again match-one files-match-a
    files-a dir-one-files dir-one-match loc-one loc-match-one loc-root loc-one-slash
    loc-tilde-txt
localhost /one%2fa.txt 404 main loc-root loc-tilde-txt
localhost /one%2Fa.txt 404 main loc-root loc-tilde-txt
localhost /hidden%2f/a.txt 404 main loc-root loc-tilde-txt
localhost /one%00 400 main loc-root
localhost /a.txt%00.html 400 main loc-root
localhost /one/a.txt%00 400 main loc-one loc-match-one loc-root loc-one-slash
localhost /one/a%zz 400 main
localhost /a.txt/ 404 main dir-root dir-site files-match-a files-a loc-root
localhost /a.txt/more 404 main dir-root dir-site files-match-a files-a loc-root
localhost /one/a.txt/more 404 main dir-root dir-site dir-one dir-one-again match-one
    files-match-a files-a dir-one-files dir-one-match loc-one loc-match-one loc-root
    loc-one-slash
localhost //hidden/a.txt 403 main dir-root dir-site files-match-a files-a loc-root loc-tilde-txt
localhost ///hidden///a.txt 403 main dir-root dir-site files-match-a files-a loc-root
    loc-tilde-txt
localhost /hidden/. 403 main dir-root dir-site loc-root
localhost /hidden/./a.txt 403 main dir-root dir-site files-match-a files-a loc-root
    loc-tilde-txt
localhost /./hidden/a.txt 403 main dir-root dir-site files-match-a files-a loc-root
    loc-tilde-txt
localhost /hidden/.. 200 main dir-root dir-site loc-root
localhost /hidden/../hidden/a.txt 403 main dir-root dir-site files-match-a files-a loc-root
    loc-tilde-txt
localhost /one/%252e%252e/hidden/a.txt 404 main dir-root dir-site dir-one dir-one-again
    match-one loc-one loc-match-one loc-root loc-one-slash loc-tilde-txt
localhost /hidden%20/a.txt 404 main dir-root dir-site loc-root loc-tilde-txt
localhost /hidden./a.txt 404 main dir-root dir-site loc-root loc-tilde-txt
localhost /HIDDEN/a.txt 404 main dir-root dir-site loc-root loc-tilde-txt
localhost /hidden/A.TXT 403 main dir-root dir-site loc-root
localhost /one/... 404 main dir-root dir-site dir-one dir-one-again match-one loc-one loc-root
    loc-one-slash
localhost /.../a.txt 404 main dir-root dir-site loc-root loc-tilde-txt
localhost /a.txt%20 404 main dir-root dir-site files-match-a loc-root
localhost /a.txt? 200 main dir-root dir-site files-match-a files-a loc-root loc-tilde-txt
localhost /a.txt?x=/../ 200 main dir-root dir-site files-match-a files-a loc-root loc-tilde-txt
localhost /one/two/..%2f..%2fhidden/a.txt 404 main loc-one loc-match-one loc-two loc-root
    loc-one-slash loc-tilde-txt
localhost /%68idden/a.txt 403 main dir-root dir-site files-match-a files-a loc-root
    loc-tilde-txt
localhost /hidden%5c..%5ca.txt 404 main dir-root dir-site loc-root loc-tilde-txt
localhost /a.txt;x 404 main dir-root dir-site files-match-a loc-root
localhost /;/a.txt 404 main dir-root dir-site loc-root loc-tilde-txt
localhost /~ 404 main dir-root dir-site loc-root
localhost /.htaccess 404 main dir-root dir-site loc-root
localhost /over/.htaccess 200 main dir-root dir-site dir-over ht-over loc-root
other /one 301 main vhost dir-root v-dir-root dir-site dir-one dir-one-again v-dir-one match-one
    v-match-one loc-one loc-root v-loc-one
other /one/ 200 main vhost dir-root v-dir-root dir-site dir-one dir-one-again v-dir-one
    match-one loc-one loc-root loc-one-slash v-loc-one
other /one/a.txt 200 main vhost dir-root v-dir-root dir-site dir-one dir-one-again v-dir-one
    match-one files-match-a files-a v-files-a dir-one-files dir-one-match loc-one loc-match-one
    loc-root loc-one-slash loc-tilde-txt v-loc-one
other /one/index.html 200 main vhost dir-root v-dir-root dir-site dir-one dir-one-again
    v-dir-one match-one loc-one loc-root loc-one-slash v-loc-one
other /one/none 404 main vhost dir-root v-dir-root dir-site dir-one dir-one-again v-dir-one
    match-one loc-one loc-root loc-one-slash v-loc-one
other /onex 404 main vhost dir-root v-dir-root dir-site match-one loc-root
other /one/two/a.txt 200 main vhost dir-root v-dir-root dir-site dir-one dir-one-again v-dir-one
    dir-two match-one files-match-a files-a v-files-a dir-one-files dir-one-match loc-one
    loc-match-one loc-two loc-root loc-one-slash loc-tilde-txt v-loc-one
other /one/two/ 403 main vhost dir-root v-dir-root dir-site dir-one dir-one-again v-dir-one
    dir-two match-one loc-one loc-two loc-root loc-one-slash v-loc-one
other /one/two/three/a.txt 200 main vhost dir-root v-dir-root dir-site dir-one dir-one-again
    v-dir-one dir-two ht-three match-one tilde-three files-match-a files-a v-files-a
    dir-one-files dir-one-match loc-one loc-match-one loc-two loc-root loc-one-slash
    loc-tilde-txt v-loc-one
other /one/./a.txt 200 main vhost dir-root v-dir-root dir-site dir-one dir-one-again v-dir-one
    match-one files-match-a files-a v-files-a dir-one-files dir-one-match loc-one loc-match-one
    loc-root loc-one-slash loc-tilde-txt v-loc-one
other /one/../a.txt 200 main vhost dir-root v-dir-root dir-site files-match-a files-a v-files-a
    loc-root loc-tilde-txt
other /one/../hidden/a.txt 403 main vhost dir-root v-dir-root dir-site files-match-a files-a
    v-files-a loc-root loc-tilde-txt
other /one/../../a.txt 400 main vhost
other /one/%2e%2e/hidden/a.txt 403 main vhost dir-root v-dir-root dir-site files-match-a files-a
    v-files-a loc-root loc-tilde-txt
other /one/.%2e/a.txt 200 main vhost dir-root v-dir-root dir-site files-match-a files-a
    v-files-a loc-root loc-tilde-txt
other /one%2fa.txt 404 main vhost loc-root loc-tilde-txt
other /one%2Fa.txt 404 main vhost loc-root loc-tilde-txt
other /one/a%zz 400 main vhost
other /one/a.txt/more 404 main vhost dir-root v-dir-root dir-site dir-one dir-one-again
    v-dir-one match-one files-match-a files-a v-files-a dir-one-files dir-one-match loc-one
    loc-match-one loc-root loc-one-slash v-loc-one
other /one/%252e%252e/hidden/a.txt 404 main vhost dir-root v-dir-root dir-site dir-one
    dir-one-again v-dir-one match-one loc-one loc-match-one loc-root loc-one-slash loc-tilde-txt
    v-loc-one
other /one/... 404 main vhost dir-root v-dir-root dir-site dir-one dir-one-again v-dir-one
    match-one loc-one loc-root loc-one-slash v-loc-one
other /one/two/..%2f..%2fhidden/a.txt 404 main vhost loc-one loc-match-one loc-two loc-root
    loc-one-slash loc-tilde-txt v-loc-one
"""
"""The name of the host, a target, the status and the sections in the order of their merging."""

UNDECODED = "Location sections hold for a URI before it is decoded"
FOUND = "a directory without an index is 403, as it is there"
SORTED = "Apache sorts patterns by the number of their slashes, not as its manual says by the file"
APACHE = {
    FOUND: """
localhost /one/two/ 404 main dir-root dir-site dir-one dir-one-again dir-two match-one loc-one
    loc-two loc-root loc-one-slash
localhost /over/ 404 main dir-root dir-site dir-over ht-over loc-root
localhost /aliased/ 404 main dir-root dir-outside loc-root loc-aliased
other /one/two/ 404 main vhost dir-root v-dir-root dir-site dir-one dir-one-again v-dir-one
    dir-two match-one loc-one loc-two loc-root loc-one-slash v-loc-one
""",
    SORTED: """
localhost /one/two/three/a.txt 200 main dir-root dir-site dir-one dir-one-again dir-two ht-three
    tilde-three match-one files-match-a files-a dir-one-files dir-one-match loc-one
    loc-match-one loc-two loc-root loc-one-slash loc-tilde-txt
other /one 301 main vhost dir-root v-dir-root dir-site dir-one dir-one-again v-dir-one
    v-match-one match-one loc-one loc-root v-loc-one
other /one/two/three/a.txt 200 main vhost dir-root v-dir-root dir-site dir-one dir-one-again
    v-dir-one dir-two ht-three tilde-three match-one files-match-a files-a v-files-a
    dir-one-files dir-one-match loc-one loc-match-one loc-two loc-root loc-one-slash
    loc-tilde-txt v-loc-one
""",
    UNDECODED: """
localhost /one%2fa.txt 404 main
localhost /one%2Fa.txt 404 main
localhost /hidden%2f/a.txt 404 main
localhost /one%00 404 main
localhost /a.txt%00.html 404 main
localhost /one/a.txt%00 404 main
localhost /one/two/..%2f..%2fhidden/a.txt 404 main
other /one%2fa.txt 404 main vhost
other /one%2Fa.txt 404 main vhost
other /one/two/..%2f..%2fhidden/a.txt 404 main vhost
""",
}
"""Why -> the lines that are others with Apache."""


def lines(table: str) -> dict[str, str]:
    """Return the lines of *table*, by host and target."""
    joined = re.sub(r"\n +", " ", table).splitlines()
    return {" ".join(line.split(" ")[:2]): line for line in joined if line}


def merged(server: Hosted, host: str, target: str) -> str:
    """Return the line of the table for *target*."""
    answer = server.request("GET", target, headers={"Host": host})
    return " ".join([host, target, str(answer.status), *(answer.getheader("X") or "").split(", ")])


@pytest.fixture(scope="module")
def sections(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosted]:
    folder = tmp_path_factory.mktemp("sections")
    with run(folder, CONFIGURATION.format(**make_site(folder))) as server:
        yield server


def test_sections_are_merged_in_order(run: Run, sections: Hosted) -> None:
    expected = lines(MERGED)
    if run.name == "apache":
        for table in APACHE.values():
            other = lines(table)
            assert not other.items() & expected.items(), "no differences"
            assert other.keys() <= expected.keys()
            expected |= other
    found = {name: merged(sections, *name.split(" ")) for name in expected}
    wrong = [
        f"{found[name]}\n  not {line}" for name, line in expected.items() if line != found[name]
    ]
    assert not wrong, "\n".join(wrong)


def test_every_section_is_in_the_table() -> None:
    """A section that is never found, or found everywhere, shows nothing."""
    table = [line.split() for line in lines(MERGED).values()]
    of_files = "".join(FILES.values())
    for name in re.findall(r"append X ([\w-]+)", CONFIGURATION + of_files):
        found = [line for line in table if name in line]
        assert name in ("match-two-end", "loc-wild") or found, name
        assert name == "main" or len(found) < len(table), name


# -- .htaccess ------------------------------------------------------------------------------------

PERMITTED: list[tuple[str, str, int]] = [
    ("None", "Nonsense", 200),
    ("None", "Header set Y 1", 200),
    ("All", "Header set Y 1", 200),
    ("FileInfo", "Header set Y 1", 200),
    ("Indexes", "Header set Y 1", 500),
    ("Indexes", "DirectoryIndex a.txt", 200),
    ("FileInfo", "DirectoryIndex a.txt", 500),
    ("AuthConfig", "Require all denied", 403),
    ("FileInfo", "Require all denied", 500),
    ("Limit", "Require all denied", 500),
    ("AuthConfig", "AuthName x", 200),
    ("FileInfo", "AuthName x", 500),
    ("Options", "Options +Indexes", 200),
    ("FileInfo", "Options +Indexes", 500),
    ("Options=Indexes", "Options +Indexes", 200),
    ("Options=Indexes", "Options +ExecCGI", 500),
    ("Options=Indexes", "Options FollowSymLinks", 500),
    ("Options=Indexes,ExecCGI", "Options Indexes ExecCGI", 200),
    ("FileInfo", "ErrorDocument 404 /b.html", 200),
    ("FileInfo", "SetEnv a b", 200),
    ("FileInfo", "Redirect 302 /x /y", 200),
    ("FileInfo", "SetHandler default-handler", 200),
    ("FileInfo", "ForceType text/x", 200),
    ("FileInfo", "AcceptPathInfo On", 200),
    ("All", "AllowOverride All", 500),
    ("All", "ServerName x", 500),
    ("All", "Alias /x /y", 500),
    ("All", "<Directory /x>\n</Directory>", 500),
    ("All", "<Location /x>\n</Location>", 500),
    ("All", "<Files a.txt>\nHeader set Y 2\n</Files>", 200),
    ("All", "<FilesMatch b>\nHeader set Y 2\n</FilesMatch>", 200),
    ("All", "Nonsense", 500),
    ("All", "LimitRequestBody 10", 200),
    ("FileInfo", "LimitRequestBody 10", 200),
    ("All", "LogMessage x", 500),
    ("All", "<IfModule mod_headers.c>\nHeader set Y 3\n</IfModule>", 200),
    ("All", "<IfModule mod_none.c>\nNonsense\n</IfModule>", 200),
    ("All", 'Header set Y "unclosed', 500),
    ("All", "Include x", 500),
    ("All", "Define x y", 500),
    ("All", "LoadModule x y", 500),
    ("AuthConfig FileInfo", "Header set Y 1\nAuthName x", 200),
    ("All", "KeepAlive Off", 500),
    ("All", "EnableSendfile Off", 200),
    ("FileInfo", "FileETag None", 200),
    ("All", "SetEnvIf Request_URI a b", 200),
    ("All", "Options None", 200),
    ("All", "", 200),
]
"""AllowOverride, what the file has, and the status."""
STRICTER = {'Header set Y "unclosed': 200}
"""What Apache answers otherwise: it takes the rest of the line."""


def test_htaccess_may_have_what_allowoverride_permits(run: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    conf = [load(MORE), f"DocumentRoot {site}"]
    for number, (override, text, _) in enumerate(PERMITTED):
        folder = site / str(number)
        folder.mkdir(parents=True)
        (folder / "a.txt").write_text("a")
        (folder / ".htaccess").write_text(text + "\n")
        conf.append(f"<Directory {folder}>\nAllowOverride {override}\n</Directory>")
    readable(tmp_path)
    with run(tmp_path, "\n".join([*conf, ""])) as server:
        for number, (override, text, status) in enumerate(PERMITTED):
            if run.name == "apache":
                status = STRICTER.get(text, status)
            assert server.get(f"/{number}/a.txt").status == status, (override, text, server.log)


MORE = (*MODULES, "authn_core", "log_debug")


def load(names: tuple[str, ...]) -> str:
    return "\n".join(f"LoadModule {name}_module modules/mod_{name}.so" for name in names)


def readable(folder: Path) -> None:
    """Let Apache's user read everything."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_htaccess_loads_no_code(run: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "a.txt").write_text("a")
    code = f"open({str(tmp_path / 'executed')!r}, 'w').close()\n"
    (site / "mod_x.py").write_text(code)
    (site / ".htaccess").write_text(f"LoadModule x_module {site}/mod_x.py\n")
    readable(tmp_path)
    text = f"{load(('authz_core',))}\nDocumentRoot {site}\n"
    with run(tmp_path, f"{text}<Directory {site}>\nAllowOverride All\n</Directory>\n") as server:
        assert server.get("/a.txt").status == 500
        assert "LoadModule not allowed here" in server.log
    assert not (tmp_path / "executed").exists()


def test_htaccess_is_read_again_when_it_changes(run: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "a.txt").write_text("a")
    file = site / ".htaccess"
    readable(tmp_path)
    text = f"{load(('authz_core', 'headers'))}\nDocumentRoot {site}\n"
    with run(tmp_path, f"{text}<Directory {site}>\nAllowOverride All\n</Directory>\n") as server:
        assert server.get("/a.txt").getheader("Y") is None
        for value in ("one", "three", "four"):
            file.write_text(f"Header set Y {value}\n")
            file.chmod(0o644)
            assert server.get("/a.txt").getheader("Y") == value
        file.write_text("Nonsense\n")
        assert server.get("/a.txt").status == 500
        file.unlink()
        answer = server.get("/a.txt")
        assert (answer.status, answer.getheader("Y")) == (200, None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_htaccess_that_cannot_be_read_forbids(run: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "a.txt").write_text("a")
    (site / ".htaccess").write_text("")
    readable(tmp_path)
    (site / ".htaccess").chmod(0)
    text = f"{load(('authz_core',))}\nDocumentRoot {site}\n"
    with run(tmp_path, f"{text}<Directory {site}>\nAllowOverride All\n</Directory>\n") as server:
        assert server.get("/a.txt").status in (403, 500)


# -- symbolic links -------------------------------------------------------------------------------

OPTIONS = {
    "None": "",
    "Indexes": "",
    "-FollowSymLinks": "",
    "FollowSymLinks": "own f.txt other g.txt",
    "+FollowSymLinks": "own f.txt other g.txt",
    "All": "own f.txt other g.txt",
    "SymLinksIfOwnerMatch": "own f.txt",
    "FollowSymLinks SymLinksIfOwnerMatch": "own f.txt",
}
"""Options, and the links that they let through: ``other`` and ``g.txt`` belong to somebody else."""


def test_links_are_followed_as_options_say(run: Run, tmp_path: Path) -> None:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    others = os.geteuid() == 0
    if others:
        for path in (tmp_path / "theirs", tmp_path / "theirs" / "a.txt"):
            os.chown(path, 33, 33)
    site = tmp_path / "site"
    site.mkdir()
    conf = [load(("authz_core",)), f"DocumentRoot {site}", "Options FollowSymLinks"]
    for number, options in enumerate(OPTIONS):
        folder = site / str(number)
        folder.mkdir()
        links = {"own": "ours", "f.txt": "ours/a.txt", "other": "theirs", "g.txt": "theirs/a.txt"}
        for name, target in links.items():
            (folder / name).symlink_to(tmp_path / target)
        (folder / "loop").symlink_to(folder / "loop")
        conf.append(f"<Directory {folder}>\nOptions {options}\n</Directory>")
    readable(tmp_path)
    with run(tmp_path, "\n".join([*conf, ""])) as server:
        for number, (options, allowed) in enumerate(OPTIONS.items()):
            for name in ("own", "f.txt", *(["other", "g.txt"] if others else [])):
                path = f"/{number}/{name}" + ("" if name.endswith(".txt") else "/a.txt")
                status = 200 if name in allowed.split() else 403
                assert server.get(path).status == status, (options, name)
            for path in ("loop", "loop/a.txt"):
                assert server.get(f"/{number}/{path}").status == 403


def test_only_files_and_directories_are_served(run: Run, tmp_path: Path) -> None:
    if run.name == "apache":
        pytest.skip("Apache waits for a writer of the FIFO")
    site = tmp_path / "site"
    site.mkdir()
    os.mkfifo(site / "fifo")
    (site / "null").symlink_to("/dev/null")
    text = f"DocumentRoot {site}\nOptions FollowSymLinks\n"
    with run(tmp_path, text) as server:
        assert server.get("/fifo").status == 403
        assert server.get("/null").status == 403


# -- what is behind a file ------------------------------------------------------------------------

BEHIND = {
    "On": {"a.txt": 200, "a.txt/": 200, "a.txt/b": 200, "none/b": 404, "none": 404},
    "Off": {"a.txt": 200, "a.txt/": 404, "a.txt/b": 404, "none/b": 404, "none": 404},
    "Default": {"a.txt": 200, "a.txt/": 404, "a.txt/b": 404, "none/b": 404, "none": 404},
}
"""AcceptPathInfo -> path -> status."""
SLASHES = {
    "Off": {"a%2fb.txt": 404, "a/b.txt": 200, "a%2Fnone": 404, "..%2fx": 404},
    "On": {"a%2fb.txt": 200, "a/b.txt": 200, "a%2Fnone": 404},
    "NoDecode": {"a%2fb.txt": 404, "a/b.txt": 200, "a%2fc.txt": 200},
}
"""AllowEncodedSlashes -> path -> status; there is a file whose name has ``%2f``."""
ESCAPES = {
    "a/b.txt": 200,
    "%61/b.txt": 200,
    "%61%2fb.txt": 404,
    "a/%62.txt": 200,
    "a//b.txt": 200,
    "a/./b.txt": 200,
    "a/../a/b.txt": 200,
    "a/%2e%2e/a/b.txt": 200,
    "a/.%2E/a/b.txt": 200,
    "../a/b.txt": 400,
    "%2e%2e/a/b.txt": 400,
    "a/../../a/b.txt": 400,
    "a/%252e%252e/a/b.txt": 404,
    "a/b.txt%00": 400,
    "a%00/b.txt": 400,
    "a/b.txt%": 400,
    "a/b.txt%4": 400,
    "a/b.txt%zz": 400,
    "a/b.txt%20": 404,
    "a/b.txt%0a": 404,
    "a/...": 404,
    "a/B.TXT": 404,
    "a;x/b.txt": 404,
    "a\\b.txt": 404,
    "%C3%A9.txt": 200,
    "%c3%a9.txt": 200,
    "%E9.txt": 404,
    "sp%20ace.txt": 200,
    "sp+ace.txt": 404,
    "100%25.txt": 200,
    "100%2525.txt": 404,
    "q%3F.txt": 200,
    "q?.txt": 404,
}
"""Path -> status."""
NUL = {"a/b.txt%00": 404, "a%00/b.txt": 404}
"""Where Apache says that there is no such file."""


def test_paths_reach_what_they_name(run: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    folders = [*(f"info/{name}" for name in BEHIND), *(f"slash/{name}" for name in SLASHES)]
    for folder in folders:
        (site / folder / "a").mkdir(parents=True)
        for name in ("a.txt", "a/b.txt", "a%2fc.txt"):
            if folder.startswith("slash") or name == "a.txt":
                (site / folder / name).write_text("here")
    (site / "a").mkdir()
    for name in ("a/b.txt", "é.txt", "sp ace.txt", "100%.txt", "q?.txt", "x"):
        (site / name).write_text("here")
    conf = [load(("authz_core",)), f"DocumentRoot {site}"]
    conf += [
        f"<Directory {site}/info/{name}>\nAcceptPathInfo {name}\n</Directory>" for name in BEHIND
    ]
    readable(tmp_path)
    with run(tmp_path, "\n".join([*conf, ""])) as server:
        found = {
            name: {path: server.get(f"/info/{name}/{path}").status for path in table}
            for name, table in BEHIND.items()
        }
        assert found == BEHIND
        statuses = {path: server.get(f"/{path}").status for path in ESCAPES}
        assert statuses == {**ESCAPES, **(NUL if run.name == "apache" else {})}
    for name, table in SLASHES.items():
        inner = tmp_path / name
        inner.mkdir()
        with run(inner, "\n".join([*conf, f"AllowEncodedSlashes {name}", ""])) as server:
            found_here = {path: server.get(f"/slash/{name}/{path}").status for path in table}
            assert found_here == table
            # A slash that is decoded leads no further than one that was always there.
            for path in ("/a/..%2f..%2f..%2fusers", "/..%2f..%2fusers", "/%2e%2e%2f%2e%2e%2fusers"):
                assert server.get(path).status in (400, 404), path


def test_a_decoded_slash_opens_no_section(run: Run, tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name in ("open", "closed"):
        (site / name).mkdir(parents=True)
        (site / name / "a.txt").write_text(name)
    (tmp_path / "outside.txt").write_text("outside")
    readable(tmp_path)
    text = f"""{load(("authz_core",))}
DocumentRoot {site}
AllowEncodedSlashes On
<Directory {site}/closed>
Require all denied
</Directory>
<Location /open/closed>
Require all denied
</Location>
"""
    with run(tmp_path, text) as server:
        assert server.get("/open%2fa.txt").body == b"open"
        for path in (
            *("/closed/a.txt", "/closed%2fa.txt", "/open%2f..%2fclosed%2fa.txt", "//closed/a.txt"),
            *("/open/..%2fclosed/a.txt", "/open%2f..%2f..%2foutside.txt", "/%2fclosed/a.txt"),
            *("/open/%2f..%2fclosed/a.txt", "/.%2fclosed/a.txt", "/open/../closed/a.txt"),
        ):
            assert server.get(path).status in (400, 403, 404), path


@pytest.mark.parametrize("merging", ["On", "Off"])
def test_doubled_slashes_open_no_section(run: Run, tmp_path: Path, merging: str) -> None:
    site = tmp_path / "site"
    (site / "closed").mkdir(parents=True)
    (site / "closed" / "a.txt").write_text("closed")
    readable(tmp_path)
    text = f"""{load(("authz_core",))}
DocumentRoot {site}
MergeSlashes {merging}
<Directory {site}/closed>
Require all denied
</Directory>
"""
    with run(tmp_path, text) as server:
        for path in ("/closed/a.txt", "//closed/a.txt", "/closed//a.txt", "///closed///a.txt"):
            assert server.get(path).status == 403, path


def test_directories_are_known_by_the_name_that_is_written(run: Run, tmp_path: Path) -> None:
    """Where links lead is another directory, with sections of its own."""
    root = tmp_path.resolve()
    for name in ("site/closed", "site/open", "outside", "site/target"):
        (root / name).mkdir(parents=True)
        (root / name / "a.txt").write_text(name)
    for link, target in (("rootlink", "site"), ("aliaslink", "outside"), ("site/link", "target")):
        (root / link).symlink_to(target)
    readable(tmp_path)
    denied = ("rootlink/closed", "site/open", "aliaslink", "rootlink/link")
    sections = "".join(
        f"<Directory {root}/{name}>\nRequire all denied\n</Directory>\n" for name in denied
    )
    text = f"""{load(("authz_core", "alias"))}
DocumentRoot {root}/rootlink
Alias /aliased {root}/aliaslink
Alias /direct {root}/outside
Options FollowSymLinks
{sections}"""
    expected = {
        "/closed/a.txt": 403,
        "/open/a.txt": 200,  # it was reached by another name
        "/link/a.txt": 403,
        "/target/a.txt": 200,
        "/aliased/a.txt": 403,
        "/direct/a.txt": 200,
    }
    with run(tmp_path, text) as server:
        assert {path: server.get(path).status for path in expected} == expected
