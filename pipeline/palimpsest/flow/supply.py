"""CPU supply versus model demand, and the idle time of models, from a run's per-stage seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CORE_STAGES = ("read", "paginate", "render", "write")  # tasks, each on a core of its own
MODEL_STAGES = ("encode", "verify")


def supply(stage_seconds: Mapping[str, Mapping[str, float]], pages: int) -> dict[str, Any]:
    """Rates of a run that produced `pages` pages; unknown rates are omitted.

    Args:
        stage_seconds: as in stats.json: per stage, summed over its workers, the seconds in batches. Stages with a model also have
            `wall_seconds` since a worker's first batch began, `model_seconds` of them in the model, `model_pages`, and `halved`.

    Returns:
        `render_pages_per_core_second`: rendering alone. `supply_pages_per_core_second`: all CPU work of a page (read, lay out,
        render, write). `encode`, `verify`: `pages_per_worker_second` while in the model; `cores_per_worker` that keep a worker
        busy all the time; `busy_share`, the share of the workers' wall time in batches; `model_share`, the share in the model
        (the rest of a batch is unpacking and packing); `halved`, the number of batches that ran out of memory.
    """
    found: dict[str, Any] = {}
    if not pages:
        return found
    seconds = {stage: float(spent.get("seconds", 0)) for stage, spent in stage_seconds.items()}
    on_cores = sum(seconds.get(stage, 0.0) for stage in CORE_STAGES)
    if seconds.get("render"):
        found["render_pages_per_core_second"] = round(pages / seconds["render"], 1)
    if on_cores:
        found["supply_pages_per_core_second"] = round(pages / on_cores, 1)
    for stage in MODEL_STAGES:
        if model := _model(stage_seconds.get(stage, {}), on_cores):
            found[stage] = model
    return found


def _model(spent: Mapping[str, float], core_seconds: float) -> dict[str, float]:
    """The rates of one stage; `core_seconds` is the CPU time of the whole run."""
    wall, inside, pages = (spent.get(name, 0.0) for name in ("wall_seconds", "model_seconds", "model_pages"))
    if not (wall and inside and pages):
        return {}
    return {
        "pages_per_worker_second": round(pages / inside, 2),
        "cores_per_worker": round(core_seconds / inside, 3),
        "busy_share": round(min(1.0, spent.get("seconds", 0.0) / wall), 3),
        "model_share": round(min(1.0, inside / wall), 3),
        "halved": int(spent.get("halved", 0)),
    }


def described(found: Mapping[str, Any]) -> list[str]:
    """Readable lines, one per known rate."""
    lines = []
    if rate := found.get("supply_pages_per_core_second"):
        drawn = found.get("render_pages_per_core_second")
        lines.append(f"a core supplies {rate:,.0f} pages/s" + (f" ({drawn:,.0f} of rendering alone)" if drawn else ""))
    for stage in MODEL_STAGES:
        if model := found.get(stage):
            halved = f", {model['halved']:,} batches halved for want of memory" if model["halved"] else ""
            lines.append(
                f"{stage}: {model['pages_per_worker_second']:,.1f} pages/s a worker, which {model['cores_per_worker']:.2g} cores "
                f"supply; {model['model_share']:.0%} of its time in the model{halved}"
            )
    return lines
