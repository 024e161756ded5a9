"""Where a figure comes from: the scale, the number of runs, the machine and torch's version, as a line for its caption."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gp_response.experiment import Experiment
from gp_response.scales import OTHER, configs_at, scales_of
from gp_response.sweep.show import escaped

NOT_RUN = r"\notrun"


def machine_text(machine: Mapping[str, Any]) -> str:
    """ "2 cores of Intel Xeon Processor, 1 thread", with the GPU where there is one."""
    cpu = " ".join(re.sub(r"\((R|TM|tm|r)\)", "", str(machine["cpu"])).split())
    threads = f"{machine['threads']} thread{'s' if machine['threads'] != 1 else ''}"
    gpu = f", {machine['gpu']}" if "gpu" in machine else ""
    return f"{machine['cores']} cores of {cpu}, {threads}{gpu}"


def source_macro(experiment: str) -> str:
    r"""Name of the macro with an experiment's source: `SourceFdtGap` for fdt_gap."""
    return "Source" + "".join(part.capitalize() for part in experiment.split("_"))


def source_text(experiment: Experiment, records: Sequence[Mapping[str, Any]]) -> str:
    """The source of an experiment's figures and numbers: every scale and machine in it, with its number of runs."""
    if not records:
        return f"[{NOT_RUN}]"
    scales = scales_of(experiment, [r["config"] for r in records])
    kinds = Counter(
        (scale, machine_text(r["machine"]), r["versions"]["torch"].partition("+")[0])
        for scale, r in zip(scales, records, strict=True)
    )
    parts = []
    for (scale, machine, torch), count in sorted(kinds.items()):
        size = scale if scale == OTHER else f"{scale} size"
        total = 0 if scale == OTHER else len(configs_at(experiment, scale))  # type: ignore[arg-type]
        runs = f"{count} of {total} runs" if count <= total else f"{count} run{'s' if count != 1 else ''}"
        parts.append(f"{size}, {runs}; {escaped(machine)}; torch {torch}")
    return f"[{' / '.join(parts)}]"


def sources_table(found: Mapping[str, tuple[Experiment, Sequence[Mapping[str, Any]]]]) -> str:
    """Rows of a table of all experiments: name, scale, runs, hours, machine. Those without a result are marked."""
    rows = []
    for name, (experiment, records) in found.items():
        shown = escaped(name)
        if not records:
            rows.append(rf"{shown} & {NOT_RUN} & & & \\")
        groups: dict[tuple[str, str], list[float]] = {}
        scales = scales_of(experiment, [record["config"] for record in records])
        for scale, record in zip(scales, records, strict=True):
            groups.setdefault((scale, machine_text(record["machine"])), []).append(record["seconds"])
        for (scale, machine), seconds in sorted(groups.items()):
            total = "" if scale == OTHER else f"/{len(configs_at(experiment, scale))}"  # type: ignore[arg-type]
            rows.append(rf"{shown} & {scale} & {len(seconds)}{total} & {sum(seconds) / 60:.0f} & {escaped(machine)} \\")
    return "\n".join(rows)


__all__ = ["NOT_RUN", "machine_text", "source_macro", "source_text", "sources_table"]
