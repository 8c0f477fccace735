"""The command ``sapi``: looks at pools that run, and at the host's modules.

What a pool is asked lives in top.py.
"""

from __future__ import annotations

import sys
from typing import NoReturn

from ..sapi import ConfigurationError
from .top import FORMATS, Trouble, live, once, page

try:
    import click
except ImportError:  # the command line is an extra on hosts that take single packages only
    sys.exit("sapi needs the package click")

_PATH = click.option(
    "--path", default="/status", show_default=True, help="The pool's pm.status_path."
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sapi-adapters", prog_name="sapi")
def command() -> None:
    """Look at FastCGI pools, ours and php-fpm's, and at the modules of the host.

    SOCKET is a Unix path, HOST:PORT or a port: where the pool listens, or its status listener.
    """


@command.command()
@click.argument("socket")
@_PATH
@click.option("--interval", type=click.FloatRange(0.1), default=1.0, show_default=True, metavar="S")
@click.option("--once", "just_once", is_flag=True, help="Show it once, as plain lines.")
def top(socket: str, path: str, interval: float, just_once: bool) -> None:
    """Show a pool's workers, live in a terminal, else once. q ends it."""
    if just_once or not (sys.stdout.isatty() and sys.stdin.isatty()):
        once(socket, path)
    else:
        live(socket, path, interval)


@command.command()
@click.argument("socket")
@_PATH
@click.option("--format", "kind", type=click.Choice(tuple(FORMATS)), default="text")
@click.option("--full", is_flag=True, help="With every worker.")
def status(socket: str, path: str, kind: str, full: bool) -> None:
    """Print a pool's status page."""
    page(socket, path, kind, full)


@command.command()
@click.argument("file")
@click.option("--define", "defines", multiple=True, metavar="NAME[=VALUE]", help="As serve's.")
@click.option("--hooks", is_flag=True, help="Show whom each hook calls, in order.")
def modules(file: str, defines: tuple[str, ...], hooks: bool) -> None:
    """Print the modules that FILE, an httpd.conf of the host, loads."""
    from ..running import modules_of

    for line in modules_of(file, defines=defines, hooks=hooks):
        click.echo(line)


def main() -> NoReturn:
    """Run the command. Status 1: the pool has no status to show; 2: what was asked is wrong."""
    status = 0
    try:
        command.main(prog_name="sapi", standalone_mode=False, args=sys.argv[1:] or ["--help"])
    except (click.Abort, KeyboardInterrupt):
        status = 130
    except click.ClickException as error:
        message = " ".join(error.format_message().split())
        click.echo(f"sapi: {message} (sapi --help tells more)", err=True)
        status = 2
    except ConfigurationError as error:
        click.echo(f"sapi: {error}", err=True)
        status = 2
    except Trouble as error:
        click.echo(f"sapi: {error}", err=True)
        status = 1
    except BrokenPipeError:
        # The reader, such as head, has gone; the interpreter's last flush must not say so too.
        sys.stdout = None
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
