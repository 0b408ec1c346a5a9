"""The battery: what every family of `families.py` does, and a system from outside the package too.

A new row is tested as it stands: nothing here names a family. What only some do is left out for the others by what they
are: `can_generate`, a loss, layers that can be checkpointed. Repositories without the package are
`tests/mambaxray/test_repositories.py`.
"""

import json

import outside_system  # noqa: F401  registers its family
import pytest
import torch
import transformers
from battery import Subject, first_tensor, loss_of, tensors
from made_up_streams import made_up_streams
from torch.nn import functional as F
from transformers import AutoConfig, set_seed

from mambaxray import make_tiny_models
from mambaxray.configuration.families import families
from mambaxray.modeling_mambaxray.generation.continuous_generation import generate_continuously
from mambaxray.modeling_mambaxray.hub.repository_code import has_code

NAMES = list(families())
GENERATORS = [name for name, family in families().items() if family.model_class.can_generate()]
CHECKPOINTED = [name for name, family in families().items() if family.model_class.supports_gradient_checkpointing]
# Little enough that the slowest decoder takes a fraction of a second, and more tokens than a cache's first step.
LENGTH = {"max_new_tokens": 6, "min_new_tokens": 6}
MODES = {"greedy": {"do_sample": False}, "beams": {"do_sample": False, "num_beams": 3}, "sampling": {"do_sample": True}}


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    """What `mambaxray tiny` writes."""
    folder = tmp_path_factory.mktemp("families")
    make_tiny_models(folder)
    return folder


@pytest.fixture(scope="module")
def subjects(tiny_folder):
    """A tiny repository of each family, those from elsewhere added by name."""
    make_tiny_models(tiny_folder, names=[name for name in NAMES if not (tiny_folder / name).exists()])
    return {name: Subject(families()[name], tiny_folder / name) for name in NAMES}


@pytest.fixture(params=NAMES)
def subject(request, subjects):
    return subjects[request.param]


@pytest.fixture(params=GENERATORS)
def generator(request, subjects):
    return subjects[request.param]


def without_dropout(model):
    """In training, but with the same result twice."""
    for module in model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def generate(model, inputs, **options):
    """What is written behind the prompt, by seed 0."""
    set_seed(0)
    return model.generate(**inputs, **LENGTH, **options)[:, inputs["input_ids"].shape[1] :]


# What there is


def test_there_is_a_tiny_repository_of_every_family_of_the_package(tiny_folder):
    ours = {name for name, family in families().items() if has_code(family.config_class)}
    assert ours <= {path.name for path in tiny_folder.iterdir()}
    assert "outside_query" in set(NAMES) - ours


def test_a_tiny_model_of_no_system_is_refused_with_the_systems_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"no system 'mambaxrai'; the systems are .*mambaxray, .*outside_query"):
        make_tiny_models(tmp_path, names=["mambaxrai"])


def test_a_tiny_repository_holds_the_code_and_names_it_if_the_package_has_it(subject):
    config = json.loads((subject.folder / "config.json").read_text(encoding="utf-8"))
    files = [path for path in subject.folder.rglob("*") if path.is_file() and path.suffix != ".py"]
    assert sum(path.stat().st_size for path in files) < 2e5
    if has_code(subject.family.config_class):
        assert config["auto_map"].keys() >= {"AutoConfig", *subject.family.auto_classes}
        for reference in config["auto_map"].values():
            assert (subject.folder / f"{reference.partition('.')[0]}.py").is_file()
    else:
        assert "auto_map" not in config
        assert not list(subject.folder.glob("modeling_*.py"))


def test_every_auto_class_of_a_family_builds_and_loads_its_model(subject):
    config = AutoConfig.from_pretrained(subject.folder)
    assert type(config) is subject.family.config_class
    for name in subject.family.auto_classes:
        auto_class = getattr(transformers, name)
        assert type(auto_class.from_config(config)) is subject.family.model_class
        assert type(auto_class.from_pretrained(subject.folder)) is subject.family.model_class
    if subject.family.processor_class is not None:
        assert type(subject.processor) is subject.family.processor_class


# Forward pass and training


def test_the_forward_pass_gives_finite_values_that_the_image_decides(subject):
    inputs = subject.inputs()
    with torch.no_grad():
        output, again = subject.model(**inputs), subject.model(**inputs)
        other = subject.model(**inputs | {"pixel_values": inputs["pixel_values"].flip(-1)})
    assert tensors(output)
    assert all(tensor.isfinite().all() for tensor in tensors(output) if tensor.is_floating_point())
    assert all(torch.equal(*pair) for pair in zip(tensors(output), tensors(again), strict=True))
    assert not torch.equal(first_tensor(output), first_tensor(other))


