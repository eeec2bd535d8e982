"""A Slurm cluster of one node in a temporary folder, without accounting and cgroups. Needs Debian's slurm-wlm, munge.

Usage: ``python tests/clusters/slurm_cluster.py start FOLDER`` prints the environment to export;
``... stop FOLDER`` ends it. The daemons run as the user who starts them, so root is not needed, except that munge
refuses a folder that others can write.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from clusters import processes

PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "squeue", "scancel", "scontrol")
SECONDS = 60

CONFIG = """
ClusterName=small
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
CompleteWait=0
OverTimeLimit=0
MinJobAge=300
InactiveLimit=0
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why the cluster cannot run here; empty if it can."""
    absent = [name for name in PROGRAMS if _program(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: slurm-wlm, munge)"
    return "" if importlib.util.find_spec("submitit") else "not installed: submitit (pip install 'mmrs-bench[slurm]')"


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


def start(folder: Path) -> dict[str, str]:
    """Start the cluster; return the environment variables that its commands need."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir(exist_ok=True)
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    settings = {
        "host": socket.gethostname().split(".")[0],
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "folder": folder,
        "controller": processes.free_port(),
        "node": processes.free_port(),
    }
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(**settings))
    variables = {"SLURM_CONF": str(config)}
    munge = [f"--key-file={key}", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid"]
    munge += [f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed", "--num-threads=2", "--force"]
    try:
        _daemon(folder, variables, "munged", "--foreground", *munge)
        processes.wait_until((folder / "munge.socket").exists, f"start of munged, see {folder}", SECONDS)
        _daemon(folder, variables, "slurmctld", "-D", "-c", "-f", str(config))
        _daemon(folder, variables, "slurmd", "-D", "-f", str(config), "-N", str(settings["host"]))
        ready = lambda: "idle" in _sinfo(variables)  # noqa: E731
        processes.wait_until(ready, f"start of slurmctld and slurmd, see {folder}", SECONDS)
    except RuntimeError:
        stop(folder)
        raise
    return variables


def stop(folder: Path) -> None:
    """End all daemons of the cluster, and the processes of its jobs."""
    config = folder / "slurm.conf"
    if config.exists():
        environment = {**os.environ, "SLURM_CONF": str(config)}
        user = ["--user", str(os.getuid())]
        subprocess.run([_program("scancel") or "scancel", *user], env=environment, check=False, timeout=SECONDS)
        time.sleep(4)  # KillWait
    processes.stop_all(folder)  # slurmd, slurmctld, munged


def _daemon(folder: Path, variables: dict[str, str], name: str, *arguments: str) -> None:
    program = _program(name)
    assert program is not None
    processes.start(folder, name, [program, *arguments], variables)


def _sinfo(variables: dict[str, str]) -> str:
    command = [_program("sinfo") or "sinfo", "--noheader", "--format=%T"]
    done = subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    return done.stdout


if __name__ == "__main__":
    action, place = sys.argv[1:]
    if action == "start":
        for variable, text in start(Path(place).resolve()).items():
            sys.stdout.write(f"export {variable}={text}\n")
    else:
        stop(Path(place).resolve())
