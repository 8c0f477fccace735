"""The slow log: workers in every kind of trouble, run from this file, tell their stacks."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import itertools
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from sapi_adapters.manager import slowlog
from sapi_adapters.manager.slowlog import (
    IN_C,
    NOTHING,
    PYTHON,
    Collector,
    Dump,
    Frame,
    Request,
    Running,
    Stack,
    Trace,
    Tracer,
    Usage,
    format_record,
    open_pipe,
    stuck,
    usage,
)

SCRIPT = "/srv/app.py"

# -- what the workers do: each function is a program of its own


def ready() -> None:
    os.write(1, b"ready\n")


def this_thread(line: str = "GET /slow?x=1", ago: float = 10.0) -> Running:
    return Running(time.monotonic() - ago, line, SCRIPT, threading.get_ident())


def in_sleep(running: list[Running]) -> None:
    running.append(this_thread())
    ready()
    time.sleep(90)


def in_a_loop(running: list[Running]) -> None:
    running.append(this_thread())
    ready()
    while True:
        sum(divmod(n, 7)[1] for n in range(100))


def in_a_regular_expression(running: list[Running]) -> None:
    running.append(this_thread())
    ready()
    re.match(r"(a+)+$", "a" * 60 + "b")


def in_a_read(running: list[Running]) -> None:
    running.append(this_thread())
    reader, _ = os.pipe()
    ready()
    os.read(reader, 1)


def in_a_read_with_the_lock(running: list[Running]) -> None:
    running.append(this_thread())
    reader, _ = os.pipe()
    ready()
    ctypes.PyDLL(None).read(reader, ctypes.create_string_buffer(1), 1)


def in_c_with_the_lock(running: list[Running]) -> None:
    running.append(this_thread())
    ready()
    sum(itertools.repeat(1, 10**12))


def in_a_thread_in_c_with_the_lock(running: list[Running]) -> None:
    def other_thread() -> None:
        threading.Event().wait(90)

    def slow_thread() -> None:
        running.append(this_thread())
        ready()
        sum(itertools.repeat(1, 10**12))

    threading.Thread(target=other_thread, daemon=True).start()
    threading.Thread(target=slow_thread, daemon=True).start()
    time.sleep(90)


def in_threads(running: list[Running]) -> None:
    busy = threading.Semaphore(0)

    def fast_thread() -> None:
        running.append(this_thread("GET /fast", 1.0))
        busy.release()
        time.sleep(90)

    def slow_thread() -> None:
        running.append(this_thread("GET /slow\r\nX: \udcff", 5.0))
        busy.release()
        time.sleep(90)

    def idle_thread() -> None:
        busy.release()
        time.sleep(90)

    for target in (fast_thread, idle_thread, slow_thread):
        threading.Thread(target=target, name=target.__name__, daemon=True).start()
        busy.acquire()
    ready()
    time.sleep(90)


def in_deep_recursion(running: list[Running]) -> None:
    running.append(this_thread())

    def down(left: int) -> None:
        if left:
            down(left - 1)
        ready()
        while True:
            pass

    down(800)


def with_every_lock(running: list[Running]) -> None:
    import _imp

    running.append(this_thread())
    handler = logging.StreamHandler()
    logging.getLogger().addHandler(handler)
    logging._lock.acquire()
    handler.acquire()
    _imp.acquire_lock()
    threading._active_limbo_lock.acquire()
    sys.stderr = sys.stdout = None  # type: ignore[assignment]
    ready()
    while True:
        pass


def counting(running: list[Running]) -> None:
    """Says how far it is; recurses to the limit meanwhile. Says "wrong" if anything comes of it."""
    running.append(this_thread())

    def down() -> None:
        down()

    ready()
    for n in itertools.count():
        try:
            if sum(range(1000)) != 499500 or "".join(map(str, range(10))) != "0123456789":
                os.write(1, b"wrong\n")
            down()
        except RecursionError:
            pass
        except BaseException as error:
            os.write(1, f"wrong {error!r}\n".encode())
        if n % 20 == 0:
            os.write(1, b".\n")


def reading(running: list[Running]) -> None:
    """Reads in C, without Python's retrying; says what the calls returned."""
    libc = ctypes.CDLL(None, use_errno=True)
    reader, writer = os.pipe()
    buffer = ctypes.create_string_buffer(10)

    def read() -> None:
        ready()
        result = libc.read(reader, buffer, 10)
        os.write(1, f"{result} {ctypes.get_errno()}\n".encode())

    def write_later() -> None:
        sys.stdin.buffer.readline()
        os.write(writer, b"x")

    threading.Thread(target=write_later, daemon=True).start()
    read()
    time.sleep(90)


