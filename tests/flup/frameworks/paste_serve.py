"""Paste Deploy: paste_serve.py INI.  Serves the application and the server that the file names."""

import sys

from paste.deploy import loadapp, loadserver

uri = "config:" + sys.argv[1]
loadserver(uri)(loadapp(uri))
