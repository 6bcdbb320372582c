# SPDX-License-Identifier: MIT
"""recipes: the blocks of deploy/site/pages/recipes.md, with small models and random tokens for the names that they leave
to the reader. A block runs as it stands on the page, with attnd and without.

As a program it is one rank (ranks.py) of a recipe."""
from __future__ import annotations

import contextlib
import os
import random
import re
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

import ranks
import torch
import torch.distributed as dist
from conftest import client as attnd
from site_pages import PAGES
from torch import nn
from torch.nn import functional

LAYERS, HEADS, KEY_HEADS, WIDTH, TOKENS, WORDS = 2, 4, 2, 32, 12, 64
BATCH, ACCUMULATED, STEPS = 2, 2, 3
PAD, END, OTHER = range(3)  # token numbers that are no word

Names = Dict[str, Any]


def block_of(heading: str) -> str:
    """The program of a section of the page."""
    text = (PAGES / "recipes.md").read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    return re.search(r"^```python\n(.*?)^```$", text, re.S | re.M)[1]


def llama() -> nn.Module:
    import transformers
    torch.manual_seed(1)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KEY_HEADS, max_position_embeddings=64, initializer_range=0.5, pad_token_id=PAD, eos_token_id=END,
        bos_token_id=OTHER))


def token_rows(count: int, seed: int = 3) -> List[torch.Tensor]:
    return list(torch.randint(3, WORDS, (count, TOKENS), generator=torch.Generator().manual_seed(seed)))


def examples(count: int) -> List[Dict[str, torch.Tensor]]:
    return [{"input_ids": row, "labels": row} for row in token_rows(count)]


def tokenizer() -> Any:
    """A word is a token."""
    import tokenizers
    import transformers
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    words = [*special.values(), *(f"w{number}" for number in range(3, WORDS))]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, **special)


def texts(key: str, longest: int) -> Any:
    """A data set of texts of 3 words to `longest`."""
    import datasets
    chosen = random.Random(3)
    return datasets.Dataset.from_list([{key: " ".join(f"w{chosen.randrange(3, WORDS)}" for _ in range(chosen.randint(3, longest)))}
                                       for _ in range(16)])


QUIET = {"report_to": [], "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1, "max_steps": STEPS}


def hugging_face(directory: str) -> Names:
    import transformers
    arguments = transformers.TrainingArguments(directory, per_device_train_batch_size=BATCH,
                                               gradient_accumulation_steps=ACCUMULATED, **{**QUIET, "report_to": ["tensorboard"]})
    return {"model": llama(), "arguments": arguments, "data": examples(STEPS * BATCH * ACCUMULATED)}


def sft(directory: str) -> Names:
    import trl
    arguments = trl.SFTConfig(directory, per_device_train_batch_size=4, bf16=False, max_length=TOKENS, **QUIET)
    return {"model": llama(), "arguments": arguments, "texts": texts("text", TOKENS), "tokenizer": tokenizer()}


def grpo(directory: str) -> Names:
    import trl
    arguments = trl.GRPOConfig(directory, per_device_train_batch_size=4, num_generations=2, num_iterations=2,
                               max_completion_length=6, bf16=False, **{**QUIET, "max_steps": 2 * STEPS})
    return {"model": llama(), "arguments": arguments, "prompts": texts("prompt", 6), "tokenizer": tokenizer(),
            "rewards": lambda completions, **_: [float(len(set(text.split()))) for text in completions]}


def lightnings(directory: str) -> Names:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = llama()

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss = self.model(input_ids=batch, labels=batch).loss
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=1e-3)

    made = Module()
    data = torch.utils.data.DataLoader(torch.stack(token_rows(STEPS * BATCH * ACCUMULATED)), BATCH)
    arguments = {"max_epochs": 1, "accumulate_grad_batches": ACCUMULATED, "accelerator": "cpu", "devices": 1, "logger": False,
                 "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
                 "default_root_dir": directory}
    return {"model": made.model, "module": made, "data": data, "arguments": arguments}


