# SPDX-License-Identifier: Apache-2.0
"""Running a benchmark for its JSON."""

import json
import subprocess

# No benchmark takes longer on a busy machine; one that hangs ends the run.
BENCH_TIMEOUT_S = 1800
# From SIGTERM, on which a benchmark ends what it has started, to SIGKILL.
END_TIMEOUT_S = 30


def parse_json(output):
    """The last line of a benchmark's output, or None if it has none."""
    lines = output.strip().splitlines()
    return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None


def run(command, say):
    """A program's JSON; None, with the reason told to `say`, if it failed or left everything out."""
    try:
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE,
                                   text=True)
    except OSError as error:
        say(f"{error}; it gave no result")
        return None
    try:
        output, _ = process.communicate(timeout=BENCH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        say(f"it did not end in {BENCH_TIMEOUT_S} s")
        return None
    finally:
        end(process)
    result = parse_json(output) if process.returncode == 0 else None
    if result is None:
        say(f"it gave no result, exit code {process.returncode}")
    return result


def end(process):
    """Ends the program if it still runs."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
