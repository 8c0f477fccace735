"""Where a slow request is: a worker that tells its stacks, and php-fpm's slow log of them.

php-fpm's master reads the stack of its child by ptrace, which containers often forbid. Here the
master sends a signal and the worker answers through a pipe. It works without any privilege.

1. The master sends USR2. The worker's handler is Python: it runs when the interpreter gets back to
   its loop, and writes the stacks of the slow requests first, ``await`` chains included.
2. If nothing comes for half a second, the worker is in C: in a system call, or in code that keeps
   the interpreter's lock. Then the master sends URG, and faulthandler writes the stack in C.

The second step is the last resort because faulthandler walks memory that running code changes: a
worker that is asked while it executes Python may die of it (one in 20 to 20000, measured). One
that is stuck in C holds still. So URG is sent only when its main thread sleeps, or has used half
a second of processor time: Python code would have answered. One that waits for a processor is left.

What goes over the pipe::

    NUL begin TAB sequence TAB monotonic time        faulthandler's lines have no NUL,
    NUL request TAB seconds TAB line TAB script      so the two cannot be mistaken
    NUL stack TAB title                              for each other
    NUL frame TAB address TAB line TAB function TAB file
    NUL end TAB sequence

The pipe never blocks the worker: what does not fit is lost, and the record says so. An answer that
began before it was asked for is an earlier one that came late, and is left out.

In the worker, and in the master, which looks when the pipe is readable and every 0.1 s::

    reader, writer = open_pipe()                     # before the fork

    running = {}                                     # in the worker
    Tracer(writer, lambda: list(running.values())).install()
    running[key] = Running(time.monotonic(), "GET /", "/srv/app.py", threading.get_ident())

    trace = Trace(pid, reader, time.monotonic())     # in the master: the request is slow
    ...
    dump = trace.poll(time.monotonic())
    if dump is not None:
        log.write(format_record("www", pid, time.time(), "/srv/app.py", "GET /", dump))
"""

from __future__ import annotations

import faulthandler
import gc
import os
import re
import signal
import sys
import time
from _thread import get_ident
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

PATIENCE = 0.5
"""Seconds that the worker has for each of the two answers."""
PATIENCE_ALL = 3.0
"""The same for the first one where the last resort shows all threads: they must not execute
Python then, and a main thread that others compete with may get the interpreter's lock late."""
GIVE_UP = 15.0
"""Seconds after which a worker that gets no processor time is not asked any more."""
_LIMIT = 1 << 20  # bytes of one answer: the worker is not trusted
_STACKS = 100  # of one answer, as faulthandler's
_STEPS = 2000  # of a walk whose end is not certain
_LINES = 300  # of one write: each lets the other threads run, and waits for its turn again
_TEXT = 2048  # characters of a name or a request line

PYTHON, IN_C, NOTHING = "python", "c", "nothing"
"""Who wrote a dump: the worker's handler; faulthandler; nobody, for there was no answer."""


class Running(NamedTuple):
    """A request that a worker serves at this moment."""

    started: float
    """Monotonic seconds."""
    description: str
    """``"GET /x?y"``."""
    script: str
    thread: int | None = None
    """The ident of the thread that serves it."""
    task: asyncio.Task[Any] | None = None


class Frame(NamedTuple):
    """One line of a stack."""

    function: str
    file: str
    line: int
    address: int = 0
    """0 where faulthandler wrote it: it tells none."""


class Request(NamedTuple):
    """A request that was running when the worker answered."""

    seconds: float
    description: str
    script: str


class Stack(NamedTuple):
    """What a thread or task is doing: innermost frame first."""

    title: str
    frames: list[Frame]


@dataclass
class Dump:
    """A worker's answer."""

    source: str
    """PYTHON, IN_C or NOTHING."""
    stacks: list[Stack] = field(default_factory=list)
    """The slowest request's first."""
    requests: list[Request] = field(default_factory=list)
    """Slowest first; only of PYTHON."""
    complete: bool = True
    """False: the pipe was full, or the worker was too slow."""


def open_pipe() -> tuple[int, int]:
    """Return the reading and the writing end of a pipe that blocks nobody and survives no exec."""
    # It keeps its size: larger ones count against a limit that all of the user's pipes share.
    return os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)


