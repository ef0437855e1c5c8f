# SPDX-License-Identifier: Apache-2.0
"""What old against new says of the figures of its rounds."""

import pathlib
import sys
import unittest

_HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(_HERE), str(_HERE.parent.parent / "tools")]

import against_figures as figures  # pylint: disable=wrong-import-position
from junit_main import junit_main  # pylint: disable=wrong-import-position

# What a machine that is not quiet does to both sides of a round alike.
DRIFT = (1.0, 1.7, 0.9, 1.2, 2.4, 1.1, 0.95, 1.3, 1.0, 1.6)
# And to one of them.
NOISE = (0.97, 1.02, 1.04, 0.99, 0.96, 1.01, 1.03, 0.98, 1.02, 0.99)


def rounds(ratio, noise=NOISE, p99=1.0):
    def turn(p50, p99):
        return {"p50": p50, "p99": p99, "phases": {"save_state": p50 / 2, "fence": 0}}
    return [{"old": turn(300 * drift, 600 * drift), "load": 3.0,
             "new": turn(300 * drift * ratio * each, 600 * drift * p99 * each)}
            for drift, each in zip(DRIFT, noise)]


def verdict(*arguments, **options):
    return figures.answer(rounds(*arguments, **options))["p50"]["verdict"]


class IntervalTest(unittest.TestCase):
    def test_it_misses_the_median_as_seldom_as_it_says(self):
        # Six coins fall alike in 2 of 64 cases; of ten, at most one differs in 22 of 1024.
        self.assertEqual(figures.interval([3, 1, 2, 6, 5, 4]), (1, 6, 1 - 2 / 64))
        low, high, coverage = figures.interval(range(1, 11))
        self.assertEqual((low, high), (2, 9))
        self.assertAlmostEqual(coverage, 1 - 22 / 1024)

    def test_it_is_as_sure_as_it_has_to_be_with_any_number_of_rounds(self):
        for count in range(figures.MIN_ROUNDS, 201):
            low, high, coverage = figures.interval(range(1, count + 1))
            self.assertGreaterEqual(coverage, figures.CONFIDENCE)
            self.assertEqual(low + high, count + 1)

    def test_fewer_rounds_have_none(self):
        with self.assertRaises(ValueError):
            figures.interval([1.0] * (figures.MIN_ROUNDS - 1))

    def test_one_wild_round_does_not_move_it(self):
        quiet = figures.interval([1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01, 0.99, 1.0, 1.02])
        wild = figures.interval([1.0, 1.01, 0.99, 90.0, 0.98, 1.0, 1.01, 0.99, 1.0, 1.02])
        self.assertEqual(quiet, wild)


