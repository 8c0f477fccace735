"""WSGI applications that hand each request to a FastCGI or SCGI server."""
