"""General training: the adapter learns from the pairs of a run, without any occlusion mask."""

import json
import logging
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import nn

from s3pot_batch.manifests.files import replacing
from s3pot_batch.manifests.plan import read_plan
from s3pot_batch.stages import store
from s3pot_batch.stages.base import ShardReport, ShardTask, StageContext
from s3pot_batch.stages.errors import ShardError
from s3pot_batch.stages.headway import Headway
from s3pot_batch.stages.method.learning import judged, optimiser
from s3pot_batch.stages.method.network import S3POT, Prompted
from s3pot_batch.stages.models.registry import ADAPTERS
from s3pot_batch.stages.peers import Peers
from s3pot_batch.stages.settings import TrainingSettings
from s3pot_batch.stages.tokens import CachedPairs

FOLDER = "checkpoint"
FEW_ALIVE = 0.1
"""Share of points with a gradient below which a training is told to be in vain."""
log = logging.getLogger(__name__)
OnEpoch = Callable[[int, float], None]


def is_done(run: Path, fingerprint: str) -> bool:
    """Whether the run's checkpoint is whole (its weights come last) and of this fingerprint."""
    folder = run / FOLDER
    if not (folder / "model.safetensors").exists():
        return False
    try:
        facts = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return bool(facts["fingerprint"] == fingerprint)
    except (OSError, ValueError, KeyError, TypeError):
        return False  # it was not written by a training, or is damaged


def work(task: ShardTask, context: StageContext) -> ShardReport:
    """Train one adapter on all pairs of a run and write ``checkpoint/``; resumes an interrupted training.

    Counts are of faces.

    Raises:
        ShardError: the run has no face to train on, or a training with other settings.
    """
    started = time.perf_counter()
    folder, settings = task.run / FOLDER, context.settings
    segmenter, implementation = context.models.segmenter, ADAPTERS.module(context.profile.adapter.kind)
    torch.manual_seed(settings.seed)
    adapter: nn.Module = implementation.untrained(segmenter).to(context.device)
    network = S3POT(segmenter, adapter, settings.segments)  # type: ignore[arg-type]
    rows = store.filled_rows(task.run, read_plan(task.run))
    pairs = CachedPairs(task.run, rows, context.device)
    if not pairs:
        raise ShardError("no face in this run to train on; look at the statuses with: s3pot-batch status")
    state = TrainingState(folder / "training.pt", context.fingerprint, headway=context.headway)
    losses = train(network, pairs, settings.training, settings.seed, state)
    facts: dict[str, object] = {
        "fingerprint": context.fingerprint, "target": settings.segments.target, "losses": losses, "faces": len(pairs),
        "alive": state.alive,
        "settings": settings.training.model_dump(mode="json"), "seed": settings.seed,
    }  # fmt: skip
    if Peers.here().rank == 0:
        implementation.save(folder, adapter, facts, _card(facts, losses, state.alive))
    return ShardReport(
        task.stage, task.shard, len(rows), ok=len(pairs), no_face=len(rows) - len(pairs),
        seconds=time.perf_counter() - started,
    )  # fmt: skip


