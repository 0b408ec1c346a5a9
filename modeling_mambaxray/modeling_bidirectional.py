"""Bidirectional learning: a report generator that in training also goes from reports back to images.

Vision to text is the base class. Text to vision lets the same language model predict the image embeddings from the
report, and the image is reconstructed from what it predicts. Both are there for training only: a model that is saved
for use is the base class's with the same parts.
"""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEDecoder

from ..configuration.configuration_bidirectional import BIDIRECTIONAL_STUDY_INPUTS, BidirectionalConfig
from ..configuration.study_inputs import PRIOR_IMAGE_INPUTS
from ..configuration.vision_tokens import visual_width
from .layers.given_inputs import check_study_inputs
from .layers.image_decoder import ImageDecoder, load_image_decoder
from .layers.image_features import ImageFeatures
from .layers.report_encoder import without_pooler
from .layers.views import mean_over_views, one_mask, present_views
from .layers.word_contrast import INITIAL_LOGIT_SCALE, WordContrast
from .modeling_mambaxray import MambaXrayForConditionalGeneration
from .parts.given_parts import given_part
from .parts.pretrained_parts import pretrained_part
from .parts.text_encoder import load_text_encoder


class BidirectionalForConditionalGeneration(MambaXrayForConditionalGeneration):
    """A report generator whose frozen language model also predicts image embeddings from reports in training.

    The losses, each in the output and in the log, with their weights in the configuration:

    - `report`, from vision to text (VTC, eq. 1);
    - `text_to_vision` (TVC, eq. 2 and 5): how far the embeddings that the language model makes of the report are from
      those that the projection makes of the image;
    - `reconstruction` (REC): mean squared error, over all pixels and channels, of the image that is made of the former;
    - `contrastive`: the paper's CLIP row.

    The first and the last are means over studies, the others over images: each view has its own embeddings, and its own
    sentence in the text. They need the study inputs that only training has.

    The language model should be frozen (`freeze_language_model`); gradients flow through it to everything else.

    Attributes:
        text_encoder, text_mapper: from the report to the language model's space.
        visual_queries: what the image embeddings are predicted at, in the mode `"queries"`.
        inverse_mapper, image_decoder: from the language model's space to pixels.
        contrast: the contrastive loss's projections.

    All of these are None where they are not needed, or were not saved.

    Source: the paper on bidirectional learning.
    """

    config_class = BidirectionalConfig
    study_inputs = BIDIRECTIONAL_STUDY_INPUTS
    training_only_parts: ClassVar[tuple[str, ...]] = (
        "text_encoder",
        "text_mapper",
        "visual_queries",
        "inverse_mapper",
        "image_decoder",
        "contrast",
    )

    def __init__(self, config: BidirectionalConfig):
        super().__init__(config)
        if not config.projector_layer_norm:
            self.layer_norm = nn.Identity()
        wanted = {name for name, weight in config.loss_weights.items() if weight and config.training_parts}
        to_vision = bool(wanted & {"text_to_vision", "reconstruction"})
        vision, words = visual_width(config.vision_config), self.get_input_embeddings().embedding_dim
        for name in self.training_only_parts:
            setattr(self, name, None)
        if to_vision:
            text = config.text_encoder_config
            self.text_encoder = given_part(self, "text_encoder") or AutoModel.from_config(text, **without_pooler(text))
            self.text_mapper = nn.Linear(text.hidden_size, words)
        if to_vision and config.text_to_vision_mode == "queries":
            self.visual_queries = nn.Embedding(config.visual_sequence_length, words)
        if "reconstruction" in wanted:
            self.inverse_mapper = nn.Linear(words, vision)
            self.image_decoder = ImageDecoder(config.image_decoder_config(), given_part(self, "image_decoder"))
        if "contrastive" in wanted:
            self.contrast = WordContrast(vision, words, config.contrastive_width)
        self.post_init()

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        vision_encoder: str | PreTrainedModel,
        language_model: str | PreTrainedModel,
        *,
        text_encoder: str | PreTrainedModel | None = None,
        image_decoder: str | ViTMAEDecoder | None = None,
        **kwargs: Any,
    ) -> Self:
        """As in the base class, with the fields of `BidirectionalConfig` among the arguments.

        Args:
            vision_encoder, language_model, kwargs: as there.
            text_encoder: folder or Hub name of any `AutoModel` text encoder or of a BLIP captioner, whose BERT is
                taken, or such an encoder; a new one by `text_encoder_config` when not given.
            image_decoder: folder or Hub name of a `ViTMAEForPreTraining`, whose decoder is taken, or such a decoder; a
                new one when not given.
        """
        parts: dict[str, nn.Module] = {}
        if text_encoder is not None:
            parts["text_encoder"] = pretrained_part(text_encoder, load_text_encoder)
            kwargs["text_encoder_config"] = parts["text_encoder"].config
        if image_decoder is not None:
            decoder = parts["image_decoder"] = pretrained_part(image_decoder, load_image_decoder)
            names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
            kwargs["image_decoder_sizes"] = {f"decoder_{name}": getattr(decoder.config, name) for name in names}
        return super().from_encoder_decoder_pretrained(vision_encoder, language_model, given_parts=parts, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=0.02)
        elif isinstance(module, ViTMAEDecoder):
            module.initialize_weights(module.decoder_pos_embed.shape[1] - 1)
        elif isinstance(module, ImageDecoder):
            init.normal_(module.cls_token, std=0.02)
        elif isinstance(module, WordContrast):
            init.constant_(module.logit_scale, INITIAL_LOGIT_SCALE)

    def encode_images(self, images: Tensor) -> Tensor:
        """The patches among the visual tokens: as in the base class, without `cls` and the like."""
        tokens, positions = super().encode_images(images), self.config.encoder_positions
        return tokens if positions is None or len(positions) == tokens.shape[1] else tokens[:, positions]

    def get_image_features(
        self,
        pixel_values: Tensor | None = None,
        view_mask: Tensor | None = None,
        *,
        pixel_attention_mask: Tensor | None = None,
        visual_tokens: Tensor | None = None,
        return_dict: bool = True,
        **study_inputs: Tensor,
    ) -> ImageFeatures:
        """As in the base class; with the study inputs of training also the losses, which are of each image by itself.

        Arguments and errors as there.

        Raises:
            ValueError: there are no images, or other numbers of views than texts, to take losses of; or the model is to
                be trained and was saved without the parts for it.
        """
        prior = {name: value for name, value in study_inputs.items() if name in PRIOR_IMAGE_INPUTS}
        if study_inputs.keys() == prior.keys() or not self._has_training_parts():
            return super().get_image_features(
                pixel_values,
                view_mask,
                pixel_attention_mask=pixel_attention_mask,
                visual_tokens=visual_tokens,
                **study_inputs,
            )
        check_study_inputs(study_inputs, self.study_inputs, type(self).__name__)
        if pixel_values is None or visual_tokens is not None:
            raise ValueError("reports are learned from to make embeddings of each image: give pixel_values")
        mask = one_mask(view_mask, pixel_attention_mask)
        images, views_per_study = present_views(pixel_values, mask)
        tokens = self.encode_images(images)
        study_tokens = mean_over_views(tokens, views_per_study)
        features = super().get_image_features(visual_tokens=study_tokens, **prior)
        features.losses, features.metrics = {}, {}
        if self.text_encoder is not None:
            texts, prompt = (study_inputs.get(name) for name in ("report_input_ids", "vision_prompt_ids"))
            if texts is not None and prompt is not None:
                shape = pixel_values.shape[:2] if pixel_values.ndim == 5 else (len(pixel_values), 1)
                if texts.shape[:2] != shape:
                    raise ValueError(
                        f"report_input_ids are for {tuple(texts.shape[:2])} studies and views, not {shape}"
                    )
                present = torch.ones(shape, dtype=torch.bool) if mask is None else mask.bool()
                self._add_image_losses(features, images, tokens, texts, present.to(texts.device), prompt)
        words = study_inputs.get("report_word_ids")
        if self.contrast is not None and words is not None:
            embedded = self.get_input_embeddings()(words.clamp(min=0))
            features.losses["contrastive"] = self.contrast(study_tokens, embedded, words >= 0)
        return features

    def _has_training_parts(self) -> bool:
        weights, parts = self.config.loss_weights, (self.text_encoder, self.contrast)
        has_any = any(part is not None for part in parts)
        if self.training and not has_any and any(weights[name] for name in self.config.loss_names[1:]):
            raise ValueError(
                "the model was saved without the parts that only training needs: train from a checkpoint or from a "
                "model that was saved with save_training_parts=True, or make one with build_generator"
            )
        return has_any

    def _add_image_losses(
        self, features: ImageFeatures, images: Tensor, tokens: Tensor, texts: Tensor, present: Tensor, prompt: Tensor
    ) -> None:
        """Losses and metrics of images `(images, channels, height, width)`, those of `present` `(batch, views)`, with
        texts `(batch, views, length)`."""
        has_text = (texts >= 0).any(dim=-1)[present]
        if not has_text.all():
            images, tokens = images[has_text], tokens[has_text]
        if not len(images):
            return
        target = self.project_visual_tokens(tokens)
        generated = self.embeddings_of_reports(texts[present][has_text], prompt, target)
        features.metrics["visual_embedding_norm"] = target.detach().float().norm(dim=-1).mean()
        features.metrics["generated_embedding_norm"] = generated.detach().float().norm(dim=-1).mean()
        if self.config.loss_weights["text_to_vision"]:
            features.losses["text_to_vision"] = self._distance(generated, target)
        if self.image_decoder is not None:
            features.losses["reconstruction"] = F.mse_loss(self.reconstruct(generated).float(), images.float())
        if not self.training and len(texts) > 1 and has_text.all():
            # Each image with the report of the next study, by the view of the same number where that has one.
            others = texts.roll(1, dims=0)
            others = torch.where((others >= 0).any(dim=-1, keepdim=True), others, others[:, :1])
            with torch.no_grad():
                shuffled = self.embeddings_of_reports(others[present], prompt, target)
                features.metrics["text_to_vision_shuffled"] = self._distance(shuffled, target)

    def _distance(self, generated: Tensor, target: Tensor) -> Tensor:
        """Squared distance of embeddings `(images, patches, llm_hidden)`, the mean over images and patches (eq. 5)."""
        trained = self.config.text_to_vision_gradients
        generated = generated.detach() if trained == "target" else generated
        target = target.detach() if trained == "generated" else target
        squared = (generated.float() - target.float()).square()
        width = squared.sum(dim=-1) if self.config.text_to_vision_reduction == "sum" else squared.mean(dim=-1)
        return width.mean()

    def embeddings_of_reports(
        self, report_input_ids: Tensor, vision_prompt_ids: Tensor, image_embeds: Tensor
    ) -> Tensor:
        """What the language model makes of reports in place of image embeddings, `(images, patches, llm_hidden)`: its
        last hidden states where it is to say the next embedding (text to vision, T2V).

        Args:
            report_input_ids: the text encoder's tokens of each image's text, `(images, length)`, -1 behind the end.
            vision_prompt_ids: the prompt `(batch, length)`, the same in every row, with `image_token_id` where the text
                goes, and something behind it.
            image_embeds: the embeddings `(images, patches, llm_hidden)` to be predicted. In the mode `"teacher_forced"`
                each prediction sees those before it, detached; in the mode `"queries"` they are not looked at.

        Raises:
            ValueError: the prompt is not as described, or the model has no parts for it.
        """
        if self.text_encoder is None:
            raise ValueError("the model has no text encoder: it was saved without the parts that only training needs")
        limit = getattr(self.text_encoder.config, "max_position_embeddings", None)
        if limit is not None and report_input_ids.shape[1] > limit:
            raise ValueError(
                f"a text of {report_input_ids.shape[1]} tokens is longer than the {limit} positions of the text "
                f"encoder: set processor.max_text_length = {limit}"
            )
        before, behind = self._split_prompt(vision_prompt_ids)
        mask = report_input_ids >= 0
        states = self.text_encoder(
            input_ids=report_input_ids.clamp(min=0), attention_mask=mask.long(), return_dict=True
        ).last_hidden_state
        text = self.text_mapper(states.to(self.text_mapper.weight.dtype))
        if self.visual_queries is None:
            # What stands before a position is copied with ease; no gradient rewards the encoder for that.
            visual = image_embeds.detach()[:, :-1]
        else:
            visual = self.visual_queries.weight.expand(len(text), -1, -1)
        words = self.get_input_embeddings()
        first, last = (words(ids).expand(len(text), -1, -1) for ids in (before, behind))
        sequence = torch.cat([first, text.to(first), last, visual.to(first)], dim=1)
        attention_mask = torch.cat(
            [mask.new_ones(len(text), first.shape[1]), mask, mask.new_ones(len(text), last.shape[1] + visual.shape[1])],
            dim=1,
        ).long()
        positions = {"position_ids": (attention_mask.cumsum(dim=1) - 1).clamp(min=0)}
        hidden_states = self._decoder_body()(
            inputs_embeds=sequence,
            attention_mask=attention_mask,
            use_cache=False,
            return_dict=True,
            **(positions if self._decoder_interface.takes_positions else {}),
        ).last_hidden_state
        # Teacher-forced, the last word of the prompt says the first embedding.
        return hidden_states[:, -image_embeds.shape[1] :]

    def reconstruct(self, generated: Tensor) -> Tensor:
        """Images `(images, channels, height, width)` of embeddings `(images, patches, llm_hidden)`, in the units of
        `pixel_values`.

        Raises:
            ValueError: the model has no parts for it.
        """
        if self.image_decoder is None:
            raise ValueError("the model has no image decoder: it was saved, or made, without that part")
        return self.image_decoder(self.inverse_mapper(generated.to(self.inverse_mapper.weight.dtype)))

    def _split_prompt(self, vision_prompt_ids: Tensor) -> tuple[Tensor, Tensor]:
        rows = vision_prompt_ids[(vision_prompt_ids >= 0).any(dim=-1)]
        ids = rows[0][rows[0] >= 0] if len(rows) else rows.flatten()
        places = (ids == self.config.image_token_id).nonzero().flatten().tolist()
        if len(places) != 1 or places[0] == len(ids) - 1 or (rows != rows[0]).any():
            raise ValueError(
                "vision_prompt_ids must be the same prompt in every row, with the text's placeholder "
                f"({self.config.image_token_id}) once and words behind it; got {vision_prompt_ids.tolist()}"
            )
        return ids[: places[0]].unsqueeze(0), ids[places[0] + 1 :].unsqueeze(0)


__all__ = ["BidirectionalForConditionalGeneration"]
