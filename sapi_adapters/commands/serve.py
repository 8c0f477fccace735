"""The command ``serve``: options to :func:`sapi_adapters.running.run`, mistakes to one line."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from .. import in_cgi_process
from ..loading import INTERFACES, import_path
from ..manager.control import ORDERS, ask, read_pid
from ..names import SAPIS, guess
from ..running import run, run_file, run_host, test_file, test_host
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
@click.argument("app", required=False)
@click.argument("request", nargs=-1)
@click.option("-y", "--config", metavar="FILE", help="Serve the pools of FILE, as php-fpm does.")
@click.option("-f", "--httpd-conf", metavar="FILE", help="Run the host that FILE describes.")
@click.option("--define", "defines", multiple=True, metavar="NAME[=VALUE]", help="For that FILE.")
@click.option("-p", "--prefix", metavar="DIR", help="Where relative paths of FILE begin.")
@click.option("--signal", "order", type=click.Choice([*ORDERS]), help="Tell a running server.")
@click.option("-D", "--daemonize", is_flag=True, help="Go into the background once it serves.")
@click.option("-F", "--foreground", is_flag=True, help="Stay, whatever FILE says.")
@click.option("-R", "--allow-root", is_flag=True, help="Let pools of FILE run as root.")
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
@click.option("--status-path", metavar="/PATH", help="Answer there with the status page.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="A pool's directive.")
@click.option("--static", multiple=True, metavar="/URL=DIR", help="Files the host serves.")
@click.option("--chdir", metavar="DIR", help="Change there before the app is imported.")
@click.option("--sendfile", multiple=True, metavar="RULE", help="x-sendfile=DIR, ...; repeatable.")
@click.option("--extension", "extensions", multiple=True, metavar="MODULE:ATTR", help="Repeatable.")
@click.option("--reload", is_flag=True, help="Reload when a source file changes (development).")
@click.option("--debug", is_flag=True, help="Errors show their traceback (development).")
@click.option("-t", "--test", count=True, help="Check everything, then end; -tt shows FILE too.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="cli only.")
@click.option("-d", "--data", metavar="TEXT|@FILE", help="Request body; @- is stdin. cli only.")
@click.option("-i", "--include", is_flag=True, help="Show the response's head. cli only.")
@click.version_option(package_name="sapi-adapters", prog_name="serve")
def command(app: str | None, request: tuple[str, ...], **options: Any) -> NoReturn:
    """Serve APP, a WSGI or ASGI application named MODULE:ATTRIBUTE, or the pools of a file.

    \b
    serve app:wsgi
    serve app:wsgi --sapi fcgi-prefork --socket /tmp/app.sock
    serve app:wsgi --sapi cli GET '/path?x=1' -H 'Accept: text/plain'
    serve --config /etc/sapi.conf
    serve -f /etc/sapi-httpd.conf
    serve --signal reload --pid /run/app.pid
    """
    given = {
        name: value
        for name, value in options.items()
        if value not in (None, (), False, 0) and not _is_default(name)
    }
    try:
        status = _obey(app, request, given)
    except ConfigurationError as error:
        click.echo(f"serve: {error}", err=True)
        status = 2
    sys.exit(status)


def _obey(app: str | None, request: tuple[str, ...], given: dict[str, Any]) -> int:
    """Do what the command line asks for; return the exit status."""
    daemonize = {"daemonize": "yes", "foreground": "no"}
    settings = [f"daemonize={daemonize[name]}" for name in daemonize if given.pop(name, False)]
    if settings:
        given["settings"] = (*given.get("settings", ()), *settings)
    if "order" in given:
        return _tell(given.pop("order"), given.pop("pid", None), given.pop("config", None))
    if "config" in given:
        return _serve_file(app, given)
    if "httpd_conf" in given:
        return _serve_host(app, given)
    if "defines" in given:
        raise click.UsageError("--define makes sense only with --httpd-conf")
    for name in ("prefix", "allow_root"):
        if name in given:
            raise click.UsageError(f"--{name.replace('_', '-')} makes sense only with --config")
    if app is None:
        raise click.UsageError("Missing argument 'APP'.")
    if given.get("sapi") == "cli":
        given["request"] = request
    elif request:
        raise click.UsageError(f"{' '.join(request)!r} makes sense only with --sapi cli")
    if "test" in given:
        given["test"] = True
    import_path(os.path.abspath(given.get("chdir", ".")))
    return run(app, given.pop("sapi", None) or guess(given), **given)


def _serve_file(app: str | None, given: dict[str, Any]) -> int:
    """Serve the pools of a configuration file, or test it."""
    path = given.pop("config")
    test = given.pop("test", 0)
    known = {
        name: given.pop(name) for name in ("prefix", "settings", "allow_root") if name in given
    }
    if app is not None or given:
        what = app if app is not None else "--" + next(iter(given)).replace("_", "-")
        raise click.UsageError(f"with --config the file says it all, use --set for {what}")
    if test:
        click.echo(test_file(path, show=test > 1, **known), err=True)
        return 0
    return run_file(path, **known)


def _serve_host(app: str | None, given: dict[str, Any]) -> int:
    """Run the host of an httpd.conf, or test that."""
    path, test, defines = given.pop("httpd_conf"), given.pop("test", 0), given.pop("defines", ())
    if app is not None or given:
        what = app if app is not None else "--" + next(iter(given)).replace("_", "-")
        raise click.UsageError(f"with --httpd-conf the file says it all, not {what}")
    import_path(os.getcwd())
    if test:
        click.echo(test_host(path, defines=defines), err=True)
        return 0
    return run_host(path, defines=defines)


def _tell(order: str, pid_file: str | None, config: str | None) -> int:
    """Tell the server whose pid file is given, or named by *config*, what to do."""
    if pid_file is None and config is not None:
        from ..manager.configfile import read

        pid_file = read(config).pid
    if pid_file is None:
        raise click.UsageError("--signal needs --pid FILE, or --config FILE that has a pid")
    answer = ask(read_pid(pid_file), order)
    if answer == "ok":
        return 0
    click.echo(f"serve: {order}: {answer}", err=True)
    return 1


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
