"""Loading checkpoints: what is taken from them, their pins and hashes, and every load that is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from palimpsest.codecs.adapter import load_codec
from palimpsest.codecs.checkpoint import CheckpointError, hash_weights, load_checkpoint
from tests.codec_zoo import ZOO, load, zoo

__all__ = ["zoo"]  # the fixture


@pytest.fixture
def copy(zoo: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(zoo("deepseek-ocr"), tmp_path / "copy"))


def test_pixel_statistics_come_from_the_checkpoint_where_the_preset_says_so(copy) -> None:
    (copy / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}))
    stated = load_codec(ZOO["deepseek-ocr"][1], copy).encoder.pixel_table
    found = load_codec(replace(ZOO["deepseek-ocr"][1], image_mean=None), copy).encoder.pixel_table
    assert stated[:, 255].tolist() == [1.0, 1.0, 1.0]
    torch.testing.assert_close(found[:, 255].float(), torch.tensor([3.0, 2.0, 4 / 3]), atol=0.01, rtol=0)


def test_loading_half_a_model_leaves_the_other_half_out(zoo) -> None:
    def size(**options: str) -> int:
        return sum(weight.numel() for weight in load(zoo, "deepseek-ocr", **options).model.parameters())

    vision = sum(weight.numel() for weight in load(zoo, "deepseek-ocr").model.model.vision_tower.parameters())
    assert size(parts="decoder") == size(parts="both") - vision
    assert vision < size(parts="encoder") < vision + 2000


def test_unlimited_ocr_keeps_its_windows_and_deepseek_ocr_has_none(zoo) -> None:
    assert load(zoo, "unlimited-ocr").config.text_config.layer_types == ["reference_sliding_attention"] * 2
    assert load(zoo, "deepseek-ocr").config.text_config.layer_types == ["full_attention"] * 2


def rewrite(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    path = directory / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, {"format": "pt"})


def renamed(weights: dict[str, torch.Tensor], name: str) -> None:
    weights[f"{name[:-2]}{name[-1]}{name[-2]}"] = weights.pop(name)  # weigth


def narrowed(weights: dict[str, torch.Tensor], name: str) -> None:
    weights[name] = weights[name][:-1].contiguous()


@pytest.mark.parametrize(
    ("parts", "weight", "named"),
    [
        ("both", "lm_head.weight", "lm_head.weight"),
        ("both", "model.layers.1.mlp.experts.2.up_proj.weight", "experts.gate_up_proj"),
        ("decoder", "model.layers.0.self_attn.q_proj.weight", "layers.0.self_attn.q_proj.weight"),
        ("encoder", "model.sam_model.blocks.1.attn.qkv.weight", "layers.1.attn.qkv.weight"),
        ("encoder", "model.projector.layers.weight", "multi_modal_projector.weight"),
        ("decoder", "model.image_newline", "image_newline"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "renamed", "narrowed"])
def test_a_weight_that_is_not_there_is_named(copy, parts, weight, named, damage) -> None:
    changes = {
        "missing": lambda weights: weights.pop(weight),
        "renamed": lambda w: renamed(w, weight),
        "narrowed": lambda w: narrowed(w, weight),
    }
    rewrite(copy, changes[damage])
    with pytest.raises(CheckpointError, match=named.replace(".", r"\.")):
        load_codec(ZOO["deepseek-ocr"][1], copy, parts=parts)


def test_the_published_model_type_would_have_drawn_weights_anew(zoo) -> None:
    with pytest.raises(CheckpointError, match=r"weights missing: .* and \d+ more"):
        load_codec(replace(ZOO["deepseek-ocr"][1], model_type=None), zoo("deepseek-ocr"))


def test_a_half_downloaded_file_is_refused(copy) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_codec(ZOO["deepseek-ocr"][1], copy)


def test_pins_hold(copy, tmp_path) -> None:
    preset = ZOO["deepseek-ocr"][1]
    found = load_checkpoint(preset, copy)
    assert found.id == "deepseek-ocr"
    assert found.revision == f"sha256:{found.content_hash[:16]}" and found.content_hash == hash_weights(copy)
    assert load_checkpoint(preset, copy, revision=found.revision, content_hash=found.content_hash).revision == found.revision
    with pytest.raises(
        CheckpointError, match=f"codec.content_hash is pinned to {'0' * 64}, but .* contains {found.content_hash}"
    ):
        load_checkpoint(replace(preset, content_hash="0" * 64), copy)
    with pytest.raises(CheckpointError, match="codec.revision is pinned to abc"):
        load_checkpoint(preset, copy, revision="abc")
    rewrite(copy, lambda weights: weights["lm_head.weight"].add_(1))
    assert hash_weights(copy) != found.content_hash

    downloaded = copy / ".cache" / "huggingface" / "download"
    downloaded.mkdir(parents=True)
    (downloaded / "config.json.metadata").write_text("0123abc\netag\n1.0\n")
    assert load_checkpoint(preset, copy, revision="0123abc").revision == "0123abc"
    snapshot = Path(shutil.copytree(copy, tmp_path / "models--x" / "snapshots" / "4567def"))
    with pytest.raises(CheckpointError, match="pinned to 0123abc, but .* contains 4567def"):
        load_checkpoint(preset, snapshot, revision="0123abc")


def test_the_content_hash_is_what_two_shell_commands_print(copy) -> None:
    import subprocess

    rewrite(copy, lambda weights: save_file({"more": torch.ones(2)}, copy / "another.safetensors"))
    printed = subprocess.run(
        f"cd '{copy}' && LC_ALL=C sha256sum *.safetensors | sha256sum", shell=True, capture_output=True, text=True, check=True
    )
    assert hash_weights(copy) == printed.stdout.split()[0]


def test_absent_weights_name_the_command_that_gets_them(tmp_path, monkeypatch, copy) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    command = "hf download deepseek-ai/DeepSeek-OCR --revision 9f30c71f441d010e5429c532364a86705536c53a"
    with pytest.raises(CheckpointError, match=f"{command}`, or `--set codec.path="):
        load_codec("deepseek-ocr")
    with pytest.raises(CheckpointError, match="set codec.path to a folder"):
        load_codec("deepseek-ocr", tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="'auto' has no checkpoint of its own: set codec.path"):
        load_codec("auto")
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no weights \(\*\.safetensors\) in"):
        load_codec("deepseek-ocr", copy)


def test_remote_code_runs_only_when_asked_for(copy) -> None:
    marker = copy / "ran"
    (copy / "configuration_own.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Own: pass\n")
    (copy / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Own"}}))
    with pytest.raises(CheckpointError, match="no configuration that transformers"):
        load_codec("auto", copy)
    assert not marker.exists()