def accelerates(_: str) -> Names:
    import accelerate
    model = llama()
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3),
            "accelerator": accelerate.Accelerator(cpu=True, gradient_accumulation_steps=ACCUMULATED),
            "data": torch.utils.data.DataLoader(examples(STEPS * BATCH * ACCUMULATED), BATCH)}


class CausalSelfAttention(nn.Module):
    """As nanoGPT has it."""

    def __init__(self) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.view(*x.shape[:2], HEADS, -1).transpose(1, 2) for part in self.c_attn(x).split(WIDTH, 2))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view_as(x))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.attn, self.mlp = nn.LayerNorm(WIDTH), CausalSelfAttention(), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(x)


class GPT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = nn.ModuleDict({"wte": nn.Embedding(WORDS, WIDTH), "wpe": nn.Embedding(TOKENS, WIDTH),
                                          "h": nn.ModuleList(Block() for _ in range(LAYERS))})
        self.lm_head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        x = self.transformer.wte(idx) + self.transformer.wpe(torch.arange(idx.size(1), device=idx.device))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(x)


def nano(directory: str) -> Names:
    from torch.utils.tensorboard import SummaryWriter
    torch.manual_seed(1)
    model = GPT()
    rows = torch.stack(token_rows(STEPS * BATCH * ACCUMULATED)).view(STEPS, ACCUMULATED, BATCH, TOKENS)
    return {"model": model, "optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3), "steps": STEPS,
            "accumulate": ACCUMULATED, "writer": SummaryWriter(directory),
            "microbatches": lambda step: [(tokens, tokens.roll(-1, 1)) for tokens in rows[step]],
            "loss_of": lambda logits, targets: functional.cross_entropy(logits.flatten(0, 1), targets.flatten())}


