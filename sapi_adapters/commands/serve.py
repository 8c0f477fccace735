"""The command ``serve``: options to :func:`sapi_adapters.running.run`, mistakes to one line."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from .. import in_cgi_process
from ..loading import INTERFACES, import_path
from ..names import SAPIS, guess
from ..running import run
from ..sapi import ConfigurationError

try:
    import click
except ImportError:  # the command line is an extra on hosts that take single packages only
    sys.exit("serve needs the package click")


if TYPE_CHECKING:
    _IntType = click.ParamType[int]
else:
    _IntType = click.ParamType  # generic since click 8.3


class _Mode(_IntType):
    """A file mode in octal."""

    name = "MODE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            mode = int(value, 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o777:
            self.fail(f"{value!r} is no file mode such as 0660", param, ctx)
        return mode


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("app")
@click.argument("request", nargs=-1)
@click.option("--sapi", metavar="NAME", help=f"Which runtime: {', '.join(SAPIS)}.")
@click.option("--interface", type=click.Choice(INTERFACES), default="auto", show_default=True)
@click.option("--factory", is_flag=True, help="APP is called, without arguments, for the app.")
@click.option("--socket", metavar="PATH", help="Listen on a Unix socket.")
@click.option("--socket-mode", type=_Mode(), default=0o660, help="Its mode.  [default: 0660]")
@click.option("--socket-owner", metavar="USER", help="Its owner.")
@click.option("--socket-group", metavar="GROUP", help="Its group.")
@click.option("--bind", metavar="HOST:PORT", help="Listen on a TCP address.")
@click.option("--fd", type=click.IntRange(0), metavar="N", help="Listen on an inherited socket.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes.")
@click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads of each process.")
@click.option("--script-name", metavar="/MOUNT", help="The path the app is mounted at.")
@click.option("--max-requests", type=click.IntRange(0), metavar="N", help="Then a worker leaves.")
@click.option("--request-timeout", type=click.FloatRange(0), metavar="S", help="In seconds.")
@click.option("--grace", type=click.FloatRange(0), metavar="S", help="Of a graceful stop.")
@click.option("--pid", metavar="FILE", help="Write the process id to FILE.")
@click.option("--access-log", metavar="FILE", help="Combined format; - is standard error.")
@click.option("--error-log", metavar="FILE", help="- is standard error.")
@click.option("--chdir", metavar="DIR", help="Change there before the app is imported.")
@click.option("--sendfile", multiple=True, metavar="RULE", help="x-sendfile=DIR, ...; repeatable.")
@click.option("--extension", "extensions", multiple=True, metavar="MODULE:ATTR", help="Repeatable.")
@click.option("--reload", is_flag=True, help="Reload when a source file changes (development).")
@click.option("--test", is_flag=True, help="Load the app and check the options, then end.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="cli only.")
@click.option("-d", "--data", metavar="TEXT|@FILE", help="Request body; @- is stdin. cli only.")
@click.option("-i", "--include", is_flag=True, help="Show the response's head. cli only.")
@click.version_option(package_name="sapi-adapters", prog_name="serve")
def command(app: str, request: tuple[str, ...], **options: Any) -> NoReturn:
    """Serve APP, a WSGI or ASGI application named MODULE:ATTRIBUTE.

    \b
    serve app:wsgi --sapi fcgi-prefork --socket /tmp/app.sock
    serve app:wsgi --sapi cli GET '/path?x=1' -H 'Accept: text/plain'
    """
    given = {
        name: value
        for name, value in options.items()
        if value not in (None, (), False) and not _is_default(name)
    }
    if given.get("sapi") == "cli":
        given["request"] = request
    elif request:
        raise click.UsageError(f"{' '.join(request)!r} makes sense only with --sapi cli")
    import_path(os.path.abspath(given.get("chdir", ".")))
    try:
        name = given.pop("sapi", None) or guess(given)
        status = run(app, name, **given)
    except ConfigurationError as error:
        click.echo(f"serve: {error}", err=True)
        status = 2
    sys.exit(status)


def _is_default(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.DEFAULT


def main() -> None:
    """Run the command. Under CGI the arguments are the client's and none of them is looked at."""
    if in_cgi_process():
        sys.exit(
            "serve: this is a CGI process, and its arguments come from the request;"
            " write a script that calls sapi_adapters.run(app)"
        )
    try:
        command.main(prog_name="serve", standalone_mode=False)
    except click.Abort:
        sys.exit(130)
    except click.ClickException as error:
        message = " ".join(error.format_message().split())
        click.echo(f"serve: {message} (serve --help tells more)", err=True)
        sys.exit(2)