def forking(running: list[Running]) -> None:
    """Has a child that gets the signals, too, and ends when this process is asked to."""
    pid = os.fork()
    if pid:
        os.write(1, f"{pid}\n".encode())
        sys.stdin.buffer.readline()
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        ready()
    time.sleep(90)


def with_a_broken_list(running: list[Running]) -> None:
    class Task:
        get_coro = property(lambda self: 1 / 0)

    running.append(Running(0.0, "GET /broken", SCRIPT, task=Task()))  # type: ignore[arg-type]
    in_sleep(running)


# coroutines: each is the whole of a request


async def innermost() -> None:
    await asyncio.sleep(90)


async def middle() -> None:
    await innermost()


async def nested() -> None:
    await middle()


async def gathering() -> None:
    await asyncio.gather(innermost(), middle())


async def with_a_limit() -> None:
    await asyncio.wait_for(middle(), 90)


async def waiting() -> None:
    await asyncio.wait([asyncio.ensure_future(middle())])


async def shielding() -> None:
    await asyncio.shield(asyncio.ensure_future(middle()))


async def as_completed() -> None:
    for each in asyncio.as_completed([middle()]):
        await each


def blocking_function() -> None:
    time.sleep(90)


async def in_an_executor() -> None:
    await asyncio.get_running_loop().run_in_executor(None, blocking_function)


async def in_a_thread() -> None:
    await asyncio.to_thread(blocking_function)


async def items() -> Iterator[int]:  # type: ignore[misc]
    await middle()
    yield 1


async def iterating() -> None:
    async for _ in items():  # type: ignore[attr-defined]
        pass


class Awaitable:
    def __await__(self) -> Iterator[object]:
        return (yield from middle().__await__())


async def with_an_object() -> None:
    await Awaitable()


async def on_a_future() -> None:
    await asyncio.get_running_loop().create_future()


async def in_a_task_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(middle())


async def in_an_anyio_group() -> None:
    import anyio

    async with anyio.create_task_group() as group:
        group.start_soon(middle)


async def in_an_anyio_thread() -> None:
    import anyio.to_thread

    await anyio.to_thread.run_sync(blocking_function)


def spin() -> None:
    while True:
        sum(range(100))


async def blocking_the_loop() -> None:
    await asyncio.sleep(0)
    await asyncio.ensure_future(calling_spin())


async def calling_spin() -> None:
    await asyncio.sleep(0)
    spin()


def in_a_loop_of(new_loop: Callable[[], asyncio.AbstractEventLoop], name: str) -> Callable:
    def program(running: list[Running]) -> None:
        async def serve() -> None:
            now = time.monotonic()
            fast = asyncio.ensure_future(on_a_future())
            slow = asyncio.ensure_future(globals()[name]())
            running.append(Running(now - 1.0, "GET /fast", SCRIPT, None, fast))
            running.append(Running(now - 5.0, "GET /slow", SCRIPT, None, slow))
            await asyncio.sleep(0)
            ready()
            await slow

        loop = new_loop()
        asyncio.set_event_loop(loop)
        loop.run_until_complete(serve())

    return program


def uvloop_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def be_the_worker(name: str, fd: int, options: str) -> None:
    kind, _, coroutine = name.partition(":")
    if coroutine:
        program = in_a_loop_of({"uvloop": uvloop_loop}.get(kind, asyncio.new_event_loop), coroutine)
    else:
        program = globals()[kind]
    running: list[Running] = []
    Tracer(fd, lambda: iter(running), all_threads="all_threads" in options).install()
    program(running)


