# SPDX-License-Identifier: Apache-2.0
"""What the performance page computes from the benchmarks' figures."""

import pathlib
import sys
import unittest

_HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent.parent / "tools")]

import page_figures as figures  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position


def row(vcpus, memory_mib, floor, rehome, runs=10, p99=None, fenced=0):
    return {"vcpus": vcpus, "memory_mib": memory_mib, "runs": runs, "ratio_p50": rehome / floor,
            "floor_us": {"p50": floor, "p99": floor}, "load": 1.5,
            "rehome_us": {"p50": rehome, "p99": p99 or rehome},
            "rehome_guest_gap_us": {"p50": rehome + 60}, "floor_guest_gap_us": {"p50": floor + 60},
            "rehome_fence_before_resume_us": {"p50": fenced},
            "floor_phases_p50_us": {"move": 1.0}, "rehome_phases_p50_us": {"claim": 40.0}}


def peers(accelerator, stop_resume_us, shape=(1, 64)):
    samples = {"stop_resume_us": stop_resume_us, "total_ms": [5], "moved_mib": [0.2]}
    return {"accelerator": accelerator, "why_not_kvm": "because", "qemu": "7.2", "cpu": "max",
            "rows": [figures.peer_row("ignore-shared", *shape, samples, 1.0)]}


def verdicts(goals):
    return {g["name"]: g["verdict"] for g in goals}


class FiguresTest(unittest.TestCase):
    def test_percentiles_are_those_of_the_benchmarks(self):
        self.assertEqual(figures.summary(range(1, 201)), {"p50": 100, "p99": 198, "max": 200})
        self.assertEqual(figures.summary([7]), {"p50": 7, "p99": 7, "max": 7})

    def test_slope(self):
        self.assertAlmostEqual(figures.slope([(1, 10), (2, 30), (4, 70)]), 20)
        self.assertIsNone(figures.slope([(1, 10), (1, 12)]))

    def test_ratio_met_and_missed(self):
        found = verdicts(figures.blackout_goals([row(1, 64, 100, 115), row(2, 64, 100, 116)]))
        self.assertEqual(found["blackout p50 / the floor's p50, 1 vCPU"], "met")
        self.assertEqual(found["blackout p50 / the floor's p50, 2 vCPU"], "missed")
        self.assertEqual(found["blackout p50 / the floor's p50, 4 vCPU"], "not taken")

    def test_each_row_has_its_load(self):
        goals = figures.blackout_goals([row(1, 64, 100, 115)])
        self.assertEqual(goals[0]["load"], 1.5)
        self.assertIsNone(goals[1]["load"])

    def test_missed_ratio_names_the_phases(self):
        missed = figures.blackout_goals([row(1, 64, 100, 150)])[0]
        self.assertIn("claim 40", missed["evidence"])
        self.assertEqual(figures.miss_text(missed), "Missed by 30 %.")

    def test_the_gap_that_the_guest_sees_is_a_row_of_its_own(self):
        found = verdicts(figures.blackout_goals([row(1, 64, 100, 250)]))
        self.assertEqual(found["blackout p50, 1 vCPU, 64 MiB"], "met")
        self.assertEqual(found["gap that the guest sees, p50, 1 vCPU, 64 MiB"], "missed")

    def test_tail_needs_500_hops(self):
        name = "blackout p99 / p50 over 500 hops"
        few = figures.blackout_goals([row(1, 64, 100, 100, runs=499, p99=200)])
        many = figures.blackout_goals([row(1, 64, 100, 100, runs=500, p99=301)])
        self.assertEqual(verdicts(few)[name], "not taken")
        self.assertEqual(verdicts(many)[name], "missed")

    def test_fence_is_the_difference(self):
        goals = figures.blackout_goals([row(1, 4096, 100, 200, fenced=900)])
        self.assertEqual(goals[-1]["value"], 700)

    def test_a_side_that_was_left_out_is_not_taken(self):
        left_out = {**row(1, 4096, 100, 200), "rehome_fence_before_resume_us": None}
        self.assertEqual(figures.blackout_goals([left_out])[-1]["verdict"], "not taken")

    def test_no_positive_floor_slope_is_not_taken(self):
        goals = figures.blackout_goals([row(1, 64, 100, 100), row(2, 64, 90, 120)])
        self.assertEqual(verdicts(goals)["blackout per added vCPU / the floor's"], "not taken")

    def test_a_negative_slope_of_rehome_meets_nothing(self):
        goals = figures.blackout_goals([row(1, 64, 100, 200), row(2, 64, 120, 120)])
        self.assertEqual(verdicts(goals)["blackout per added vCPU / the floor's"], "not taken")

    def test_throughput_at_least_and_flat(self):
        cpu = {"daemon_user_ms": 2, "daemon_system_ms": 5, "vmms_ms": 3, "clients_ms": 1,
               "busy_ms": 12, "load": 1}
        rounds = [{"vms": 1000, "per_second": 190, **cpu}, {"vms": 10, "per_second": 400, **cpu}]
        found = figures.throughput_goals({"rounds": rounds})
        self.assertEqual([g["verdict"] for g in found], ["missed", "missed"])
        self.assertIn("with 10 VMs the daemon 7, ", found[0]["evidence"])
        self.assertEqual([g["verdict"] for g in figures.throughput_goals(None)], ["not taken"] * 2)

    def test_touch_of_another_size_is_not_taken(self):
        way = {"name": figures.WARM_WAY, "touch_ms": {"p50": 5}}
        small = {"memory_mib": 64, "ways": [way], "load": 1}
        self.assertEqual(figures.touch_goal(small)["verdict"], "not taken")
        self.assertEqual(figures.touch_goal({**small, "memory_mib": 1024})["verdict"], "met")

    def test_total_time_of_the_simulated_kernel_is_not_taken(self):
        total = {"kernel": "sim", "without_start_ms": {"p50": 5}, "steps_p50_ms": {}, "load": 1}
        self.assertEqual(figures.total_goal(total)["verdict"], "not taken")
        self.assertEqual(figures.total_goal({**total, "kernel": "kvm"})["verdict"], "met")


