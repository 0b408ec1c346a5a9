"""Prompts that are computed beside the steps of others: in order wherever both use one memory, and the same reports."""

import itertools

import pytest
import torch
from disease_aware import disease_aware_processor, phantoms, tiny_disease_aware, with_memory
from made_up_streams import Unordered, made_up_streams
from many_studies import continuously, make_model, make_studies, one_by_one, settings
from waits import Steps, WaitsOfPrompts

from mambaxray import Evidence, ImageFeatures
from mambaxray.modeling_mambaxray.generation import side_stream
from mambaxray.modeling_mambaxray.generation.continuous_generation import _Batch, generate_continuously
from mambaxray.modeling_mambaxray.generation.recalled_prompts import prepare_study, with_recalled_prompts
from mambaxray.modeling_mambaxray.generation.side_stream import SideStream, side_stream_for

EVERY_PROCESSOR = {
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 3,
    "min_new_tokens": 2,
    "bad_words_ids": [[5], [7, 9]],
    "sequence_bias": {(8,): 0.5, (9, 10): 1.0},
    "begin_suppress_tokens": [11],
    "exponential_decay_length_penalty": (4, 1.2),
}


@pytest.fixture(scope="module")
def llama():
    return make_model()


@pytest.fixture
def streams(monkeypatch):
    return made_up_streams(monkeypatch)


def studies_one_by_one(model, count=12):
    """Studies that nobody else holds."""
    return (make_studies(model, 1, seed=number, lengths=(3 + 2 * (number % 3 == 0),))[0] for number in range(count))


def with_evidence(model):
    """The same model, with evidence that is computed where the prompt is."""

    def fuse(visual_tokens):
        evidence = [[Evidence("opacity", map=tokens.mean(dim=-1, keepdim=True))] for tokens in visual_tokens]
        return ImageFeatures(model.project_visual_tokens(visual_tokens), evidence=evidence)

    model.fuse = fuse
    return model


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 3, **EVERY_PROCESSOR}], ids=len)
def test_whatever_both_streams_use_is_in_order(llama, streams, options):
    expected = one_by_one(llama, studies_one_by_one(llama), options)
    with streams:
        found = continuously(llama, studies_one_by_one(llama), options)
    assert found == expected
    assert set(streams.operators) == {0, 1}
    assert min(streams.operators.values()) > 500
    assert streams.shared > 50


def test_evidence_is_handed_over_once_it_is_there_and_before_its_report(streams):
    model = with_evidence(make_model())
    events = []
    with streams:
        for position, _ in generate_continuously(
            model,
            studies_one_by_one(model),
            batch_size=4,
            on_evidence=lambda position, evidence: events.append((position, evidence[0].map.tolist())),
            **settings({"num_beams": 2}),
        ):
            events.append((position, None))
    for position in range(12):
        shown, reported = (value for which, value in events if which == position)
        assert shown is not None
        assert reported is None
    assert streams.operators[1] > 500


class NotAfterTheInputs(SideStream):
    def follow(self, inputs):
        side_stream._keep(inputs, self._stream)


class NotAfterThePrompts(SideStream):
    def join(self, results=()):
        side_stream._keep(results, side_stream.cuda.current_stream(None))


class PromptsNotKept(SideStream):
    def join(self, results=()):
        super().join()


class AfterAnEarlierEvent(SideStream):
    def join(self, results=()):
        before, self._after = self._after, self._before
        super().join(results)
        self._after = before


@pytest.mark.parametrize(
    ("sabotaged", "message"),
    [
        (NotAfterTheInputs, "of stream 1 does not wait for .* of stream 0"),
        (NotAfterThePrompts, "of stream 0 does not wait for .* of stream 1"),
        (AfterAnEarlierEvent, "of stream 0 does not wait for .* of stream 1"),
        (PromptsNotKept, "stream 1 may overwrite what .* of stream 0 uses"),
    ],
)
def test_a_wait_or_a_hold_that_is_left_out_is_found(llama, sabotaged, message, monkeypatch):
    with pytest.raises(Unordered, match=message), made_up_streams(monkeypatch, sabotaged):
        continuously(llama, studies_one_by_one(llama), {"num_beams": 2})


def test_a_prompt_that_touches_what_is_in_work_is_found(llama, streams, monkeypatch):
    prefill = _Batch.prefill

    def meddling(batch, studies):
        if batch.count:
            batch._search.lengths.add_(0)
        return prefill(batch, studies)

    monkeypatch.setattr(_Batch, "prefill", meddling)
    with pytest.raises(Unordered, match=r"add_.* of stream 1 does not wait for .* of stream 0"), streams:
        continuously(llama, studies_one_by_one(llama), {"num_beams": 2})


