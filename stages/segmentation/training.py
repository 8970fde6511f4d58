"""General training: the selector learns from the pairs of a run, without any occlusion mask."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
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
from stages.segmentation.selection import PromptSelector
from stages.segmentation.tokens import CachedPairs
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
    selector = PromptSelector.untrained(sam).to(context.device)
    network = S3POT(sam, selector, context.settings.segments)
    rows = store.filled_rows(task.run, plan)
    pairs = CachedPairs(task.run, rows, context.device)
    if not pairs:
        raise ShardError("no face in this run to train on; look at the statuses with: s3pot-batch status")
    settings = context.settings.training
    losses = train(network, pairs, settings, seed=context.settings.seed, state=folder / "training.pt",
                   fingerprint=context.fingerprint)  # fmt: skip
    facts = {"fingerprint": context.fingerprint, "target": network.settings.target, "losses": losses,
             "faces": len(pairs), "settings": asdict(settings), "seed": context.settings.seed}  # fmt: skip
    save_adapter(folder, selector, facts, _card(facts))
    return ShardReport(STAGE, 0, len(rows), len(pairs), len(rows) - len(pairs), 0, time.perf_counter() - started)


def train(
    network: S3POT, pairs: Sequence[Prompted], settings: TrainingSettings, *, seed: int, state: Path, fingerprint: str,
    on_epoch: OnEpoch | None = None,
) -> list[float]:  # fmt: skip
    """Optimise the selector with the three objectives (AdamW, cosine schedule).

    Args:
        network: its selector is trained in place, and nothing else.
        pairs: prompted pairs, in memory or a :class:`CachedPairs`; no epoch encodes anything.
        settings: objectives, epochs, batch, learning rate, weight decay.
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
        batches = [order[start : start + settings.batch] for start in range(0, len(order), settings.batch)]
        for batch in read_ahead(pairs, batches):
            losses_here = pair_losses(network, batch, settings.objectives)
            loss = losses_here.mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += float(losses_here.detach().sum())
        schedule.step()
        losses.append(total / len(pairs))
        _keep(state, fingerprint, losses, network.selector, optimizer, schedule)
        if on_epoch:
            on_epoch(epoch, losses[-1])
    network.selector.eval()
    return losses


def read_ahead(pairs: Sequence[Prompted], batches: Sequence[Sequence[int]]) -> Iterator[list[Prompted]]:
    """The batches' pairs, the next batch being read while the decoder works on this one."""

    def read(batch: Sequence[int]) -> list[Prompted]:
        return [pairs[n] for n in batch]

    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(read, batches[0])
        for following in batches[1:]:
            batch, coming = coming.result(), reader.submit(read, following)
            yield batch
        yield coming.result()


def pair_losses(network: S3POT, batch: Sequence[Prompted], names: tuple[str, ...]) -> Tensor:
    """B, the named objectives of each pair summed."""
    return torch.stack([
        objectives(at_points(segmentation.logits, pair), pair.prompts.labels).total(names)
        for segmentation, pair in zip(network(batch), batch, strict=True)
    ])  # fmt: skip


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
