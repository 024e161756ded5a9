"""What a sweep does with its runs: limits, failures, deaths, logs, seeds; and how it goes on."""

import json
import os
import re
import shutil
import signal
import subprocess
import textwrap
import time
from pathlib import Path

import pytest
import torch
from sweep_cases import drive, results_of, tracked, tracks, wait_until, workers

from gp_response import cli, sweep
from gp_response.errors import GPResponseError, InputError
from gp_response.sweep import How, Limits, Plan, Resources, Spec, conduct
from gp_response.sweep.engines import local
from gp_response.sweep.engines.local import LocalCrew

SOURCE = '''
"""Runs that end in every way."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch

GRID = {}
SMOKE = {}


def main(way: str = "well", n: int = 0, seed: int = 0) -> dict:
    with open(Path(__file__).with_name("tracks"), "a") as tracks:
        print(f"begin {way} {n}", file=tracks)
    print(f"this is run {n}")
    print("and its warnings", file=sys.stderr)
    if way == "raise":
        raise RuntimeError(f"no {n}")
    if way == "nan it is":
        raise RuntimeError("nan")
    if way == "gone":
        os._exit(3)
    if way == "odd text":
        print("σ² \\udc80")
    if way == "exit":
        sys.exit(3)
    if way in ("leaves", "slow"):
        child = subprocess.Popen(["sleep", "600"])
        with open(Path(__file__).with_name("children"), "a") as children:
            print(child.pid, file=children)
    if way == "leaves":
        threading.Thread(target=time.sleep, args=(600,)).start()
    if way == "slow":
        time.sleep(60)
    if way == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if way == "long":
        raise RuntimeError("one\\ntwo " + 5000 * "x")
    if way == "large":
        block = bytearray(2**29)
        block[::4096] = b"1" * len(block[::4096])
        time.sleep(60)
    if way == "die" or (way == "die once" and not Path(__file__).with_name(f"died {n}").exists()):
        Path(__file__).with_name(f"died {n}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {
        "n": n, "draw": float(torch.randn(())), "threads": torch.get_num_threads(), "process": os.getpid(),
        "parent": os.getppid(), "loss": (n - 3) ** 2 + seed,
    }
'''


@pytest.fixture
def ways(tmp_path):
    (tmp_path / "ways.py").write_text(textwrap.dedent(SOURCE).lstrip())
    return sweep.load_experiment("ways", tmp_path)


def how(workers=1, **limits):
    return How(resources=Resources(workers, 1), limits=Limits(**limits))


def children(folder):
    """Processes that runs started themselves and that are still there."""
    path = folder / "children"
    known = path.read_text().split() if path.exists() else []
    return [pid for pid in known if Path("/proc", pid).exists() and "Z" not in Path("/proc", pid, "stat").read_text()]


def begun(folder):
    path = folder / "tracks"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """One sweep over every way that a run can end."""
    folder = tmp_path_factory.mktemp("ways")
    (folder / "ways.py").write_text(textwrap.dedent(SOURCE).lstrip())
    experiment = sweep.load_experiment("ways", folder)
    words = [
        "well",
        "raise",
        "exit",
        "slow",
        "large",
        "die once",
        "die",
        "nan it is",
        "gone",
        "odd text",
        "crash",
        "leaves",
    ]
    limits = {"seconds": 4.0, "memory": 700 * 2**20, "attempts": 3}
    outcome = conduct(experiment, Spec({"way": words}), folder / "results", how(2, **limits))
    return folder, outcome, {failure["config"]["way"]: failure for failure in outcome.failures}


def test_failures_do_not_stop_the_others(ended):
    folder, outcome, failures = ended
    assert {sweep.read_result(path)["config"]["way"] for path in outcome.paths} == {
        "well",
        "die once",
        "odd text",
        "leaves",
    }
    assert set(failures) == {"raise", "exit", "slow", "large", "die", "nan it is", "gone", "crash"}
    assert len(list((folder / "results" / ".sweep" / "failures").glob("*.json"))) == 8


def test_an_error_is_recorded_with_its_traceback(ended):
    failure = ended[2]["raise"]
    assert (failure["error"], failure["message"], failure["attempts"]) == ("RuntimeError", "no 0", 1)
    assert re.search(r'ways\.py", line \d+, in main\n.*raise RuntimeError', failure["traceback"])
    assert ended[2]["exit"]["error"] == "SystemExit"