def one_line(text: str) -> str:
    """Return *text* with everything escaped that could end a line or a field."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


_HERE = one_line.__code__.co_filename


def _short(text: str) -> str:
    return one_line(text if len(text) <= _TEXT else f"{text[:_TEXT]}...")


# -- in the worker


class Tracer:
    """Answers the master's signals through *fd*, with at most *depth* frames a stack.

    *running* returns the requests that are served now. It is called in a signal handler: it takes
    no lock and waits for nothing.

    *all_threads* makes the last resort show all threads and not only the main one. It is for a
    server whose main thread serves nothing and is never long in a system call: that it does not
    answer then means that somebody keeps the interpreter's lock, so that all threads hold still.
    """

    def __init__(
        self,
        fd: int,
        running: Callable[[], Iterable[Running]],
        depth: int = 20,
        all_threads: bool = False,
    ) -> None:
        self._fd = fd
        self._running = running
        self._depth = depth
        self._all_threads = all_threads
        self._pid = 0
        self._sequence = 0
        self._lines: list[tuple[str, ...]] = []
        self._answering = self._asked = False

    def install(
        self,
        signal_number: int = signal.SIGUSR2,
        last_resort: int = signal.SIGURG,  # ignored by a process that has no handler for it
    ) -> None:
        """Answer from now on, in this process and not in its children. In the main thread only."""
        self._pid = os.getpid()
        signal.signal(signal_number, self._answer)
        faulthandler.register(
            last_resort, file=self._fd, all_threads=self._all_threads, chain=False
        )
        # A C library that reads does not learn of the signals. sleep, poll and select return early
        # whatever is asked for; Python itself calls them again.
        signal.siginterrupt(signal_number, False)
        signal.siginterrupt(last_resort, False)

    def _answer(self, number: int, frame: FrameType | None) -> None:
        """Write an answer. The application may hold any lock: no import, no logging, no lock."""
        if os.getpid() != self._pid:
            return
        self._asked = True
        if self._answering:
            return  # asked again while it writes, it writes again: a lost answer means URG
        while self._asked:
            self._asked = False
            self._answering = True
            try:
                self._write_all(frame)
            except Exception as error:
                # What another signal's handler raised meanwhile belongs to the application.
                trace = error.__traceback__
                while trace is not None and trace.tb_next is not None:
                    trace = trace.tb_next
                if trace is not None and trace.tb_frame.f_code.co_filename != _HERE:
                    raise
            finally:
                self._answering = False

    def _write_all(self, frame: FrameType | None) -> None:
        self._sequence += 1
        now = time.monotonic()
        self._lines = [("\n\0begin", f"{self._sequence}", f"{now:.6f}")]
        tops: dict[int, FrameType] = dict(sys._current_frames())
        here = get_ident()
        if frame is None:
            del tops[here]
        else:
            tops[here] = frame  # the stack without this handler
        threads = _Threads(tops)
        shown: set[int] = set()
        for lines in islice(self._requests(threads, shown, now), _STACKS):
            self._add(lines)
        others = [ident for ident in tops if ident not in shown]
        for ident in sorted(others, key=lambda each: each != here)[:_STACKS]:
            self._add(_stack_lines(threads.name(ident), threads.frames(ident, self._depth)))
        self._add([("\0end", f"{self._sequence}")])
        self._flush()

    def _add(self, lines: list[tuple[str, ...]]) -> None:
        self._lines += lines
        if len(self._lines) >= _LINES:
            self._flush()

    def _flush(self) -> None:
        """Write what was added, or raise BlockingIOError: the pipe is full."""
        text = "".join("\t".join(line) + "\n" for line in self._lines)
        self._lines = []
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._fd, data) :]

    def _requests(
        self, threads: _Threads, shown: set[int], now: float
    ) -> Iterator[list[tuple[str, ...]]]:
        """Yield the lines of each stack of each request; *shown* takes what need not come again."""
        for request in self._slowest_first():
            line = _short(request.description)
            seconds = now - request.started
            title = f"{line}, {seconds:.1f} s"
            lines: list[tuple[str, ...]] = [
                ("\0request", f"{seconds:.6f}", line, _short(request.script))
            ]
            if request.task is not None and id(request.task) not in shown:
                for what, frames in _task_stacks(request.task, threads, shown, self._depth):
                    yield lines + _stack_lines(f"{title}, {what}", frames)
                    lines = []
            elif request.thread in threads.tops:
                shown.add(request.thread)
                frames = threads.frames(request.thread, self._depth)
                yield lines + _stack_lines(f"{title}, {threads.name(request.thread)}", frames)
            else:
                yield lines + _stack_lines(title, [])

    def _slowest_first(self) -> list[Running]:
        for _ in range(3):
            try:
                return sorted(self._running(), key=lambda request: request.started)
            except Exception:  # another thread began or ended a request meanwhile
                pass
        return []


def _stack_lines(title: str, frames: Iterable[FrameType]) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [("\0stack", title)]
    for frame in frames:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)  # from Python 3.11 on
        where = (f"{id(frame):x}", f"{frame.f_lineno or 0}")
        lines.append(("\0frame", *where, _short(name), _short(code.co_filename)))
    return lines


class _Threads:
    """The threads at one moment, by ident, with the frame each is in."""

    def __init__(self, tops: dict[int, FrameType]) -> None:
        self.tops = tops
        # threading.enumerate() takes a lock, which the interrupted code may hold.
        self._known = dict(getattr(sys.modules.get("threading"), "_active", ()))
        self._working: list[tuple[Any, int]] | None = None

    def name(self, ident: int) -> str:
        """Return what a title calls a thread."""
        name = getattr(self._known.get(ident), "_name", "")
        return f"thread 0x{ident:016x} {_short(name)}".rstrip()

    def frames(self, ident: int, depth: int) -> list[FrameType]:
        """Return a thread's frames, innermost first."""
        return list(islice(_upwards(self.tops[ident]), depth))

    def running(self, outermost: FrameType) -> list[FrameType]:
        """Return the frames of what is executed from *outermost* on, innermost first."""
        for top in self.tops.values():
            frames = []
            for frame in _upwards(top):
                frames.append(frame)
                if frame is outermost:
                    return frames
        return [outermost]

    def working_for(self, futures: list[Any]) -> list[int]:
        """Return the threads that execute what one of *futures* stands for."""
        if self._working is None:
            self._working = [
                (promised, ident)
                for ident, top in self.tops.items()
                for frame in _upwards(top)
                for promised in _named_locals(frame, _WORKERS)
            ]
        return [
            ident
            for promised, ident in self._working
            if any(promised is future for future in futures)
        ]


