"""From a pool's scoreboard to its status: who is idle, what is counted, how long it takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .scoreboard import FINISHING, IDLE, RUNNING, STAGES, Request
from .status import Process, Status

if TYPE_CHECKING:
    from .config import Pool
    from .scoreboard import Row, Scoreboard


def summarize(board: Scoreboard, pool: Pool, *, sapi: str, version: str) -> Status:
    """Return the status of *pool* as *board* has it now."""
    now = time.monotonic()
    head, rows = board.read()
    rows.sort(key=lambda row: row.number)
    processes = tuple(_process(row, now) for row in rows)
    active = sum(p.active_requests >= p.capacity for p in processes)
    begun = sum(request.begun for row in rows for request in row.requests)
    return Status(
        pool=pool.name,
        process_manager=pool.pm,
        start_time=head.started,
        start_since=max(0.0, now - head.started_clock),
        accepted_conn=head.accepted + begun,
        listen_queue=head.listen_queue,
        max_listen_queue=head.max_listen_queue,
        listen_queue_len=head.listen_queue_len,
        idle_processes=len(processes) - active,
        active_processes=active,
        max_active_processes=max(head.max_active, active),
        max_children_reached=head.max_children_reached,
        slow_requests=head.slow,
        memory=sum(p.memory for p in processes),
        memory_peak=head.memory_peak,
        active_requests=sum(p.active_requests for p in processes),
        max_children=pool.pm_max_children,
        start_servers=pool.pm_start_servers,
        min_spare_servers=pool.pm_min_spare_servers,
        max_spare_servers=pool.pm_max_spare_servers,
        max_requests=pool.pm_max_requests,
        max_memory=pool.pm_max_memory,
        generation=head.generation,
        reloads=head.reloads,
        failed_reloads=head.failed_reloads,
        last_failure=head.last_failure,
        lost_requests=head.lost,
        dropped_log_lines=head.dropped,
        sapi=sapi,
        version=version,
        processes=processes,
    )


def _process(row: Row, now: float) -> Process:
    """Return one worker, told by its longest running request, or else by its last one."""
    running = [request for request in row.requests if request.stage >= RUNNING]
    served = [request for request in row.requests if request.begun or request.stage > IDLE]
    if running:
        shown = min(running, key=lambda request: request.started)
    elif served:
        shown = max(served, key=lambda request: request.ended)
    else:
        shown = Request(IDLE, 0, 0.0, 0.0, 0.0, "", 0, "", "", "")
    duration = max(0.0, (now if running else shown.ended) - shown.started)
    idle = not running and bool(served)
    return Process(
        pid=row.pid,
        state=STAGES[shown.stage],
        start_time=row.started_epoch,
        start_since=max(0.0, now - row.started),
        requests=sum(request.begun for request in row.requests),
        request_duration=duration,
        request_method=shown.method,
        request_uri=shown.uri,
        content_length=shown.content_length,
        user=shown.user,
        script=shown.script,
        last_request_cpu=100.0 * shown.cpu / duration if idle and duration else 0.0,
        last_request_memory=row.memory if idle else 0,
        memory=row.memory,
        active_requests=sum(RUNNING <= r.stage <= FINISHING for r in row.requests),
        capacity=row.capacity,
        generation=row.generation,
        leaving=row.leaving,
    )
