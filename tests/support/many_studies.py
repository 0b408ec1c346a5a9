"""Many studies for a small report generator, and their reports, one by one and by the engine for many."""

import torch
from tiny import IMAGE_TOKEN_ID, VOCABULARY, tiny_model

from mambaxray.modeling_mambaxray.generation.continuous_generation import generate_continuously

EOS = 2
COUNT = 9


def make_model(text="llama", **more):
    """Random weights whose reports end at many lengths."""
    model = tiny_model(text=text, **more)
    with torch.no_grad():
        # The end is about as probable as any other word, so about half the reports reach it.
        model.language_model.get_output_embeddings().weight[EOS] *= 1.3
    return model


def make_studies(model, count=COUNT, seed=0, lengths=(3, 3, 5)):
    """Studies of one or two views, with prompts of several lengths."""
    generator = torch.Generator().manual_seed(seed)
    studies = []
    for number in range(count):
        words = torch.randint(3, VOCABULARY, (1, lengths[number % len(lengths)]), generator=generator)
        image = torch.full((1, model.config.num_image_tokens), IMAGE_TOKEN_ID)
        ids = torch.cat([torch.ones(1, 1, dtype=torch.long), image, words], dim=1)
        views = 1 + number % 2
        studies.append(
            {
                "input_ids": ids,
                "attention_mask": torch.ones_like(ids),
                "pixel_values": 3 * torch.randn(1, views, 3, 32, 32, generator=generator),
                "view_mask": torch.ones(1, views, dtype=torch.bool),
            }
        )
    return studies


def until_end(tokens, ends):
    """A report up to its end, without what pads it in a batch."""
    ids = tokens.tolist()
    return next((ids[: place + 1] for place, token in enumerate(ids) if token in ends), ids)


def settings(options):
    return {"max_new_tokens": 12, "do_sample": False, **options}


def ends_of(options):
    ends = options.get("eos_token_id", EOS)
    return [] if ends is None else [ends] if isinstance(ends, int) else ends


def one_by_one(model, studies, options):
    found = []
    for study in studies:
        tokens = model.generate(**study, **settings(options))
        found.append(until_end(tokens[0, study["input_ids"].shape[1] :], ends_of(options)))
    return found


def continuously(model, studies, options, batch_size=4):
    found = {}
    for position, tokens in generate_continuously(model, studies, batch_size=batch_size, **settings(options)):
        assert position not in found
        found[position] = until_end(tokens, ends_of(options))
    return [found[position] for position in range(len(found))]