def test_a_model_with_a_stage_has_a_loss_that_is_the_weighted_sum_of_the_named_ones(subject):
    with torch.no_grad():
        output = subject.model(**subject.inputs())
    loss = getattr(output, "loss", None)
    assert (loss is not None) == (subject.family.stage is not None)
    names = getattr(subject.family.config_class, "loss_names", ())
    if names:
        weights = subject.model.config.loss_weights
        assert output.losses.keys() == set(names)
        expected = sum(weights.get(name, 1.0) * value for name, value in output.losses.items())
        torch.testing.assert_close(loss, expected)
    if loss is not None:
        assert loss.ndim == 0
        assert loss > 0


def test_every_parameter_is_trained_or_said_to_be_frozen(subject):
    model = without_dropout(subject.load())
    trainable = {name: weight.detach().clone() for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainable
    before = {name: weight.clone() for name, weight in model.named_parameters() if not weight.requires_grad}
    # Adam moves whatever has any gradient at all; a gate that starts closed opens at the first step.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    inputs = subject.inputs()
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model(**inputs)).backward()
        assert [name for name in trainable if model.get_parameter(name).grad is None] == []
        optimizer.step()
    assert [name for name, weight in trainable.items() if torch.equal(model.get_parameter(name), weight)] == []
    assert [name for name, weight in before.items() if not torch.equal(model.get_parameter(name), weight)] == []


def test_one_batch_can_be_learned(subject):
    model = without_dropout(subject.load())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    inputs, losses = subject.inputs(), []
    for _ in range(8):
        optimizer.zero_grad()
        set_seed(0)
        loss = loss_of(model(**inputs))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", CHECKPOINTED)
def test_gradient_checkpointing_gives_the_same_loss_and_gradients(subjects, name):
    subject, results = subjects[name], []
    for checkpointing in (False, True):
        model = without_dropout(subject.load())
        if checkpointing:
            model.gradient_checkpointing_enable()
        set_seed(0)
        loss = loss_of(model(**subject.inputs()))
        loss.backward()
        results.append([loss.detach(), *(weight.grad for weight in model.parameters() if weight.requires_grad)])
    for plain, checkpointed in zip(*results, strict=True):
        torch.testing.assert_close(checkpointed, plain)


# Saving and precision


def test_a_saved_model_is_the_same_to_the_last_bit(subject, tmp_path):
    subject.save(tmp_path)
    loaded, report = type(subject.model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    expected, weights = subject.model.state_dict(), loaded.state_dict()
    assert weights.keys() == expected.keys()
    for name, tensor in expected.items():
        assert weights[name].dtype == tensor.dtype, name
        assert torch.equal(weights[name], tensor), name
    assert loaded.config.to_dict() == subject.model.config.to_dict() | {"_name_or_path": str(tmp_path)}
    with torch.no_grad():
        pairs = zip(tensors(loaded.eval()(**subject.inputs())), tensors(subject.model(**subject.inputs())), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)


def test_bfloat16_gives_numbers_close_to_those_of_float32(subject):
    low = subject.load(dtype=torch.bfloat16)
    assert torch.bfloat16 in {weight.dtype for weight in low.parameters()}
    inputs = subject.inputs()
    with torch.no_grad():
        exact, rounded = first_tensor(subject.model(**inputs)), first_tensor(low(**inputs)).float()
    assert rounded.isfinite().all()
    assert F.cosine_similarity(exact.flatten(), rounded.flatten(), dim=0) > 0.99
    model = low.train()
    loss_of(model(**inputs)).backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters() if weight.grad is not None)


