# SPDX-License-Identifier: MIT
"""attach: the arguments of `attnd.watch`, which attaches to the training of a PyTorch model in one line. capture/watch.py has the
watch itself.

    with attnd.watch(model, job="gpt-small"):
        train()
"""
from __future__ import annotations

import contextlib
import hashlib
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, Union

import torch

from .base import wire
from .base.address import NOBODY, AddressError
from .base.arguments import check_flags, check_options, check_patterns, tell_unmatched
from .base.once import log
from .base.paths import clean_path
from .base.plan import NUMBER_MAX, TIERS
from .base.ranks import rank_and_world, shared_run
from .capture.forwards import Forwards
from .capture.projections import Projections, check_projections
from .capture.residual import Residual
from .capture.sketch import Sketches
from .capture.start import START_IT, local_rank, starter_for
from .capture.watch import Watch
from .forms.seen import Share
from .model.induction import InductionInputs
from .model.labels import check_labels
from .model.names import Names, check_names
from .results.alerts import Act, alerts_for, check_acts
from .results.trackers import check_log_to
from .sending.publisher import DEFAULT_QUEUE_BYTES, Publisher, named_job


def watch(model: torch.nn.Module, job: str, endpoint: Optional[str] = None, *, address: Any = None, every: Optional[int] = None,
          window: Union[None, int, str] = None, samples: Optional[int] = None, rows: Optional[int] = None, tier: Optional[str] = None,
          optimizer: Any = None, steps: str = "auto",
          stack: Optional[str] = None, layers: Optional[Mapping[str, Sequence[Any]]] = None,
          rank: Optional[int] = None, world: Optional[int] = None,
          tensor_parallel: Optional[Tuple[int, int]] = None, evaluation: bool = False, tokens: Optional[bool] = None,
          values: bool = False, gradients: bool = False, residual: bool = False, labels: Any = None,
          weights_every: Optional[int] = None, projections: Optional[Mapping[str, str]] = None, probe: Any = None,
          probe_every: int = 100, first_step: int = 0, first_epoch: int = 0, wait: Optional[float] = None,
          queue_bytes: int = DEFAULT_QUEUE_BYTES, run: Optional[Any] = None,
          publisher: Optional[Publisher] = None, passive: bool = False, include: Any = None, exclude: Any = None,
          settings: Optional[Mapping[str, Any]] = None, start: Optional[str] = None, compiled: Optional[str] = None,
          on_alert: Union[None, Act, Sequence[Act]] = None, log_to: Any = None, **options: Any) -> "Watch":
    """Captures and publishes the attention of `model` while it trains, until the result is closed.

    model        any torch.nn.Module, compiled, wrapped (DDP, FSDP) or neither
    job          the job's name: 1 to 128 of A-Z a-z 0-9 . _ -; other characters become "-"
    address      the daemon: a directory or "tcp://host:port" (see address.py); default $ATTND_ADDRESS, else the one that
                 answers on this machine, now or later. A bad one is told in a warning, and nothing is captured
    endpoint     exactly its socket for tensors, instead of an address
    every        capture every n-th step, 0 = none; samples: of each batch, 0 = all; rows: query rows per call, 0 = all,
                 by default 256 on an accelerator, with all of one sample at each 16th capture, and all elsewhere.
                 They go before the daemon's default plan (every 50th step, 1 sample, all rows), and a plan that is made
                 for the job (attnctl plan set, or the daemon's config) before them
    window       the windows that are summed up and judged, of this run alone: "epoch", "200 steps", "30 seconds", or a
                 number of steps; default: as attnd's config says (window.unit). All ranks say the same
    tier         'rows': the sums of the rows of each attention are computed in this process, and they alone are sent; 'raw': its
                 queries and keys are sent, or its weights, of which attnd has more numbers and maps; default 'auto':
                 'rows' on an accelerator, 'raw' on the CPU. A plan that was made for the job goes before it, if it says
                 either; where the sums cannot be computed, 'raw' it is
    optimizer    whose step() ends a step; default: any that holds parameters of the model
    steps        'auto', or 'manual': only w.step() ends one
    stack        'encoder' or 'decoder' for all layers, when their paths do not tell
    layers       {module path: (stack, layer, site)} for those that should be named otherwise: the path of an attention, or
                 of a module around it; see layers.py
    rank, world  default: torch.distributed if initialised, else the environment's RANK and WORLD_SIZE
    tensor_parallel   (index, size) when this process computes the index-th of `size` slices of every layer's heads; default:
                 as DTensors among queries, keys and weights tell (forms/shares.py)
    evaluation   capture forwards without gradients too
    tokens       whether the token numbers of the model's first integer input [B, T] are published along, which the
                 metrics `induction` and `duplicate_token` need. Default: only to an attnd that is reached through a Unix
                 socket, on this machine. They leave the process then; False keeps them in it. With tier 'rows' none do: on an
                 accelerator the sums for both metrics are computed where the tokens are, and sent to any attnd, unless False
    values       publish the values of attention as well: `output_norm` and `norm_weighted_entropy` need them
    gradients    publish what backward brings as well, and values: `importance_gradient` needs it. Messages leave in
                 backward then; see gradients.py
    residual     publish, with values, what attnd needs to tell what each head writes to the residual stream
                 (`write_norm`, `residual_share`); see residual.py
    labels       texts of the tokens, which are shown with the maps: a function from a list of token numbers to as many
                 texts (tokenizer.convert_ids_to_tokens), or the text of each number, as a sequence or mapping
    weights_every  publish W_q, W_k, W_v and W_o of each layer at the end of every n-th epoch, 0 = never; default: of
                 every one, when their sides are at most attnd's metrics.weights_max_size (2048). Until epoch_end() is
                 called for the first time, 1000 steps are an epoch. The first time is after 100 steps at the latest.
                 Rank 0 does, of what it holds, and each rank its rows of what FSDP2 shares out; projections.py has what
                 is found. But with 0, each rank also publishes 64 numbers of each head of these after a captured step
    projections  {"wq": name, "wk": name, "wv": name, "wo": name} of modules or parameters within each attention, as
                 "to_q" or "to_out.0", when their names do not tell; "wqkv" for one that has all queries, then keys, then
                 values, "wqkv_by_head" for one that has them head by head
    probe        inputs of the model, a tensor, tuple, list or dict, or "induction": random tokens that come twice and fit the
                 model (induction.py). They are run without gradients after every `probe_every` steps and published as job
                 "<job>.probe", when somebody is subscribed to that or world > 1; see Watch.probe
    first_step, first_epoch   where a resumed training goes on
    wait         seconds to wait, once and now, for the daemon's subscription; without one the job just goes on. By default
                 2, and 10 with start='auto'
    queue_bytes, run, options   as for Publisher: `reliable`, `reliable_bytes` and `spool` say what is kept until attnd
                 acknowledges it, by default rows, events and probes
    publisher    use this one instead of an own; it stays open on close
    passive      capture nothing but what Watch.probe runs
    exclude      patterns of module paths ("blocks.*.router"), one or a list: nothing that these modules do, or modules
                 in them, is captured
    include      patterns, as above, of modules whose softmaxes over [B, H, Tq, Tk] are attention, whatever they look like;
                 judge.py has what is judged without
    settings     what the training was started with, {"learning_rate": 3e-4, "warmup_steps": 100}: kept with the run,
                 and compared with those of others
    compiled     'eager': what torch.compile made runs eagerly in captured steps, and everything is seen of it. By default it
                 stays compiled where watch() came before its first forward, by Inductor of torch 2.13 or later; see forms/look.py
    start        'auto': starts an attnd on this machine, for this user, where none answers (capture/start.py). A failure is
                 told in a warning, and the training goes on without
    on_alert     a function, or several, called with each alert of this run, as a dict like those of Subscriber: between
                 steps, on the thread that ends them. StopTraining, which it may raise, reaches the training; any other
                 exception is logged, once. With several ranks all of them call it at the end of one step, and all stop
                 at one: all have to watch with it. See alerts.py, stop_on() and checkpoint_on()
    log_to       the run that the training has in another tool, or several: a run of W&B (wandb.run), a SummaryWriter of
                 TensorBoard, mlflow or one of its runs, trackio or one of its runs. When a window closes, the run gets its
                 lowest entropy with layer and head, its largest logit, the number of checks that fail and the cost of
                 capturing, as `attnd/...` at the step of the window, and once the address of the page. Its settings are
                 `settings` where none are given, and the numbers that the training logs there are reported as by
                 Watch.log. Rank 0 writes, between steps, on the thread that ends them. A tool that fails is told in a
                 warning, and gets no more; see trackers.py

    Returns a context manager with step(), log(), epoch_end(), probe(), stats() and close(). ValueError for bad arguments,
    and TypeError for a `log_to` of another kind, now; nothing is raised later, but StopTraining by on_alert.
    """
    check_options(watch, options)
    check_flags((True, False), evaluation=evaluation, values=values, gradients=gradients, residual=residual, passive=passive)
    check_flags((True, False, None), tokens=tokens)
    asked = {"every": every, "samples": samples, "rows": NUMBER_MAX if rows == 0 else rows}
    own_plan: Dict[str, Any] = {name: wire.check_int(name, value, 10**9) for name, value in asked.items() if value is not None}
    own_plan.update(_own_tier(tier, values=values, gradients=gradients, residual=residual))
    own_window = wire.check_window(window)
    acts = check_acts(on_alert, endpoint)
    trackers = check_log_to(log_to, endpoint)
    job = named_job(job)
    share = _share(tensor_parallel)
    patterns = {name: check_patterns(name, given) for name, given in (("include", include), ("exclude", exclude))}
    if steps not in ("auto", "manual"):
        raise ValueError(f"steps = {steps!r}: must be 'auto' or 'manual'")
    root = _innermost(model)
    check_names(root, layers, stack)
    tell_unmatched(job, patterns, [clean_path(path) for path, _ in root.named_modules()])
    texts = check_labels(labels)
    if isinstance(weights_every, bool):
        raise ValueError(f"weights_every = {weights_every}: must be a number of epochs, 0 for never, or left out")
    weights_every = None if weights_every is None else wire.check_int("weights_every", weights_every, 10**9)
    names = check_projections(projections, root)
    probe_every = wire.check_int("probe_every", probe_every, minimum=0 if probe is None else 1)
    if isinstance(probe, str):
        if probe != "induction":
            raise ValueError(f"probe = {probe!r}: must be inputs of the model, or 'induction'")
        probe = InductionInputs(root, job)
    elif probe is not None and not isinstance(probe, (torch.Tensor, tuple, list, Mapping)):
        raise ValueError(f"probe = {probe!r:.80}: must be inputs of the model, a tensor, tuple, list or dict, or 'induction'")
    position = wire.check_int("first_epoch", first_epoch), wire.check_int("first_step", first_step)
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(f"optimizer: must be a torch.optim.Optimizer, not {type(optimizer).__name__}")
    if start not in (None, "auto") or (start is not None and publisher is not None):
        raise ValueError(f"start = {start!r}: must be 'auto' or left out, and left out when a publisher is given")
    if compiled not in (None, "eager"):
        raise ValueError(f"compiled = {compiled!r}: must be 'eager' or left out")
    looks = compiled is None and not (gradients or residual)
    if wait is None:
        wait = 2.0 if start is None else 10.0
    own = publisher is None
    starter, tells_unsent = None, False  # whether the end has to say that attnd was not there; the beginning may have
    with contextlib.ExitStack() as opened:  # when anything fails, it is closed again
        if publisher is None:
            rank, world = rank_and_world(rank, world)
            run = run if run is not None else shared_run(rank, world)
            if start is not None:
                starter = starter_for(job, endpoint, address, rank)
            if starter is not None:  # first: a publisher looks for attnd at once, and then once a second
                opened.callback(starter.close)
                wait -= starter.wait(wait)
            try:
                publisher = Publisher(job, endpoint, rank, world, queue_bytes, run=run, address=address, **options)
            except AddressError as error:
                if endpoint is not None:
                    raise
                log.warning("job %s: %s; training goes on, and nothing of it is captured", job, error)
                endpoint, address, wait = NOBODY, None, 0
                publisher = Publisher(job, endpoint, rank, world, queue_bytes, run=run, **options)
            opened.callback(publisher.close)
            if local_rank(rank) == 0:  # one of a host tells, for all
                publisher.tell_absences(starter.say_next if starter is not None else lambda: START_IT)
                tells_unsent = endpoint != NOBODY  # else that is told
        elif publisher.job != job:
            raise ValueError(f"job {job!r}: the given publisher is of job {publisher.job!r}")
        if wait > 0:
            if not publisher.wait_for_subscriber(wait) and own and starter is None and not publisher.is_wrong:
                tells_unsent = False
                log.warning("job %s: nobody takes tensors yet (%s); training goes on, and is captured once attnd listens "
                            "there. %s", job, publisher.where, publisher.what_helps)
        alerts = alerts_for(acts, publisher, address, trackers)
        if alerts is not None:
            opened.callback(alerts.close)
            settings = alerts.run_log.settings() or None if settings is None else settings
        if settings is not None:
            publisher.describe(settings)
        if every:
            publisher.tell(own_every=every)
        if own_window is not None:
            publisher.tell(own_window=own_window)
        values = values or gradients or residual
        forwards = Forwards(root, publisher, own_plan, share, Names(layers or {}, stack), position, evaluation, tokens, values,
                            gradients, texts, patterns, looks)
        if residual:
            forwards.residual = Residual(root, publisher, names)
        made = Watch(root, publisher, own, forwards, starter, looks)
        if not passive:
            opened.callback(made.close)
            made.follow_steps(optimizer, steps, model if _is_compiled(model) else root)
            if weights_every != 0:
                forwards.projections = Projections(root, publisher, weights_every, names, share.of, 0 in (publisher.rank, share.number))
                forwards.sketches = Sketches(root, publisher, forwards.projections)
            if probe is not None:
                probing = _watch_probe(publisher, root, isinstance(probe, InductionInputs), endpoint=endpoint, address=address,
                                       tokens=tokens, values=values, residual=residual, projections=names)
                opened.callback(probing.close)
                made.follow_probe(probe, probe_every, probing)
            made.open()
        made.follow_alerts(alerts)
        made.tells_unsent = tells_unsent
        opened.pop_all()
    return made


