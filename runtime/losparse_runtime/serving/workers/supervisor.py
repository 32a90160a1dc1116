"""The supervisor: accepts connections, gives each to a worker, and starts workers again that die or hang.

It has one thread and waits in one place. A connection goes to the worker with the fewest, and stays there; what the
supervisor keeps is a descriptor, so that it can answer in the place of a worker that is no more.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

from ...errors import LosparseRuntimeError
from ..connections import Stage
from ..logs import fields
from ..metrics import forget_worker
from ..settings import ServeSettings
from .backoff import Backoff
from .channel import Channel, Frame, Kind
from .child import Child, reason_of
from .listening import BACKLOG, OWN_DESCRIPTORS, descriptors_for, url_of
from .running import BY_SIGNAL, STOPPING, MakeApp
from .seats import Seats
from .table import Table
from .worker import DUMP, FAILED, Worker, become_worker

_TICK_S = 0.25
"""Seconds that the supervisor sleeps at most."""
_ACCEPTED_AT_ONCE = 64
_FAILED_STARTS = 3
"""Starts of each worker that may fail in a row, all of them, before the supervisor gives up."""
_AFTER_DRAIN_S = 5.0
"""Seconds that workers have to close their models, after those to drain."""

logger = logging.getLogger("losparse_runtime.serving")


class Supervisor:
    """Runs several workers.

    Args:
        make_app: makes the application, in each worker.
        settings: of the server.
        listener: a bound socket.
    """

    def __init__(self, make_app: MakeApp, settings: ServeSettings, listener: socket.socket) -> None:
        self._make_app = make_app
        self._settings = settings
        self._listener = listener
        self._most = seats = descriptors_for(settings.connections * settings.workers, OWN_DESCRIPTORS)
        self._selector = selectors.DefaultSelector()
        self._table = Table(seats, settings.workers)
        self._seats = Seats(seats, self._table, self._selector)
        self._children: dict[int, Child] = {}
        self._backoffs = [Backoff() for _ in range(settings.workers)]
        self._restarts = dict.fromkeys(range(settings.workers), 0.0)
        self._failed_starts = 0
        self._listens = self._accepts = False
        self._stop_until: float | None = None
        self._signals: list[signal.Signals] = []
        self._ticked = self._accept_after = 0.0

    def run(self) -> int:
        """Serve until a signal says to stop; returns the exit code.

        Raises:
            LosparseRuntimeError: no worker can start.
        """
        awake, wake = socket.socketpair()
        for end in (awake, wake):
            end.setblocking(False)
        handled = (*STOPPING, signal.SIGHUP, signal.SIGCHLD)
        before = {number: signal.signal(number, self._note_signal) for number in handled}
        woken_before = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self._selector.register(awake, selectors.EVENT_READ, lambda: awake.recv(4096))
        try:
            while not self._is_over():
                self._turn()
            return 0
        finally:
            self._kill_all()
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            awake.close()
            wake.close()

    def _turn(self) -> None:
        for key, _ in self._selector.select(_TICK_S):
            act: Callable[[], object] = key.data
            act()
        self._obey()
        self._reap()
        now = time.monotonic()
        self._tick(now)
        for index, due in list(self._restarts.items()):
            if due <= now and self._stop_until is None:
                del self._restarts[index]
                self._start(index)
        self._hand_out()

    def _is_over(self) -> bool:
        return self._stop_until is not None and not self._children and not self._seats.lingers

    # Signals

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(signal.Signals(number))

    def _obey(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number in STOPPING:
                self._stop(number)
            elif number == signal.SIGHUP:
                for child in self._children.values():
                    child.channel.send(Frame(Kind.RELOAD))

    def _stop(self, number: signal.Signals) -> None:
        if self._stop_until is not None:
            self._kill_all()
            os._exit(BY_SIGNAL + number)
        logger.info("stopping: requests under way are answered", extra=fields(signal=number.name, pid=os.getpid()))
        self._accept(BACKLOG)  # who is connected already is answered
        self._hand_out()
        self._listen(False)
        self._listener.close()
        self._stop_until = time.monotonic() + self._settings.drain_s + _AFTER_DRAIN_S
        for child in self._children.values():
            child.channel.send(Frame(Kind.STOP))
            if not child.ready:
                child.kill(signal.SIGTERM)

    def _kill_all(self) -> None:
        for child in self._children.values():
            child.kill(signal.SIGKILL)
            os.waitpid(child.pid, 0)
        self._children.clear()

    # Connections

    def _listen(self, accepts: bool) -> None:
        """Let connections wait in the kernel while nobody can serve them."""
        if accepts == self._accepts:
            return
        self._accepts = accepts
        if accepts:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        else:
            self._selector.unregister(self._listener)

    def _accept(self, most: int = _ACCEPTED_AT_ONCE) -> None:
        if not self._listens:
            return
        for _ in range(most):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # of this connection, or descriptors are short: those in the kernel wait
                logger.warning("a connection could not be accepted: %s", error)
                self._accept_after = time.monotonic() + _TICK_S
                break
            connection.setblocking(False)
            seat = self._seats.take(connection)
            if seat is None:
                text = f"{self._most} connections are open already; try again later"
                self._seats.turn_away(connection, text, time.monotonic())
            else:
                self._seats.waiting.append(seat)
        self._hand_out()

    def _hand_out(self) -> None:
        """Give connections that wait to the workers with the fewest."""
        waiting = self._seats.waiting
        while waiting:
            seat = waiting[0]
            takers = [child for child in self._children.values() if child.ready and not child.stopping]
            takers.sort(key=lambda child: child.load)
            frame = Frame(Kind.CONNECTION, seat, self._seats.descriptor(seat))
            taker = next(
                (child for child in sorted(takers, key=lambda child: child.load) if child.channel.send(frame)), None
            )
            if taker is None:
                break
            taker.seats.add(waiting.popleft())
            taker.given += 1
        if self._stop_until is None:
            can = not waiting and time.monotonic() >= self._accept_after
            self._listen(can and any(child.ready for child in self._children.values()))
        elif waiting and not any(child.ready and not child.stopping for child in self._children.values()):
            self._seats.refuse_waiting("the server stops; send the request to another one", time.monotonic())

    # Workers

    def _start(self, index: int) -> None:
        """Fork a worker."""
        ours, theirs = Channel.pair()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal that came between the fork and the child's own handlers would be kept in a list that nobody reads.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPPING, signal.SIGHUP))
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self._forget()
                ours.close()
                worker = Worker(index, theirs, self._table, self._settings, self._make_app)
                code = become_worker(worker, lambda: signal.pthread_sigmask(signal.SIG_SETMASK, blocked))
            finally:
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        child = Child(index, pid, ours, time.monotonic(), beats=self._table.beats(index))
        self._children[index] = child
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(child))
        logger.info("worker starts", extra=fields(worker=index, pid=pid))

    def _forget(self) -> None:
        """Close what is the supervisor's in a child of it: a connection ends when its last descriptor does."""
        self._selector.close()
        self._listener.close()
        for child in self._children.values():
            child.channel.close()
        for connection in self._seats.everything():
            connection.close()

    def _hear(self, child: Child) -> None:
        """Read what a worker says; its end is seen by `_reap`."""
        try:
            while (frame := child.channel.receive()) is not None:
                if frame.kind is Kind.READY:
                    self._is_ready(child)
                elif frame.kind is Kind.ENDED and frame.seat in child.seats:
                    child.seats.discard(frame.seat)
                    self._seats.close(frame.seat)
                elif frame.kind is Kind.STOP:
                    child.stopping = True
        except EOFError:
            self._selector.unregister(child.channel)

    def _is_ready(self, child: Child) -> None:
        child.ready = True
        child.alive = time.monotonic()
        self._failed_starts = 0
        took = round(child.alive - child.started, 3)
        logger.info("worker is ready", extra=fields(worker=child.index, pid=child.pid, seconds=took))
        if not self._listens and self._stop_until is None:
            self._listens = True
            self._listener.setblocking(False)
            self._listener.listen(BACKLOG)
            logger.info("serving", extra=fields(url=url_of(self._listener), pid=os.getpid()))

    def _reap(self) -> None:
        for child in list(self._children.values()):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if pid:
                self._bury(child, status)

    def _bury(self, child: Child, status: int) -> None:
        """Do for a worker that ended what it can do no more, and say when to start it again."""
        now = time.monotonic()
        if child.channel.fileno() in self._selector.get_map():
            self._hear(child)
        if child.channel.fileno() in self._selector.get_map():
            self._selector.unregister(child.channel)
        child.channel.close()
        forget_worker(child.pid)
        del self._children[child.index]
        reason = reason_of(status, hung=child.hung)
        lost = self._end_connections(child, reason, now)
        if self._stop_until is not None:
            return
        said = self._table.take_text(child.index)
        if not child.ready:
            self._failed_starts += 1
            self._give_up_if_hopeless(said, reason, os.waitstatus_to_exitcode(status))
        wait_s = self._backoffs[child.index].seconds(now - child.started, served=child.ready)
        self._restarts[child.index] = now + wait_s
        about = fields(worker=child.index, pid=child.pid, reason=said or reason, lost=lost, restart_in_s=wait_s)
        logger.error("worker ended", extra=about)

    def _end_connections(self, child: Child, reason: str, now: float) -> int:
        """Answer for a worker; returns how many requests were lost with it."""
        lost = 0
        for seat in child.seats:
            stage = self._seats.real_stage(seat)
            if stage is Stage.IDLE:
                self._seats.waiting.append(seat)
            elif stage is Stage.ASKED:
                lost += 1
                self._seats.refuse(seat, f"the worker that had this request ended ({reason}); send it again", now)
            else:
                lost += stage is Stage.ANSWERING
                self._seats.close(seat)
        return lost

    def _give_up_if_hopeless(self, said: str, reason: str, code: int) -> None:
        """End where no worker serves, and starting one more will not help.

        Raises:
            LosparseRuntimeError: so it is.
        """
        if any(child.ready for child in self._children.values()):
            return
        if code == FAILED and said and not self._listens:
            raise LosparseRuntimeError(said)  # of the folder or the settings: the same in every worker
        if self._failed_starts >= _FAILED_STARTS * self._settings.workers:
            raise LosparseRuntimeError(
                f"no worker could be started, {self._failed_starts} tries in a row: {said or reason}; the log says more"
            )

    def _tick(self, now: float) -> None:
        """Look at what nobody tells."""
        if now - self._ticked < _TICK_S:
            return
        # A machine that was suspended, or had no time for the supervisor either, is no hung worker.
        was_away = now - self._ticked > max(self._settings.hang_s / 2, 4 * _TICK_S)
        self._ticked = now
        self._seats.tick(now)
        for child in self._children.values():
            beats = self._table.beats(child.index)
            if beats != child.beats or was_away:
                child.beats, child.alive = beats, now
            for seat in [seat for seat in child.seats if self._seats.stage(seat) is Stage.CLOSED]:
                child.seats.discard(seat)  # its frame found no room in the channel
                self._seats.close(seat)
            if child.hung or (self._stop_until is not None and now > self._stop_until):
                child.kill(signal.SIGKILL)
            elif child.ready and now - child.alive > self._settings.hang_s:
                child.hung = True
                about = fields(worker=child.index, pid=child.pid, seconds=self._settings.hang_s)
                logger.error("worker hangs and is killed; where its threads are follows", extra=about)
                if DUMP is not None:
                    child.kill(DUMP)