def test_a_study_gives_the_same_alone_and_beside_others(subject):
    with torch.no_grad():
        several, one = (tensors(subject.model(**subject.inputs(seeds))) for seeds in ((0, 1, 2), (0,)))
    # Without what is summed up over the batch.
    compared = [(among, alone) for among, alone in zip(several, one, strict=True) if alone.ndim and len(alone) == 1]
    assert compared
    for among, alone in compared:
        # The first row, or row and column of similarities, without the padding behind a shorter report.
        torch.testing.assert_close(among[tuple(slice(n) for n in alone.shape)], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The following device_map keys do not match any submodules")
@pytest.mark.parametrize("offloaded", ["the first part", "all other parts"])
def test_weights_that_lie_on_disk_between_calls_give_the_same(subject, offloaded, tmp_path):
    parts = [name for name, part in subject.model.named_children() if any(True for _ in part.parameters())]
    on_disk = parts[:1] if offloaded == "the first part" else parts[1:]
    devices = {name: "disk" if name in on_disk else "cpu" for name, _ in subject.model.named_children()}
    own = (subject.model.named_parameters(recurse=False), subject.model.named_buffers(recurse=False))
    devices |= {name: "cpu" for tensors_of_model in own for name, _ in tensors_of_model}
    model = subject.load(device_map=devices, offload_folder=tmp_path)
    assert any(weight.is_meta for weight in model.parameters())
    inputs = subject.inputs(training=False)
    with torch.no_grad():
        pairs = zip(tensors(model(**inputs)), tensors(subject.model(**inputs)), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)
    if subject.generates:
        assert torch.equal(*(generate(each, inputs, **MODES["beams"]) for each in (model, subject.model)))


# Generation


@pytest.mark.parametrize("mode", MODES)
def test_a_cache_changes_nothing_that_is_generated(generator, mode):
    inputs = generator.inputs(training=False)
    written = [generate(generator.model, inputs, use_cache=use, **MODES[mode]) for use in (True, False)]
    assert written[0].shape == (2, LENGTH["max_new_tokens"])
    assert torch.equal(*written)


@pytest.mark.parametrize("mode", ["greedy", "beams"])
def test_a_left_padded_batch_generates_what_single_studies_do(generator, mode):
    pad = generator.processor.tokenizer.pad_token_id
    first, second = (generator.inputs((seed,), training=False) for seed in (0, 1))
    # One prompt is four words longer than the other.
    words = torch.tensor([[5, 6, 7, 8]])
    second["input_ids"] = torch.cat([second["input_ids"], words], dim=1)
    second["attention_mask"] = torch.ones_like(second["input_ids"])
    missing = second["input_ids"].shape[1] - first["input_ids"].shape[1]
    padded = first | {
        "input_ids": F.pad(first["input_ids"], (missing, 0), value=pad),
        "attention_mask": F.pad(first["attention_mask"], (missing, 0)),
    }
    batch = {name: torch.cat([padded[name], second[name]]) for name in first}
    together = generate(generator.model, batch, **MODES[mode])
    alone = torch.cat([generate(generator.model, inputs, **MODES[mode]) for inputs in (first, second)])
    assert torch.equal(together, alone)


def test_a_loop_of_forward_passes_over_a_left_padded_batch_writes_what_generate_does(generator):
    inputs = generator.inputs(training=False)
    pad = generator.processor.tokenizer.pad_token_id
    inputs["input_ids"] = F.pad(inputs["input_ids"], (3, 0), value=pad)
    inputs["attention_mask"] = F.pad(inputs["attention_mask"], (3, 0))
    length = LENGTH["max_new_tokens"]
    options = {"output_logits": True, "return_dict_in_generate": True, "do_sample": False}
    expected = generator.model.generate(**inputs, **LENGTH, **options)
    written, step, mask, found = expected.sequences[:, -length:], dict(inputs), inputs["attention_mask"], []
    with torch.no_grad():
        for token in written.T:
            output = generator.model(**step, use_cache=True)
            found.append(output.logits[:, -1])
            mask = F.pad(mask, (0, 1), value=1)
            step = {"input_ids": token.unsqueeze(1), "attention_mask": mask, "cache": output.cache}
    torch.testing.assert_close(torch.stack(found), torch.stack(expected.logits), rtol=1e-5, atol=1e-5)


def test_prompts_computed_beside_steps_are_in_order_and_give_the_same_reports(generator, monkeypatch):
    studies = [generator.inputs((seed,), training=False) for seed in range(5)]
    alone = [generate(generator.model, study, **MODES["beams"])[0].tolist() for study in studies]
    with made_up_streams(monkeypatch) as streams:
        reports = generate_continuously(generator.model, studies, batch_size=3, **LENGTH, **MODES["beams"])
        found = {position: tokens.tolist() for position, tokens in reports}
    assert [found[position] for position in range(5)] == alone
    assert streams.operators.get(1, 0) > 100 or not generator.model.supports_continuous_generation


def test_the_image_decides_what_is_generated(generator):
    inputs = generator.inputs(training=False)
    other = inputs | {"pixel_values": inputs["pixel_values"].flip(-1)}
    with torch.no_grad():
        logits = [generator.model(**each).logits[:, -1] for each in (inputs, other)]
    assert not torch.equal(*logits)


def test_a_missing_view_is_as_if_it_were_not_there(generator):
    inputs = generator.inputs(training=False)
    views = inputs["pixel_values"]
    assert views.shape[1] == 1
    two = inputs | {"pixel_values": torch.cat([views, torch.full_like(views, torch.nan)], dim=1)}
    two["view_mask"] = two["pixel_attention_mask"] = torch.tensor([[True, False]] * 2)
    assert torch.equal(generate(generator.model, two), generate(generator.model, inputs))