def free_while_the_work_beside_reads_it(side, kept):
    numbers = torch.arange(4.0)
    side.follow([numbers] if kept else [])
    with side.beside():
        doubled = 2 * numbers
    del numbers
    side.join([doubled])
    return doubled.tolist()


def test_inputs_that_are_freed_while_the_work_beside_reads_them_are_kept(streams):
    side = SideStream(torch.device("cpu"))
    with streams:
        assert free_while_the_work_beside_reads_it(side, kept=True) == [0, 2, 4, 6]
    with pytest.raises(Unordered, match=r"stream 0 may overwrite what .* of stream 1 uses"), streams:
        free_while_the_work_beside_reads_it(side, kept=False)


def test_one_group_of_a_quarter_waits_at_most_and_is_computed_within_a_step(llama, streams, monkeypatch):
    events = []

    def noting(name, function):
        def noted(batch, *arguments):
            events.append((name, batch.count, arguments))
            return function(batch, *arguments)

        return noted

    for name in ("launch_step", "prefill", "finish_step", "admit"):
        monkeypatch.setattr(_Batch, name, noting(name, getattr(_Batch, name)))
    assert len(continuously(llama, make_studies(llama, 17), {"num_beams": 2}, batch_size=8)) == 17
    names = [name for name, _, _ in events]
    waiting = 0
    for before, (name, in_work, arguments), after in zip(["", *names], events, [*names[1:], ""], strict=False):
        waiting += {"prefill": 1, "admit": -1}.get(name, 0)
        assert waiting in (0, 1)
        if name == "prefill" and in_work and before == "launch_step":
            assert after == "finish_step"
            assert len(arguments[0]) <= 2
    assert names.count("prefill") == names.count("admit")
    beside = sum(pair == ("launch_step", "prefill") for pair in itertools.pairwise(names))
    assert beside >= 3


def test_a_step_beside_which_prompts_are_computed_waits_once(llama, streams, monkeypatch):
    with Steps(monkeypatch) as steps:
        continuously(llama, make_studies(llama, 17), {"num_beams": 2}, batch_size=8)
    assert streams.operators[1] > 0
    assert max(steps.waits) == 1


def test_what_a_prompt_waits_for_on_the_processor_is_known(llama, monkeypatch):
    waits = WaitsOfPrompts(monkeypatch, llama)
    with waits:
        continuously(llama, make_studies(llama, 6, lengths=[3]), {"num_beams": 3}, batch_size=6)
    # Before the encoder: what `generate` asks of special tokens, ids and mask, and which views there are. Its stream
    # has nothing else to do then. Behind it: whether there are as many placeholders as image tokens.
    assert 0 < waits.before_the_encoder <= 7
    assert waits.behind_the_encoder <= 1


def test_a_study_that_does_not_fit_is_refused_beside_a_step_and_leaves_nothing_unordered(llama, streams):
    def studies():
        yield from make_studies(llama, 8)
        broken = make_studies(llama, 1)[0]
        yield {**broken, "input_ids": broken["input_ids"].clamp(max=5)}

    with streams:
        with pytest.raises(ValueError, match="the prompts hold no placeholder"):
            continuously(llama, studies(), {}, batch_size=4)
        for parameter in llama.parameters():
            parameter.data.mul_(1)


def test_prompts_that_the_model_itself_completes_are_in_order_too(streams):
    processor = disease_aware_processor()
    model = with_memory(tiny_disease_aware(processor), processor)
    options = {"max_new_tokens": 6, "do_sample": False}
    studies = [*phantoms()["test"], *phantoms()["validation"], phantoms()["train"][0]]

    def prepared():
        opened = (prepare_study(processor, study, None, is_open=True) for study in studies)
        return with_recalled_prompts(model, processor, opened, 2)

    expected = [model.generate(**study, **options)[0, study["input_ids"].shape[1] :].tolist() for study in prepared()]
    evidence = {}
    with streams:
        reports = generate_continuously(
            model, prepared(), batch_size=2, on_evidence=lambda *shown: evidence.update([shown]), **options
        )
        found = dict(reports)
    assert [found[position].tolist() for position in range(6)] == expected
    assert set(evidence) == set(range(6))
    assert streams.operators[1] > 100


def test_a_generator_that_is_closed_early_leaves_nothing_unordered(llama, streams):
    with streams:
        reports = generate_continuously(llama, studies_one_by_one(llama), batch_size=4, **settings({}))
        next(reports)
        prompts = streams.operators[1]
        reports.close()
        assert prompts > 0
        # The stream in hand may write what the other one has read.
        for parameter in llama.parameters():
            parameter.data.mul_(1)


def test_a_model_on_a_cpu_has_no_side_stream(llama):
    assert side_stream_for(llama) is None
