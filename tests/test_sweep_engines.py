"""Two hundred runs, killed five times at random moments, on every engine; and the same numbers on two nodes as in one process.

SLURM's tests need its commands, root and submitit (see slurm_cluster.py), Ray's need Ray; without these they are skipped.
"""

import importlib.util
import os
import random
import subprocess
import time

import pytest
from slurm_cluster import SlurmCluster, missing
from sweep_cases import drive, kill, results_of, tracked, tracks, wait_until, workers

from gp_response import sweep
from gp_response.errors import InputError, MissingDependency
from gp_response.sweep.engines import slurm

pytestmark = pytest.mark.slow
RUNS = 200


@pytest.fixture(scope="module")
def local():
    return ()


@pytest.fixture(scope="module")
def slurm_cluster(tmp_path_factory):
    if reason := missing():
        pytest.skip(reason)
    pytest.importorskip("submitit")
    with SlurmCluster(tmp_path_factory.mktemp("slurm")) as cluster:
        os.environ.update(cluster.environment)
        yield cluster
        for name in cluster.environment:
            del os.environ[name]


@pytest.fixture
def slurm_nodes(slurm_cluster):
    """Words that send a sweep to two SLURM nodes, a worker on each; no job is there before."""
    wait_until(lambda: not slurm_cluster.jobs(), 60, what="the end of earlier jobs")
    return "--engine", "slurm", "--option", "exclusive=true"


@pytest.fixture(scope="module")
def ray_nodes():
    """Words that send a sweep to two Ray nodes of one core each."""
    pytest.importorskip("ray")
    cluster = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False},
    )
    cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    yield "--engine", "ray", "--option", f"address={cluster.address}"
    cluster.shutdown()


ENGINES = ("local", "slurm_nodes", "ray_nodes")


@pytest.fixture
def engine(request):
    return request.getfixturevalue(request.param)


def ends(folder):
    return {name: count for name, count in tracks(folder).items() if name.startswith("end")}


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_two_hundred_runs_survive_five_kills_and_none_is_lost_or_doubled(engine, tmp_path):
    tracked(tmp_path)
    chance = random.Random(5)
    words = [f"n=0..{RUNS - 1}", "--workers", "2", "--lease", "10", *engine]
    driver = drive(tmp_path, *words)
    for which in ("worker", "driver", "worker", "driver", "worker"):
        target = len(results_of(tmp_path)) + chance.randint(5, 15)
        wait_until(lambda target=target: len(results_of(tmp_path)) >= target, 180, what=f"result {target}")
        time.sleep(0.3 * chance.random())
        if which == "driver":
            assert driver.poll() is None
            kill(driver.pid)
            driver.wait()
            driver = drive(tmp_path, *words)
        else:
            kill(chance.choice(wait_until(lambda: workers(tmp_path), 30, what="a worker")))
    assert driver.wait(timeout=600) == 0, (tmp_path / "driver.log").read_text()[-2000:]
    assert len(results_of(tmp_path)) == RUNS
    assert {record["config"]["n"] for record in sweep.results(tmp_path / "results")} == set(range(RUNS))
    assert set(ends(tmp_path)) == {f"end {n}" for n in range(RUNS)}
    # A killed run may have come to its end, but not to its result: at most one a kill ran twice (two where two workers died).
    assert sum(ends(tmp_path).values()) - RUNS <= 7
    wait_until(lambda: not workers(tmp_path), 30, what="the end of the workers")


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_numbers_are_the_same_on_every_engine_as_in_one_process(engine, tmp_path):
    tracked(tmp_path)
    driver = drive(tmp_path, "n=0..15", "seconds=0.3", "--workers", "2", *engine)
    assert driver.wait(timeout=180) == 0, (tmp_path / "driver.log").read_text()[-2000:]
    experiment = sweep.load_experiment("tracked", tmp_path)
    found = sweep.results(tmp_path / "results")
    assert len(found) == 16
    for record in found:
        alone = sweep.read_result(sweep.run(experiment, record["config"], tmp_path / "alone"))
        assert alone["result"]["number"] == record["result"]["number"]  # to the last bit
    assert len({record["result"]["process"] for record in found}) == 16


