"""LeakGAN's generator: a manager reads the discriminator's feature of the unfinished sequence and sets goals, a worker
follows them (Guo et al. 2018, section "Leaked information from D for G").

With s_t = y_1 .. y_t, t = 0 .. T-1: the manager reads F(s_t) and says g_t, a unit vector in the space of features. The
token y_{t+1} is drawn from softmax(O_t w_t), O_t (V,k) from the worker's LSTM after y_t, and w_t the direction in R^k
of psi(g_{t-c} + ... + g_{t-1}); goals before g_0 are one learnt initial goal. This one definition serves sampling,
rollouts and teacher forcing. In the `block` variant, the authors' code, w_t changes at t = c, 2c, ... only.

O_t w_t is a linear map of the outer product of w_t and [h_t, 1], so this is a generator with a linear head, and no O_t
(V,k) is ever made. Shapes: B rows, t tokens, F features, c step, k goal size, H hidden width.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from seqforge import ranges
from seqforge.models.discriminators import CNNDiscriminator
from seqforge.models.generator import State
from seqforge.models.leaked import LeakedFeatures, PrefixState
from seqforge.models.lstm import LSTMState, run_lstm

Goals = Literal["window", "block"]


@dataclass(frozen=True)
class HierarchicalConfig:
    """Sizes of a hierarchical generator.

    Args:
        embedding: width of the worker's token embedding (LeakGAN: 32 on the oracle of length 20, 64 on that of 40)
        hidden: width of both LSTMs (LeakGAN: 32 and 64)
        goal: size of the worker's projected goal (LeakGAN: 16)
        step: goals that drive a token, and tokens a goal looks ahead (LeakGAN: 4)
        goals: window, the last `step` goals at every token (paper), or block, renewed every `step` tokens (code)
        dropout: share of units dropped on the worker's embeddings and outputs in training by likelihood (LeakGAN: 0)
        init_std: every parameter starts from N(0, init_std^2), biases included (LeakGAN: 0.1)
    """

    embedding: int = 32
    hidden: int = 32
    goal: int = 16
    step: int = 4
    goals: Goals = "window"
    dropout: float = 0.0
    init_std: float = 0.1

    def __post_init__(self):
        counts = {"embedding": 1, "hidden": 1, "goal": 1, "step": 1}
        ranges.check(self, "generator.", **ranges.at_least(counts), dropout="[0, 1)", init_std="above 0")
        if self.goals not in ("window", "block"):
            raise ValueError(f"generator.goals is {self.goals!r}, but must be one of: window, block")


@dataclass(frozen=True)
class HierarchicalState:
    """After t tokens: both LSTMs, the last c projected goals g_{t-c+1} .. g_t (B,c,k), the sum (B,k) that drives the
    token to come, and what the discriminator's feature of the prefix is made of.
    """

    worker: LSTMState
    manager: LSTMState
    goals: Tensor
    drive: Tensor
    prefix: PrefixState

    def select(self, rows: Tensor) -> "HierarchicalState":
        lstms = (self.worker.select(rows), self.manager.select(rows))
        return HierarchicalState(*lstms, self.goals[rows], self.drive[rows], self.prefix.select(rows))

    @classmethod
    def cat(cls, states: Sequence["HierarchicalState"]) -> "HierarchicalState":
        worker, manager = (LSTMState.cat([getattr(s, name) for s in states]) for name in ("worker", "manager"))
        goals, drive = (torch.cat([getattr(s, name) for s in states]) for name in ("goals", "drive"))
        return cls(worker, manager, goals, drive, PrefixState.cat([s.prefix for s in states]))


@dataclass(frozen=True)
class Unrolled:
    """A batch of sequences as both modules see it: hidden (B,T,k(H+1)) is what the logits are made of, goals (B,T,F)
    are g_0 .. g_{T-1} (in the block variant the sum that drives each token), features (B,T+1,F) are F(s_0) .. F(s_T).
    """

    hidden: Tensor
    goals: Tensor
    features: Tensor


class HierarchicalGenerator(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="seqforge",
    tags=["text-generation", "leakgan"],
):
    """Manager and worker (Guo et al. 2018), with the discriminator's features of the prefix inside.

    Neither loss reaches the features, and the worker's ends at the goals. `leak` takes over a discriminator's weights.

    Args:
        vocab_size: V
        discriminator: sizes of the discriminator whose features are leaked (`CNNDiscriminator.sizes`)
        start_id: token that the worker reads before the first
        eos_id: token that ends a sequence, or None where all sequences have the full length
    """

    def __init__(
        self,
        vocab_size: int,
        discriminator: dict,
        embedding: int = 32,
        hidden: int = 32,
        goal: int = 16,
        step: int = 4,
        goals: Goals = "window",
        dropout: float = 0.0,
        init_std: float = 0.1,
        start_id: int = 0,
        eos_id: int | None = None,
        seed: int = 0,
    ):
        super().__init__()
        if vocab_size < 1:
            raise ValueError(f"vocab_size is {vocab_size}, but must be at least 1")
        HierarchicalConfig(embedding, hidden, goal, step, goals, dropout, init_std)  # checks
        leaked = LeakedFeatures(CNNDiscriminator(**discriminator))
        if leaked.features < goal:
            raise ValueError(
                f"generator.goal is {goal}, but the discriminator has {leaked.features} features to set goals in; "
                f"use --generator.goal {leaked.features} or less, or more --discriminator.filters"
            )
        if step > discriminator["max_length"]:
            raise ValueError(
                f"generator.step is {step}, but sequences have at most {discriminator['max_length']} tokens; "
                f"use --generator.step {min(4, discriminator['max_length'])}"
            )
        self.vocab_size, self.start_id, self.eos_id = vocab_size, start_id, eos_id
        self.step, self.by_block = step, goals == "block"
        self.manager = nn.LSTM(leaked.features, hidden, batch_first=True)
        self.goal = nn.Linear(hidden, leaked.features)
        self.first_goal = nn.Parameter(torch.empty(leaked.features))
        self.embed = nn.Embedding(vocab_size, embedding)
        self.worker = nn.LSTM(embedding, hidden, batch_first=True)
        self.psi = nn.Linear(leaked.features, goal, bias=False)
        self.head = nn.Linear(goal * (hidden + 1), vocab_size, bias=False)
        self.drop = nn.Dropout(dropout)
        rng = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            second_bias = "bias_hh" in name  # one bias a gate is trained
            p.requires_grad_(not second_bias)
            nn.init.zeros_(p) if second_bias else nn.init.normal_(p, 0.0, init_std, generator=rng)
        self.leaked = leaked

    @classmethod
    def of(
        cls,
        config: HierarchicalConfig,
        discriminator: CNNDiscriminator,
        eos_id: int | None,
        start_id: int,
        seed: int,
    ) -> "HierarchicalGenerator":
        """The generator a run's configuration names, reading the features of `discriminator`."""
        sizes = discriminator.sizes
        made = cls(
            discriminator.embed.num_embeddings, sizes, **asdict(config), eos_id=eos_id, start_id=start_id, seed=seed
        )
        made.leak(discriminator)
        return made

    def leak(self, discriminator: nn.Module, precision: str = "fp32") -> None:
        """Read the discriminator's features as they are now. States made before are no longer valid."""
        self.leaked.leak(discriminator, precision)

    def manager_parameters(self) -> list[nn.Parameter]:
        """Those that the manager's loss moves; the initial goal is one where it is held to a feature's change."""
        own = [*self.manager.parameters(), *self.goal.parameters(), *([self.first_goal] if self.by_block else [])]
        return [p for p in own if p.requires_grad]

    def worker_parameters(self) -> list[nn.Parameter]:
        """Those that the worker's loss moves: all others."""
        managers = {id(p) for p in self.manager_parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in managers]

    def train(self, mode: bool = True) -> "HierarchicalGenerator":
        super().train(mode)
        self.manager.train()  # cuDNN refuses a backward pass in eval mode; the only dropout here is self.drop
        self.worker.train()
        self.leaked.eval()
        return self

    def start(self, batch: int, context: object = None) -> tuple[Tensor, State]:
        hidden, state = self.start_hidden(batch, context)
        return self.head(hidden), state

    def extend(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        hidden, state = self.extend_hidden(tokens, state, lengths)
        return self.head(hidden), state

    def start_hidden(self, batch: int, context: object = None) -> tuple[Tensor, State]:
        assert context is None, "a hierarchical generator takes no context"
        hidden, state, _, _ = self._begin(batch)
        return hidden[:, 0], state

    def extend_hidden(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        assert isinstance(state, HierarchicalState)
        if not tokens.shape[1]:
            return self.head.weight.new_empty(len(tokens), 0, self.head.in_features), state
        if lengths is not None:
            return self._ragged(tokens, state, lengths)
        hidden, state, _, _ = self._read(tokens, state)
        return hidden, state

    @torch.no_grad()
    def bind(self) -> Callable[[Tensor, State], tuple[Tensor, State]]:
        """`extend_hidden` of at least one token without gradient, valid until the weights change. The projected goal
        psi(g/|g|) comes from the manager's hidden vector, of which g is a linear map: with its QR decomposition, |g| is
        the length of R times that vector, and the goal itself, as wide as the features, is not made.
        """
        of_one = torch.cat([self.goal.weight, self.goal.bias[:, None]], dim=1)  # (F,H+1): g = of_one [said, 1]
        r = torch.linalg.qr(of_one.double(), mode="r").R.to(of_one.dtype)
        both = torch.cat([self.psi.weight @ of_one, r])
        goal_size = len(self.psi.weight)

        @torch.no_grad()
        def extend(tokens: Tensor, state: State) -> tuple[Tensor, State]:
            assert isinstance(state, HierarchicalState)
            features, prefix = self.leaked.extend(tokens, state.prefix)
            said, manager = run_lstm(self.manager, features, state.manager)
            found = F.linear(said, both[:, :-1], both[:, -1])
            length = torch.linalg.vector_norm(found[..., goal_size:], dim=-1, keepdim=True)
            projected = found[..., :goal_size] / length.clamp_min(1e-12)
            return self._follow(tokens, state, projected, manager, prefix)

        return extend

    def unroll(self, ids: Tensor) -> Unrolled:
        """Teacher forcing on whole sequences (B,T), for the losses of both modules."""
        first, state, goal, feature = self._begin(len(ids))
        later, _, goals, features = self._read(ids, state)
        said = torch.cat([goal, goals[:, :-1]], dim=1)  # (B,T,F)
        aims = self._by_block(said) if self.by_block else said
        return Unrolled(torch.cat([first, later[:, :-1]], dim=1), aims, torch.cat([feature, features], dim=1))

    def _begin(self, batch: int) -> tuple[Tensor, HierarchicalState, Tensor, Tensor]:
        """As `_read`, of the empty prefix: t = 1 stands for s_0."""
        zeros = self.psi.weight.new_zeros(1, batch, self.worker.hidden_size)
        feature, prefix = self.leaked.start(batch)
        said, manager = run_lstm(self.manager, feature[:, None], LSTMState(zeros, zeros))
        goal = F.normalize(self.goal(said), dim=-1)  # (B,1,F)
        before = self.psi(self._first(self.by_block)).expand(batch, self.step, -1)  # (B,c,k)
        drive = before.sum(1)
        start = torch.full((batch, 1), self.start_id, device=zeros.device)
        hidden, worker = self._work(start, drive[:, None], LSTMState(zeros, zeros))
        goals = torch.cat([before[:, 1:], self.psi(goal.detach())], dim=1)
        return hidden, HierarchicalState(worker, manager, goals, drive, prefix), goal, feature[:, None]

    def _read(self, tokens: Tensor, state: HierarchicalState) -> tuple[Tensor, HierarchicalState, Tensor, Tensor]:
        """After each of tokens (B,t): hidden (B,t,k(H+1)), the state after the last, goals and features (B,t,F)."""
        features, prefix = self.leaked.extend(tokens, state.prefix)
        said, manager = run_lstm(self.manager, features, state.manager)
        goals = F.normalize(self.goal(said), dim=-1)
        hidden, after = self._follow(tokens, state, self.psi(goals.detach()), manager, prefix)
        return hidden, after, goals, features

    def _follow(
        self, tokens: Tensor, state: HierarchicalState, projected: Tensor, manager: LSTMState, prefix: PrefixState
    ) -> tuple[Tensor, HierarchicalState]:
        """The worker after tokens (B,t), whose goals are `projected` (B,t,k), and the state after the last."""
        known = torch.cat([state.goals, projected], dim=1)  # (B,c+t,k)
        sums = known[:, :-1].unfold(1, self.step, 1).sum(-1)  # (B,t,k) over g_{p-c} .. g_{p-1}, p tokens read
        if self.by_block:
            ahead = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
            read = state.prefix.position[:, None]
            begun = (read + ahead) // self.step * self.step - read  # where the block of each began, 0 or less: before
            at = begun.clamp_min(0)[..., None].expand_as(sums)
            drive = torch.cat([state.drive[:, None], sums], dim=1).gather(1, at)
        else:
            drive = sums
        hidden, worker = self._work(tokens, drive, state.worker)
        return hidden, HierarchicalState(worker, manager, known[:, -self.step :], drive[:, -1], prefix)

    def _work(self, tokens: Tensor, drive: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """The worker after tokens (B,t), driven by (B,t,k): what its logits are a linear map of, (B,t,k(H+1))."""
        out, after = run_lstm(self.worker, self.drop(self.embed(tokens)), state)
        with_bias = F.pad(self.drop(out), (0, 1), value=1.0)
        w = F.normalize(drive, dim=-1)
        return (w[..., :, None] * with_bias[..., None, :]).flatten(-2), after

    def _first(self, detached: bool) -> Tensor:
        """The initial goal (F,), a unit vector. Its loss is the worker's, or the manager's in the block variant."""
        return F.normalize(self.first_goal.detach() if detached else self.first_goal, dim=0)

    def _by_block(self, goals: Tensor) -> Tensor:
        """The sums of goals (B,T,F) that drive each token, (B,T,F), with the gradient of every goal in them."""
        b, horizon, f = goals.shape
        blocks = F.pad(goals, (0, 0, 0, -horizon % self.step)).unflatten(1, (-1, self.step)).sum(2)
        first = (self.step * self._first(False)).expand(b, 1, f)
        driving = torch.cat([first, blocks[:, :-1]], dim=1)  # (B,T/c,F)
        return driving.repeat_interleave(self.step, dim=1)[:, :horizon]

    def _ragged(self, tokens: Tensor, state: HierarchicalState, lengths: Tensor) -> tuple[Tensor, State]:
        """Rows of unequal length, a token at a time: each row's state stays where its own tokens end."""
        found = []
        rows = torch.arange(len(tokens), device=tokens.device)
        for t in range(tokens.shape[1]):
            hidden, after, _, _ = self._read(tokens[:, t : t + 1], state)
            found.append(hidden)
            kept = torch.where(t < lengths, rows, rows + len(tokens))
            state = HierarchicalState.cat([after, state]).select(kept)
        return torch.cat(found, dim=1), state