@pytest.mark.parametrize(("way", "error", "message"), [
    ("slow", "TimeLimit", "more than 4 seconds"), ("large", "MemoryLimit", r"used 0\.\d+ GiB, more than 0.68 GiB"),
    ("die", "Killed", "killed 3 times"), ("gone", "Exit", "ended 3 times without a result, at last with exit status 3"),
    ("nan it is", "RuntimeError", "^nan$"), ("crash", "Killed", "killed 3 times, at last by SIGSEGV; see the log"),
])  # fmt: skip
def test_limits_and_deaths_are_recorded_as_such(ended, way, error, message):
    assert ended[2][way]["error"] == error
    assert re.search(message, ended[2][way]["message"])
    assert ended[2][way]["attempts"] == (3 if way in ("die", "gone", "crash") else 1)


def test_a_killed_process_is_tried_again_and_an_error_is_not(ended):
    lines = begun(ended[0])
    counts = {way: lines.count(f"begin {way} 0") for way in ("well", "raise", "slow", "die once", "die")}
    assert counts == {"well": 1, "raise": 1, "slow": 1, "die once": 2, "die": 3}


def test_each_run_has_a_log_of_all_that_it_printed(ended):
    folder, outcome, failures = ended
    text = (folder / "results" / ".sweep" / "logs" / f"{outcome.paths[0].stem}.log").read_text()
    assert "this is run 0" in text
    assert "and its warnings" in text
    for way, end in (("raise", "RuntimeError: no 0"), ("crash", r'ways\.py", line \d+ in main')):
        with open(failures[way]["log"]) as log:
            assert re.search(end, log.read())


def test_no_claim_is_left_and_no_process(ended):
    assert list((ended[0] / "results" / ".sweep" / "claims").iterdir()) == []
    assert workers(ended[0]) == []
    assert len((ended[0] / "children").read_text().split()) == 2
    assert (
        children(ended[0]) == []
    )  # of the run that was too slow, and of the one that left a process and a thread behind


def test_runs_have_processes_and_peak_memories_of_their_own(ended):
    records = [sweep.read_result(path) for path in ended[1].paths]
    assert len({record["result"]["process"] for record in records}) == 4
    assert all(record["result"]["parent"] != os.getpid() for record in records)
    # The large run shared a worker with others, whose peaks do not show its half a gigabyte.
    assert all(record["peak_memory_bytes"] < 700 * 2**20 for record in records)
    assert all(record["result"]["threads"] == 1 for record in records)


def test_a_sweep_goes_on_with_what_is_missing_failed_or_changed(ways, tmp_path):
    folder = tmp_path / "results"
    with pytest.raises(GPResponseError, match=r"1 of 3 runs of ways failed; the first.*RuntimeError: no 0"):
        sweep.sweep(ways, [{"way": "raise"}, {"n": 1}, {"n": 2}], folder, workers=1)
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    damaged = sweep.result_path("ways", sweep.configure(ways, {"n": 2}), folder)
    damaged.write_text("{")
    with pytest.raises(GPResponseError), pytest.warns(UserWarning, match="disregarded"):
        sweep.sweep(ways, [{"way": "raise"}, {"n": 1}, {"n": 2}, {"n": 4}], folder, workers=1)
    lines = begun(tmp_path)
    assert [lines.count(f"begin {run}") for run in ("raise 0", "well 1", "well 2", "well 4")] == [2, 1, 2, 1]
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items() if path != damaged)
    lost = sweep.result_path("ways", sweep.configure(ways, {"n": 4}), folder)
    lost.unlink()
    lost.symlink_to(tmp_path / "nowhere")  # a result whose storage is gone
    sweep.sweep(ways, [{"n": 4}], folder, workers=1)
    assert not lost.is_symlink()
    assert begun(tmp_path).count("begin well 4") == 2
    sweep.sweep(ways, [{"n": 1}], folder, workers=1, force=True)
    assert begun(tmp_path).count("begin well 1") == 2
    assert (
        folder / ".sweep" / "replaced" / f"{sweep.result_path('ways', sweep.configure(ways, {'n': 1}), folder).name}"
    ).exists()


def test_random_numbers_follow_the_configuration_and_not_the_worker(ways, tmp_path):
    configs = [{"n": n} for n in range(4)]
    sweep.sweep(ways, configs, tmp_path / "two", workers=2)
    alone = [sweep.read_result(sweep.run(ways, config, tmp_path / "alone"))["result"]["draw"] for config in configs]
    found = [
        sweep.read_result(tmp_path / "two" / path.name)["result"]["draw"]
        for path in sorted((tmp_path / "alone").glob("*.json"))
    ]
    assert sorted(alone) == sorted(found)
    assert len(set(alone)) == 4
    state = torch.get_rng_state()
    sweep.run(ways, {"n": 9}, tmp_path / "alone")
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is as it was


