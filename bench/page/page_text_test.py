# SPDX-License-Identifier: Apache-2.0
"""What the performance page says about what was measured, and about what was not."""

import pathlib
import sys
import unittest

_HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent.parent / "tools")]

import page_figures as figures  # pylint: disable=wrong-import-position
import page_text  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position

SAMPLES = {"stop_resume_us": [8000], "total_ms": [12], "moved_mib": [0.2]}
PEERS = {"accelerator": "tcg", "why_not_kvm": "no KVM here", "qemu": "7.2", "cpu": "max",
         "rows": [figures.peer_row("ignore-shared", 1, 64, SAMPLES, 1.0)]}
ROUND = {"vms": 10, "per_second": 50, "daemon_user_ms": 3.25, "daemon_system_ms": 17.5,
         "vmms_ms": 9, "clients_ms": 2, "busy_ms": 40, "latency_ms": {"p50": 20, "p99": 40}, "load": 2.0}
WITHOUT_KVM = {"taken": "today", "machine": "a CPU", "kvm_error": "no KVM here", "quick": False,
               "memfd": False, "load_before": 1, "load_after": 2, "blackout": [], "vms": [],
               "refill": None, "total_time": None, "peers": PEERS,
               "throughput": {"movers": 8, "rounds": [ROUND]}}


REFILL = {"memory_mib": 1024, "runs": 5, "load": 1.0,
          "ways": [{"name": "populated and warm", "touch_ms": {"p50": 4.2, "max": 5},
                    "migration_ms_p50": 479}]}


def step(name, taken):
    changed = {"blackout_us": {"p50": 330}, "guest_gap_us": {"p50": 430}}
    return {"name": name, "title": name, "taken": taken, "changed": changed, "phase":
            "restore_state", "phase_us": 12, "round_ratios": [1.1, 1.15, 1.15, 1.2, 1.15, 1.15]}


STEPS = {"vcpus": 1, "memory_mib": 64, "rounds": 6, "hops_in_a_round": 5, "load": 0.4,
         "all_steps": {"blackout_us": {"p50": 300}, "guest_gap_us": {"p50": 400}},
         "steps": [step("not set again", True), step("spins", False)]}


def page_of(results):
    return page_text.page(results, figures.all_goals(results), [("a.png", "A plot")])


class PageTest(unittest.TestCase):
    def test_without_kvm_rows_say_why_they_are_empty(self):
        page = page_of(WITHOUT_KVM)
        rows = [line for line in page.splitlines() if line.startswith("| blackout")]
        self.assertTrue(rows)
        for line in rows:
            self.assertIn("not taken: no KVM here", line)
            self.assertNotIn("met", line.replace("not met", ""))

    def test_an_emulated_peer_is_information(self):
        page = page_of(WITHOUT_KVM)
        self.assertIn("Not comparable", page)
        self.assertIn("| QEMU x-ignore-shared | 1 | 64 | 1 | 8.00 |", page)

    def test_the_daemons_cpu_time_is_split(self):
        self.assertIn("| 10 | 50.0 | 3.25 | 17.5 |", page_of(WITHOUT_KVM))

    def test_a_trial_is_called_one(self):
        self.assertIn("no figure here is a result", page_of({**WITHOUT_KVM, "quick": True}))
        self.assertNotIn("no figure here is a result", page_of(WITHOUT_KVM))

    def test_total_time_of_the_simulated_kernel_is_information(self):
        summary = {"p50": 31.0, "p99": 40.0, "max": 40.0}
        total = {"kernel": "sim", "vcpus": 1, "memory_mib": 64, "runs": 3, "load": 1.0,
                 "total_ms": summary, "target_start_ms": summary, "without_start_ms": summary,
                 "steps_p50_ms": {"LAUNCHING": 3.0}}
        page = page_of({**WITHOUT_KVM, "total_time": total})
        self.assertIn("On the simulated kernel", page)
        self.assertIn("| migration from CLI start to done, without the VMM's own start, p50 | - |",
                      page)

    def test_what_warm_page_tables_cost_stands_beside_what_they_save(self):
        self.assertIn("| populated and warm | 4.20 | 5.00 | 479 |",
                      page_of({**WITHOUT_KVM, "refill": REFILL}))

    def test_the_first_second_stands_beside_the_one_before(self):
        def side(p50):
            return {"rounds": 9, "p50": p50, "p99": 2.5, "p999": 3.5, "max": 450}
        refill = {**REFILL, "second_runs": 3, "first_second": [
            {"name": "empty page tables", "vcpus": 2, "before_us": side(0.5),
             "after_us": side(4.5)}]}
        self.assertIn("| empty page tables | 2 | 0.50 | 2.50 | 3.50 | 450 | 4.50 | 2.50 | 3.50 | "
                      "450 |", page_of({**WITHOUT_KVM, "refill": refill}))

    def test_each_step_has_its_blackout_with_and_without(self):
        page = page_of({**WITHOUT_KVM, "steps": [STEPS]})
        self.assertIn("| not set again | 300 | 330 | 400 | 430 | 1.15 (1.10 to 1.20) | "
                      "restore_state +12 |", page)
        # What the product does not do is without it, and faster so.
        self.assertIn("| spins (not taken) | 330 | 300 | 430 | 400 | 0.87 (0.83 to 0.91) | "
                      "restore_state -12 |", page)

    def test_a_few_rounds_have_no_interval(self):
        self.assertEqual(page_text.ratio_text([1.1, 1.3]), "1.20")

    def test_a_way_to_fence_that_was_not_taken_says_why(self):
        ways = [{"title": "SIGKILL", "proof": "yes", "runs": 3, "us": {"p50": 210, "max": 300}},
                {"title": "frozen", "proof": "no", "runs": 0, "not_taken": "no cgroup2"}]
        page = page_of({**WITHOUT_KVM, "fences": {"load": 1.0, "rows": [
            {"memory_mib": 64, "vcpu_runs": False, "ways": ways}]}})
        self.assertIn("64 MiB, vCPU stopped:", page)
        self.assertIn("| SIGKILL | yes | 3 | 210 | 300 |", page)
        self.assertIn("| frozen | no | 0 | not taken: no cgroup2 | - |", page)

    def test_sections_without_figures_say_why(self):
        page = page_of(WITHOUT_KVM)
        for title in ("The first second after the move", "Ways to fence",
                      "Each step of the blackout, with and without"):
            self.assertIn(f"## {title}\n\nNot taken: no KVM here.", page)

    def test_every_plot_is_on_the_page(self):
        self.assertIn("![A plot](a.png)", page_of(WITHOUT_KVM))

    def test_tables_have_as_many_columns_as_heads(self):
        tables = [line for line in page_of(WITHOUT_KVM).splitlines() if line.startswith("|")]
        widths = set()
        for line in tables:
            if set(line) <= set("|-:"):
                widths.add(line.count("|"))
            self.assertIn(line.count("|"), {6, 11, 8})
        self.assertEqual(widths, {6, 11, 8})


if __name__ == "__main__":
    junit_main()