def deepspeeds(_: str, stage: str = "1") -> Names:
    os.environ.update(DS_ACCELERATOR="cpu", LOCAL_SIZE=str(dist.get_world_size()))
    import deepspeed
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would be compiled for two minutes; gloo does it
    config = {"train_micro_batch_size_per_gpu": BATCH, "gradient_accumulation_steps": ACCUMULATED,
              "zero_optimization": {"stage": int(stage), "stage3_param_persistence_threshold": 0},
              "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}}}
    return {"model": llama(), "config": config, "texts": examples(STEPS * BATCH * ACCUMULATED * dist.get_world_size())}


def shared_out(_: str) -> Names:
    from torch.distributed.device_mesh import init_device_mesh
    mesh = init_device_mesh("cpu", (2, dist.get_world_size() // 2), mesh_dim_names=("dp", "tp"))
    rows = torch.stack(token_rows(STEPS * BATCH, seed=mesh["dp"].get_local_rank())).view(STEPS, BATCH, TOKENS)
    return {"model": llama(), "mesh": mesh, "data": [{"input_ids": tokens, "labels": tokens} for tokens in rows]}


def titan(directory: str) -> Names:
    """torchtitan looks for a GPU in four places."""
    os.environ.update(LOCAL_RANK="0", WORLD_SIZE="1", RANK="0")
    torch._utils._get_available_device_type = lambda: "cpu"
    from torchtitan.components import metrics
    from torchtitan.config import ConfigManager
    from torchtitan.distributed import utils
    from torchtitan.hf_datasets import DatasetConfig, text_datasets
    memory = metrics.DeviceMemStats(*[0] * len(metrics.DeviceMemStats._fields))
    metrics.build_device_memory_monitor = lambda: SimpleNamespace(device_name="", get_peak_stats=lambda: memory,
                                                                  reset_peak_stats=lambda: None)
    utils.set_pg_timeouts = lambda *_, **__: None
    utils.init_distributed = lambda *_, **__: 1  # main() did
    tokenizer().save_pretrained(directory)
    text_datasets.DATASETS["words"] = DatasetConfig("", lambda _: texts("text", 200), lambda sample: sample["text"])
    config = ConfigManager().parse_args([
        f"--job.dump_folder={directory}", "--model.name=llama3", "--model.flavor=debugmodel", f"--model.hf_assets_path={directory}",
        "--training.dataset=words", f"--training.steps={STEPS}", "--training.seq_len=64", f"--training.local_batch_size={BATCH}",
        f"--training.global_batch_size={BATCH * ACCUMULATED}", "--compile.enable", "--debug.seed=1"])
    return {"config": config}


def megatron(_: str) -> Names:
    """Its local layers, whose buffers and random numbers are a GPU's."""
    torch.cuda.current_device = lambda: "cpu"
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer.transformer_config import TransformerConfig
    tensor_parallel.random.CudaRNGStatesTracker.fork = lambda *_: contextlib.nullcontext()
    size = dist.get_world_size()
    if not parallel_state.is_initialized():
        parallel_state.initialize_model_parallel(tensor_model_parallel_size=size)
    config = TransformerConfig(num_layers=LAYERS, hidden_size=WIDTH, num_attention_heads=HEADS, num_query_groups=KEY_HEADS,
                               tensor_model_parallel_size=size, attention_dropout=0.0, hidden_dropout=0.0,
                               use_cpu_initialization=True, pipeline_dtype=torch.float32, init_method_std=0.5)
    torch.manual_seed(1)
    model = GPTModel(config, get_gpt_layer_local_spec(), vocab_size=WORDS, max_sequence_length=TOKENS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = torch.stack(token_rows(STEPS * BATCH)).view(STEPS, BATCH, TOKENS)
    hidden = torch.ones(1, 1, TOKENS, TOKENS, dtype=torch.bool).triu(1)

    def finish_step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return {"model": model, "finish_step": finish_step,
            "data": [{"input_ids": tokens, "position_ids": torch.arange(TOKENS).expand_as(tokens), "attention_mask": hidden,
                      "labels": tokens.roll(-1, 1)} for tokens in rows]}


class Recipe(NamedTuple):
    """`names`: what the block leaves to the reader, by a directory of its own and options. `needs`: packages. `world`:
    ranks, each a process; 0: the process that asks. `compiled`: nobody can look at the calls of its attention."""
    names: Callable[..., Names]
    needs: Tuple[str, ...] = ("transformers",)
    world: int = 0
    compiled: bool = False


RECIPES = {
    "Hugging Face Trainer": Recipe(hugging_face, ("transformers", "accelerate", "tensorboard")),
    "TRL: SFT": Recipe(sft, ("trl",)),
    "TRL: GRPO": Recipe(grpo, ("trl",)),
    "Lightning": Recipe(lightnings, ("transformers", "lightning")),
    "Accelerate": Recipe(accelerates, ("transformers", "accelerate")),
    "nanoGPT, litgpt, your own loop": Recipe(nano, ("tensorboard",), compiled=True),
    "DeepSpeed": Recipe(deepspeeds, ("transformers", "deepspeed"), 2),
    "FSDP2 and tensor parallel": Recipe(shared_out, world=4),
    "torchtitan": Recipe(titan, ("torchtitan", "datasets", "transformers"), 1),
    "Megatron core": Recipe(megatron, ("megatron.core",), 2),
}


class Unwatched:
    """In the place of a watch, where nobody watches."""
    current_step = 0

    def __init__(self, *_: Any, **__: Any): ...
    def __enter__(self) -> Unwatched: return self
    def __exit__(self, *_: Any) -> None: ...
    def step(self) -> None: self.current_step += 1
    def log(self, *_: Any, **__: Any) -> None: ...
    def epoch_end(self) -> None: ...
    def close(self) -> None: ...


class Trained(NamedTuple):
    """The result of a training: its losses, as their backward began; the mean entropy of each head of its first attention,
    in nats, where nothing was compiled; the weights, of shared ones this rank's; and all names of the block."""
    losses: List[float]
    entropy: List[float]
    weights: Dict[str, torch.Tensor]
    names: Names


@contextlib.contextmanager
def losses() -> Iterator[List[float]]:
    """Collects the losses at which backward() begins."""
    found: List[float] = []
    backward = torch.Tensor.backward

    def seen(loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        found.append(loss.item())
        backward(loss, *args, **kwargs)

    torch.Tensor.backward = seen  # type: ignore[method-assign]
    try:
        yield found
    finally:
        torch.Tensor.backward = backward  # type: ignore[method-assign]


def mean_entropy(logits: torch.Tensor, visible: torch.Tensor) -> List[float]:
    """The mean of each head, over the queries that see their own key: others are padding."""
    logits, visible = logits.double(), visible.expand_as(logits)
    entropy = torch.special.entr(logits.masked_fill(~visible, -torch.inf).softmax(-1)).sum(-1)
    own = visible.diagonal(dim1=2, dim2=3)
    return [entropy[:, head][own[:, head]].mean().item() for head in range(logits.shape[1])]


@contextlib.contextmanager
def first_attention() -> Iterator[List[float]]:
    """The entropies of the first attention that has gradients, from what its kernel is given, in float64."""
    found: List[float] = []
    fused, explicit = functional.scaled_dot_product_attention, functional.softmax

    def see(logits: torch.Tensor, visible: torch.Tensor) -> None:
        if torch.is_grad_enabled() and not found:
            found.extend(mean_entropy(logits.detach(), visible))

    def seen_fused(query: Any, key: Any, value: Any, attn_mask: Any = None, *args: Any, **kwargs: Any) -> Any:
        keys = key.double().repeat_interleave(query.shape[1] // key.shape[1], 1)
        causal = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
        see(query.double() @ keys.transpose(2, 3) * query.shape[3] ** -0.5, causal if attn_mask is None else attn_mask)
        return fused(query, key, value, attn_mask, *args, **kwargs)

    def seen_explicit(logits: Any, *args: Any, **kwargs: Any) -> Any:
        see(logits, logits > -1e4)  # what Megatron writes where a mask hides
        return explicit(logits, *args, **kwargs)

    functional.scaled_dot_product_attention, functional.softmax = seen_fused, seen_explicit
    try:
        yield found
    finally:
        functional.scaled_dot_product_attention, functional.softmax = fused, explicit


def local(value: torch.Tensor) -> torch.Tensor:
    return (value.to_local() if hasattr(value, "to_local") else value).detach().clone()


def train(heading: str, directory: str, watched: bool, before: Callable[[Names], Any] = lambda names: None,
          change: Callable[[str], str] = str, **options: Any) -> Trained:
    """Runs the block, with attnd or without, after `change`. `before` is called with its names first."""
    watch = attnd.watch

    def patient(*args: Any, **kwargs: Any) -> Any:
        return watch(*args, **{"wait": 60.0, "linger": 60.0, **kwargs})

    names = RECIPES[heading].names(directory, **options)
    before(names)
    torch.manual_seed(2)
    attnd.watch = patient if watched else Unwatched
    try:
        plain = watched or RECIPES[heading].compiled
        with losses() as found, contextlib.nullcontext([]) if plain else first_attention() as entropy:
            exec(compile(change(block_of(heading)), heading, "exec"), names)
    finally:
        attnd.watch = watch
    model = names["model"] if "model" in names else names["trainer"].model_parts[0]
    return Trained(found, entropy, {name: local(value) for name, value in model.named_parameters()}, names)


def same(one: Trained, other: Trained) -> bool:
    """Whether losses and weights are the same bits."""
    return bool(one.losses) and one.losses == other.losses and one.weights.keys() == other.weights.keys() and all(
        torch.equal(value, other.weights[name]) for name, value in one.weights.items())


def on_rank(rank: int, world: int, heading: str, directory: str, **options: str) -> Dict[str, Any]:
    """Trains with attnd and without: whether both are the same, and the entropies."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world))
    trained = train(heading, f"{directory}/work-{rank}", True, **options)
    dist.barrier()
    unwatched = train(heading, f"{directory}/work-{rank}", False, **options)
    return {"same": same(trained, unwatched), "entropy": unwatched.entropy}


if __name__ == "__main__":
    ranks.main(on_rank)
    os._exit(0)  # threads of PyTorch's gloo abort now and then at the interpreter's end