@dataclass
class TrainingState:
    """Where a training's state is kept after every epoch; one with the same fingerprint is resumed."""

    path: Path
    fingerprint: str
    """Of everything that changes the result."""
    on_epoch: OnEpoch | None = None
    """Told every epoch's number and mean loss."""
    headway: Headway = field(default_factory=Headway)
    """Told of every batch, as its share of an epoch."""
    losses: list[float] = field(default_factory=list)
    """The mean loss of every epoch so far."""
    alive: list[float] = field(default_factory=list)
    """The mean share of points that had a gradient, of every epoch so far."""

    def resume(self, **parts: "torch.optim.Optimizer | nn.Module | torch.optim.lr_scheduler.LRScheduler") -> None:
        """Load what an interrupted training left, if it left anything.

        Raises:
            ShardError: it is that of a training with another fingerprint.
        """
        if not self.path.exists():
            return
        try:
            state = torch.load(self.path, weights_only=True, map_location="cpu")
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
            log.warning("%s is damaged (%s); the training starts anew", self.path, error)
            return
        if state["fingerprint"] != self.fingerprint or not parts.keys() <= state.keys():
            raise ShardError(
                f"{self.path} was made with other settings, or by another version; "
                "use another --run, or remove it to train anew"
            )
        for name, part in parts.items():
            part.load_state_dict(state[name])
        self.losses, self.alive = list(state["losses"]), list(state.get("alive", ()))

    def keep(
        self, loss: float, alive: float,
        **parts: "torch.optim.Optimizer | nn.Module | torch.optim.lr_scheduler.LRScheduler",
    ) -> None:  # fmt: skip
        """Write down an epoch, its mean loss and the mean share of its points that had a gradient."""
        self.losses.append(loss)
        self.alive.append(alive)
        if Peers.here().rank:
            return  # the first process writes, and says what there is to say
        if alive < FEW_ALIVE and len(self.losses) == 1:  # said once; the checkpoint has the share of every epoch
            log.warning(
                "only %.1f %% of the points teach the adapter anything, the decoder is sure of the others; a lower "
                "training.sharpness makes it more", 100 * alive,
            )  # fmt: skip
        states = {name: part.state_dict() for name, part in parts.items()}
        with replacing(self.path) as temporary:
            torch.save(
                {"fingerprint": self.fingerprint, "losses": self.losses, "alive": self.alive, **states}, temporary
            )
        if self.on_epoch:
            self.on_epoch(len(self.losses) - 1, loss)


def train(
    network: S3POT, pairs: Sequence[Prompted], settings: TrainingSettings, seed: int, state: TrainingState
) -> list[float]:
    """Optimise the adapter with the objectives (AdamW, cosine schedule).

    Where several processes train together, each sees its part of every batch: the losses are those of one process, but
    for rounding.

    Args:
        network: its adapter is trained in place, and nothing else.
        pairs: prompted pairs, in memory or a :class:`CachedPairs`; no epoch encodes anything.
        settings: objectives, epochs, batch, learning rate, weight decay.
        seed: of the order of the pairs, epoch by epoch.
        state: kept after every epoch; what is there is resumed.

    Returns:
        The mean loss of every epoch, those before an interruption included.

    Raises:
        ShardError: the state is that of a training with another fingerprint.
    """
    adapter = cast("nn.Module", network.adapter)
    adamw, schedule = optimiser(network, settings)
    state.resume(adapter=adapter, optimizer=adamw, schedule=schedule)
    state.headway.add(len(state.losses))
    adapter.train()
    peers = Peers.here()
    for epoch in range(len(state.losses), settings.epochs):
        order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed * 100_003 + epoch)).tolist()
        sums = torch.zeros(2, dtype=torch.float64)  # of losses, and of shares of points that have a gradient
        batches = [order[start : start + settings.batch] for start in range(0, len(order), settings.batch)]
        for batch, own in zip(batches, read_ahead(pairs, [peers.share(batch) for batch in batches]), strict=True):
            adamw.zero_grad(set_to_none=True)
            if own:
                found = judged(network, own, settings)
                (found.losses.mean() * (len(own) / len(batch))).backward()  # type: ignore[no-untyped-call]
                sums += torch.tensor([float(found.losses.detach().sum()), float(found.alive.sum())])
            peers.add_gradients(adapter)
            adamw.step()
            state.headway.add(1 / len(batches))
        total, moved = peers.add(sums).tolist()
        schedule.step()
        state.keep(total / len(pairs), moved / len(pairs), adapter=adapter, optimizer=adamw, schedule=schedule)
    adapter.eval()
    return state.losses


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


def _card(facts: dict[str, object], losses: Sequence[float], alive: Sequence[float]) -> str:
    return f"""# S³POT adapter

One self-attention layer over prompt tokens (S³POT, arXiv 2602.00635), for the segmenter that it was trained with.

- Trained on {facts["faces"]} pairs of photo and generated reference; **no occlusion mask was used**.
- The decoder is asked for: {facts["target"]}.
- Settings: {facts["settings"]}, seed {facts["seed"]}.
- Mean loss of the first epoch {losses[0]:.4f}, of the last {losses[-1]:.4f}.
- Share of points that had a gradient: {alive[0]:.2f} in the first epoch, {alive[-1]:.2f} in the last.
- Fingerprint: `{facts["fingerprint"]}`.

It knows the faces and occluders of its training photos; measure it on yours with `s3pot-batch evaluate`.
"""
