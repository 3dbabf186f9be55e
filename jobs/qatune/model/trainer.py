"""TRL's SFTTrainer over rows that are tokenized already.

What it adds: an order of rows that a restart can know, a loss over supervised tokens only, and
checkpoints of exactly what the result depends on.
"""

import math
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.data import Sampler
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from qatune import config
from qatune.data.order import epoch_order
from qatune.model import adapters
from qatune.model.loading import LoadedModel
from qatune.model.scoring import logits

# Positions whose logits exist at once; beyond it they are computed again for the gradient.
_CHUNK_POSITIONS = 512
_IGNORED = -100


def total_steps(rows: int, train: config.Train) -> int:
    """Count the optimizer steps of the whole training."""
    if train.max_steps:
        return train.max_steps
    batches = math.ceil(rows / train.per_device_train_batch_size)
    an_epoch = math.ceil(batches / train.gradient_accumulation_steps)
    return math.ceil(train.num_train_epochs * an_epoch)


def optimizer_name(wanted: str, device: str, note: Callable[[str], None]) -> str:
    """Return the recipe's optimizer, or the one that stands in where it cannot run."""
    if wanted.startswith("paged_") and device != "cuda":
        note(f"train.optim {wanted} needs a GPU: adamw_torch is used instead")
        return "adamw_torch"
    return wanted


def settings(
    train: config.Train, *, optim: str, loaded: LoadedModel, steps: int, folder: Path
) -> SFTConfig:
    """Spell out what TRL would decide by itself, and keep it from logging and evaluating."""
    on_gpu = loaded.device == "cuda"
    return SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        optim=optim,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_scheduler_type,
        warmup_steps=math.ceil(steps * train.warmup_ratio),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        per_device_train_batch_size=train.per_device_train_batch_size,
        gradient_accumulation_steps=train.gradient_accumulation_steps,
        activation_checkpointing=train.gradient_checkpointing,
        # Autocast lets the float32 adapter multiply in 16 bits, too.
        bf16=loaded.dtype == "bfloat16",
        fp16=on_gpu and loaded.dtype == "float16",
        use_cpu=not on_gpu,
        seed=train.seed,
        save_strategy="steps",
        save_steps=train.save_steps,
        save_total_limit=2,  # one may still be on its way to the store
        logging_strategy="no",
        logging_nan_inf_filter=False,
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=on_gpu,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
    )


@dataclass(frozen=True)
class Collator:
    """Makes rows of {input_ids, answer_start} a batch, cut to `limit` and padded on the right.

    Labels follow from `answer_start` alone: a pad token that is also EOS masks no row's end.
    """

    pad_id: int
    limit: int
    completion_only: bool

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        length = min(max(len(row["input_ids"]) for row in rows), self.limit)
        ids = torch.full((len(rows), length), self.pad_id)
        mask = torch.zeros((len(rows), length), dtype=torch.long)
        labels = torch.full((len(rows), length), _IGNORED)
        for index, row in enumerate(rows):
            tokens = torch.tensor(row["input_ids"][: self.limit])
            first = row["answer_start"] if self.completion_only else 0
            ids[index, : len(tokens)] = tokens
            mask[index, : len(tokens)] = 1
            labels[index, first : len(tokens)] = tokens[first:]
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class EpochSampler(Sampler[int]):  # type: ignore[misc] # untyped library
    """Gives the rows in the order of the epoch that it was last told."""

    def __init__(self, lengths: Sequence[int], train: config.Train) -> None:
        self._lengths, self._train, self._epoch = lengths, train, 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        return iter(
            epoch_order(
                self._lengths,
                seed=self._train.seed,
                epoch=self._epoch,
                batch_size=self._train.per_device_train_batch_size,
                grouped=self._train.train_sampling_strategy == "group_by_length",
            )
        )


def answer_nll(
    self: Any, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, **_: Any
) -> dict[str, Tensor]:
    """Forward of a causal model that returns the supervised tokens' summed loss, not logits."""
    hidden = self.base_model(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False
    ).last_hidden_state[:, :-1]
    wanted = labels[:, 1:]
    supervised = wanted != _IGNORED
    chunks = zip(
        hidden[supervised].split(_CHUNK_POSITIONS),
        wanted[supervised].split(_CHUNK_POSITIONS),
        strict=True,
    )
    losses = [
        checkpoint(_chunk_nll, self, *chunk, use_reentrant=False, preserve_rng_state=False)
        for chunk in chunks
    ]
    return {"nll": torch.stack(losses).sum()}


def _chunk_nll(causal_lm: Any, hidden: Tensor, wanted: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(logits(causal_lm, hidden), wanted, reduction="sum")


class AdapterTrainer(SFTTrainer):  # type: ignore[misc] # untyped library
    """Trains the adapter of a peft model. A step's figures are read by its callback."""

    def __init__(
        self,
        model: Any,
        rows: datasets.Dataset,
        lengths: Sequence[int],
        *,
        train: config.Train,
        args: SFTConfig,
        tokenizer: Any,
        limit: int,
        callbacks: Sequence[Any],
    ) -> None:
        self._sampler = EpochSampler([min(length, limit) for length in lengths], train)
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            data_collator=Collator(tokenizer.pad_token_id, limit, train.completion_only_loss),
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)  # stdout is for results
        causal_lm = self.model.get_base_model()
        causal_lm.forward = types.MethodType(answer_nll, causal_lm)
        adapters.in_float32(self.model)  # TRL has made the adapter of a 4-bit base bfloat16
        self.step_loss = torch.zeros((), device=args.device)
        self.step_tokens = torch.zeros((), device=args.device)
        self.step_norm = torch.zeros((), device=args.device)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,  # noqa: ARG002 - the library's signature
        num_items_in_batch: Tensor | None = None,
    ) -> Tensor:
        """Divide by the supervised tokens of the whole step: a row's weight is its tokens."""
        loss: Tensor = model(**inputs)["nll"] / num_items_in_batch
        return loss

    def training_step(
        self, model: Any, inputs: dict[str, Tensor], num_items_in_batch: Tensor
    ) -> Tensor:
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.step_loss += loss
        self.step_tokens = num_items_in_batch
        return loss

    def take_step_loss(self) -> Tensor:
        """Return the loss of the step that has just ended, and begin the next one's."""
        loss, self.step_loss = self.step_loss, torch.zeros_like(self.step_loss)
        return loss

    def load_adapter(self, checkpoint_folder: Path) -> None:
        adapters.load_weights(self.model, checkpoint_folder)

    def _get_train_sampler(self, _dataset: Any = None) -> EpochSampler:
        return self._sampler

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        self.step_norm = torch.as_tensor(super()._get_grad_norm(model, grad_norm))
        return self.step_norm

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        adapters.save_weights(self.model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        self.load_adapter(Path(resume_from_checkpoint))

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none into checkpoints: the adapter gets its own."""

    def _send_telemetry(self) -> None:
        """Report nothing to anyone."""