def _watch_probe(publisher: Publisher, model: torch.nn.Module, is_induction: bool, **options: Any) -> Watch:
    """For `is_induction` attnd needs all rows and their tokens, which tier rows has not. `options`: those of the training's
    own watch."""
    # A run of its own, the same on all ranks: bridges and histories tell runs apart by their digits.
    run = hashlib.md5(f"{publisher.run}/probe".encode()).digest()
    options["tokens"] = is_induction or options["tokens"]
    return watch(model, f"{publisher.job}.probe", every=1, samples=0, steps="manual", wait=0,
                 tier="raw" if is_induction else "auto", rank=publisher.rank, world=publisher.world, run=run,
                 linger=publisher.linger, passive=True, reliable=publisher.reliable._replace(is_probe=True), **options)


def _own_tier(tier: Optional[str], **raw: bool) -> Dict[str, str]:
    """The tier that was asked for; `raw`: what else was, and needs tensors."""
    if tier is None:
        return {}
    if tier not in TIERS:
        raise ValueError(f"tier = {tier!r}: must be one of {', '.join(TIERS)}")
    needing = [name for name, asked in raw.items() if asked]
    if tier == "rows" and needing:
        raise ValueError(f"tier = 'rows': {' and '.join(needing)} need{'s' if len(needing) == 1 else ''} tier 'raw', since "
                         "attnd computes them from what is sent")
    return {} if tier == "auto" else {"tier": tier}


