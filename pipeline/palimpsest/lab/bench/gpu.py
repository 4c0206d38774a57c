"""The speed of a full-size codec on one GPU, in one run of less than eight minutes.

Sections are independent. A section that fails is reported with its error, one that exceeds its share of the time is stopped, and
the others continue. Results are written at once, so a killed run loses only its current section. Only PyTorch,
transformers and this package's codec, page and verification rooms are needed: `python -m palimpsest.lab.bench.gpu` runs where
Ray and the rest of the package's requirements are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from palimpsest.lab.bench.gpu_encode import attention, encode, kernel
from palimpsest.lab.bench.gpu_verify import verify
from palimpsest.lab.bench.overlap import overlapped
from palimpsest.lab.bench.sections import Bench, guarded, summary


def bench_gpu(
    device: str | None = None, *, tiny: bool = False, seconds: float = 420.0, save: Callable[[dict[str, Any]], None] | None = None
) -> dict[str, Any]:
    """Measure encoding, verifying and both together.

    Args:
        device: "cuda" where there is one, else "cpu".
        tiny: a model of a few hundred thousand weights, which shows in seconds that everything runs; its figures mean nothing.
        seconds: for everything; a section that exceeds its share is stopped and keeps its results so far.
        save: called with the result as it is so far, after every section and within long ones.
    """
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: PyTorch finds no GPU here; choose cpu with --tiny")
    bench = Bench(device, tiny, seconds, save, closing=NOTES)
    bench.result = {
        "device": _device_name(device),
        "torch": torch.__version__,
        "model": "tiny" if tiny else "DeepSeek-OCR",
        "sections": [],
        "command": "palimpsest bench gpu" + (f" --device {device} --tiny" if tiny else ""),
        "machine": _machine(bench),
    }
    rows = bench.result["sections"]
    left = sum(share for _, share in SECTIONS.values())
    for name, (section, share) in SECTIONS.items():
        rest = seconds - bench.elapsed
        rows.append(guarded(bench, name, section, rest if name == NEEDED else rest * share / left))
        left -= share
        bench.keep({"sections": rows})
    bench.keep({"failed_sections": sum(row["outcome"] != "done" for row in rows)})
    order = ("sections", "notes", "command", "machine")
    result = {name: value for name, value in bench.result.items() if name not in order}
    result |= {"sections": rows, "seconds": bench.elapsed, "notes": bench.notes + NOTES}
    result |= {name: bench.result[name] for name in ("command", "machine")}
    if save is not None:
        save(result)
    return result


def _matmul(bench: Bench) -> dict[str, Any]:
    """The rate that every other rate is compared with: the fastest of a second's square bfloat16 products."""
    import torch

    side = 8192 if bench.gpu else 512
    left, right = (torch.randn(side, side, device=bench.device).bfloat16() for _ in range(2))
    best = min(bench.timed(lambda: left @ right, 0.05)[0] for _ in range(3 if bench.tiny else 20))
    bench.matmul = 2 * side**3 / best
    return {"bf16_matmul_tflops": bench.matmul / 1e12}


def _model(bench: Bench) -> dict[str, Any]:
    import torch

    from palimpsest.lab.full_size import full_config, random_codec, tiny_config

    bench.codec = random_codec(tiny_config() if bench.tiny else full_config(), bench.device, torch.bfloat16)
    model = bench.codec.model
    encoder = model.model.vision_tower
    return {
        "weights_millions": sum(weight.numel() for weight in model.parameters()) / 1e6,
        "encoder_weights_millions": sum(weight.numel() for weight in encoder.parameters()) / 1e6,
        "experts_implementation": model.config.text_config._experts_implementation,
    }


def _device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name() if device.startswith("cuda") else device


def _machine(bench: Bench) -> dict[str, Any]:
    """As every result carries it; less where the package's requirements are not installed."""
    import platform
    from datetime import UTC, datetime

    try:
        from palimpsest.lab.bench.machine import machine

        return machine()
    except Exception as error:  # a description is no reason to lose what is measured
        bench.notes.append(f"the machine is described in short: {summary(error)}")
        return {
            "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
            "commit": None,
            "cpu": platform.processor() or platform.machine(),
            "cores": 0,
            "gpu": _device_name(bench.device) if bench.gpu else None,
        }


NOTES = [
    "Random weights of the stated size; the output head is a permutation of the embeddings, so that greedy outputs can be "
    "compared token for token in bfloat16. A pass takes as long as with trained weights, but experts may be chosen less evenly.",
    "gflop per page: two per multiplication of products and attentions that the page needs, windows without padding, one "
    "channel; matmul share: that rate over the bf16 matmul rate of this run.",
    "transformers' pages/s: `get_image_features` page by page; batched: the stated number at once. Differences are over the mean "
    "size of a token's values, both sides in bfloat16; from float32: of each side from the same weights in float32.",
    "corrections: the decoder's own choices behind a disagreement are taken over. Without them each planted error costs a pass, "
    "as with a decoder that loses the thread after an error; a decoder that reads its page lies between the two.",
    "generate and drafted decoding take the same pages in one batch; generate is timed once after a trial, drafted decoding for "
    "half a second after a warm-up.",
    "device idle share: time in which no kernel and no copy runs, as the profiler sees it in two seconds at full load; by driver "
    "samples: of what nvidia-smi says ten times a second over the whole run.",
]


SECTIONS: dict[str, tuple[Callable[[Bench], dict[str, Any]], float]] = {
    "matmul": (_matmul, 1),
    "model": (_model, 3),
    "kernel": (kernel, 3),
    "encode": (encode, 9),
    "verify": (verify, 9),
    "pipeline": (overlapped, 5),
    "attention": (attention, 2),
}  # in the order of their worth, with their shares of the time; what one leaves goes to those behind it


NEEDED = "model"  # never stopped while there is time: the later sections need it


def write_so_far(folder: str | Path) -> Callable[[dict[str, Any]], None]:
    """A function that writes a result into `folder`, JSON and Markdown, over the result so far."""

    def save(result: dict[str, Any]) -> None:
        import json

        Path(folder).mkdir(parents=True, exist_ok=True)
        try:
            from palimpsest.lab.bench.machine import write_results

            write_results("gpu", result, folder)
        except Exception:  # no Markdown without the package's requirements, or for half a result: the figures are worth more
            name = f"gpu_{result['machine']['date'][:10]}.json"
            (Path(folder) / name).write_text(json.dumps(result, indent=1, default=str) + "\n")

    return save


def main(arguments: Sequence[str] | None = None) -> None:
    """The command without the package's requirements: JSON on standard output and, as it grows, in files."""
    import argparse
    import json

    parser = argparse.ArgumentParser(description=bench_gpu.__doc__)
    parser.add_argument("--out", default="docs/results")
    parser.add_argument("--seconds", type=float, default=420.0)
    parser.add_argument("--device")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args(arguments)
    result = bench_gpu(given.device, tiny=given.tiny, seconds=given.seconds, save=write_so_far(given.out))
    print(json.dumps(result, indent=1, default=str))


if __name__ == "__main__":
    main()
