"""What goes wrong when language models learn, said while it happens: explained once, counted ever after."""

from collections.abc import Mapping

EXPLAINED = {
    "no learning signal": "every group's answers have equal rewards: nothing can be learned from this batch; easier "
    "questions, a larger group or a higher temperature give a signal",
    "zero-variance groups": "in most groups all answers have equal rewards, and such groups teach nothing; a larger "
    "group, questions of middling difficulty or --resample help",
    "truncated answers": "most answers were cut off at max_new_tokens; a larger limit, a stop text, or "
    "--truncated mask help",
    "KL running away": "the policy has gone far from the reference; a larger kl_weight or a smaller learning_rate "
    "holds it back",
    "entropy collapse": "the policy has become almost deterministic and has stopped exploring; a smaller "
    "learning_rate or a larger clip_high keeps it open",
    "sampler/trainer mismatch": "the log-probabilities that answers were drawn with are not those that learning uses",
    "failed rewards": "some rewards failed; their answers teach nothing",
}

KL_PER_TOKEN, MISMATCH, ENTROPY_SHARE = 1.0, 0.05, 0.05
"""Nats per token; nats per token; of the entropy at the start."""


class WarningSigns:
    """Looks at every iteration's metrics; `counts` says how often each sign was seen."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._first_entropy: float | None = None

    def look(self, metrics: Mapping[str, float]) -> list[str]:
        """What is to be said now: a sign's explanation when it is seen first."""
        return [f"{sign}: {EXPLAINED[sign]}" for sign in self._seen(metrics) if self._count(sign) == 1]

    def _count(self, sign: str) -> int:
        self.counts[sign] = self.counts.get(sign, 0) + 1
        return self.counts[sign]

    def _seen(self, metrics: Mapping[str, float]) -> list[str]:
        seen = []
        silent = metrics.get("groups/without_signal", 0.0)
        if silent >= 1.0:
            seen.append("no learning signal")
        elif silent > 0.5:
            seen.append("zero-variance groups")
        if metrics.get("answers/truncated", 0.0) > 0.5:
            seen.append("truncated answers")
        # per token, or of whole answers where the reward pays for it
        tokens = max(metrics.get("episode/length", 1.0), 1.0) if "policy/kl_whole" in metrics else 1.0
        kl = metrics.get("policy/kl_whole", metrics.get("policy/kl_reference", 0.0))
        if kl / tokens > KL_PER_TOKEN:
            seen.append("KL running away")
        entropy = metrics.get("policy/entropy")
        if entropy is not None:
            if self._first_entropy is None:
                self._first_entropy = entropy
            elif entropy < ENTROPY_SHARE * self._first_entropy and metrics.get("episode/return", 1.0) < 0.95:
                seen.append("entropy collapse")
        if metrics.get("sampler/mismatch", 0.0) > MISMATCH:
            seen.append("sampler/trainer mismatch")
        if metrics.get("answers/failed_rewards", 0.0) > 0:
            seen.append("failed rewards")
        return seen

    @property
    def summary(self) -> str:
        """`zero-variance groups in 12 iterations, …`, or the empty string."""
        return ", ".join(f"{sign} in {count} iterations" for sign, count in self.counts.items())