class PeersTest(unittest.TestCase):
    def test_half_of_qemu_is_met_and_more_is_missed(self):
        ours = [row(1, 64, 100, 300)]
        for theirs, verdict in ((600, "met"), (599, "missed")):
            found = figures.peer_goals(ours, peers("kvm", [theirs]))[0]
            self.assertEqual(found["verdict"], verdict)
            self.assertAlmostEqual(found["value"], 300 / theirs)

    def test_an_emulated_qemu_gets_no_verdict(self):
        found = figures.peer_goals([row(1, 64, 100, 300)], peers("tcg", [60000]))[0]
        self.assertEqual(found["verdict"], "not comparable")
        self.assertIsNone(found["value"])
        self.assertIn("because", found["evidence"])

    def test_only_the_same_shape_is_compared(self):
        found = figures.peer_goals([row(1, 64, 100, 300)], peers("kvm", [600], (2, 64)))
        self.assertEqual(set(g["verdict"] for g in found), {"not taken"})

    def test_hops_before_and_after_count_alike(self):
        merged = figures.merge_peers([peers("kvm", [1, 2]), peers("kvm", [9])])
        self.assertEqual(len(merged), 1)
        self.assertEqual(merged[0]["runs"], 3)
        self.assertEqual(merged[0]["stop_resume_us"], {"p50": 2, "p99": 9, "max": 9})


class HostTest(unittest.TestCase):
    RESULTS = {"blackout": [], "refill": None, "total_time": None, "throughput": None,
               "peers": peers("tcg", [5000]), "kvm_error": "no KVM here"}

    def test_without_kvm_each_row_that_needs_it_says_so(self):
        goals = figures.all_goals(self.RESULTS)
        self.assertEqual(set(g["verdict"] for g in goals), {"not taken"})
        needs_kvm = [g for g in goals if "simulated" not in g["name"] and "flat" not in g["name"]]
        self.assertEqual(set(g["evidence"] for g in needs_kvm), {"no KVM here"})

    def test_a_page_with_kvm_is_not_replaced_by_one_without(self):
        with_kvm = {"blackout": [1], "kvm_error": None, "quick": False}
        without = {"blackout": [], "kvm_error": "none", "quick": False}
        self.assertIn("no KVM", figures.refusal(with_kvm, "no KVM", False))
        # As results were written before they said so.
        self.assertIsNotNone(figures.refusal({"blackout": [1]}, "no KVM", False))
        self.assertIsNone(figures.refusal(with_kvm, None, False))
        self.assertIsNone(figures.refusal(without, "no KVM", False))
        self.assertIsNone(figures.refusal(None, "no KVM", False))

    def test_a_trial_replaces_no_result(self):
        self.assertIsNotNone(figures.refusal({"blackout": [1], "quick": False}, None, True))
        self.assertIsNone(figures.refusal({"blackout": [1], "quick": True}, None, True))


if __name__ == "__main__":
    junit_main()
