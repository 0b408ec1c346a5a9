"""Weight decay takes matrices, and neither a scan's rates nor temperatures, in every stage."""

from pathlib import Path

import pytest
import torch
from tiny_training import TINY

from mambaxray import load_recipe
from mambaxray.train import classify, contrast, finetune, pretrain
from mambaxray.train.run import training_arguments

DATA = ["data.options={num_studies: 30, image_size: 32}", "training.weight_decay=0.5"]


@pytest.mark.parametrize(
    ("stage", "name", "overrides", "named"),
    [
        (pretrain, "pretrain_phantoms", ["model.config.image_size=32", "model.config.patch_size=4"], {"A_log", "D"}),
        (contrast, "contrast_phantoms", ["model.vocab_size=320"], {"A_log", "D", "logit_scale"}),
        (classify, "disease_aware_stage1_phantoms", ["model.vocab_size=320"], {"A_log", "D", "logit_scale"}),
        (finetune, "finetune_phantoms", [*TINY, "metrics=null"], {"A_log", "D"}),
    ],
)
def test_a_scans_rates_and_temperatures_are_left_alone(stage, name, overrides, named, tmp_path: Path) -> None:
    overrides = [*overrides, *DATA, "training.report_to=[]"]
    if stage in (contrast, pretrain):
        overrides.append("training.max_steps=1")
    recipe = load_recipe(name, overrides)
    trainer = stage.make_trainer(recipe, training_arguments(recipe, tmp_path), tmp_path)
    names = {parameter: each for each, parameter in trainer.model.named_parameters()}
    decayed, left = set(), set()
    for group in trainer.create_optimizer().param_groups:
        (decayed if group["weight_decay"] else left).update(names[parameter] for parameter in group["params"])
    assert {each.rpartition(".")[2] for each in left} >= named
    assert not {each.rpartition(".")[2] for each in decayed} & named
    # And matrices are not.
    matrices = [layer.weight for layer in trainer.model.modules() if isinstance(layer, torch.nn.Linear)]
    assert decayed >= {names[each] for each in matrices if each.requires_grad}
