"""TRL's SFTTrainer over rows that are tokenized already.

What it adds: an order of rows that a restart can know, a loss over supervised tokens only,
checkpoints of exactly what the result depends on, and processes that train together. Of these the
library knows nothing: each of them trains as if it were alone, but that gradients are summed.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PrinterCallback
from trl import SFTConfig, SFTTrainer

from qatune import config, log
from qatune.errors import BadRecipeError
from qatune.model import adapters, devices
from qatune.model.batches import Collator, EpochSteps, padded
from qatune.model.distributed import Peers
from qatune.model.dropout import draw_faster
from qatune.model.flops import Work
from qatune.model.loading import LoadedModel
from qatune.model.lora import fuse
from qatune.model.loss import return_answer_nll
from qatune.model.scoring import IGNORED

_SEED_BYTES = 8


def total_steps(rows: int, train: config.Train, processes: int) -> int:
    """Count the optimizer steps of the whole training."""
    if train.max_steps:
        return train.max_steps
    in_step = train.per_device_train_batch_size * train.gradient_accumulation_steps * processes
    return math.ceil(train.num_train_epochs * math.ceil(rows / in_step))


def optimizer_name(wanted: str, device: str, note: Callable[[str], None]) -> str:
    """Return the recipe's optimizer, or the one that stands in where it cannot run."""
    if wanted.startswith("paged_") and device != "cuda":
        note(f"train.optim {wanted} needs a GPU: adamw_torch_fused is used instead")
        return "adamw_torch_fused"
    return wanted