def test_slurm_uses_both_nodes_and_a_second_driver_finds_the_jobs_of_the_first(slurm_nodes, tmp_path):
    tracked(tmp_path)
    words = ["n=0..39", "seconds=0.5", "--workers", "2", *slurm_nodes]
    first = drive(tmp_path, *words)
    wait_until(lambda: len(results_of(tmp_path)) > 4, 120, what="the first results")
    kill(first.pid)
    first.wait()
    queue = ["squeue", "--noheader", "--array", "--format", "%i %N"]
    before = subprocess.run(queue, capture_output=True, text=True, check=True).stdout.split("\n")
    assert {line.split()[1] for line in before if "n" in line} == {"n1", "n2"}
    second = drive(tmp_path, *words)
    assert second.wait(timeout=120) == 0
    assert set(ends(tmp_path).values()) == {1}
    submissions = list((tmp_path / "results" / ".sweep" / "slurm").rglob("*submission.sh"))
    assert len(submissions) == 1


def test_a_warned_slurm_job_is_requeued_and_nothing_is_lost(slurm_nodes, tmp_path):
    """SIGUSR2 is what SLURM sends before a job's time is up, or when it is preempted."""
    tracked(tmp_path)
    driver = drive(tmp_path, "n=0..39", "seconds=0.5", "--workers", "2", *slurm_nodes)
    wait_until(lambda: len(results_of(tmp_path)) > 4, 120, what="the first results")

    def queue(*words):
        done = subprocess.run(["squeue", "--noheader", "--array", *words], capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    job = queue("--states", "RUNNING", "--format", "%i")[0].strip()
    subprocess.run(["scancel", "--signal", "USR2", job], check=True)

    def waits_again():
        return f"{job} PD" in queue("--states", "PENDING", "--format", "%i %t")

    wait_until(waits_again, 60, what="the requeued job")
    assert driver.wait(timeout=120) == 0
    assert len(results_of(tmp_path)) == 40
    assert sum(ends(tmp_path).values()) <= 41


def test_the_work_of_a_lost_slurm_node_is_done_by_the_other(slurm_nodes, slurm_cluster, tmp_path):
    tracked(tmp_path)
    driver = drive(tmp_path, "n=0..39", "seconds=0.5", "--workers", "2", *slurm_nodes)
    wait_until(lambda: len(results_of(tmp_path)) > 6, 120, what="the first results")
    slurm_cluster.lose("n2")
    assert driver.wait(timeout=120) == 0, (tmp_path / "driver.log").read_text()[-2000:]
    assert len(results_of(tmp_path)) == 40
    assert sum(ends(tmp_path).values()) <= 41
    slurm_cluster.start("n2")


def test_the_work_of_a_lost_ray_node_is_done_by_the_other(tmp_path):
    pytest.importorskip("ray")
    tracked(tmp_path)
    cluster = importlib.import_module("ray.cluster_utils").Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False},
    )
    node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    try:
        words = ["n=0..39", "seconds=0.3", "--workers", "2", "--lease", "10", "--engine", "ray"]
        driver = drive(tmp_path, *words, "--option", f"address={cluster.address}")
        wait_until(lambda: len(results_of(tmp_path)) > 6, 180, what="the first results")
        cluster.remove_node(node, allow_graceful=False)
        assert driver.wait(timeout=180) == 0, (tmp_path / "driver.log").read_text()[-2000:]
    finally:
        cluster.shutdown()
    assert len(results_of(tmp_path)) == 40
    assert sum(ends(tmp_path).values()) <= 41


def test_an_engine_without_its_library_or_commands_says_so(tmp_path, monkeypatch):
    tracked(tmp_path)
    experiment = sweep.load_experiment("tracked", tmp_path)
    if importlib.util.find_spec("ray") is None:
        with pytest.raises(MissingDependency, match=r"gp_response\[cluster\]"):
            sweep.sweep(experiment, [{"n": 1}], tmp_path, engine="ray")
    monkeypatch.setattr(slurm.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="no sbatch, squeue, scancel here"):
        sweep.sweep(experiment, [{"n": 1}], tmp_path, engine="slurm")
