# SPDX-License-Identifier: Apache-2.0
"""The QEMU Machine Protocol over a UNIX socket, as much of it as a comparison needs.

One thread. Every wait has a bound: QmpError when it has passed, when QEMU has closed the socket,
and when it answers with an error.
"""

import json
import socket
import time

# A busy machine's answer to a command. A device is not asked for anything that takes long.
ANSWER_SECONDS = 60
# Of one read.
READ_BYTES = 1 << 16
# Events that nobody has asked for yet; QEMU sends a handful in its life.
MAX_EVENTS = 4096


class QmpError(Exception):
    """What went wrong, in QEMU's words where there are some."""


class Client:
    """Owns the socket. Greeting and capabilities are dealt with at the first command."""

    def __init__(self, connection):
        self._socket = connection
        self._buffer = b""
        self._events = []
        self._ready = False
        self._next_id = 1

    def close(self):
        """Closes the socket; QEMU goes on."""
        self._socket.close()

    def command(self, name, arguments=None, pass_fd=None):
        """What QEMU returns. `pass_fd` goes along, for `getfd`; it stays the caller's."""
        if not self._ready:
            self._await(lambda message: "QMP" in message, "greeting", ANSWER_SECONDS)
            self._ready = True
            self._execute("qmp_capabilities", {}, None)
        return self._execute(name, arguments or {}, pass_fd)

    def event(self, name, seconds):
        """The first event of that name since the last call; it is taken away."""
        found = next((event for event in self._events if event["event"] == name), None)
        if found is not None:
            self._events.remove(found)
            return found
        found = self._await(lambda message: message.get("event") == name, f"event {name}", seconds)
        self._events.remove(found)
        return found

    def drop_events(self):
        """Forgets the events that have come so far."""
        self._events.clear()

    def _execute(self, name, arguments, pass_fd):
        ident = self._next_id
        self._next_id += 1
        line = json.dumps({"execute": name, "arguments": arguments, "id": ident}).encode() + b"\n"
        try:
            if pass_fd is None:
                self._socket.sendall(line)
            else:
                socket.send_fds(self._socket, [line], [pass_fd])
        except OSError as error:
            raise QmpError(f"{name}: {error}") from error
        answer = self._await(lambda message: message.get("id") == ident, name, ANSWER_SECONDS)
        if "error" in answer:
            raise QmpError(f"{name}: {answer['error'].get('desc', answer['error'])}")
        return answer["return"]

    def _await(self, wanted, what, seconds):
        """The first message that is wanted. Events on the way are kept."""
        deadline = time.monotonic() + seconds
        while True:
            while b"\n" in self._buffer:
                line, self._buffer = self._buffer.split(b"\n", 1)
                message = json.loads(line)
                if "event" in message:
                    self._events = (self._events + [message])[-MAX_EVENTS:]
                if wanted(message):
                    return message
            self._read(deadline, what, seconds)

    def _read(self, deadline, what, seconds):
        left = deadline - time.monotonic()
        if left <= 0:
            raise QmpError(f"{what}: nothing within {seconds} s")
        self._socket.settimeout(left)
        try:
            part = self._socket.recv(READ_BYTES)
        except TimeoutError:
            return
        except OSError as error:
            raise QmpError(f"{what}: {error}") from error
        finally:
            self._socket.settimeout(None)
        if not part:
            raise QmpError(f"{what}: QEMU has closed the socket")
        self._buffer += part


def microseconds(event):
    """When QEMU sent the event, by the host's wall clock."""
    return event["timestamp"]["seconds"] * 1_000_000 + event["timestamp"]["microseconds"]