def settings(
    train: config.Train, *, optim: str, loaded: LoadedModel, steps: int, folder: Path, saves: bool
) -> SFTConfig:
    """Spell out what TRL would decide by itself, and keep it from logging and evaluating."""
    on_gpu = loaded.device == "cuda"
    settings = SFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        optim=optim,
        learning_rate=train.learning_rate,
        lr_scheduler_type=train.lr_scheduler_type,
        warmup_steps=math.ceil(steps * train.warmup_ratio),
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        # For the library a step is one batch; how it is divided is AdapterTrainer's matter.
        per_device_train_batch_size=(
            train.per_device_train_batch_size * train.gradient_accumulation_steps
        ),
        activation_checkpointing=train.gradient_checkpointing is True,
        # Autocast lets the float32 adapter multiply in 16 bits, too.
        bf16=loaded.dtype == "bfloat16",
        fp16=on_gpu and loaded.dtype == "float16",
        use_cpu=not on_gpu,
        seed=train.seed,
        save_strategy="steps" if saves else "no",
        save_steps=train.save_steps,
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
    settings._n_gpu = min(settings.n_gpu, 1)  # noqa: SLF001 - it would split batches over all it sees
    return settings


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
        packed: bool,
        callbacks: Sequence[Any],
        peers: Peers,
    ) -> None:
        self._peers, self._seed = peers, train.seed
        self._divided = train.fsdp and peers.size > 1
        # Of divided layers all compute the same at once: none may change how by itself.
        self._may_recompute = train.gradient_checkpointing == "auto" and not self._divided
        self.recomputes = False
        """Whether a step did not fit, so that activations are computed again since then."""
        # A GPU is the faster the more it gets at once; a CPU only takes more memory for it.
        pack_rows = 1 if args.use_cpu else train.per_device_train_batch_size
        self._steps = EpochSteps([min(length, limit) for length in lengths], train, peers)
        self.work, self.positions = Work(), 0
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            data_collator=Collator(
                tokenizer.pad_token_id,
                limit,
                rows=train.per_device_train_batch_size,
                completion_only=train.completion_only_loss,
                pack_tokens=pack_rows * limit if packed else 0,
            ),
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        self.remove_callback(PrinterCallback)  # stdout is for results
        return_answer_nll(self.model.get_base_model())
        if args.use_cpu:
            fuse(self.model)
            draw_faster(self.model)
        adapters.in_float32(self.model)  # TRL has made the adapter of a 4-bit base bfloat16
        for parameter in self._trained():
            peers.share(parameter.data)
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
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor
    ) -> Tensor:
        """Take the step's parts; once more with less memory if they do not fit into it."""
        if not self._parts_fit(model, inputs, num_items_in_batch):
            self._recompute_activations()  # only here is the error gone, and with it what it held
            self._parts_fit(model, inputs, num_items_in_batch)
        self.work += Work(inputs["tokens"], inputs["supervised"], inputs["squares"])
        self.positions += inputs["positions"]
        self.step_tokens = num_items_in_batch
        self._add_up()
        return self.step_loss

    def _parts_fit(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor) -> bool:
        """Take the parts; False if they did not fit and may do so with less memory."""
        try:
            self._take_parts(model, inputs, num_items_in_batch)
        except torch.OutOfMemoryError as error:
            self._refuse_unless_recomputing_may_help(error)
            return False
        return True

    def _take_parts(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Tensor) -> None:
        """Compute the parts one by one; the sum of their gradients is the step's."""
        parts = [*inputs["parts"], *self._idle_parts(len(inputs["parts"]))]
        for number, part in enumerate(parts):
            self._draw_anew(number)
            self.step_loss += super().training_step(model, part, num_items_in_batch)
        if not parts:
            self._nothing_to_learn()

    def _refuse_unless_recomputing_may_help(self, error: torch.OutOfMemoryError) -> None:
        model = self.model.get_base_model()
        could = model.supports_gradient_checkpointing and not model.is_activation_checkpointing
        if not could or not self._may_recompute:
            first = "set gradient_checkpointing to true, or " if could else ""
            raise BadRecipeError(
                f"recipe.train: step {self.state.global_step + 1} does not fit into the memory of "
                f"the GPU; {first}lower per_device_train_batch_size (and raise "
                "gradient_accumulation_steps) or max_length"
            ) from error

    def _recompute_activations(self) -> None:
        self.recomputes = True
        log.get().warning(
            "the step does not fit into the memory of the GPU: activations are computed again",
            step=self.state.global_step + 1,
        )
        self.model.zero_grad(set_to_none=True)
        self.step_loss = torch.zeros_like(self.step_loss)
        devices.free_memory()
        self.model.activation_checkpointing_enable()

    def _idle_parts(self, own: int) -> list[dict[str, Any]]:
        """Return what to compute while others compute more, of layers that are divided."""
        if not self._divided:
            return []
        nothing = (torch.tensor([self.processing_class.pad_token_id]), torch.tensor([IGNORED]))
        return [padded([nothing], 0)] * (self._peers.most(own) - own)

    def _draw_anew(self, part: int) -> None:
        """Make the draws of dropout a function of step, process and part.

        So a restart needs no state of generators, wherever it is, and no two processes have the
        same masks.
        """
        place = f"{self._seed}:{self.state.global_step}:{self._peers.rank}:{part}"
        digest = hashlib.sha256(place.encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:_SEED_BYTES], "little", signed=True))

    def _nothing_to_learn(self) -> None:
        """Stand in for a step without rows, with all that one does but the gradients."""
        loss = torch.zeros((), device=self.args.device, requires_grad=True)
        self.accelerator.backward(loss)  # in float16 it prepares the scale of the gradients

    def _add_up(self) -> None:
        """Make loss and gradients those of all processes together."""
        if self._peers.size == 1:
            return
        parameters = list(self._trained())
        own = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
        together = torch.cat([self.step_loss.reshape(1), *(grad.reshape(-1) for grad in own)])
        self._peers.add(together)
        loss, *grads = together.split([1, *(grad.numel() for grad in own)])
        self.step_loss = loss.reshape(())
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad.view_as(parameter)

    def _trained(self) -> Iterator[Tensor]:
        return (each for each in self.model.parameters() if each.requires_grad)

    def _get_num_items_in_batch(self, batch_samples: Any, device: Any) -> Tensor:
        """Count the supervised tokens of the step that begins, over all processes."""
        (tokens,) = self._peers.totals(sum(batch["supervised"] for batch in batch_samples))
        return torch.tensor(float(tokens), device=device)

    def take_step_loss(self) -> Tensor:
        """Return the loss of the step that has just ended, and begin the next one's."""
        loss, self.step_loss = self.step_loss, torch.zeros_like(self.step_loss)
        return loss

    def load_adapter(self, checkpoint_folder: Path) -> None:
        adapters.load_weights(self.model, checkpoint_folder)

    def get_train_dataloader(self) -> DataLoader:
        return self.accelerator.prepare(
            DataLoader(
                self.train_dataset,
                batch_sampler=self._steps,
                collate_fn=self.data_collator,
                pin_memory=self.args.dataloader_pin_memory,
            )
        )

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        self.step_norm = torch.as_tensor(super()._get_grad_norm(model, grad_norm))
        return self.step_norm

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        adapters.save_weights(self.model, Path(output_dir or self.args.output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:  # noqa: ARG002
        self.load_adapter(Path(resume_from_checkpoint))

    def _save_rng_state(self, _folder: str) -> None:
        """Save none: nothing depends on it."""

    def _load_rng_state(self, _folder: str | None) -> None:
        """Load none: nothing depends on it."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none into checkpoints: the adapter gets its own."""

    def _send_telemetry(self) -> None:
        """Report nothing to anyone."""