if __name__ == "__main__":
    be_the_worker(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    sys.exit()

import pytest  # noqa: E402 - the workers do without it

# -- the tests


class Worker:
    def __init__(self, program: str, options: str = "") -> None:
        self.reader, writer = open_pipe()
        self.all_threads = options == "all_threads"
        self.process = subprocess.Popen(
            [sys.executable, "-X", "frozen_modules=off", __file__, program, f"{writer}", options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[writer],
            bufsize=0,
        )
        os.close(writer)
        self.pid = self.process.pid

    def line(self) -> str:
        """Return the next line that it says; empty when it is dead."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")

    def kill(self, number: int) -> None:
        self.process.send_signal(number)

    def ask(self, thread: int | None = None) -> Dump:
        now = time.monotonic()
        return finished(Trace(self.pid, self.reader, now, thread, self.all_threads))

    def ask_until(self, condition: Callable[[Dump], object]) -> Dump:
        end = time.monotonic() + 50
        while True:
            dump = self.ask()
            if condition(dump):
                return dump
            assert time.monotonic() < end, dump
            assert self.process.poll() is None


def finished(trace: Trace) -> Dump:
    end = time.monotonic() + 50
    while (dump := trace.poll(time.monotonic())) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    return dump


@contextlib.contextmanager
def worker(program: str, options: str = "") -> Iterator[Worker]:
    """Run *program* with a limit of 90 seconds, and end it."""
    started = Worker(program, options)
    limit = threading.Timer(90, started.process.kill)
    limit.start()
    try:
        yield started
    finally:
        limit.cancel()
        limit.join()
        started.process.kill()
        started.process.wait()
        for stream in (started.process.stdin, started.process.stdout):
            assert stream is not None
            stream.close()
        os.close(started.reader)


def functions(stack: Stack) -> list[str]:
    return [frame.function.rpartition(".")[2] for frame in stack.frames]


def has(name: str) -> Callable[[Dump], bool]:
    return lambda dump: any(name in functions(stack) for stack in dump.stacks)


def find(dump: Dump, function: str) -> Stack:
    return next(stack for stack in dump.stacks if function in functions(stack))


@pytest.mark.parametrize("program", ["in_sleep", "in_a_loop", "in_a_regular_expression"])
def test_a_worker_that_the_interpreter_gets_back_tells_its_stack_and_its_request(program):
    with worker(program) as slow:
        assert slow.line() == "ready"
        dump = slow.ask_until(has(program))
        assert dump.source == PYTHON and dump.complete
        (request,) = dump.requests
        assert request[1:] == ("GET /slow?x=1", SCRIPT) and 10 < request.seconds < 70
        title, frames = dump.stacks[0]
        assert re.fullmatch(r"GET /slow\?x=1, \d+\.\d s, thread 0x[0-9a-f]{16} MainThread", title)
        frame = next(frame for frame in frames if frame.function == program)
        assert frame.file == __file__ and frame.address
        first = globals()[program].__code__.co_firstlineno
        assert first < frame.line < first + 6
        assert "_answer" not in functions(dump.stacks[0])  # what it would be doing without us
        assert len(dump.stacks) == 1


@pytest.mark.parametrize("program", ["in_a_read", "in_a_read_with_the_lock", "in_c_with_the_lock"])
def test_a_worker_that_is_stuck_in_c_is_described_in_c(program):
    with worker(program) as slow:
        assert slow.line() == "ready"
        dump = slow.ask_until(lambda dump: dump.source == IN_C)
        assert dump.complete and not dump.requests
        (stack,) = dump.stacks
        assert stack.title == "main thread"
        assert functions(stack) == [program, "be_the_worker", "<module>"]
        assert stack.frames[0].file == __file__
        first = globals()[program].__code__.co_firstlineno
        assert first < stack.frames[0].line < first + 6


def test_a_thread_that_keeps_the_lock_in_c_is_found_among_all_threads():
    with worker("in_a_thread_in_c_with_the_lock", "all_threads") as slow:
        assert slow.line() == "ready"
        dump = slow.ask_until(lambda dump: dump.source == IN_C)
        assert dump.stacks[0].title.startswith("main thread 0x")
        assert find(dump, "other_thread") and len(dump.stacks) == 3
        slow_one = find(dump, "slow_thread")
        assert functions(slow_one)[0] == "slow_thread"
        # The master may know which thread it is.
        again = slow.ask(thread=int(slow_one.title.split()[1], 16))
        assert functions(again.stacks[0]) == functions(slow_one)


def test_threads_come_in_the_order_of_their_requests_and_then_the_idle_ones():
    with worker("in_threads") as slow:
        assert slow.line() == "ready"
        dump = slow.ask_until(lambda dump: functions(dump.stacks[2])[0] == "in_threads")
        names = [stack.title.split()[-1] for stack in dump.stacks]
        assert names == ["slow_thread", "fast_thread", "MainThread", "idle_thread"]
        assert [functions(stack)[0] for stack in dump.stacks] == [
            "slow_thread",
            "fast_thread",
            "in_threads",
            "idle_thread",
        ]
        slowest, fastest = dump.requests
        assert slowest.description == r"GET /slow\r\nX: \udcff" and fastest.seconds < 5
        assert dump.stacks[0].title.startswith(r"GET /slow\r\nX: \udcff, 5.")


LOOPS = ["asyncio", "uvloop"]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    ("coroutine", "stacks"),
    [
        ("nested", ["innermost middle nested"]),
        ("gathering", ["gathering", "innermost", "innermost middle"]),
        ("with_a_limit", ["with_a_limit", "innermost middle"]),
        ("waiting", ["waiting", "innermost middle"]),
        ("shielding", ["shielding", "innermost middle"]),
        ("as_completed", ["as_completed", "innermost middle"]),
        ("in_an_executor", ["in_an_executor", "blocking_function"]),
        ("in_a_thread", ["in_a_thread", "blocking_function"]),
        ("iterating", ["innermost middle items iterating"]),
        ("with_an_object", ["innermost middle __await__ with_an_object"]),
        ("on_a_future", ["on_a_future"]),
        ("in_a_task_group", ["in_a_task_group", "innermost middle"]),
        ("in_an_anyio_group", ["in_an_anyio_group", "innermost middle"]),
        ("in_an_anyio_thread", ["in_an_anyio_thread", "blocking_function"]),
        ("blocking_the_loop", ["blocking_the_loop", "spin calling_spin"]),
    ],
)
def test_a_task_is_followed_to_what_it_waits_for(loop, coroutine, stacks):
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    if "anyio" in coroutine:
        pytest.importorskip("anyio")
    if coroutine == "in_a_task_group" and sys.version_info < (3, 11):
        pytest.skip("asyncio.TaskGroup is of Python 3.11")
    if coroutine == "as_completed" and sys.version_info < (3, 13):
        pytest.skip("before Python 3.13 it does not know what it waits for")

    def told(dump: Dump) -> list[str]:
        """The slow request's stacks, as far as their functions are of this file."""
        return [
            " ".join(f.function.rpartition(".")[2] for f in stack.frames if f.file == __file__)
            for stack in dump.stacks
            if stack.title.startswith("GET /slow")
        ]

    def joined(stacks: list[str]) -> str:
        return " ".join(sorted(" ".join(stacks).split()))

    with worker(f"{loop}:{coroutine}") as slow:
        assert slow.line() == "ready" or coroutine == "blocking_the_loop"
        dump = slow.ask_until(lambda dump: joined(told(dump)) == joined(stacks))
        assert dump.source == PYTHON and dump.complete
        # wait_for() makes a task of its own before Python 3.12 and none later.
        if coroutine == "with_a_limit" and sys.version_info >= (3, 12):
            stacks = ["innermost middle with_a_limit"]
        assert told(dump)[0] == stacks[0]
        assert sorted(told(dump)) == sorted(stacks)
        title = dump.stacks[0].title
        assert re.match(r"GET /slow, \d+\.\d s, task Task-\d+$", title)
        for stack in dump.stacks[1 : len(stacks)]:
            assert ", awaited by task Task-" in stack.title
        assert [r.description for r in dump.requests] == ["GET /slow", "GET /fast"]
        assert "serve" not in functions(dump.stacks[0])
        assert any("MainThread" in stack.title for stack in dump.stacks)


def test_of_a_deep_recursion_the_innermost_frames_are_told():
    with worker("in_deep_recursion") as slow:
        assert slow.line() == "ready"
        dump = slow.ask_until(lambda dump: functions(dump.stacks[0])[0] == "down")
        assert dump.source == PYTHON and dump.complete
        assert functions(dump.stacks[0]) == ["down"] * 20


def test_locks_that_the_application_holds_do_not_matter():
    with worker("with_every_lock") as slow:
        assert slow.line() == "ready"
        dump = slow.ask_until(lambda dump: functions(dump.stacks[0])[0] == "with_every_lock")
        assert dump.source == PYTHON and dump.complete


def test_a_list_of_requests_that_is_broken_costs_only_itself():
    with worker("with_a_broken_list") as slow:
        assert slow.line() == "ready"
        dump = slow.ask_until(has("in_sleep"))
        assert dump.source == PYTHON and dump.complete
        assert [r.description for r in dump.requests] == ["GET /broken", "GET /slow?x=1"]
        assert dump.stacks[0].frames == []


def test_a_thousand_signals_do_not_reach_the_application():
    with worker("counting") as slow:
        assert slow.line() == "ready"
        for _ in range(1000):
            slow.kill(signal.SIGUSR2)
            time.sleep(0.0002)
        assert {slow.line() for _ in range(5)} == {"."}
        dump = slow.ask()
        assert dump.source == PYTHON and len(dump.requests) == 1
        assert slow.process.poll() is None


def test_a_full_pipe_does_not_block_the_worker():
    with worker("counting") as slow:
        assert slow.line() == "ready"
        writer = os.open(f"/proc/{os.getpid()}/fd/{slow.reader}", os.O_WRONLY | os.O_NONBLOCK)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writer, b"x" * 100)
        os.close(writer)
        for _ in range(20):
            slow.kill(signal.SIGUSR2)
            assert slow.line() == "."
        dump = slow.ask_until(lambda dump: dump.complete)  # what was in the pipe is nothing to it
        assert dump.source == PYTHON and functions(dump.stacks[0])


def test_a_system_call_goes_on_after_both_signals():
    with worker("reading") as slow:
        assert slow.line() == "ready"
        dump = slow.ask_until(lambda dump: dump.source == IN_C)  # it was sent both
        assert functions(dump.stacks[0])[0] == "read"
        for _ in range(50):
            slow.kill(signal.SIGUSR2)
            slow.kill(signal.SIGURG)
        slow.go_on()
        assert slow.line() == "1 0"


def test_a_child_of_the_worker_does_not_answer_for_it():
    with worker("forking") as slow:
        child = int(slow.line())
        os.kill(child, signal.SIGUSR2)
        while (before := usage(child)) is None or not before.asleep:
            time.sleep(0.01)
        slow.go_on()
        assert slow.line() == "ready"  # the child is dead, and has had its time
        with pytest.raises(BlockingIOError):
            os.read(slow.reader, 100)


def test_a_stopped_worker_is_given_up_and_not_endangered():
    with worker("counting") as slow:
        assert slow.line() == "ready"
        slow.kill(signal.SIGSTOP)
        while f" {slow.pid} T" not in state(slow.pid):
            time.sleep(0.01)
        now = time.monotonic()
        trace = Trace(slow.pid, slow.reader, now)
        assert trace.poll(now + 1) is None and trace.poll(now + 2) is None
        dump = trace.poll(now + slowlog.GIVE_UP)
        assert dump == Dump(NOTHING, complete=False)
        pending = next(
            line for line in open_text(f"/proc/{slow.pid}/status") if line.startswith("ShdPnd")
        )
        assert int(pending.split()[1], 16) == 1 << (signal.SIGUSR2 - 1)  # and no SIGURG
        slow.kill(signal.SIGCONT)
        late = slow.ask_until(lambda dump: dump.source == PYTHON)
        assert len(late.requests) == 1  # only the new answer


def state(pid: int) -> str:
    text = " ".join(open_text(f"/proc/{pid}/stat"))
    return f" {pid} {text.rpartition(')')[2].split()[0]}"


def open_text(path: str) -> list[str]:
    with open(path) as file:
        return file.readlines()


def test_a_dead_worker_has_nothing_to_say():
    with worker("in_sleep") as slow:
        assert slow.line() == "ready"
        slow.process.kill()
        slow.process.wait()
        now = time.monotonic()
        trace = Trace(slow.pid, slow.reader, now)
        assert trace.poll(now) is None
        assert trace.poll(now + 1) == Dump(NOTHING, complete=False)


@pytest.fixture
def tracer() -> Iterator[tuple[Tracer, int]]:
    reader, writer = open_pipe()
    tracer = Tracer(writer, list)
    tracer._pid = os.getpid()
    yield tracer, reader
    os.close(reader)
    os.close(writer)


def test_a_failure_of_its_own_stays_in_the_handler(tracer):
    own, _ = tracer
    own._fd = -1
    own._answer(signal.SIGUSR2, sys._getframe())
    own._depth = None
    own._answer(signal.SIGUSR2, sys._getframe())


def test_a_list_of_requests_that_cannot_be_had_costs_only_itself(tracer):
    own, reader = tracer
    own._running = lambda: 1 // 0
    own._answer(signal.SIGUSR2, sys._getframe())
    text = os.read(reader, 65536)
    assert b"MainThread" in text and text.endswith(b"\0end\t1\n")


def test_a_signal_that_comes_during_an_answer_is_answered_after_it(tracer):
    own, reader = tracer
    signals = iter([signal.SIGUSR2])
    own._running = lambda: [own._answer(number, sys._getframe()) for number in signals]
    own._answer(signal.SIGUSR2, sys._getframe())
    assert re.findall(rb"(begin|end)\t(\d)", os.read(reader, 65536)) == [
        (b"begin", b"1"),
        (b"end", b"1"),
        (b"begin", b"2"),
        (b"end", b"2"),
    ]


def test_what_another_handler_raises_goes_to_the_application(tracer, monkeypatch):
    def time_is_up(*arguments: object) -> None:
        raise TimeoutError

    own, reader = tracer
    write = os.write
    with monkeypatch.context() as patch, pytest.raises(TimeoutError):
        patch.setattr(slowlog.os, "write", time_is_up)
        own._answer(signal.SIGUSR2, sys._getframe())
    assert os.write is write
    own._answer(signal.SIGUSR2, sys._getframe())  # and it answers again
    assert os.read(reader, 65536).endswith(b"\0end\t2\n")


# -- the collector


def answer(sequence: int, began: float, end: bool = True) -> bytes:
    text = f"\n\0begin\t{sequence}\t{began:.6f}\n"
    text += f"\0request\t5.000000\tGET /{sequence}\t{SCRIPT}\n"
    text += f"\0stack\tGET /{sequence}, 5.0 s\n\0frame\tff\t12\tview\t{SCRIPT}\n"
    return (text + f"\0end\t{sequence}\n" * end).encode()


def answered(sequence: int, complete: bool = True) -> Dump:
    stack = Stack(f"GET /{sequence}, 5.0 s", [Frame("view", SCRIPT, 12, 255)])
    return Dump(PYTHON, [stack], [Request(5.0, f"GET /{sequence}", SCRIPT)], complete)


C_ONE = b"""\
Stack (most recent call first):
  File "/srv/a "b", line 1 in c.py", line 7 in <module>
  File ???, line ??? in ???
"""
C_ALL = b"""\
Thread 0x00007f0000000001 (most recent call first):
  File "/srv/lib.py", line 3 in wait
  ...

Current thread 0x00007f0000000002 (most recent call first):
  Garbage-collecting
  <no Python frame>
"""
IN_ONE = [
    Stack(
        "main thread", [Frame("<module>", '/srv/a "b", line 1 in c.py', 7), Frame("???", "???", 0)]
    )
]
IN_ALL = [
    Stack("main thread 0x00007f0000000002", []),
    Stack("thread 0x00007f0000000001", [Frame("wait", "/srv/lib.py", 3)]),
]


@pytest.mark.parametrize(
    ("data", "dump"),
    [
        (b"", Dump(NOTHING, complete=False)),
        (answer(1, 100.5), answered(1)),
        (answer(1, 100.5, end=False), answered(1, complete=False)),
        (answer(1, 99.5), Dump(NOTHING, complete=False)),  # asked for before
        (answer(1, 99.5) + answer(2, 100.5), answered(2)),
        (answer(1, 99.5, end=False)[:-9] + answer(2, 100.5), answered(2)),
        (answer(1, 99.5, end=False) + b"\0end\t2\n", Dump(NOTHING, complete=False)),
        (answer(1, 100.5, end=False) + b"\0end\t2\n", answered(1, complete=False)),
        (C_ONE, Dump(IN_C, IN_ONE)),
        (b'  File "x' + C_ONE, Dump(IN_C, IN_ONE)),
        (C_ALL, Dump(IN_C, IN_ALL)),
        (C_ONE + answer(1, 100.5), answered(1)),  # it came out of C meanwhile
        (answer(1, 100.5, end=False) + C_ONE + b"\0end\t1\n", answered(1)),
        (b"\0begin\n\0begin\tx\ty\n\0\n\0frame\n\0nonsense\t1\n" + answer(1, 100.5), answered(1)),
        (b"\0frame\tff\t12\tview\t/x\n\xff\xfe\n", Dump(NOTHING, complete=False)),
        (b"\0begin\t1\tnan\n\0stack\tx\n", Dump(NOTHING, complete=False)),
    ],
)
def test_an_answer_is_read_whole_and_byte_by_byte(data, dump):
    for size in (max(1, len(data)), 1):
        collector = Collector()
        collector.feed(answer(7, 1000.0))  # nobody has asked
        collector.begin(100.0)
        for at in range(0, len(data), size):
            collector.feed(data[at : at + size])
        assert collector.record() == dump
        assert collector.complete == (dump.source == PYTHON and dump.complete)


def test_a_worker_cannot_make_the_master_keep_without_end():
    collector = Collector()
    collector.begin(100.0)
    collector.feed(answer(1, 100.5, end=False))
    for _ in range(100):
        collector.feed(b"\0frame\tff\t12\tview\t/x\n" * 5000)
    collector.feed(b"x" * 100)
    collector.feed(b"\0end\t1\n")
    assert len(collector.record().stacks[0].frames) < 60000
    assert not collector.record().complete


def test_it_is_due_when_the_answer_is_complete_or_the_time_is_over():
    collector = Collector()
    assert not collector.due(1e9)
    collector.begin(100.0)
    assert not collector.due(100.4) and collector.due(100.5)
    collector.wait(101.0)
    assert not collector.due(101.4)
    collector.feed(answer(1, 100.5, end=False))
    assert not collector.due(101.4)
    collector.feed(b"\0end\t1\n")
    assert collector.due(101.4)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (Usage(1.0, False), Usage(1.0, True), True),  # in a system call
        (Usage(1.0, False), Usage(1.5, False), True),  # in C, and busy
        (Usage(1.0, True), Usage(1.4, False), False),  # short of time
        (None, Usage(1.0, False), True),
        (Usage(1.0, False), None, True),
    ],
)
def test_a_worker_is_stuck_when_it_had_the_time_to_answer(before, after, expected):
    assert stuck(before, after) is expected