def _upwards(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(_STEPS):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


_SUSPENDED: dict[type, tuple[str, str, str]] = {
    CoroutineType: ("cr_running", "cr_frame", "cr_await"),
    GeneratorType: ("gi_running", "gi_frame", "gi_yieldfrom"),
    AsyncGeneratorType: ("ag_running", "ag_frame", "ag_await"),
}
_WRAPPERS = (
    "async_generator_asend",
    "async_generator_athrow",
    "coroutine_wrapper",
    "anext_awaitable",
    "FutureIter",
)
"""Types of C that stand between two links of a chain and do not tell the next one."""

_WAITERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("wait_for", "asyncio/tasks.py"): ("fut",),  # until Python 3.11
    ("_wait", "asyncio/tasks.py"): ("fs",),
    ("_wait_for_one", "asyncio/tasks.py"): ("self._todo",),  # since Python 3.13
    ("__aexit__", "asyncio/taskgroups.py"): ("self._tasks",),
    ("_aexit", "asyncio/taskgroups.py"): ("self._tasks",),
    ("__aexit__", "anyio/_backends/_asyncio.py"): ("self._tasks",),
}
"""(function, end of its file) -> which of its variables hold the tasks that it waits for."""
_WORKERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("run", "concurrent/futures/thread.py"): ("self.future", "task.future"),
    ("run", "anyio/_backends/_asyncio.py"): ("future",),
}
"""As above -> the future that a thread in this function works for."""


def _named_locals(frame: FrameType, table: dict[tuple[str, str], tuple[str, ...]]) -> list[Any]:
    """Return the values of the variables that *table* has for this function."""
    code = frame.f_code
    names = next(
        (
            names
            for (function, file), names in table.items()
            if code.co_name == function and code.co_filename.endswith(file)
        ),
        None,
    )
    if names is None:
        return []
    variables = frame.f_locals
    found = []
    for name in names:
        variable, _, attribute = name.partition(".")
        value = variables.get(variable)
        if attribute:
            value = getattr(value, attribute, None)
        if value is not None:
            found.append(value)
    if type(variables) is dict:
        variables.clear()  # before Python 3.13 the copy stays with the frame and keeps all alive
    return found


