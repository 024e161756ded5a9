"""Where the workers of a sweep run: processes of this machine, jobs of SLURM, tasks of Ray."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gp_response.errors import InputError, unknown_name
from gp_response.sweep.engines.crew import Crew, Resources
from gp_response.sweep.engines.local import LocalCrew
from gp_response.sweep.engines.ray import RayCrew
from gp_response.sweep.engines.slurm import SlurmCrew

ENGINES = ("local", "slurm", "ray")


def crew(engine: str, plan: Path, resources: Resources, *, left: int, options: Mapping[str, Any] | None = None) -> Crew:
    """Workers of the named engine for the plan, of which `left` runs are left to do."""
    if engine == "slurm":
        return SlurmCrew(plan, resources, left=left, options=options)
    if engine == "ray":
        return RayCrew(plan, resources, left=left, options=options)
    if engine != "local":
        raise unknown_name("engine", engine, ENGINES)
    if options:
        raise InputError(f"engine local takes no options of its own, got {', '.join(options)}")
    return LocalCrew(plan, resources, left=left)


__all__ = ["ENGINES", "Crew", "Resources", "crew"]