def test_what_a_process_used():
    with worker("in_a_loop") as busy:
        assert busy.line() == "ready"
        before = usage(busy.pid)
        end = time.monotonic() + 20
        while (after := usage(busy.pid)) is None or before is None or after.cpu < before.cpu + 0.1:
            assert time.monotonic() < end
        assert not after.asleep
    with worker("in_sleep") as idle:
        assert idle.line() == "ready"
        while (used := usage(idle.pid)) is None or not used.asleep:
            assert time.monotonic() < end + 20
        assert usage(idle.pid, all_threads=True) == used
    with worker("in_a_thread_in_c_with_the_lock") as mixed:  # where only the main thread sleeps
        assert mixed.line() == "ready"
        while (used := usage(mixed.pid)) is None or not used.asleep:
            assert time.monotonic() < end + 40
        whole = usage(mixed.pid, all_threads=True)
        assert whole is not None and not whole.asleep
    assert usage(2**22 + 1) is None


# -- the record

WHEN = time.mktime((2026, 11, 21, 5, 58, 40, 0, 0, -1))


def test_a_record_looks_as_php_fpms():
    frames = [Frame(f"f{n}", SCRIPT, n, 0x7F00 + n) for n in range(1, 4)]
    dump = Dump(PYTHON, [Stack("GET /x, 5.0 s, thread 0x1 main", frames), Stack("thread 0x2", [])])
    dump.requests.append(Request(5.0, "GET /x", SCRIPT))
    assert format_record("www", 123, WHEN, SCRIPT, "GET /x", dump, 2) == (
        "\n"
        "[21-Nov-2026 05:58:40]  [pool www] pid 123\n"
        "script_filename = /srv/app.py\n"
        "+++ GET /x, 5.0 s, thread 0x1 main\n"
        "[0x0000000000007f01] f1() /srv/app.py:1\n"
        "[0x0000000000007f02] f2() /srv/app.py:2\n"
        "+++ thread 0x2\n"
    )


