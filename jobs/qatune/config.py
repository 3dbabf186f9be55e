"""The recipe: the one definition of every field that a run depends on.

The chart's schema, the reference in docs/ and the command line's messages come from here.
Training fields carry the names that users of TRL and PEFT know.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator


def _whole_number(value: Any) -> Any:
    """Read 1e+06, as Helm prints a million, as the whole number it is."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() else value
    return value


def _number(value: Any) -> Any:
    """Read 2e-4, which PyYAML takes for text, as a number; keep 100 and 0.2 apart."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() else number
    return value


Whole = Annotated[int, BeforeValidator(_whole_number)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[Whole, Field(ge=0, lt=2**32)]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Model(Section):
    """The base model."""

    source: str = Field(min_length=1)
    """A folder, `s3://bucket/prefix`, or (with `revision`) a hub id."""
    revision: str | None = None
    """Branch, tag or commit on the hub. Its presence says that `source` is a hub id."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """How the frozen weights are held: as they are, in 4-bit NormalFloat, or in 8 bits."""
    double_quant: bool = True
    """With nf4: quantize the quantization constants, too."""
    dtype: Dtype = "auto"
    """Compute type. `auto` is bfloat16 where the hardware multiplies it natively, else float32."""


class Columns(Section):
    """Which column of the file is which."""

    question: str = "question"
    answer: str = "answer"
    id: str | None = None
    """Unique per row. Without it a row is named by its number."""
    tests: str | None = None
    """Python's `assert` statements about the answer's code. Naming the column says that evaluate is
    to run what the models answer, in a sandbox. A row without tests is not run."""


class Split(Section):
    """How rows are divided into training and held-out ones."""

    method: Literal["group", "shuffle"] = "group"
    """`group`: one question never lies on both sides. `shuffle`: datasets' train_test_split."""
    test_size: Annotated[float | int, BeforeValidator(_number)] = 0.2
    """Held-out share (below 1) or number of rows."""
    seed: Seed = 42

    @field_validator("test_size")
    @classmethod
    def _share_or_rows(cls, value: float) -> float:
        if isinstance(value, float) and not 0 < value < 1:
            raise ValueError("a share lies between 0 and 1; a number of rows is a whole number")
        if value <= 0:
            raise ValueError("nothing would be held out")
        return value


class Data(Section):
    """The questions and answers."""

    source: str = Field(min_length=1)
    """CSV, JSONL or Parquet, plain or compressed: a path or glob, an `s3://` one, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit on the hub. Its presence says that `source` is a hub id."""
    files: str = "*"
    """With a hub id: which files of the dataset."""
    columns: Columns = Columns()
    template: str = "### Question: {question}\n### Answer: {answer}"
    """The text that the model sees. Ends with `{answer}`."""
    max_length: Whole = Field(1024, gt=0)
    """Longer rows are rejected, counted and kept in `rejected.jsonl`."""
    length_unit: Literal["tokens", "characters"] = "tokens"
    """What `max_length` counts: tokens of the whole row, or characters of its text."""
    drop_duplicates: bool = True
    """Keep the first of rows whose question and answer are the same."""
    split: Split = Split()

    @field_validator("template")
    @classmethod
    def _has_both_parts(cls, value: str) -> str:
        if value.count("{question}") != 1 or value.count("{answer}") != 1:
            raise ValueError("must hold {question} and {answer} once each")
        if not value.endswith("{answer}"):
            raise ValueError("must end with {answer}: the model learns to stop after it")
        return value


class Lora(Section):
    """The adapter, by the names of peft's LoraConfig."""

    r: Whole = Field(16, gt=0)
    lora_alpha: Whole = Field(32, gt=0)
    lora_dropout: Share = 0.0
    bias: Literal["none"] = "none"
    """Trained biases would change the base, too: nothing would be left to compare with."""
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = (
        "all-linear"
    )
    """Names of the layers to adapt, or `all-linear` for every one but the head."""


