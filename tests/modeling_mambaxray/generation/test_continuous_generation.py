"""Continuous generation: the tokens of plain `generate`, whatever the lengths, options and decoders."""

import logging

import pytest
import torch
from made_up_streams import made_up_streams
from many_studies import EOS, continuously, make_model, make_studies, one_by_one, settings, until_end
from waits import Steps

from mambaxray.modeling_mambaxray.generation.continuous_generation import _Batch, generate_continuously
from mambaxray.modeling_mambaxray.generation.study_batch import stack_studies

OPTIONS = {
    "greedy": {},
    "repetition penalty and least length": {"repetition_penalty": 1.7, "min_new_tokens": 3},
    "n-grams, bad words and forced end": {
        "no_repeat_ngram_size": 2,
        "bad_words_ids": [[5], [7, 9]],
        "begin_suppress_tokens": [11],
        "forced_eos_token_id": EOS,
        "exponential_decay_length_penalty": (4, 1.2),
    },
    "two ends": {"eos_token_id": [EOS, 17, 23]},
    "no end": {"eos_token_id": None},
    "a length with the prompt": {"max_new_tokens": None, "max_length": 24},
    "beams": {"num_beams": 3},
    "beams that stop early": {"num_beams": 4, "early_stopping": True, "length_penalty": 2.0},
    "beams that never stop early": {"num_beams": 2, "early_stopping": "never", "length_penalty": 0.5},
    "short beams": {"num_beams": 3, "length_penalty": -1.0, "repetition_penalty": 1.3, "min_new_tokens": 2},
    "beams, two ends": {"num_beams": 3, "eos_token_id": [EOS, 17], "no_repeat_ngram_size": 3},
}


@pytest.fixture
def told(caplog):
    """Why plain `generate` had to do it."""
    caplog.set_level(logging.INFO, logger="mambaxray")
    return lambda: [message for message in caplog.messages if message.startswith("plain generate")]


@pytest.fixture(scope="module")
def llama():
    return make_model()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_reports_are_those_of_generate_for_each_study_alone(llama, options, told, monkeypatch):
    studies = make_studies(llama)
    expected = one_by_one(llama, studies, options)
    if "eos_token_id" not in options:
        assert len({len(report) for report in expected}) > 2, "the reports are of one length"
    assert continuously(llama, studies, options) == expected
    streams = made_up_streams(monkeypatch)
    assert continuously(llama, studies, options) == expected
    assert 1 in streams.operators, "no prompt was computed beside a step"
    assert told() == []


@pytest.mark.parametrize("text", ["qwen2", "gemma2", "gpt2", "opt"])
def test_reports_of_every_decoder_are_those_of_generate(text, told, monkeypatch):
    model = make_model(text)
    studies = make_studies(model, 5)
    every_options = ({}, {"num_beams": 3, "repetition_penalty": 1.3})
    expected = [one_by_one(model, studies, options) for options in every_options]
    assert [continuously(model, studies, options, batch_size=3) for options in every_options] == expected
    made_up_streams(monkeypatch)
    assert [continuously(model, studies, options, batch_size=3) for options in every_options] == expected
    assert told() == []


def test_reports_are_those_of_generate_for_a_left_padded_batch(llama):
    studies = make_studies(llama, 5)
    batch = stack_studies(studies)
    assert (batch["attention_mask"] == 0).any()
    expected = llama.generate(**batch, **settings({"num_beams": 2}))[:, batch["input_ids"].shape[1] :]
    padded = [{name: value[row : row + 1] for name, value in batch.items()} for row in range(len(studies))]
    assert continuously(llama, padded, {"num_beams": 2}) == [until_end(row, [EOS]) for row in expected]


def test_eager_attention_gives_the_same(llama, told):
    studies = make_studies(llama, 4)
    expected = one_by_one(llama, studies, {"num_beams": 2})
    eager = make_model()
    eager.set_attn_implementation("eager")
    assert continuously(eager, studies, {"num_beams": 2}) == expected
    assert told() == []


def test_a_decoder_of_another_precision_than_the_encoder_is_served(told):
    model = make_model()
    model.language_model.double()
    studies = make_studies(model, 4)
    assert continuously(model, studies, {"num_beams": 2}) == one_by_one(model, studies, {"num_beams": 2})
    assert told() == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"num_beams": 2, "num_return_sequences": 2}, "num_return_sequences"),
        ({"cache_implementation": "static"}, "another cache"),
        ({"use_cache": False}, "another cache"),
        ({"max_time": 1000.0}, "MaxTimeCriteria may look at the whole batch"),
    ],
)
def test_what_cannot_be_served_is_left_to_plain_generate_and_told(llama, options, reason, told):
    studies = make_studies(llama, 3)
    assert continuously(llama, studies, options) == one_by_one(llama, studies, options)
    (message,) = told()
    assert reason in message


def test_sampling_is_that_of_plain_generate_with_the_same_seed(llama, told):
    studies = make_studies(llama, 4, lengths=[3])
    torch.manual_seed(1)
    batch = stack_studies(studies)
    expected = llama.generate(**batch, **settings({"do_sample": True}))[:, batch["input_ids"].shape[1] :]
    torch.manual_seed(1)
    assert continuously(llama, studies, {"do_sample": True}) == [until_end(row, [EOS]) for row in expected]
    assert "sample depends on what else is in the batch" in told()[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"supports_continuous_generation": False}, "keeps more of a study than the decoder's cache"),
        ({"window": 16}, "DynamicSlidingWindowLayer keeps less than all tokens"),
    ],
)
def test_models_that_cannot_be_called_so_are_left_to_plain_generate(change, reason, told):
    model = make_model("gemma2")
    if window := change.pop("window", None):
        model.config.text_config.sliding_window = window
    for name, value in change.items():
        setattr(model, name, value)
    studies = make_studies(model, 3)
    assert continuously(model, studies, {}) == one_by_one(model, studies, {})
    assert reason in told()[0]


