"""Early stopping that an interruption does not put off."""

from typing import Any

from transformers import EarlyStoppingCallback, TrainerControl, TrainerState, TrainingArguments


class ResumableEarlyStopping(EarlyStoppingCallback):
    """Stops a training when the best metric has not improved for some evaluations, and goes on counting them when it is
    resumed. The Trainer begins to count anew, or takes the patience from the checkpoint, too, which a recipe may change
    (`restore_callback_states_from_checkpoint`, transformers 5.24)."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.early_stopping_patience_counter = self._counted(state)

    def has_stopped(self, state: TrainerState) -> bool:
        """Whether a training has come to its end by this, going by the state that a checkpoint holds."""
        return self._counted(state) >= self.early_stopping_patience

    def _counted(self, state: TrainerState) -> int:
        saved = state.stateful_callbacks.get(type(self).__name__) or {}
        return saved.get("attributes", {}).get("early_stopping_patience_counter", 0)


__all__ = ["ResumableEarlyStopping"]
