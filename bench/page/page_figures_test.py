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
            "floor_us": {"p50": floor, "p99": floor}, "load": 0,
            "rehome_us": {"p50": rehome, "p99": p99 or rehome},
            "rehome_fence_before_resume_us": {"p50": fenced},
            "floor_phases_p50_us": {"move": 1.0}, "rehome_phases_p50_us": {"claim": 40.0}}


def verdicts(goals):
    return {g["name"]: g["verdict"] for g in goals}


class FiguresTest(unittest.TestCase):
    def test_slope(self):
        self.assertAlmostEqual(figures.slope([(1, 10), (2, 30), (4, 70)]), 20)
        self.assertIsNone(figures.slope([(1, 10), (1, 12)]))

    def test_ratio_met_and_missed(self):
        found = verdicts(figures.blackout_goals([row(1, 64, 100, 115), row(2, 64, 100, 116)]))
        self.assertEqual(found["blackout p50 / the floor's p50, 1 vCPU"], "met")
        self.assertEqual(found["blackout p50 / the floor's p50, 2 vCPU"], "missed")
        self.assertEqual(found["blackout p50 / the floor's p50, 4 vCPU"], "not taken")

    def test_missed_ratio_names_the_phases(self):
        missed = figures.blackout_goals([row(1, 64, 100, 150)])[0]
        self.assertIn("claim 40", missed["evidence"])
        self.assertEqual(figures.miss_text(missed), "Missed by 30 %.")

    def test_tail_needs_500_hops(self):
        name = "blackout p99 / p50 over 500 hops, quiet machine"
        few = figures.blackout_goals([row(1, 64, 100, 100, runs=499, p99=200)])
        many = figures.blackout_goals([row(1, 64, 100, 100, runs=500, p99=301)])
        self.assertEqual(verdicts(few)[name], "not taken")
        self.assertEqual(verdicts(many)[name], "missed")

    def test_fence_is_the_difference(self):
        goals = figures.blackout_goals([row(1, 4096, 100, 200, fenced=900)])
        self.assertEqual(goals[-1]["value"], 700)

    def test_no_positive_floor_slope_is_not_taken(self):
        goals = figures.blackout_goals([row(1, 64, 100, 100), row(2, 64, 90, 120)])
        self.assertEqual(verdicts(goals)["blackout per added vCPU / the floor's"], "not taken")

    def test_a_negative_slope_of_rehome_meets_nothing(self):
        goals = figures.blackout_goals([row(1, 64, 100, 200), row(2, 64, 120, 120)])
        self.assertEqual(verdicts(goals)["blackout per added vCPU / the floor's"], "not taken")

    def test_throughput_at_least_and_flat(self):
        rounds = [{"vms": 1000, "per_second": 190}, {"vms": 10, "per_second": 400}]
        self.assertEqual([g["verdict"] for g in figures.throughput_goals({"rounds": rounds})],
                         ["missed", "missed"])
        self.assertEqual([g["verdict"] for g in figures.throughput_goals(None)], ["not taken"] * 2)

    def test_touch_of_another_size_is_not_taken(self):
        way = {"name": figures.WARM_WAY, "touch_ms": {"p50": 5}}
        self.assertEqual(figures.touch_goal({"memory_mib": 64, "ways": [way]})["verdict"],
                         "not taken")
        self.assertEqual(figures.touch_goal({"memory_mib": 1024, "ways": [way]})["verdict"], "met")


if __name__ == "__main__":
    junit_main()