def test_a_bayesian_sweep_finds_the_optimum_and_goes_on_where_it_was(ways, tmp_path):
    spec = Spec({"n": "0..63"}, search="bayes", samples=12, objective="loss", seeds=2)
    outcome = conduct(ways, spec, tmp_path / "results", how())
    assert len(outcome.paths) == 24
    records = sweep.results(tmp_path / "results")
    assert len({record["config"]["n"] for record in records}) == 12
    assert min(abs(record["config"]["n"] - 3) for record in records) <= 1
    for path in outcome.paths[-4:]:
        path.unlink()
    again = conduct(ways, spec, tmp_path / "results", how())
    assert again.paths == outcome.paths  # the points that were proposed are remembered
    assert len(begun(tmp_path)) == 28


def test_two_drivers_of_a_bayesian_sweep_make_the_points_of_one(tmp_path):
    tracked(tmp_path)
    words = (
        "n=0..63",
        "seconds=0..0.1",
        "--search",
        "bayes",
        "--samples",
        "7",
        "--objective",
        "number",
        "--workers",
        "1",
    )
    drivers = [drive(tmp_path, *words) for _ in range(2)]
    assert [driver.wait(timeout=180) for driver in drivers] == [0, 0]
    assert len(results_of(tmp_path)) == 7
    assert list((tmp_path / "results" / ".sweep" / "claims").iterdir()) == []


def test_a_bayesian_sweep_by_force_runs_every_point_again(ways, tmp_path):
    spec = Spec({"n": "0..3"}, search="bayes", samples=4, objective="loss")
    for count in (1, 2):
        assert len(conduct(ways, spec, tmp_path / "results", how(), force=True).paths) == 4
        assert len(begun(tmp_path)) == 4 * count


@pytest.mark.parametrize("samples", [2, 12])  # so few that no point is chosen by it, too
def test_an_objective_that_is_not_there_is_named(ways, tmp_path, samples):
    spec = Spec({"n": "0..63"}, search="bayes", samples=samples, objective="los")
    with pytest.raises(GPResponseError, match="no number 'los'; they have n, draw"):
        conduct(ways, spec, tmp_path / "results", how())


def test_two_drivers_share_a_sweep(tmp_path):
    tracked(tmp_path)
    drivers = [drive(tmp_path, "n=0..29", "--workers", "1") for _ in range(2)]
    assert [driver.wait(timeout=120) for driver in drivers] == [0, 0]
    assert len(results_of(tmp_path)) == 30
    assert set(tracks(tmp_path).values()) == {1}


def test_workers_end_with_their_driver(tmp_path):
    tracked(tmp_path)
    driver = drive(tmp_path, "n=0..29", "seconds=5", "--workers", "2")
    wait_until(lambda: tracks(tmp_path), 60, what="the first run")
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_until(lambda: not workers(tmp_path), 10, what="the end of the workers")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_runs_have_started_ends_with_the_driver(tmp_path, number):
    source = SOURCE.replace('def main(way: str = "well"', 'def main(way: str = "slow"')
    tracked(tmp_path, source=source)
    driver = drive(tmp_path, "n=0..1", "--workers", "1")
    wait_until(lambda: children(tmp_path), 60, what="the first child")
    os.kill(driver.pid, number)
    driver.wait()
    wait_until(lambda: not workers(tmp_path) and not children(tmp_path), 10, what="the end of the child")


def test_an_interrupt_ends_everything_and_is_one_line(tmp_path):
    tracked(tmp_path)
    driver = drive(tmp_path, "n=0..29", "seconds=5", "--workers", "1")
    wait_until(lambda: tracks(tmp_path), 60, what="the first run")
    os.kill(driver.pid, signal.SIGINT)
    assert driver.wait(timeout=20) == 2
    assert workers(tmp_path) == []
    assert "gp-response: error: interrupted" in (tmp_path / "driver.log").read_text()


def test_a_plan_reads_back_as_it_was_written(tmp_path):
    plan = Plan(tmp_path / "a.py", tmp_path, [{"x": 1, "y": "b"}], Limits(seconds=3.0, memory=2**30))
    assert Plan.read(plan.write()) == plan


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Limits(seconds=0.0), "seconds is 0.0"),
        (lambda: Limits(attempts=-1), "attempts is -1"),
        (lambda: Resources(workers=0), "workers is 0"),
        (lambda: Resources(gpus=-1), "gpus is -1"),
    ],
)
def test_limits_and_resources_that_make_no_sense_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has GPUs")
def test_gpus_that_are_not_there_are_refused(ways, tmp_path):
    with pytest.raises(InputError, match="1 GPUs a worker asked for, 0 found"):
        sweep.sweep(ways, [{"n": 1}], tmp_path, gpus=1)


