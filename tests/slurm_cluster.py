"""A real SLURM on this machine, with two virtual nodes and accounting, for the tests: needs root and Debian's packages.

apt-get install --no-install-recommends slurmctld slurmd slurm-client slurmdbd mariadb-server munge
"""

import contextlib
import os
import platform
import shutil
import subprocess
import time
from pathlib import Path

NEEDED = ("slurmctld", "slurmd", "slurmdbd", "sbatch", "squeue", "munged", "mariadbd", "mariadb-install-db", "setpriv")
DATABASE = """
AuthType=auth/munge
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort=17819
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
"""
CLUSTER = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=17817
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=17819
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
KillWait=5
SlurmdTimeout=20
SchedulerParameters=sched_interval=5
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[17901-17902] CPUs=2 Boards=1 SocketsPerBoard=1 \
CoresPerSocket=2 ThreadsPerCore=1 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """Why no cluster can be had here, or nothing."""
    absent = [name for name in NEEDED if shutil.which(name) is None and not Path("/usr/sbin", name).exists()]
    if absent:
        return f"SLURM's commands are missing: {', '.join(absent)}"
    return "" if os.geteuid() == 0 else "a cluster of one's own needs root"


class SlurmCluster:
    """Daemons in `folder`, for the time of a `with`; `environment` makes SLURM's commands speak to them."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self.socket = self.folder / "mysql.sock"

    def __enter__(self):
        for name in ("state", "spool", "log", "mysql"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for place in [self.folder, *self.folder.parents[:3]]:
            if str(place).startswith(("/tmp/", "/var/tmp/")):
                place.chmod(0o755)  # the daemons' own users must reach their files
        facts = {"host": platform.node(), "folder": self.folder}
        (self.folder / "slurm.conf").write_text(CLUSTER.format(**facts))
        (self.folder / "slurmdbd.conf").write_text(DATABASE.format(**facts))
        (self.folder / "slurmdbd.conf").chmod(0o600)
        self._database()
        self._run("slurmdbd")
        self._until(lambda: self._run("sacctmgr", "-i", "add", "cluster", "local", check=False).returncode == 0 or
                    "local" in self._run("sacctmgr", "-n", "list", "cluster", check=False).stdout)  # fmt: skip
        self._run("slurmctld", "-f", self.environment["SLURM_CONF"])
        time.sleep(1.0)
        for node in ("n1", "n2"):
            self.start(node)
        self._until(lambda: len(self._run("sinfo", "-h", "-N", "-t", "idle", check=False).stdout.split("\n")) == 3)
        return self

    def __exit__(self, *_):
        self._run("scancel", "--user", "root", check=False)
        for name in ("slurmd.n1", "slurmd.n2", "slurmctld", "slurmdbd"):
            self._end(self.folder / f"{name}.pid")
        self.database.terminate()
        self.database.wait()

    def jobs(self):
        """What the queue holds; jobs that wait are cancelled."""
        self._run("scancel", "--state", "PENDING", "--user", "root", check=False)
        return self._run("squeue", "--noheader").stdout.split()

    def start(self, node):
        self._run("slurmd", "-N", node, "-f", self.environment["SLURM_CONF"])

    def lose(self, node):
        """A node that goes away with all its processes."""
        self._end(self.folder / f"slurmd.{node}.pid")
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError, ProcessLookupError):
                words = path.read_bytes().split(b"\0")
                if f"SLURMD_NODENAME={node}".encode() in words and str(self.folder).encode() in b"".join(words):
                    os.kill(int(path.parent.name), 9)

    def _database(self):
        for place, owner in (("/run/munge", "munge"), ("/run/mysqld", "mysql")):
            Path(place).mkdir(parents=True, exist_ok=True)
            shutil.chown(place, owner, owner)
        shutil.chown(self.folder / "mysql", "mysql", "mysql")
        if not Path("/run/munge/munge.socket.2").exists() or self._run("munge", "-n", check=False).returncode:
            self._run("setpriv", "--reuid", "munge", "--regid", "munge", "--clear-groups", "munged", "--force")
        self._run("mariadb-install-db", "--user=mysql", f"--datadir={self.folder / 'mysql'}",
                  "--auth-root-authentication-method=socket")  # fmt: skip
        with open(self.folder / "log" / "mariadb.log", "wb") as log:
            self.database = subprocess.Popen(
                ["setpriv", "--reuid", "mysql", "--regid", "mysql", "--clear-groups", "mariadbd", "--no-defaults",
                 f"--datadir={self.folder / 'mysql'}", "--socket=/run/mysqld/mysqld.sock",
                 f"--pid-file={self.folder / 'mysql' / 'm.pid'}", "--skip-networking", "--innodb-buffer-pool-size=64M"],
                stdout=log, stderr=log,
            )  # fmt: skip
        self._until(
            lambda: (
                self._run("mariadb", "-e", "create database if not exists slurm_acct_db", check=False).returncode == 0
            )
        )

    def _run(self, *words, check=True):
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path, **self.environment}
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def _until(self, condition):
        end = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < end, f"SLURM did not come up; see {self.folder / 'log'}"
            time.sleep(0.3)

    def _end(self, pid_file):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(pid_file.read_text()), 9)
