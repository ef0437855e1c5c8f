# SPDX-License-Identifier: Apache-2.0
"""The QMP client against a QEMU that is two lines of a socket."""

import json
import os
import pathlib
import socket
import sys
import unittest

_HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent.parent / "tools")]

import qmp  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position

GREETING = {"QMP": {"version": {}, "capabilities": []}}


class QmpTest(unittest.TestCase):
    def setUp(self):
        ours, self.qemu = socket.socketpair()
        self.client = qmp.Client(ours)
        self.addCleanup(self.qemu.close)
        self.addCleanup(self.client.close)

    def say(self, *messages):
        """What QEMU will have said by the time it is listened to."""
        self.qemu.sendall(b"".join(json.dumps(message).encode() + b"\r\n" for message in messages))

    def test_capabilities_come_before_the_first_command(self):
        self.say(GREETING, {"return": {}, "id": 1}, {"return": {"status": "running"}, "id": 2})
        self.assertEqual(self.client.command("query-status"), {"status": "running"})
        said = [json.loads(line)["execute"] for line in self.qemu.recv(4096).splitlines()]
        self.assertEqual(said, ["qmp_capabilities", "query-status"])

    def test_events_on_the_way_are_kept_in_order(self):
        stop = {"event": "STOP", "timestamp": {"seconds": 2, "microseconds": 7}}
        resume = {"event": "RESUME", "timestamp": {"seconds": 3, "microseconds": 0}}
        self.say(GREETING, stop, {"return": {}, "id": 1}, resume, {"return": {}, "id": 2})
        self.client.command("migrate")
        self.assertEqual(qmp.microseconds(self.client.event("RESUME", 1)), 3_000_000)
        self.assertEqual(qmp.microseconds(self.client.event("STOP", 1)), 2_000_007)

    def test_an_event_is_taken_once(self):
        self.say(GREETING, {"event": "STOP"}, {"return": {}, "id": 1}, {"return": {}, "id": 2})
        self.client.command("stop")
        self.client.event("STOP", 1)
        with self.assertRaisesRegex(qmp.QmpError, "event STOP: nothing within"):
            self.client.event("STOP", 0.01)

    def test_a_refusal_has_qemus_words(self):
        self.say(GREETING, {"return": {}, "id": 1},
                 {"error": {"class": "GenericError", "desc": "no such thing"}, "id": 2})
        with self.assertRaisesRegex(qmp.QmpError, "migrate: no such thing"):
            self.client.command("migrate")

    def test_a_qemu_that_ends_is_no_endless_wait(self):
        self.qemu.close()
        with self.assertRaises(qmp.QmpError):
            self.client.command("query-status")

    def test_a_descriptor_goes_along(self):
        self.say(GREETING, {"return": {}, "id": 1}, {"return": {}, "id": 2})
        with open("/dev/null", "rb") as file:
            self.client.command("getfd", {"fdname": "channel"}, pass_fd=file.fileno())
        got = []
        while not got:
            got = socket.recv_fds(self.qemu, 4096, 4)[1]
        self.assertEqual(len(got), 1)
        self.assertEqual(os.readlink(f"/proc/self/fd/{got[0]}"), "/dev/null")
        os.close(got[0])


if __name__ == "__main__":
    junit_main()
