"""A pack of rows is to its model what the rows are one by one."""

import inspect

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from qatune.model import attention
from qatune.model.attention import attend_by_rows
from qatune.model.batches import packed, padded

SHAPE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=4),
    "qwen3": Qwen3Config(**SHAPE, layer_types=["full_attention", "sliding_attention"],
                         use_sliding_window=True, sliding_window=3),
    "gpt2": GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2, n_positions=32,
                       attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0),
}  # fmt: skip
LENGTHS = (7, 1, 12, 3)
TAUGHT = {"labels", "predicting"}


@pytest.fixture(params=CONFIGS)
def model(request):
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(CONFIGS[request.param], attn_implementation="sdpa")
    return made.train()


def rows(lengths=LENGTHS):
    draw = torch.Generator().manual_seed(1)
    drawn = [torch.randint(1, 64, (length,), generator=draw) for length in lengths]
    return [(ids, ids.clone()) for ids in drawn]


def hidden(model, part):
    inputs = {name: value for name, value in part.items() if name not in TAUGHT}
    return model.base_model(**inputs, use_cache=False).last_hidden_state


def test_each_row_is_computed_as_if_alone(model):
    alone = torch.cat([hidden(model, padded([row], 0))[0] for row in rows()])
    alone.square().sum().backward()
    gradients = [each.grad.clone() for each in model.base_model.parameters()]
    model.zero_grad()
    assert attend_by_rows(model)
    together = hidden(model, packed(rows()))[0]
    together.square().sum().backward()
    torch.testing.assert_close(together, alone)
    for found, wanted in zip(model.base_model.parameters(), gradients, strict=True):
        torch.testing.assert_close(found.grad, wanted, rtol=1e-4, atol=1e-4)


def test_padded_batches_go_on_as_before(model):
    part = padded(rows(), 0)
    usual = hidden(model, part)
    attend_by_rows(model)
    kept = part["attention_mask"].bool()
    torch.testing.assert_close(hidden(model, part)[kept], usual[kept])


def test_a_row_knows_nothing_of_the_one_before(model):
    attend_by_rows(model)
    first, second = rows((6, 9)), rows((6, 9))
    second[0] = (second[0][0].flip(0), second[0][1])
    ends = [hidden(model, packed(each))[0, 6:] for each in (first, second)]
    assert torch.equal(*ends)


def test_an_architecture_that_mixes_rows_otherwise_is_refused():
    gemma = AutoModelForCausalLM.from_config(Gemma2Config(**SHAPE))
    usual = gemma.config._attn_implementation
    assert not attend_by_rows(gemma)
    assert gemma.config._attn_implementation == usual


def test_on_a_gpu_one_kernel_takes_all_rows(monkeypatch):
    """The kernel itself needs a GPU: what it is given is compared with its signature."""
    given = {}

    def kernel(*args, **named):
        given.update(inspect.signature(varlen_attn).bind(*args, **named).arguments)
        return args[0]

    class OnGpu(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(attention, "varlen_attn", kernel)
    query, key = (torch.zeros(1, heads, 10, 8, dtype=torch.bfloat16) for heads in (4, 2))
    bounds = torch.tensor([0, 4, 10], dtype=torch.int32)
    found, _ = attention.rows_attention(
        None, query.as_subclass(OnGpu), key, key, None, row_bounds=bounds.tolist(),
        cu_seq_lens_q=bounds, max_length_q=6, sliding_window=5, scaling=0.5, dropout=0.0,
    )  # fmt: skip
    assert found.shape == (1, 10, 4, 8)
    assert given["query"].shape == (10, 4, 8)
    assert given["key"].shape == given["value"].shape == (10, 2, 8)
    assert given["cu_seq_q"] is given["cu_seq_k"] is bounds
    assert (given["max_q"], given["max_k"]) == (6, 6)
    assert (given["scale"], given["window_size"], given["enable_gqa"]) == (0.5, (4, 0), True)