def test_an_unknown_engine_and_misplaced_options_are_refused(ways, tmp_path):
    with pytest.raises(InputError, match="unknown engine 'slrum'; did you mean 'slurm'"):
        sweep.sweep(ways, [{"n": 1}], tmp_path, engine="slrum")
    with pytest.raises(InputError, match="takes no options of its own, got partition"):
        sweep.sweep(ways, [{"n": 1}], tmp_path, options={"partition": "main"})


def test_a_worker_that_cannot_begin_is_an_error_with_the_end_of_its_log(ways, tmp_path):
    ways.path.write_text(ways.path.read_text() + "\nif __name__ != 'x':\n    raise ValueError('not today')\n")
    started = time.monotonic()
    with pytest.raises(GPResponseError, match=r"a worker ended with status 1 3 times; .*not today"):
        sweep.sweep(ways, [{"n": 1}], tmp_path, workers=1)
    assert time.monotonic() - started < 120


def test_workers_that_end_on_a_full_disk_are_explained_though_no_log_can_be(ways, tmp_path, monkeypatch):
    plan = Plan(ways.path, tmp_path / "results", [{"n": 1}]).write()
    workers = LocalCrew(plan, Resources(1, 1), left=1)
    workers.deaths, workers.begun = [local.MOST_DEATHS - 1], [time.monotonic()]
    monkeypatch.setattr(local.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(GPResponseError, match=f"no space is left in {tmp_path / 'results'}; make some"):
        workers._mind(0, subprocess.CompletedProcess([], 1))


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "ways.py").write_text(textwrap.dedent(SOURCE).lstrip())
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_line_and_a_file_with_changes_make_the_same_sweep(project, capsys):
    (project / "mine.yaml").write_text(
        "experiment: ways\naxes: {n: 0..9}\nworkers: 1\ntime_limit: 1m\nmemory_limit: 2G\n"
    )
    assert cli.main(["sweep", "mine.yaml", "n=0..2"]) == 0
    assert "3 results in" in capsys.readouterr().out
    assert cli.main(["sweep", "ways", "n=0..3", "--dry"]) == 0
    assert "4 runs: 3 done, 1 left" in capsys.readouterr().out
    assert json.loads(next((project / "paper" / "results").glob("*.json")).read_text())["experiment"] == "ways"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ways", "n=0..2", "--time-limit", "1y"], "'1y' is no quantity"),
        (["ways", "m=1"], "unknown configuration key of ways 'm'; known: n, seed, way"),
        (["wyas"], "did you mean 'ways'"),
        (["ways", "--search", "bayes"], "needs an objective"),
        (["missing.yaml"], "No such file"),
        (["ways", "n=0..2", "--engine", "slrum"], "slrum"),
        (["ways", "n=0..2", "--attempts", "0"], "attempts is 0"),
        (["ways", "n=0..2", "--workers", "0"], "workers is 0"),
        (["ways", "n=0..2", "--search", "bayes", "--objective", "loss", "--dry"], "--dry cannot count"),
        (["ways", "--search", "bayes", "--objective", "loss"], "needs parameters to choose"),
        (["text.yaml"], "workers is 'two'"),
        (["bad.yaml"], "unknown setting of a sweep file 'wrokers'; did you mean 'workers'"),
    ],
)
def test_bad_sweeps_are_answered_in_one_line(project, capsys, words, message):
    (project / "bad.yaml").write_text("experiment: ways\nwrokers: 2\n")
    (project / "text.yaml").write_text("experiment: ways\nworkers: two\n")
    assert cli.main(["sweep", *words]) == 2
    err = capsys.readouterr().err.strip()
    assert len(err.splitlines()) == 1
    assert re.search(message, err)


def test_failed_runs_are_listed_and_make_the_command_fail(project, capsys):
    assert cli.main(["sweep", "ways", "way=well,raise", "--workers", "1"]) == 2
    captured = capsys.readouterr()
    assert "1 results in" in captured.out
    assert re.search(r"failed: .*'way': 'raise'.*RuntimeError: no 0; log .*\.log", captured.out)
    assert "1 of 2 runs failed; tracebacks in" in captured.err
    assert cli.main(["sweep", "ways", "way=long", "--workers", "1"]) == 2
    [line] = [line for line in capsys.readouterr().out.splitlines() if "failed: " in line]
    assert "RuntimeError: one two xxx" in line
    assert len(line) < 1200
