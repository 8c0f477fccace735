"""Which sections hold for a request, in which order, and which paths reach what.

Every section adds its name to a field of the response. One configuration is for the host and for
Apache: the tables say what both do.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

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


class Table(NamedTuple):
    pass