@pytest.mark.parametrize("beside", [False, True])
def test_a_study_that_cannot_be_served_takes_no_report_from_those_before_it(beside, told, monkeypatch):
    if beside:
        made_up_streams(monkeypatch)
    model = make_model("gemma2")
    studies = make_studies(model, 9, lengths=(3, 3, 5))
    model.config.text_config.sliding_window = studies[0]["input_ids"].shape[1] + 13
    options = {"eos_token_id": [EOS, 8, 26, 36]}  # so that one of the first two goes on when the third is refused
    assert continuously(model, studies, options, batch_size=2) == one_by_one(model, studies, options)
    assert "DynamicSlidingWindowLayer keeps less than all tokens" in told()[0]


def test_each_image_is_encoded_and_each_prompt_computed_once_whatever_the_beams(llama):
    studies = make_studies(llama, 6)
    rows = []
    hooks = [
        llama.vision_encoder.register_forward_hook(lambda module, inputs, output: rows.append(("image", 1))),
        llama.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: rows.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
        ),
    ]
    continuously(llama, studies, {"num_beams": 3}, batch_size=2)
    for hook in hooks:
        hook.remove()
    prompts = [row for row in rows if row[0] != "image" and row[1] > 3]
    assert sum(studies for studies, _ in prompts) == len(studies)
    assert all(row[1] == 3 for row in rows if row[0] != "image" and row not in prompts), "beams are query positions"


def test_a_place_that_gets_free_is_filled_while_other_reports_go_on(llama):
    studies = make_studies(llama, 12)
    lengths = [len(report) for report in one_by_one(llama, studies, {})]
    steps = []
    hook = llama.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: steps.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    read = []
    source = (read.append(number) or study for number, study in enumerate(studies))
    order = [position for position, _ in generate_continuously(llama, source, batch_size=4, **settings({}))]
    hook.remove()
    decoding = [rows for rows, tokens in steps if tokens == 1]
    assert sum(decoding) == sum(lengths) - len(lengths), "no row is computed for a finished report"
    assert order != sorted(order), "short reports come before longer ones that began earlier"
    assert sorted(order) == list(range(12)) == read


def test_few_studies_with_prompts_of_different_lengths_are_in_work_together(llama, monkeypatch):
    steps = Steps(monkeypatch)
    studies = make_studies(llama, 3, lengths=(3, 5, 7))
    continuously(llama, studies, {"eos_token_id": None}, batch_size=16)
    assert [rows for rows, _ in steps.shapes] == [3] * 11


def test_studies_are_read_as_they_are_needed(llama):
    read = []
    source = (read.append(number) or study for number, study in enumerate(make_studies(llama, 12)))
    next(generate_continuously(llama, source, batch_size=2, **settings({})))
    assert len(read) <= 6


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, "repetition_penalty": 1.3}], ids=str)
def test_a_step_waits_once_and_calls_as_much_for_many_studies_as_for_few(llama, options, monkeypatch):
    counted = []
    for count in (2, 7):
        with monkeypatch.context() as patch, Steps(patch) as steps:
            continuously(llama, make_studies(llama, count, lengths=[3]), options | {"eos_token_id": None}, count)
        assert len(steps.operators) == 11
        assert max(steps.waits) == 1
        counted.append(steps.operators)
    assert counted[0] == counted[1]


def test_a_hundred_steps_have_three_shapes(llama, monkeypatch):
    steps = Steps(monkeypatch)
    options = {"num_beams": 3, "eos_token_id": None, "max_new_tokens": 101, "do_sample": False}
    assert len(list(generate_continuously(llama, make_studies(llama, 2, lengths=[3]), batch_size=2, **options))) == 2
    assert len(steps.shapes) == 100
    assert len(set(steps.shapes)) <= 3


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_rows_that_are_computed_for_the_shapes_sake_change_no_report(llama, options, monkeypatch):
    steps = Steps(monkeypatch)
    begin = _Batch.__init__

    def as_on_a_gpu(batch, *arguments):
        begin(batch, *arguments)
        batch._row_multiple = 2

    monkeypatch.setattr(_Batch, "__init__", as_on_a_gpu)
    studies = make_studies(llama)
    assert continuously(llama, studies, options) == one_by_one(llama, studies, options)
    assert {rows for rows, _ in steps.shapes} == {2, 4}


def test_attention_does_without_cudnn_inside_only(llama):
    used = []
    hook = llama.language_model.register_forward_pre_hook(
        lambda module, args: used.append(torch.backends.cuda.cudnn_sdp_enabled())
    )
    before = torch.backends.cuda.cudnn_sdp_enabled()
    for _ in generate_continuously(llama, make_studies(llama, 3), batch_size=2, **settings({})):
        assert torch.backends.cuda.cudnn_sdp_enabled() == before
    hook.remove()
    assert used
    assert not any(used)


def test_no_studies_give_no_reports_and_an_impossible_batch_size_is_refused(llama):
    assert list(generate_continuously(llama, [])) == []
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        next(generate_continuously(llama, [], batch_size=0))