def _share(tensor_parallel: Optional[Tuple[int, int]]) -> Share:
    if tensor_parallel is None:
        return Share()
    if not isinstance(tensor_parallel, (tuple, list)) or len(tensor_parallel) != 2:
        raise ValueError(f"tensor_parallel = {tensor_parallel!r}: must be (index, size)")
    index, size = tensor_parallel
    size = wire.check_int("tensor_parallel: size", size, wire.WORLD_MAX, 1)
    return Share(wire.check_int("tensor_parallel: index", index, size - 1), size)


def _is_compiled(model: torch.nn.Module) -> bool:
    """Whether it is made by torch.compile, or wraps what is: then the hooks of the model within do not run."""
    return any("_orig_mod" in one._modules for one in (model, model._modules.get("module")) if one is not None)


def _innermost(model: Any) -> torch.nn.Module:
    """The model itself, without what compiles or distributes it."""
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"model: must be a torch.nn.Module, not {type(model).__name__}")
    if isinstance(model, torch.nn.DataParallel) and len(model.device_ids) > 1:
        log.warning("torch.nn.DataParallel over several devices is not watched: use DistributedDataParallel")
    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    while True:
        inner = getattr(model, "_orig_mod", None) or getattr(model, "_fsdp_wrapped_module", None) \
            or (model.module if isinstance(model, wrappers) else None)
        if not isinstance(inner, torch.nn.Module):
            return model  # type: ignore[no-any-return]
        model = inner