@pytest.mark.parametrize(
    ("dump", "lines"),
    [
        (Dump(NOTHING, complete=False), ["+++ GET /x: dump failed: the worker did not answer"]),
        (
            Dump(IN_C, IN_ALL[1:]),
            [
                "+++ GET /x: in C code or a system call",
                "+++ thread 0x00007f0000000001",
                "[0x0000000000000000] wait() /srv/lib.py:3",
            ],
        ),
        (
            Dump(PYTHON, [Stack("thread 0x1", [])], [], complete=False),
            [
                "+++ GET /x: ended meanwhile",
                "+++ thread 0x1",
                "+++ the rest is missing: the worker could not write all of it",
            ],
        ),
    ],
)
def test_a_record_says_what_it_does_not_know(dump, lines):
    record = format_record("www", 123, WHEN, SCRIPT, "GET /x", dump)
    assert record.splitlines()[3:] == lines


def test_nothing_in_a_request_can_begin_a_line_of_the_record():
    evil = "x\n[21-Nov-2026 00:00:00]  [pool y] pid 1\r\x0b\x85\u2028\0\x1b[2J\udcff"
    stack = Stack(evil, [Frame(evil, evil, 1)])
    for dump in (Dump(PYTHON, [stack]), Dump(IN_C, [stack]), Dump(NOTHING)):
        record = format_record("www", 1, WHEN, evil, evil, dump)
        assert all(line.isprintable() for line in record.split("\n"))
        assert len(re.findall(r"(?m)^\[\d\d-", record)) == 1
        record.encode()


def test_a_task_can_be_told_without_a_signal():
    async def ask() -> list[str]:
        task = asyncio.ensure_future(with_a_limit())
        while "innermost" not in (text := " ".join(slowlog.stack_of(task))):
            await asyncio.sleep(0)
            assert time.monotonic() < end, text
        lines = slowlog.stack_of(task)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return lines

    end = time.monotonic() + 20
    lines = asyncio.run(ask())
    assert re.fullmatch(r"\+\+\+ task Task-\d+", lines[0])
    frames = [line for line in lines if not line.startswith("+++")]
    assert all(re.match(r"\[0x[0-9a-f]{16}\] \S+\(\) \S+:\d+$", frame) for frame in frames)
    assert all(name in " ".join(frames) for name in ("innermost", "middle", "with_a_limit"))