class Train(Section):
    """LoRA or QLoRA training, by the names of TRL's SFTConfig."""

    lora: Lora = Lora()
    learning_rate: float = Field(2e-4, gt=0)
    lr_scheduler_type: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_ratio: Share = 0.03
    """Share of the steps over which the learning rate rises."""
    optim: Literal["adamw_torch", "adamw_torch_fused", "paged_adamw_32bit", "paged_adamw_8bit"] = (
        "adamw_torch_fused"
    )
    """The paged ones need a GPU; without one adamw_torch_fused stands in, as the manifest says."""
    weight_decay: float = Field(0.001, ge=0)
    max_grad_norm: float = Field(0.3, ge=0)
    per_device_train_batch_size: Whole = Field(8, gt=0)
    gradient_accumulation_steps: Whole = Field(1, gt=0)
    num_train_epochs: float = Field(1, gt=0)
    max_steps: Whole = Field(0, ge=0)
    """Stop after so many steps; 0 leaves it to `num_train_epochs`."""
    train_sampling_strategy: Literal["random", "group_by_length"] = "random"
    """`group_by_length` puts rows of like length into one batch, which saves padding."""
    packing: bool = True
    """Lay a step's rows end to end, each seeing itself alone, instead of padding them: the same
    steps, with nothing computed for padding. A pack takes at most as many tokens as
    `per_device_train_batch_size` rows of `max_length`, on a CPU as one of them."""
    max_length: Whole = Field(1024, gt=0)
    """Longer rows are cut on the right, and counted. At most the model's positions."""
    completion_only_loss: bool = True
    """Learn the answer only. False learns the question's text, too."""
    gradient_checkpointing: Literal["auto"] | bool = "auto"
    """Recompute activations instead of keeping them: less memory, slower. `auto` does so from the
    first step on that does not fit into the memory of the GPU; not with `fsdp`, where all have to
    do the same."""
    fsdp: bool = False
    """Divide the base's layers over the processes (`--nodes`, `--processes`), for one that does not
    fit a single GPU. Not with `quantization`."""
    eval_steps: Whole = Field(100, gt=0)
    """Measure the held-out loss every so many steps, besides the start and the end."""
    per_device_eval_batch_size: Whole = Field(8, gt=0)
    logging_steps: Whole = Field(20, gt=0)
    save_steps: Whole = Field(20, gt=0)
    save_total_limit: Whole = Field(2, gt=0)
    """Checkpoints kept; an older one goes only after a newer one is complete."""
    report_to: tuple[Literal["mlflow", "wandb"], ...] = ()
    """Where the curves are shown, too, while they come: found by the service's own variables, as
    `MLFLOW_TRACKING_URI` and `WANDB_API_KEY`."""
    seed: Seed = 42


class Generate(Section):
    """Batch answers of base and adapter."""

    input: str | None = None
    """A file of questions (any format of `data`, or OpenAI's batch format); none: held-out rows."""
    adapter: str = "train"
    """`train`: this run's. `none`: the base alone. Else a folder or `s3://` prefix."""
    max_new_tokens: Whole = Field(256, gt=0)
    temperature: float = Field(0.0, ge=0)
    """0 takes the likeliest token each time."""
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: Whole = Field(0, ge=0)
    """0 considers every token."""
    seed: Seed = 0
    """Each row draws from its own stream of (seed, id): answers do not depend on the batch."""
    engine: Literal["continuous", "static", "ctranslate2", "vllm"] = "continuous"
    """`static`: batches of rows of like length. `continuous`: an ended row makes room at once.
    `ctranslate2` and `vllm` (GPU) compute by other means: they answer once they showed `parity`."""
    compute_type: Literal["float32", "int8"] = "float32"
    """What ctranslate2 multiplies in."""
    parity: Share = 0.9
    """Share of sampled answers that another engine must give token for token as `continuous` does,
    else that one answers. Two float32 engines may part at a near tie; int8 parts often."""
    batch_size: Whole = Field(16, gt=0)
    """Rows at work together; `continuous` has as many of the base and of the adapter."""
    chunk_rows: Whole = Field(64, gt=0)
    """Rows per part in the store: what an interrupted run has to do again at most."""

    @model_validator(mode="after")
    def _samples_as_we_do(self) -> "Generate":
        if self.temperature > 0 and self.engine in ("ctranslate2", "vllm"):
            raise ValueError(
                f"engine {self.engine} draws otherwise than (seed, id) say: set temperature to 0, "
                "or engine to continuous"
            )
        return self


class Execute(Section):
    """How answers are run against their rows' tests (`data.columns.tests`)."""

    timeout_seconds: Whole = Field(10, gt=0, le=3600)
    """For an answer with its tests, by the clock."""
    memory_mb: Whole = Field(512, ge=64)
    """Address space of an answer, in MiB; the interpreter takes 30 of it."""


class Recipe(Section):
    """What a run does, from the file of questions to the report."""

    model: Model
    data: Data
    train: Train = Train()
    generate: Generate = Generate()
    execute: Execute = Execute()

    @property
    def runs_answers(self) -> bool:
        """Whether evaluate runs code: rows of a file of questions have no tests."""
        return self.data.columns.tests is not None and self.generate.input is None

    @model_validator(mode="after")
    def _divides_plain_weights(self) -> "Recipe":
        if self.train.fsdp and self.model.quantization != "none":
            raise ValueError(
                "train.fsdp divides weights that are not quantized: set model.quantization to "
                "none, or train.fsdp to false"
            )
        return self
