"""Ctrl-C in the middle of `bellmark solve`: exit status 130, and bounds that are still true."""

import csv
import signal
import subprocess
import sys
import time

import numpy as np

import bellmark as bm

STATES = 20_000

# Says when the sweeps have begun, and is `bellmark solve` in everything else.
SAY_WHEN = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from bellmark.algorithms.exact import problem
sweep, sweeps = problem.Problem.sweep, []
def counted(*arguments):
    sweeps.append(1)
    if len(sweeps) == 20:
        print("sweeping", flush=True)
    return sweep(*arguments)
problem.Problem.sweep = counted
from bellmark.cli.main import main
main()
"""


def test_bounds_hold_after_a_real_interrupt(tmp_path):
    # One successor per pair never mixes: Jacobi sweeps would go on for minutes.
    words = ["solve", "garnet", f"--states={STATES}", "--branching=1", "--discount=0.99999"]
    words += ["--method=value_iteration", f"--directory={tmp_path / 'out'}"]
    process = subprocess.Popen(
        [sys.executable, "-c", SAY_WHEN, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "sweeping\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, errors
    assert "interrupted; the bounds above hold" in said
    with (tmp_path / "out" / "solution.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lower, upper = (np.array([float(row[bound]) for row in rows]) for bound in ("lower", "upper"))
    assert len(rows) == STATES
    assert np.all(np.isfinite(upper - lower))
    # Not the answer yet, or nothing was interrupted.
    assert np.max(upper - lower) > 1e-3
    mdp = bm.examples.garnet(states=STATES, branching=1)
    truth = bm.solve(mdp, 0.99999, "policy_iteration", tolerance=1e-4)
    # The file keeps so many digits of a bound.
    digits = 1e-6 * np.max(np.abs(truth.values))
    assert np.all(lower - digits <= truth.upper)
    assert np.all(truth.lower <= upper + digits)