def _task_stacks(
    task: Any, threads: _Threads, shown: set[int], depth: int
) -> Iterator[tuple[str, list[FrameType]]]:
    """Yield what *task* is doing, then the tasks and threads that it waits for, as they are found.

    *shown* takes the ident of each thread and the id of each task that was yielded.
    """
    waiting = deque([(task, "")])
    while waiting:
        task, why = waiting.popleft()
        if id(task) in shown:
            continue
        shown.add(id(task))
        frames, futures = _await_chain(task, threads)
        name = _task_name(task)
        yield f"{name}{why}", list(islice(reversed(frames), depth))
        why = f", awaited by {name}"
        futures = _leaves(futures)
        for each in futures:
            if hasattr(each, "get_coro"):
                waiting.append((each, why))
        for ident in threads.working_for(futures):
            if ident not in shown:
                shown.add(ident)
                yield f"{threads.name(ident)}{why}", threads.frames(ident, depth)


def _task_name(task: Any) -> str:
    name = _ask(task, "get_name")
    return f"task {_short(name)}" if isinstance(name, str) else "task"


def _ask(task: Any, method: str) -> Any:
    try:
        return getattr(task, method)()
    except Exception:  # the application's own class of tasks
        return None


def _await_chain(task: Any, threads: _Threads) -> tuple[list[FrameType], list[Any]]:
    """Return a task's frames, outermost first, and what its innermost one waits for."""
    frames: deque[FrameType] = deque(maxlen=_STEPS)
    futures: list[Any] = []
    link = _ask(task, "get_coro")
    for _ in range(_STEPS):
        attributes = _SUSPENDED.get(type(link))
        if attributes is not None:
            running, frame, following = attributes
            outermost = getattr(link, frame)
            if outermost is None:
                break  # it has ended
            if getattr(link, running) and _executed(link):
                frames.extend(reversed(threads.running(outermost)))
                break
            frames.append(outermost)
            for value in _named_locals(outermost, _WAITERS):
                futures.extend(list(value) if isinstance(value, (set, list, tuple)) else [value])
            link = getattr(link, following)
        elif type(link).__name__ in _WRAPPERS:
            behind = gc.get_referents(link)
            link = next((each for each in behind if _is_link(each)), None)
        else:
            break
    futures.append(getattr(task, "_fut_waiter", None))
    if _is_future(link):
        futures.append(link)
    return list(frames), [each for each in futures if _is_future(each)]


def _executed(link: Any) -> bool:
    """Tell whether *link* is on a thread's stack now.

    An asynchronous generator counts as running as long as somebody awaits its next item.
    """
    return type(link) is not AsyncGeneratorType or link.ag_await is None


def _is_link(value: Any) -> bool:
    return type(value) in _SUSPENDED or type(value).__name__ in _WRAPPERS or _is_future(value)


def _is_future(value: Any) -> bool:
    kind = type(value)
    # asyncio.isfuture()'s question; concurrent.futures has one class, which is not imported here.
    return hasattr(kind, "_asyncio_future_blocking") or (
        kind.__name__ == "Future" and kind.__module__ == "concurrent.futures._base"
    )


def _leaves(futures: list[Any]) -> list[Any]:
    """Return *futures* and those behind them: of gather(), shield(), run_in_executor()."""
    found: list[Any] = []
    known: set[int] = set()
    left = deque(futures)
    while left and len(found) < _STEPS:
        future = left.popleft()
        if id(future) in known:
            continue
        known.add(id(future))
        found.append(future)
        left.extend(each for each in getattr(future, "_children", ()) if _is_future(each))
        if hasattr(future, "get_coro"):
            continue  # its callbacks are those who wait for it
        for entry in getattr(future, "_callbacks", None) or ():
            # Each is called when the outer future ends, to tell the inner one, which it knows.
            callback = entry[0] if isinstance(entry, tuple) else entry
            if isinstance(callback, FunctionType) and _is_asyncio(callback):
                for cell in callback.__closure__ or ():
                    try:
                        value = cell.cell_contents
                    except ValueError:  # not assigned yet
                        continue
                    if _is_future(value):
                        left.append(value)
    return found


def _is_asyncio(function: FunctionType) -> bool:
    return str(function.__module__).startswith("asyncio.")


