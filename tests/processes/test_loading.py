"""What loading a model takes, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support.checkpoints import write_text_checkpoint

WIDTH = 1024
PEAK = """
import re, sys
from pathlib import Path
import torch
from nemovlm.models.llama_nemotron.weights import load_model

def memory(name):
    return 1024 * int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text()).group(1))

small, large, dtype = sys.argv[1:]
load_model(Path(small), device="cpu", dtype=torch.float32)  # what is needed once
before = memory("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
model = load_model(Path(large), device="cpu", dtype=getattr(torch, dtype))
weights = sum(weight.nbytes for weight in model.parameters())
print((memory("VmHWM") - before) / weights)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_weights_are_loaded_without_a_second_copy(dtype: str, tmp_path: Path) -> None:
    """The peak while a checkpoint is read and converted is at most 1.15 times its weights."""
    small, large = (write_text_checkpoint(tmp_path / name) for name in ("small", "large"))
    config = json.loads((large / "config.json").read_text())
    config |= {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 4, "vocab_size": 16 * WIDTH}
    config |= {"num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": WIDTH // 16}
    (large / "config.json").write_text(json.dumps(config))
    shapes = {"embed_tokens": (16 * WIDTH, WIDTH), "norm": (WIDTH,)}
    for layer in range(4):
        shapes |= {
            f"layers.{layer}.{name}": shape
            for name, shape in {
                "input_layernorm": (WIDTH,),
                "post_attention_layernorm": (WIDTH,),
                "self_attn.q_proj": (WIDTH, WIDTH),
                "self_attn.k_proj": (WIDTH // 2, WIDTH),
                "self_attn.v_proj": (WIDTH // 2, WIDTH),
                "self_attn.o_proj": (WIDTH, WIDTH),
                "mlp.gate_proj": (4 * WIDTH, WIDTH),
                "mlp.up_proj": (4 * WIDTH, WIDTH),
                "mlp.down_proj": (WIDTH, 4 * WIDTH),
            }.items()
        }
    weights = {f"{name}.weight": np.full(shape, 0.25, np.float16) for name, shape in shapes.items()}
    save_file(weights, large / "model.safetensors")
    command = [sys.executable, "-c", PEAK, str(small), str(large), dtype]
    peak = float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert 0.95 <= peak <= 1.15
