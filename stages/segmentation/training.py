"""General training: the selector learns from the pairs of a run, without any occlusion mask."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from manifests.plan import read_plan
from stages import store
from stages.base import ShardReport, ShardTask, StageContext
from stages.errors import ShardError
from stages.models.catalog import load
from stages.segmentation.checkpoint import save_adapter
from stages.segmentation.network import S3POT, Prompted, at_points
from stages.segmentation.objectives import objectives
from stages.segmentation.pairs import prompt_pair, read_pair
from stages.segmentation.selection import PromptSelector
from stages.settings import TrainingSettings

STAGE = "train"
OnEpoch = Callable[[int, float], None]


def run_shard(task: ShardTask, context: StageContext) -> ShardReport:
    """Train one adapter on all pairs of a run and write ``checkpoint/``; resumes an interrupted training.

    Raises:
        ShardError: the run has no face to train on, or a training with other settings.
    """
    started = time.perf_counter()
    plan, folder = read_plan(task.run), task.run / "checkpoint"
    sam = load(context.profile.segmenter, context.device)
    torch.manual_seed(context.settings.seed)
    selector = PromptSelector(sam.prompt_encoder.embed_dim).to(context.device)
    network = S3POT(sam, selector, context.settings.segments.target)
    rows = store.filled_rows(task.run, plan)
    pairs = (prompt_pair(network, sam, read_pair(task.run, row)) for row in rows)
    usable = [lean(pair) for pair in pairs if pair is not None]
    if not usable:
        raise ShardError("no face in this run to train on; look at the statuses with: s3pot-batch status")
    settings = context.settings.training
    losses = train(network, usable, settings, seed=context.settings.seed, state=folder / "training.pt",
                   fingerprint=context.fingerprint)  # fmt: skip
    facts = {"fingerprint": context.fingerprint, "target": network.target, "losses": losses, "faces": len(usable),
             "settings": asdict(settings), "seed": context.settings.seed}  # fmt: skip
    save_adapter(folder, selector, facts, _card(facts))
    return ShardReport(STAGE, 0, len(rows), len(usable), len(rows) - len(usable), 0, time.perf_counter() - started)


def train(
    network: S3POT, pairs: Sequence[Prompted], settings: TrainingSettings, *, seed: int, state: Path, fingerprint: str,
    on_epoch: OnEpoch | None = None,
) -> list[float]:  # fmt: skip
    """Optimise the selector with the three objectives (AdamW, cosine schedule).

    Args:
        network: its selector is trained in place, and nothing else.
        pairs: prompted pairs; tokens are encoded once, however many epochs.
        settings: epochs, batch, learning rate, weight decay.
        seed: of the order of the pairs, epoch by epoch.
        state: where the training's state is kept after every epoch; a state with the same fingerprint is resumed.
        fingerprint: of everything that changes the result.
        on_epoch: told every epoch's number and mean loss.

    Returns:
        The mean loss of every epoch, those before an interruption included.

    Raises:
        ShardError: the state is that of a training with another fingerprint.
    """
    optimizer = torch.optim.AdamW(
        network.selector.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    losses = _resume(state, fingerprint, network.selector, optimizer, schedule)
    network.selector.train()
    for epoch in range(len(losses), settings.epochs):
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed * 100_003 + epoch)).tolist()
        total = 0.0
        for start in range(0, len(order), settings.batch):
            batch = [pairs[n] for n in order[start : start + settings.batch]]
            loss = torch.stack([pair_loss(network, pair) for pair in batch]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(loss.detach()) * len(batch)
        schedule.step()
        losses.append(total / len(pairs))
        _keep(state, fingerprint, losses, network.selector, optimizer, schedule)
        if on_epoch:
            on_epoch(epoch, losses[-1])
    network.selector.eval()
    return losses


def lean(pair: Prompted) -> Prompted:
    """The pair without FE's features, which served the matching: all pairs stay in memory, and these are 2/3 of it."""
    none = pair.tokens.new_empty(0)
    return replace(pair, enhanced=replace(pair.enhanced, raw=none, reference=none))


def pair_loss(network: S3POT, pair: Prompted) -> Tensor:
    """The three objectives of one pair, summed."""
    segmentation = network(pair)
    return objectives(at_points(segmentation.logits, pair), pair.prompts.labels).total


def _keep(
    path: Path, fingerprint: str, losses: list[float], selector: PromptSelector, optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    torch.save(
        {"fingerprint": fingerprint, "losses": losses, "selector": selector.state_dict(),
         "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}, temporary,
    )  # fmt: skip
    temporary.replace(path)


def _resume(
    path: Path, fingerprint: str, selector: PromptSelector, optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> list[float]:  # fmt: skip
    if not path.exists():
        return []
    state = torch.load(path, next(selector.parameters()).device, weights_only=True)
    if state["fingerprint"] != fingerprint:
        raise ShardError(f"{path} was made with other settings; use another --run, or remove it to train anew")
    selector.load_state_dict(state["selector"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    return list(state["losses"])


def _card(facts: dict[str, object]) -> str:
    losses = facts["losses"]
    first, last = (losses[0], losses[-1]) if isinstance(losses, list) and losses else (float("nan"),) * 2
    return f"""# S³POT adapter

One self-attention layer over prompt tokens (S³POT, arXiv 2602.00635), for the segmenter that it was trained with.

- Trained on {facts["faces"]} pairs of photo and generated reference; **no occlusion mask was used**.
- The decoder is asked for: {facts["target"]}.
- Settings: {facts["settings"]}, seed {facts["seed"]}.
- Mean loss of the first epoch {first:.4f}, of the last {last:.4f}.
- Fingerprint: `{facts["fingerprint"]}`.

It knows the faces and occluders of its training photos; measure it on yours with `s3pot-batch evaluate`.
"""