def stack_of(task: Any, depth: int = 20) -> list[str]:
    """Return where *task* is, and what it waits for, as lines of a record; called on its loop."""
    lines = []
    tops = {**sys._current_frames(), get_ident(): sys._getframe(1)}  # its own would be a cycle
    threads = _Threads(tops)
    for title, frames in _task_stacks(task, threads, set(), depth):
        lines.append(f"+++ {title}")
        for frame in frames:
            code = frame.f_code
            name = getattr(code, "co_qualname", code.co_name)
            lines.append(f"[0x{id(code):016x}] {name}() {code.co_filename}:{frame.f_lineno}")
    return [one_line(line) for line in lines]


# -- in the master


_C_STACK = re.compile(
    rb"(?:Stack|(Thread|Current thread) (0x[0-9a-f]+)) \(most recent call first\):$"
)
_C_FRAME = re.compile(rb'  File (?:"(.*)"|\?\?\?), line (\d+|\?\?\?) in (.*)')


class Collector:
    """Makes a :class:`Dump` of what a worker writes. Pure: bytes in, records out."""

    def __init__(self) -> None:
        self.begin(float("inf"))

    def begin(self, now: float) -> None:
        """The worker is asked at the monotonic time *now*: what came before is forgotten."""
        self._since = now
        self._rest = b""
        self._size = 0
        self._sequence = b""  # of the answer that is being read; empty before it, and in an old one
        self._python: list[Stack] = []
        self._requests: list[Request] = []
        self._c: list[Stack] = []
        self.answered = False
        """The worker's handler has begun to answer."""
        self.complete = False
        """And has finished."""
        self.wait(now)

    def wait(self, now: float, seconds: float = PATIENCE) -> None:
        """Be due *seconds* after *now*."""
        self._deadline = now + seconds

    def due(self, now: float) -> bool:
        """Tell whether there is nothing more to wait for."""
        return self.complete or now >= self._deadline

    def feed(self, data: bytes) -> None:
        """Take what came through the pipe."""
        self._size += len(data)
        if self._size > _LIMIT:
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                if line.startswith(b"\0"):
                    self._take(line[1:].split(b"\t"))
                else:
                    self._take_c(line)
            except (ValueError, OverflowError):
                pass  # the pipe was full, and parts of lines met

    def record(self, thread: int | None = None) -> Dump:
        """Return what came. *thread* is the one that serves the request, where that is known."""
        if self.answered:
            return Dump(PYTHON, self._python, self._requests, self.complete)
        if self._c:
            slow = "" if thread is None else f"0x{thread:016x}"
            first = slow if any(slow and slow in each.title for each in self._c) else "main"
            stacks = sorted(self._c, key=lambda stack: first not in stack.title)
            return Dump(IN_C, stacks, complete=self._size <= _LIMIT)
        return Dump(NOTHING, complete=False)

    def _take(self, fields: list[bytes]) -> None:
        kind, *values = fields
        if kind == b"begin":
            sequence, began = values
            self._sequence = b""
            if float(began) >= self._since:
                self._python, self._requests = [], []
                self._sequence = sequence
                self.answered = True
        elif not self._sequence:
            pass
        elif kind == b"request":
            seconds, description, script = values
            self._requests.append(Request(float(seconds), _text(description), _text(script)))
        elif kind == b"stack":
            (title,) = values
            self._python.append(Stack(_text(title), []))
        elif kind == b"frame":
            address, line, function, file = values
            frame = Frame(_text(function), _text(file), int(line), int(address, 16))
            if self._python:
                self._python[-1].frames.append(frame)
        elif kind == b"end" and values == [self._sequence]:
            self.complete = True

    def _take_c(self, line: bytes) -> None:
        found = _C_STACK.search(line)
        if found:
            kind, ident = found.groups()
            title = f"thread 0x{int(ident, 16):016x}" if ident else "thread"
            # The signal went to the main thread: it is the "current" one, or the only one.
            self._c.append(Stack(title if kind == b"Thread" else f"main {title}", []))
        elif self._c and (found := _C_FRAME.fullmatch(line)):
            file, number, function = found.groups()
            frame = Frame(_text(function), _text(file or b"???"), int(number.replace(b"?", b"0")))
            self._c[-1].frames.append(frame)


def _text(data: bytes) -> str:
    return one_line(data.decode("utf-8", "backslashreplace"))


class Usage(NamedTuple):
    """What a process or thread has done so far, as the kernel tells it."""

    cpu: float
    """Seconds of processor time."""
    asleep: bool
    """It waits for an event: neither for a processor, nor a page from a disk, nor SIGCONT."""


