"""What a training computes, by hand, and what devices can."""

import pytest
from tests.support.tiny import tiny_gpt2
from transformers import AutoConfig, BitsAndBytesConfig, MambaConfig

from qatune.model.checks import skeleton
from qatune.model.flops import Work, device_peak, layer_shapes, training_flops

WIDTH, LAYERS = 32, 2


@pytest.fixture(name="config")
def _config(tmp_path):
    return AutoConfig.from_pretrained(tiny_gpt2(tmp_path))  # its head is tied


def test_flops_are_those_of_the_formula(config):
    model = skeleton(config)
    assert sorted(layer_shapes(model)) == sorted(
        [(WIDTH, 3 * WIDTH), (WIDTH, WIDTH), (WIDTH, 4 * WIDTH), (4 * WIDTH, WIDTH)] * LAYERS
    )
    found = training_flops(model, Work(10, 3, 10**2) + Work(20, 4, 20**2))
    in_layers = 4 * LAYERS * 12 * WIDTH**2 * 30
    attention = 6 * LAYERS * WIDTH * (10**2 + 20**2)
    assert found == in_layers + 4 * config.vocab_size * WIDTH * 7 + attention


def test_a_quantized_model_computes_as_much(config):
    plain = layer_shapes(skeleton(config))
    config.quantization_config = BitsAndBytesConfig(load_in_4bit=True)
    assert layer_shapes(skeleton(config)) == plain
    assert config.quantization_config is not None


def test_what_has_no_attention_has_none_counted():
    model = skeleton(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1))
    layers = sum(rows * columns for rows, columns in layer_shapes(model))
    assert layers > 0
    assert training_flops(model, Work(10, 4, 100)) == 4 * layers * 10 + 4 * 64 * 16 * 4


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("Tesla T4", 65e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("NVIDIA L40", None),
        ("AMD EPYC", None),
    ],
)
def test_the_peak_of_a_device_is_found_by_its_name(name, peak):
    assert device_peak(name) == peak