class VerdictTest(unittest.TestCase):
    def test_the_same_is_no_difference_however_the_machine_drifts(self):
        self.assertEqual(verdict(1.0), "no difference can be seen")
        self.assertFalse(figures.answer(rounds(1.0))["worse"])

    def test_a_tenth_more_is_worse_and_a_tenth_less_is_faster(self):
        self.assertEqual(verdict(1.1), "worse")
        self.assertTrue(figures.answer(rounds(1.1))["worse"])
        self.assertEqual(verdict(0.9), "faster")

    def test_a_ratio_within_the_bound_is_said_and_is_not_worse(self):
        quiet = [1.0] * len(DRIFT)
        self.assertEqual(verdict(1.049, quiet), "slower, within the bound")
        self.assertEqual(verdict(1.051, quiet), "worse")
        self.assertFalse(figures.answer(rounds(1.049, quiet))["worse"])

    def test_a_ratio_beyond_the_bound_that_noise_explains_is_not_worse(self):
        noise = (0.7, 1.6, 0.8, 1.5, 0.9, 1.4, 0.8, 1.7, 1.5, 1.4)
        row = figures.answer(rounds(1.0, noise))["p50"]
        self.assertGreater(row["ratio"]["median"], row["bound"])
        self.assertEqual(row["verdict"], "no difference can be seen")
        self.assertIn("can hide in it", figures.explain("p50", row))

    def test_what_a_quiet_run_would_have_shown_does_not_hide(self):
        row = figures.answer(rounds(1.0, [0.99, 1.01] * 5))["p50"]
        self.assertNotIn("hide", figures.explain("p50", row))

    def test_a_tail_alone_is_worse_beyond_its_own_bound(self):
        bad, good = figures.answer(rounds(1.0, p99=1.4)), figures.answer(rounds(1.0, p99=1.2))
        self.assertEqual((bad["p50"]["verdict"], bad["p99"]["verdict"]),
                         ("no difference can be seen", "worse"))
        self.assertTrue(bad["worse"])
        self.assertEqual(good["p99"]["verdict"], "slower, within the bound")
        self.assertFalse(good["worse"])

    def test_the_table_has_medians_spread_load_and_verdict(self):
        result = {"old": "v1 (abc)", "new": "the working tree (def)", "machine": "a CPU",
                  "backend_text": "on its KVM", "program": "blackout", "arguments": ["--json"],
                  "rounds": rounds(1.1, [1.0] * 10), "answer": figures.answer(
                      rounds(1.1, [1.0] * 10))}
        text = "\n".join(figures.table(result))
        for part in ("345 (270 to 720)", "380 (297 to 792)", "1.10 (1.10 to 1.10)",
                     "load average 3.0 to 3.0", "save_state 172 > 190", "p50: worse; the ratio is",
                     "the bound is 1.05", "\nWORSE"):
            self.assertIn(part, text)
        self.assertNotIn("fence", text)


class TurnTest(unittest.TestCase):
    SIM, KVM = figures.PROGRAMS["sim"], figures.PROGRAMS["kvm"]
    GOOD = {"hops": 5, "blackout_us": {"p50": 300.0, "p99": 400.0, "phases": {"claim": 40}}}

    def test_figures_of_both_programs(self):
        self.assertEqual(figures.turn_of(self.GOOD, self.SIM, 5),
                         {"p50": 300.0, "p99": 400.0, "phases": {"claim": 40}})
        blackout = {"runs": 5, "rehome_us": {"p50": 1, "p99": 2}, "rehome_phases_p50_us": {"move": 1}}
        self.assertEqual(figures.turn_of(blackout, self.KVM, 5)["phases"], {"move": 1})

    def test_a_field_that_is_not_there_is_named(self):
        for result, name in (({**self.GOOD, "blackout_us": {"p50": 1}}, "blackout_us.p99"),
                             ({"hops": 5}, "blackout_us.p50"),
                             ({**self.GOOD, "blackout_us": None}, "blackout_us.p50"),
                             ({**self.GOOD, "hops": 4}, "5 hops")):
            with self.assertRaisesRegex(figures.MissingField, name):
                figures.turn_of(result, self.SIM, 5)

    def test_phases_are_compared_only_where_all_rounds_have_them(self):
        some = rounds(1.0)
        del some[3]["old"]["phases"]["fence"]
        self.assertEqual(list(figures.phase_medians(some)), ["save_state"])
        some[2]["new"]["phases"] = {}
        self.assertEqual(figures.phase_medians(some), {})


class CommandTest(unittest.TestCase):
    def test_the_callers_options_take_the_place_of_those_by_default(self):
        line = figures.command_line(figures.PROGRAMS["sim"], 20, ["--vcpus=2", "--fence", "before"],
                                    set())
        self.assertEqual(line, ["--backend", "sim", "--vm-type", "default", "--memory", "64",
                                "--hops", "20", "--vcpus=2", "--fence", "before", "--json"])

    def test_the_floor_is_left_out_where_both_can(self):
        kvm = figures.PROGRAMS["kvm"]
        self.assertNotIn("--floor-runs", figures.command_line(kvm, 20, [], {"--fenced-runs"}))
        self.assertIn("--floor-runs", figures.command_line(kvm, 20, [], {"--floor-runs"}))


if __name__ == "__main__":
    junit_main()