def usage(pid: int, all_threads: bool = False) -> Usage | None:
    """Return what the main thread of *pid* has used, or all together; None if that is not told."""
    try:
        threads = os.listdir(f"/proc/{pid}/task") if all_threads else [f"{pid}"]
        used = [_usage(f"/proc/{pid}/task/{thread}/stat") for thread in threads]
    except (OSError, IndexError, ValueError):
        return None
    return Usage(sum(each.cpu for each in used), all(each.asleep for each in used))


def _usage(path: str) -> Usage:
    with open(path, "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), fields[0] in (b"S", b"Z"))


def stuck(before: Usage | None, after: Usage | None, seconds: float = PATIENCE) -> bool:
    """Tell whether what has not answered is in C, and not waiting for a processor."""
    if before is None or after is None:
        return True
    return after.asleep or after.cpu - before.cpu >= seconds


class Trace:
    """The master asks worker *pid*, whose pipe is *fd*, at the monotonic time *now*.

    The worker must not have been reaped: its pid would be another's. It may be dead. *thread* is
    the ident of the one that serves the slow request, where that is known; *all_threads* is what
    the worker's :class:`Tracer` was given.
    """

    def __init__(
        self,
        pid: int,
        fd: int,
        now: float,
        thread: int | None = None,
        all_threads: bool = False,
        signal_number: int = signal.SIGUSR2,
        last_resort: int = signal.SIGURG,
    ) -> None:
        self._pid = pid
        self._fd = fd
        self._began = now
        self._thread = thread
        self._last_resort = last_resort
        self._last_wait = False
        self._all_threads = all_threads
        self._enough_cpu = 1.0 if all_threads else PATIENCE
        self._usage = usage(pid, all_threads)
        self._collector = Collector()
        self._read()
        self._collector.begin(now)
        self._collector.wait(now, PATIENCE_ALL if all_threads else PATIENCE)
        self._send(signal_number)

    def poll(self, now: float) -> Dump | None:
        """Return the answer, or None as long as it is worth waiting for; then call it again."""
        self._read()
        collector = self._collector
        if not collector.due(now):
            return None
        if collector.complete or self._last_wait or now >= self._began + GIVE_UP:
            return collector.record(self._thread)
        if collector.answered:
            self._last_wait = True  # for the rest
            collector.wait(now)
        elif stuck(self._usage, usage(self._pid, self._all_threads), self._enough_cpu):
            self._last_wait = True  # all of it: what faulthandler writes has no end
            collector.wait(now)
            self._send(self._last_resort)
        return None

    def _read(self) -> None:
        try:
            for _ in range(_LIMIT // 65536):  # and not as long as the worker may go on writing
                self._collector.feed(os.read(self._fd, 65536))
        except BlockingIOError:
            pass

    def _send(self, number: int) -> None:
        try:
            os.kill(self._pid, number)
        except ProcessLookupError:
            self._last_wait = True


# -- the file

_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()  # in every locale
_NOTES = {
    IN_C: "in C code or a system call",
    NOTHING: "dump failed: the worker did not answer",
}


def format_record(
    pool: str, pid: int, when: float, script: str, request_line: str, dump: Dump, depth: int = 20
) -> str:
    """Return a record of php-fpm's slow log, of the time *when* (seconds since the epoch).

    Lines that php-fpm's do not have begin as its ``+++ dump failed`` does, and say which thread or
    task the frames after them are of.
    """
    local = time.localtime(when)
    at = f"{local.tm_mday:02}-{_MONTHS[local.tm_mon - 1]}-{local.tm_year} "
    at += f"{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02}"
    lines = [
        "",
        f"[{at}]  [pool {one_line(pool)}] pid {pid}",
        f"script_filename = {one_line(script)}",
    ]
    if dump.source in _NOTES:
        lines.append(f"+++ {one_line(request_line)}: {_NOTES[dump.source]}")
    elif not dump.requests:
        lines.append(f"+++ {one_line(request_line)}: ended meanwhile")
    for stack in dump.stacks:
        lines.append(f"+++ {one_line(stack.title)}")
        for frame in stack.frames[:depth]:
            name, file = one_line(frame.function), one_line(frame.file)
            lines.append(f"[0x{frame.address:016x}] {name}() {file}:{frame.line}")
    if dump.stacks and not dump.complete:
        lines.append("+++ the rest is missing: the worker could not write all of it")
    return "\n".join(lines) + "\n"
