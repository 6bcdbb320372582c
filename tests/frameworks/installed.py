# SPDX-License-Identifier: MIT
"""installed: whether anything of attnd is in the way of a model, or of torch."""
import sys

import torch
from torch import nn
from torch.optim import Adam  # noqa: F401  torch.optim.optimizer is loaded

FUNCTIONS = {name: getattr(nn.functional, name) for name in ("scaled_dot_product_attention", "softmax",
                                                             "multi_head_attention_forward")}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
EVERYWHERE = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")


def in_torch():
    """What is installed for all models, as text."""
    found = [name for name, function in FUNCTIONS.items() if getattr(nn.functional, name) is not function]
    if torch._C._len_torch_function_stack():
        found.append("a function mode")
    found += [name for name in EVERYWHERE if getattr(nn.modules.module, name)]
    optimizer = sys.modules["torch.optim.optimizer"]
    if optimizer._global_optimizer_post_hooks:
        found.append("a hook of all optimizers")
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is not None and dynamo._stance.stance != "default":
        found.append(f"the compiler's stance {dynamo._stance.stance}")
    return found + in_transformers()


def in_transformers():
    """Names what is left in transformers."""
    modeling = sys.modules.get("transformers.modeling_utils")
    if modeling is None:
        return []
    given = modeling.ALL_ATTENTION_FUNCTIONS.get_interface("sdpa", None)
    return [] if given.__module__.startswith("transformers.") else ["an attention function of transformers"]


def in_model(model):
    """What is installed in its modules, as text."""
    return [f"{path}: {name}" for path, module in model.named_modules() for name in (*HOOKS, "forward")
            if (name == "forward" and name in vars(module)) or (name != "forward" and getattr(module, name, None))]
