"""The cache of continuous generation: what beams share is there once, and what nobody sees is used again."""

import pytest
import torch
from transformers import DynamicCache

from mambaxray.modeling_mambaxray.generation.slot_cache import SLOT_MULTIPLE, SlotCache

HEADS, SIZE, PROMPT = 2, 4, 5


def prompts(studies, length=PROMPT):
    cache = DynamicCache()
    for layer in range(2):
        keys = torch.arange(studies * HEADS * length * SIZE).view(studies, HEADS, length, SIZE) + 1000.0 * layer
        cache.update(keys, -keys, layer)
    return cache


@pytest.fixture
def cache():
    cache = SlotCache(2, rows=3, num_beams=2, device=torch.device("cpu"))
    cache.put_prompts(0, prompts(2))
    return cache


def add_tokens(cache, count, value):
    """One token per beam; returns what the first layer hands to the attention, and the mask."""
    cache.set_extents(0, cache.reserve(slice(0, count)).tolist())
    cache.begin_step(count)
    mask = cache.mask
    states = torch.full((count, HEADS, 2, SIZE), float(value))
    (keys, _), _ = [cache.update(states, states, layer) for layer in range(2)]
    return keys, mask


def seen(keys, mask, study, beam):
    """First component of the first head's keys that a beam sees."""
    return keys[study, 0, mask[study, 0, beam], 0].tolist()


def test_beams_share_the_prompt_and_see_their_own_words_only(cache):
    prompt = prompts(2).layers[0].keys
    keys, mask = add_tokens(cache, 2, 7)
    assert keys.shape == (2, HEADS, SLOT_MULTIPLE, SIZE), "one row per study: the prompt is there once"
    assert mask.sum() == 2 * 2 * (PROMPT + 1)
    for study in range(2):
        for beam in range(2):
            assert seen(keys, mask, study, beam) == [*prompt[study, 0, :, 0].tolist(), 7]
    assert not (mask[:, 0, 0, PROMPT:] & mask[:, 0, 1, PROMPT:]).any()


def test_following_another_beam_copies_no_keys(cache):
    add_tokens(cache, 2, 7)
    before = [(layer.keys.data_ptr(), layer.keys.clone()) for layer in cache.layers]
    cache.follow(slice(0, 2), torch.tensor([[1, 1], [0, 1]]))
    for layer, (place, keys) in zip(cache.layers, before, strict=True):
        assert layer.keys.data_ptr() == place
        assert torch.equal(layer.keys, keys)
    assert torch.equal(cache.visible[0, 0], cache.visible[0, 1])
    assert not torch.equal(cache.visible[1, 0], cache.visible[1, 1])


def test_slots_of_words_that_no_beam_sees_are_used_again(cache):
    for step in range(30):
        cache.follow(slice(0, 2), torch.zeros(2, 2, dtype=torch.long))
        keys, mask = add_tokens(cache, 2, step)
    # One common path of 29 tokens, and two newest ones.
    assert mask.any(2).sum(-1).tolist() == [[PROMPT + 29 + 2]] * 2
    assert keys.shape[2] == SLOT_MULTIPLE
    assert seen(keys, mask, 0, 0)[PROMPT:] == seen(keys, mask, 0, 1)[PROMPT:]
    assert sorted(seen(keys, mask, 0, 0)[PROMPT:]) == list(range(30))


def test_a_row_moves_with_all_that_it_holds_and_a_new_study_replaces_it(cache):
    keys, mask = add_tokens(cache, 2, 7)
    expected = seen(keys, mask, 1, 1)
    cache.move([1], [0])
    keys, mask = add_tokens(cache, 1, 8)
    assert seen(keys, mask, 0, 1) == [*expected, 8]
    cache.put_prompts(1, prompts(1, length=3))
    keys, mask = add_tokens(cache, 2, 9)
    assert len(seen(keys, mask, 1, 0)) == 4
    assert seen(keys, mask, 0, 1) == [*expected, 8, 9]
