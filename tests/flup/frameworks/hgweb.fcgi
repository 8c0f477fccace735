#!/usr/bin/env python3
# The script that administrators make of Mercurial's example; the socket is descriptor 0.
import os

from mercurial import demandimport

demandimport.enable()
from flup.server.fcgi import WSGIServer  # noqa: E402
from mercurial.hgweb import hgweb  # noqa: E402

WSGIServer(hgweb(os.environb[b"HGWEB_CONFIG"])).run()
